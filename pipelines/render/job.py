"""The render job: checkpoints and pairs → one mp4 for each checkpoint, pair and seed → one artifact per checkpoint."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ... import SteadyDancerError, __version__
from ...datasets.artifact import Artifact, Packet, count_verdicts, exclusive, plan_packets
from ...datasets.artifact_lookup import find_artifact
from ...datasets.file_names import file_stem
from ...datasets.pairs import pair, read_pairs, require_unique
from ...datasets.rules import versions
from ...datasets.schema import Row
from ...datasets.storage import Location, location
from ...datasets.storage.digests import content_digest, json_digest
from ...datasets.storage.result_store import ResultStore
from ...models.mode_requirements import this_machine
from ..common.components import find_parts, part_digests, parts_are_local
from ..common.older_versions import absent_fields
from ..common.outcomes import warn_first
from ..runtime.runner import Engine, Job, run_packets
from . import mode
from .artifacts import RenderArtifacts, split_key
from .config import FROZEN, RenderConfig
from .preflight import gpu_memory
from .rows import consent_counts, largest_first, rows_of, sizes_of

if TYPE_CHECKING:
    from .task import CheckpointTask

__all__ = ["components_of", "folder_of", "name_checkpoints", "num_windows", "pair", "plan", "read_pairs", "refusals",
           "run", "run_checkpoints"]  # fmt: skip

WORK_FOLDER = "work"
# Folders of OUT that are not a checkpoint's.
RESERVED = ("renders", WORK_FOLDER, "metrics", "measurements", "imported")

_log = logging.getLogger(__name__)


def components_of(config: RenderConfig, checkpoint: Location, record: dict[str, Any]) -> str:
    """Return the source of VAE and encoders: as configured, else the checkpoint itself, else the one in its record."""
    if config.components:
        return config.components
    is_bundle = (checkpoint / "model_index.json").is_file()
    return str(checkpoint if is_bundle else (record.get("components") or record["base"])["path"])


def plan(
    config: RenderConfig,
    pairs: list[Row],
    checkpoint: Location | Mapping[str, Location],
    out: Location,
    work: Location | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Describe what `run` would do; window counts are None if a video's length depends on its driving video.

    Takes one checkpoint, or several by name. With the `address` of a cluster, its machines are unknown, and the mode is
    checked for the checkpoints only.

    Raises:
        ModeError: the mode cannot run.
    """
    require_unique(pairs)
    low, high = config.pose_guidance_interval
    steps, windows = config.num_inference_steps, num_windows(config)
    text_guided, pose_guided = config.guidance_scale != 1, config.pose_guidance_scale != 0
    evaluations = (1 + text_guided) * steps + pose_guided * sum(low < i / steps < high for i in range(steps))
    rows = rows_of(pairs, config)
    packets = plan_packets(rows, config.packet_size)
    given = checkpoint if isinstance(checkpoint, Mapping) else {"": checkpoint}
    _check_mode(config, given.values(), address)
    by_name = {name: _planned(config, place, folder_of(out, name), packets) for name, place in given.items()}
    refused = sum(row.get("verdict") is not None for row in rows.values())
    return {
        "pairs": len(pairs),
        "seeds": config.num_seeds,
        "videos": (len(rows) - refused) * len(given),
        "consent": consent_counts(pairs),
        **(by_name[""] if by_name.keys() == {""} else {"checkpoints": by_name}),
        "kept_results": ResultStore(work or out / WORK_FOLDER).counts(),
        "windows_a_video": windows,
        "evaluations_a_video": windows and windows * evaluations,
        "mode": mode.describe(config),
    }


def _planned(config: RenderConfig, checkpoint: Location, out: Location, packets: list[Packet]) -> dict[str, Any]:
    trained = find_artifact(checkpoint, "checkpoint")
    record = trained.record()
    components, artifact = components_of(config, trained.path, record), Artifact(out / "renders")
    rows = sum(len(packet.ids) for packet in packets)
    left = sum(len(packet.ids) for packet in artifact.remaining(packets)) if artifact.path.is_dir() else rows
    return {
        "finished": artifact.committed,
        "rows_done": rows - left,
        "stage": record.get("stage"),
        "components": components,
        "components_here": parts_are_local(components),
        "gpu_memory": gpu_memory(config, str(trained.path), components),
    }


def refusals(plan: Mapping[str, Any]) -> list[str]:
    """Return why this machine cannot run what `plan` describes, one sentence for each reason."""
    planned = [plan, *plan.get("checkpoints", {}).values()]
    found = ((each.get("gpu_memory") or {}).get("refusal") for each in planned)
    return list(dict.fromkeys(sentence for sentence in found if sentence))


def num_windows(config: RenderConfig) -> int | None:
    """Return the number of windows per video; None if its length depends on the driving video."""
    if config.num_frames is None or config.num_frames <= config.window_frames:
        return config.num_frames and 1
    from ...models.long_video import plan_windows

    return len(plan_windows(config.num_frames, config.window_frames, config.window_overlap))


def name_checkpoints(given: Sequence[tuple[str | None, Location]]) -> dict[str, Location]:
    """Return checkpoints by name. The only one may have no name; of several, the default is that of the run's folder.

    Raises:
        SteadyDancerError: two have the same name, or a name cannot be that of a folder.
    """
    if len(given) == 1 and given[0][0] is None:
        return {"": given[0][1]}
    named: dict[str, Location] = {}
    for name, place in given:
        whole = place.absolute()
        own = name or (whole.parent.name if whole.name == "checkpoint" else whole.name)
        if own != file_stem(own) or own in ("", *RESERVED):
            raise SteadyDancerError(
                f"{own!r} cannot be the name of a checkpoint's folder: pass --checkpoint NAME={place}"
            )
        if own in named:
            raise SteadyDancerError(
                f"{named[own]} and {place} are both called {own}: pass --checkpoint NAME={place} with another name"
            )
        named[own] = place
    return named


def folder_of(out: Location, name: str) -> Location:
    """Return the folder in which the renders of a checkpoint are: `out`, or with several checkpoints `out/NAME`."""
    return out / name if name else out


def run(
    config: RenderConfig,
    *,
    checkpoint: Location,
    pairs: list[Row],
    out: Location,
    engine: Engine,
    benchmark: dict[str, Any] | None = None,
    work: Location | None = None,
) -> dict[str, Any]:
    """Render `pairs` with one checkpoint into `out/renders`; return the artifact's record. See `run_checkpoints`."""
    records = run_checkpoints(
        config, checkpoints={"": checkpoint}, pairs=pairs, out=out, engine=engine, benchmark=benchmark, work=work
    )
    return records[""]


def run_checkpoints(
    config: RenderConfig,
    *,
    checkpoints: Mapping[str, Location],
    pairs: list[Row],
    out: Location,
    engine: Engine,
    benchmark: dict[str, Any] | None = None,
    work: Location | None = None,
) -> dict[str, dict[str, Any]]:
    """Render `pairs` with each checkpoint into `out/NAME/renders`; return the artifacts' records by name.

    A pair that fails does not stop the others. Poses and encoded inputs are made once for all checkpoints and seeds,
    and kept in `work`, with the denoised latents: a killed run repeats no finished step.

    Args:
        config: settings.
        checkpoints: trained checkpoints by name; the only one may have an empty name: its renders are in `out/renders`.
        pairs: rows of `datasets.pairs`.
        out: folder.
        engine: where packets run.
        benchmark: record of the benchmark that the pairs are from, stored in the artifacts' records.
        work: folder of the kept results, which several runs may share; None: `out/work`.

    Raises:
        ArtifactError: a checkpoint is not finished, a folder was started with different settings, or it is in use.
        ComponentsError: the VAE or an encoder is missing.
        ModeError: the machine or the checkpoint cannot run the mode.
        JobStopped: the code or the machine failed.
    """
    require_unique(pairs)
    _check_mode(config, checkpoints.values(), engine.address)
    opened = {name: _open(config, place, folder_of(out, name)) for name, place in checkpoints.items()}
    with exclusive(out):
        settings = config.model_dump(mode="json", exclude={"packet_size", "num_gpus", "components"})
        pairs_digest = json_digest([[row, *(_digest(row, name) for name in ("image", "driving"))] for row in pairs])
        for one in opened.values():
            one.begin(config, settings, pairs_digest)
        artifacts = RenderArtifacts({name: one.artifact for name, one in opened.items()})
        if all(artifact.committed for artifact in artifacts.by_name.values()):
            return {name: artifact.record() for name, artifact in artifacts.by_name.items()}
        start = time.perf_counter()
        place = (work or out / WORK_FOLDER).absolute()
        seconds = _render(config, opened, artifacts, pairs, place, engine)
        records = {}
        for name, one in opened.items():
            rows = one.artifact.read(["id", "image", "driving", "verdict", "detail"]).to_pylist()
            _warn_of_details(rows)
            if one.artifact.committed:
                records[name] = one.artifact.record()
                continue
            records[name] = one.artifact.commit(
                {
                    "kind": "renders",
                    "version": __version__,
                    "config": settings,
                    "rules": one.rules,
                    "inputs": {"checkpoint": str(one.checkpoint), "digest": one.digest, "pairs": pairs_digest},
                    "components": {"path": one.components, "digests": one.frozen},
                    **({"benchmark": benchmark} if benchmark else {}),
                    "consent": consent_counts(pairs),
                    "work": str(place),
                    "counts": count_verdicts(len(rows), (row["verdict"] for row in rows)),
                    "seconds": {**seconds, "total": time.perf_counter() - start},
                }
            )
        return records


def _check_mode(config: RenderConfig, checkpoints: Iterable[Location], address: str | None) -> None:
    """Check that the mode can run with all checkpoints, and on this machine unless a cluster renders."""
    mode.report_kept(config)
    machine = None if address else this_machine(config.num_gpus)
    for checkpoint in checkpoints:
        mode.check(config, find_artifact(checkpoint, "checkpoint").path, machine)


@dataclass(frozen=True)
class _Opened:
    """A checkpoint that can be rendered with, and the artifact of its videos."""

    checkpoint: Location
    components: str
    frozen: dict[str, str]
    artifact: Artifact
    rules: dict[str, int]

    @cached_property
    def digest(self) -> str:
        """Digest of the checkpoint."""
        return content_digest(self.checkpoint)

    def begin(self, config: RenderConfig, settings: dict[str, Any], pairs: str) -> None:
        """Open the artifact for work, or resume it."""
        plan = {"config": settings, "checkpoint": self.digest, "pairs": pairs, "components": self.frozen,
                "packet_size": config.packet_size, "rules": self.rules}  # fmt: skip
        self.artifact.begin(plan, {"config": absent_fields(RenderConfig)})

    def to_task(self) -> "CheckpointTask":
        """Return what workers are told of it."""
        from .task import CheckpointTask

        digests = {"checkpoint": self.digest, **self.frozen}
        return CheckpointTask(
            str(self.checkpoint.resolve()), self.components, digests, str(self.artifact.path.resolve())
        )


def _open(config: RenderConfig, checkpoint: Location, out: Location) -> _Opened:
    """Find a checkpoint and its components; writes nothing."""
    trained = find_artifact(checkpoint, "checkpoint")
    parts = find_parts(components_of(config, trained.path, trained.record()), FROZEN)
    rules = versions("pictures", "driving_poses", "sidecars")
    frozen = {**part_digests(parts, FROZEN), **mode.lora_digests(config)}
    return _Opened(trained.path, str(parts), frozen, Artifact(out / "renders"), rules)


def _render(
    config: RenderConfig,
    opened: Mapping[str, _Opened],
    artifacts: RenderArtifacts,
    pairs: list[Row],
    work: Location,
    engine: Engine,
) -> dict[str, float]:
    """Run the packets that have no part yet; return the seconds of each stage."""
    from .steps import WORK, RenderTask, stages

    ResultStore(work).remove_leftovers()
    rows = rows_of(pairs, config)
    own = plan_packets(rows, config.packet_size)
    wanted = [pair for pair in pairs if pair.get("consent") != "no"]
    sizes = sizes_of(wanted, config) if artifacts.remaining(artifacts.packets(own)) else {}
    order = largest_first([packet.ids for packet in own], rows, sizes)
    packets = artifacts.packets([own[k] for k in order])

    def open_row(key: str) -> Row:
        name, own_key = split_key(key)
        return {**rows[own_key], "checkpoint": name}

    for packet in artifacts.remaining(packets):
        refused = [open_row(key) for key in packet.ids]
        if all(row.get("verdict") for row in refused):  # no worker has to start for them
            artifacts.write_packet(packet, refused)
    job = Job(
        name="render",
        stages=stages(config),
        config=RenderTask(config, {name: one.to_task() for name, one in opened.items()}, str(work)),
        schema=WORK,
        open_row=open_row,
        write_packet=artifacts.write_packet,
    )
    return run_packets(job, artifacts, packets, engine)


def _warn_of_details(rows: list[Row]) -> None:
    """Log the details of rendered videos as warnings, with the names of their image and driving video."""
    lines = []
    for row in rows:
        if row["verdict"] == "ok" and row["detail"]:
            image, driving = (row[name].rsplit("/", 1)[-1] for name in ("image", "driving"))
            lines.append(f"{row['id']} (image {image}, driving {driving}): {row['detail']}")
    warn_first(_log, lines, "%d more videos have notes; see column `detail` of the renders")


def _digest(row: Row, name: str) -> str | None:
    """Compute a file's digest; None if it is missing, which fails only its own pair, or must not be used."""
    file = row[name]
    return content_digest(file) if row.get("consent") != "no" and location(file).is_file() else None
