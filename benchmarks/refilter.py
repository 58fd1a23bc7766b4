"""Commands on one million measured clips: planning a manifest, refiltering and reporting, each in its own process.

Prints one JSON line per run: seconds, CPU seconds and peak memory (`ru_maxrss`). The rows are synthetic and resemble
web clips: scores near the thresholds of the gates, and null for stages that a row did not reach.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.clips import COLUMNS, PART_ROWS, clips_packet
from steadydancer.datasets.schema import CLIP_SCHEMA, columns_of
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.gates import CHEAP_GATES, Gates
from steadydancer.pipelines.curate.selection.fingerprints import Fingerprints
from steadydancer.pipelines.curate.selection.gating import Bounds, apply_gates
from steadydancer.pipelines.curate.selection.select import columns_read, select

SCHEMA = pa.schema([CLIP_SCHEMA.field(name) for name in COLUMNS])


def main() -> None:
    """Make the rows, then run each command in a child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="folder in which rows are kept for another run")
    parser.add_argument("--copies", type=int, default=20_000, help="sources to search for copies; 0: skip the search")
    parser.add_argument("--search", action="store_true", help="only search for copies, in this process")
    arguments = parser.parse_args()
    if arguments.search:
        print(json.dumps(search(arguments.copies)))
        return
    cli = ["-m", "steadydancer.flows.cli"]
    with tempfile.TemporaryDirectory() as own:
        folder = arguments.folder or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        make_clips(folder / "clips", arguments.rows)
        manifest = make_manifest(folder / "sources.parquet", arguments.rows)
        target = arguments.rows // 20
        commands = {
            "plan a manifest": ["curate", "--clips", manifest, "--out", folder / "planned", "--dry-run"],
            "refilter": ["refilter", "--set", "min_sharpness=0.00032", "--set", "max_pose_jerk=0.28"],
            "refilter, what if": ["refilter", "--set", "max_pose_jerk=0.28", "--dry-run"],
            "refilter to a target": ["refilter", "--target", target, "--mix", "vertical=0.72"],
            "report": ["report", "--clips", folder, "--out", Path(own) / "page"],
            "compare": ["compare", "--clips", folder, "--with", Path(own) / "1"],
            "report of a new version": ["report", "--clips", Path(own) / "1"],
            "explain": ["explain", f"a clip with a name {arguments.rows // 6:07d}.mp4", "--clips", folder],
        }
        for number, (name, words) in enumerate(commands.items()):
            if words[0] == "refilter":
                words = [*words, "--clips", folder, "--out", Path(own) / str(number)]
            measure(name, [*cli, *map(str, words)], arguments.rows)
    if arguments.copies:
        measure("find copies", [__file__, "--search", "--copies", str(arguments.copies)], arguments.copies)


def measure(name: str, words: list[str], rows: int) -> None:
    """Run a command in a child process and print one line."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as file:
        child = subprocess.Popen([sys.executable, *words], stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        file.seek(0)
        output = file.read().decode()
    line = {
        "benchmark": "refilter",
        "what": name,
        "rows": rows,
        "exit": child.returncode,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "load": round(os.getloadavg()[0], 1),
    }
    if "--search" in words and not child.returncode:
        line |= json.loads(output)
    if child.returncode:
        line["output"] = output[-400:]
    print(json.dumps(line), flush=True)


def search(sources: int) -> dict[str, int]:
    """Search for copies among clips of five seconds: one in ten is a copy, and about fifty share a place."""
    chance = np.random.default_rng(0)
    places = chance.random((max(1, sources // 50), 64)) * 200
    fingerprints = Fingerprints("source")
    names = [f"{k:08d}" for k in range(sources)]
    earlier = np.zeros((0, 20, 64), np.uint8)
    num_copies = 0
    for start in range(0, sources, 1000):
        n = min(1000, sources - start)
        where = places[chance.integers(len(places), size=n)]
        corner = chance.random((n, 1, 64)) * 30
        data = (where[:, None] + chance.normal(0, 1, (n, 20, 64)) * corner).clip(0, 255).astype(np.uint8)
        copies = np.flatnonzero(chance.random(n) < 0.1) if len(earlier) else np.array([], int)
        data[copies] = np.clip(earlier[chance.integers(len(earlier), size=len(copies))] + 3.0, 0, 255)
        num_copies += len(copies)
        earlier = np.concatenate([earlier, data[copies[:0]] if len(earlier) > 5000 else data])
        ids = names[start : start + n]
        fingerprints.add(
            pa.table(
                {
                    "source_id": ids,
                    "clip_id": ids,
                    "start_s": [0.0] * n,
                    "fingerprint": pa.array([one.tobytes() for one in data], pa.large_binary()),
                }
            )
        )
    found = fingerprints.groups(0.8).to_pylist()
    return {"copies": num_copies, "found": sum(a != b for a, b in zip(names, found, strict=True))}


def make_manifest(path: Path, rows: int) -> Path:
    """Write a table of paths, licences and captions."""
    table = pa.table(
        {
            "path": [f"videos/{k // 1000:04d}/a clip with a name {k:07d}.mp4" for k in range(rows)],
            "licence": ["CC-BY-4.0", "CC0-1.0"] * (rows // 2) + ["CC0-1.0"] * (rows % 2),
            "prompt": [f"somebody dances in front of wall {k}" for k in range(rows)],
        }
    )
    pq.write_table(table, path)
    return path


def make_clips(folder: Path, rows: int) -> None:
    """Write a finished curation of `rows` clips, three per source."""
    artifact = Artifact(folder)
    if artifact.committed:
        return
    config = CurateConfig()
    artifact.begin({"rows": rows})
    tables = list(made_tables(rows))
    columns = columns_read(config)
    selection = select(lambda: (table.select(columns) for table in tables), config)
    start = 0
    for index, table in enumerate(tables):
        artifact.write_part(clips_packet(index, index), selection.apply(table, start))
        start += len(table)
    artifact.commit(
        {
            "kind": "clips",
            "config": config.model_dump(mode="json"),
            "measured": "measured",
            "inputs": {"clips": "made", "sources": rows // 3, "digest": "none"},
            "counts": {"inputs": rows, **selection.counts},
            "pose_models": ["made"],
            "version": "made",
            "seconds": {"probe": 1.0, "shots": 1.0, "score": 1.0, "pose": 1.0, "total": 4.0},
        }
    )


def made_tables(rows: int) -> Iterator[pa.Table]:
    """Yield measured rows, one part at a time."""
    chance = np.random.default_rng(0)
    for start in range(0, rows, PART_ROWS):
        yield made_rows(np.arange(start, min(rows, start + PART_ROWS)), chance)


def made_rows(numbers: np.ndarray, chance: np.random.Generator) -> pa.Table:
    """Make rows with scores, null for stages that a row did not reach."""
    n = len(numbers)
    source = numbers // 3
    shape = chance.choice(3, n, p=[0.6, 0.35, 0.05])
    known = {
        "source_path": pa.array([f"/videos/{k // 1000:04d}/a clip with a name {k:07d}.mp4" for k in source]),
        "source_id": pa.array([f"{k * 2654435761 % 2**64:064x}" for k in source.tolist()]),
        "clip_id": pa.array([f"{k * 11400714819323198485 % 2**64:016x}" for k in numbers.tolist()]),
        "start_s": pa.array(5.0 * (numbers % 3)),
        "end_s": pa.array(5.0 * (numbers % 3) + 5.0),
        "fps": pa.array(np.full(n, 30.0)),
        "duration_s": pa.array(np.full(n, 15.0)),
        "source_bytes": pa.array(chance.integers(10**5, 10**7, n)),
        "width": pa.array(np.array([720, 1280, 720])[shape], pa.int32()),
        "height": pa.array(np.array([1280, 720, 720])[shape], pa.int32()),
        "codec": pa.array(np.full(n, "h264")),
        "pose_model": pa.array(np.full(n, "made")),
        "pose_digest": pa.array([f"{k:016x}" for k in chance.integers(0, 2**63, n).tolist()]),
        "duplicate_group": pa.array([f"{k - k % 50 // 48:064x}" for k in source.tolist()]),
        "measured_part": pa.array([f"part-{k // 8:016x}.parquet" for k in source.tolist()]),
    }
    for _, column, side, bound in Gates(max_static_edge_ratio=0.4).bounds():
        if column != "side_px":
            off = chance.random(n) < 0.03
            values = bound * (1 + np.where(off == (side == "max"), 0.5, -0.5) * chance.random(n))
            kind = CLIP_SCHEMA.field(column).type
            known[column] = pa.array(values.round() if pa.types.is_integer(kind) else values).cast(kind)
    columns = [known[f.name] if f.name in known else pa.nulls(n, f.type) for f in SCHEMA]
    table = pa.table(columns, schema=SCHEMA)
    cheap = Bounds.of(CurateConfig(), without=set(Gates.model_fields) - CHEAP_GATES)
    refused = apply_gates(table, cheap).first >= 0
    for place, name in enumerate(SCHEMA.names):
        if name in columns_of("pose"):
            values = pa.array(table[name].to_numpy(zero_copy_only=False), SCHEMA.field(name).type, mask=refused)
            table = table.set_column(place, SCHEMA.field(name), values)
    broken = pa.array(np.where(chance.random(n) < 0.01, "quarantined", None), pa.string())
    for name, value in (
        ("verdict", broken),
        ("reason", pa.array(np.where(broken.is_valid(), "truncated", None), pa.string())),
    ):
        table = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), value)
    return table


if __name__ == "__main__":
    main()
