"""The job of `xdance build`: images and driving videos → measured, paired, selected → a benchmark folder."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ... import SteadyDancerError, __version__
from ...datasets.artifact import Artifact, count_verdicts, exclusive, plan_packets
from ...datasets.benchmarks.listing import FILE
from ...datasets.benchmarks.pairs import KINDS, Benchmark
from ...datasets.benchmarks.reader import read_benchmark
from ...datasets.file_names import file_stem
from ...datasets.local_copies import local_copy
from ...datasets.rules import versions
from ...datasets.schema import Row, to_table
from ...datasets.sidecars import KEYPOINTS, SIDECARS, sidecar
from ...datasets.storage import Location, location
from ...datasets.storage.atomic import atomic_write, begin_folder
from ...datasets.storage.digests import content_digest, json_digest
from ..common.older_versions import absent_fields
from ..common.outcomes import count_reasons, few_rows, format_reasons
from ..runtime.runner import Engine, Job, run_packets
from .config import XDanceConfig
from .inputs import read_inputs

MEASURED = "measured"
PAIRS = "pairs.jsonl"
CANDIDATES = "candidates.parquet"
FOLDERS = {"image": "images", "driving": "driving"}


def plan(
    config: XDanceConfig, images: Location, driving: Location, out: Location, notes: Location | None = None
) -> dict[str, Any]:
    """Describe what `run` would do."""
    from ...models.pose.estimator import REQUIRED_WEIGHTS
    from ...models.weights import lookup
    from ..common.poses import ESTIMATORS

    rows = read_inputs(images, driving, notes)
    numbers = {role: sum(row["role"] == role for row in rows) for role in FOLDERS}
    present = [name for name in ESTIMATORS if all(lookup.find(lookup.weight(part)) for part in REQUIRED_WEIGHTS[name])]
    packets = plan_packets((row["id"] for row in rows), config.packet_size)
    artifact = Artifact(out / MEASURED)
    return {
        "images": numbers["image"],
        "driving": numbers["driving"],
        "with_given_style": sum(row["style"] is not None for row in rows),
        "with_given_dynamics": sum(row["dynamics"] is not None for row in rows),
        "candidates": numbers["image"] * numbers["driving"],
        "pairs": min(config.num_pairs, numbers["image"] * numbers["driving"]),
        "pose_model": config.pose_model,
        "pose_models_here": present,
        "frames_at_most": config.num_frames * numbers["driving"] + numbers["image"],
        "packets": len(packets),
        "packets_done": len(packets) - len(artifact.remaining(packets)),
        "finished": artifact.committed,
    }


def run(
    config: XDanceConfig,
    *,
    images: Location,
    driving: Location,
    out: Location,
    engine: Engine,
    notes: Location | None = None,
) -> dict[str, Any]:
    """Build a benchmark of misaligned pairs in `out`; return the record of `out/measured`. Resumes after a kill.

    A file that cannot be measured is quarantined with a reason; it does not stop the others.

    Raises:
        SteadyDancerError: a folder has no files of its kind, or no pair has a kind of misalignment.
        ArtifactError: the folder was started with different settings or inputs, or another run uses it.
        JobStopped: the code or the machine failed.
    """
    by_id = {row["id"]: row for row in read_inputs(images, driving, notes)}
    with exclusive(out):
        artifact = Artifact(out / MEASURED)
        settings = config.model_dump(mode="json", exclude={"packet_size", "num_gpus"})
        digest = json_digest([[row, *_digests(row["source_path"])] for row in by_id.values()])
        rules = versions("pictures", "driving_poses", "sidecars")
        begun = {"config": settings, "inputs": digest, "packet_size": config.packet_size, "rules": rules}
        artifact.begin(begun, {"config": absent_fields(XDanceConfig)})
        if artifact.committed:
            return artifact.record()
        from .steps import SCHEMA, stages

        start = time.perf_counter()
        job = Job(
            name="xdance",
            stages=stages(config),
            config=config,
            schema=SCHEMA,
            open_row=lambda name: by_id[name],
            write_packet=lambda packet, rows: artifact.write_part(packet, to_table(rows, SCHEMA)),
        )
        seconds = run_packets(job, artifact, plan_packets(by_id, config.packet_size), engine)
        benchmark, numbers = _write(config, artifact, out)
        return artifact.commit(
            {
                "kind": "xdance",
                "version": __version__,
                "config": settings,
                "rules": rules,
                "inputs": {"images": str(images), "driving": str(driving), "digest": digest},
                "counts": count_verdicts(len(by_id), artifact.read(["verdict"]).column("verdict").to_pylist()),
                "benchmark": benchmark.to_record(),
                **numbers,
                "seconds": {**seconds, "total": time.perf_counter() - start},
            }
        )


def summary(record: dict[str, Any]) -> list[str]:
    """Return the lines that describe a finished benchmark: its pairs by kind, and remarks."""
    counts = record["balance"]
    kinds = ", ".join(f"{kind} {sum(of.values())}" for kind, of in counts["selected_for"].items())
    return [
        f"{record['benchmark']['pairs']} pairs of {counts['images']} images and {counts['drivers']} drivers, selected "
        f"for {kinds}",
        *(f"  {remark}" for remark in record["remarks"]),
    ]


def _write(config: XDanceConfig, artifact: Artifact, out: Location) -> tuple[Benchmark, dict[str, Any]]:
    """Pair, select and write the benchmark; return it, and the numbers for the record.

    Raises:
        SteadyDancerError: nothing could be selected.
    """
    from .candidates import File, all_candidates
    from .selection import balance, dynamics_of, select_drivers, select_pairs

    rows = sorted(artifact.read().to_pylist(), key=lambda row: row["id"])
    files = {role: [File(row) for row in rows if row["role"] == role and row["verdict"] == "ok"] for role in FOLDERS}
    drivers, remarks = select_drivers(files["driving"], config)
    candidates = list(all_candidates(files["image"], drivers, config))
    selected, lacks = select_pairs(candidates, config)
    if not selected:
        reasons = format_reasons(sum(count_reasons(artifact).values(), Counter[str]()))
        raise SteadyDancerError(
            f"no pair can be selected from {len(files['image'])} images and {len(drivers)} drivers with a person"
            + (f" ({reasons})" if reasons else "")
            + "".join(f"\n{line}" for line in [*few_rows(artifact), *remarks, *lacks])
        )
    for folder in FOLDERS.values():
        begin_folder(out / folder)
    named = {one.id: _copy(one.row, out) for pair in selected for one in (pair.candidate.image, pair.candidate.driving)}
    ids = pair_ids(candidates)
    table = sorted((_table_row(one, ids, named) for one in selected), key=lambda row: str(row["id"]))
    _write_text(out / PAIRS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table))
    _write_candidates(out / CANDIDATES, candidates, ids, {id(one.candidate): one.kind for one in selected})
    (out / FILE).unlink(missing_ok=True)  # of a run that was killed before the commit
    benchmark = read_benchmark(out)
    levels = {one.id: {"dynamics": dynamics_of(one, config), **_hardness(one.row)} for one in drivers}
    return benchmark, {"balance": balance(selected), "drivers": levels, "remarks": [*remarks, *lacks]}


def pair_ids(candidates: Sequence[Any]) -> dict[int, str]:
    """Return id(candidate) → `IMAGE-DRIVING`, with a digest where two pairs would have it (a-b with c, a with b-c)."""
    names = {id(one): [file.id.partition("-")[2] for file in (one.image, one.driving)] for one in candidates}
    counts = Counter("-".join(both) for both in names.values())
    return {
        key: file_stem("-".join([*both, *([json_digest(both)[:6]] if counts["-".join(both)] > 1 else [])]))
        for key, both in names.items()
    }


def _table_row(one: Any, ids: dict[int, str], named: dict[str, str]) -> Row:
    candidate = one.candidate
    captions = (candidate.image.row["caption"], candidate.driving.row["caption"])
    return {
        "id": ids[id(candidate)],
        "image": named[candidate.image.id],
        "driving": named[candidate.driving.id],
        "prompt": next(filter(None, captions), ""),
        "kinds": list(candidate.kinds),
        "selected_for": one.kind,
        "measured": {**candidate.measured, "strength": one.strength, "not_measured": candidate.notes,
                     "driver": _hardness(candidate.driving.row)},
    }  # fmt: skip


def _hardness(row: Row) -> Row:
    return {name: row[name] for name in ("motion", "pose_change", "occlusion", "blur", "num_people")}


def _copy(row: Row, out: Location) -> str:
    """Copy a file and its keypoints into the benchmark; return its name relative to the table."""
    role, _, own = row["id"].partition("-")
    name = own + PurePosixPath(row["source_path"]).suffix.lower()
    target = out / FOLDERS[role] / name
    with local_copy(row["source_path"]) as source:
        keypoints = sidecar(source, KEYPOINTS)
        copies = [(source, target), *([(keypoints, target.with_name(name + KEYPOINTS))] if keypoints else [])]
        for file, place in copies[::-1]:  # a picture always has its keypoints
            with atomic_write(place) as aside:
                shutil.copyfile(file, aside)
    return f"{FOLDERS[role]}/{name}"


def _write_text(place: Location, text: str) -> None:
    with atomic_write(place) as aside:
        aside.write_text(text, encoding="utf-8")


def _write_candidates(
    place: Location, candidates: Sequence[Any], ids: dict[int, str], selected_for: dict[int, str]
) -> None:
    """Write every pair that was considered, so that the selection can be checked."""
    from .candidates import gap_name

    rows = [
        {
            "id": ids[id(one)],
            "image": one.image.row["source_path"],
            "driving": one.driving.row["source_path"],
            "selected_for": selected_for.get(id(one)),
            "kinds": list(one.kinds),
            **{gap_name(kind): one.gap(kind) for kind in KINDS},
            "not_measured": json.dumps(one.notes) if one.notes else None,
        }
        for one in candidates
    ]  # fmt: skip
    with atomic_write(place) as aside:
        pq.write_table(pa.Table.from_pylist(rows), aside)


def _digests(path: str) -> list[str | None]:
    """Return the digests of a file and of the sidecars that a measurement may read; None for one that is missing."""
    place = location(path)
    beside = [sidecar(place, kind) for kind in SIDECARS]
    return [content_digest(one) if one is not None and one.is_file() else None for one in (place, *beside)]
