"""The whole command at tiny size: real training, renders and metrics, killed and resumed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steadydancer.flows.ablations.packet import RESULT, Packet
from steadydancer.flows.presets import Run

WORLD = ("--clip-sets", 1, "--clips-per-set", 3, "--pairs", 2)
ROWS = ("without_ssae", "feature_mapping", "reference_first")
NUM_PACKETS = 6  # stages 1 to 3, and the three rows


def start(run: Run, folder: Path, out: Path, workers: int = 0) -> subprocess.Popen[bytes]:
    """Start the command in a process of its own."""
    preset = folder / "preset.json"
    preset.write_text(run.model_dump_json())
    words = ["reproduce", "ablations", "--rows", ",".join(ROWS), "--seeds", 1, "--out", out, "--preset", preset, *WORLD]
    words += ["--workers", workers, "--in-process"]
    code = "import sys; from steadydancer.flows.cli import main; main()"
    log = (folder / "log").open("ab")
    return subprocess.Popen([sys.executable, "-P", "-c", code, *map(str, words)], stdout=log, stderr=log,
                            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"})  # fmt: skip


def without_times(table: Any) -> Any:
    """A table without the seconds that it took, and the command."""
    return {name: value for name, value in table.items() if name not in ("cpu_seconds", "command")}


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_a_command_killed_three_times_gives_the_table_of_one_that_was_not(tiny: Run, tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert start(tiny, tmp_path, straight).wait() == 0, (tmp_path / "log").read_text()[-3000:]
    first = broken / "packets" / "stage1" / "0"
    # Killed in a training, between render and result, and in a worker process of another packet.
    moments = [first / "train" / "metrics.jsonl", first / "renders" / "run.json", first / RESULT]
    for k, moment in enumerate(moments):
        process = start(tiny, tmp_path, broken, workers=1 if k == 2 else 0)
        while not moment.exists() and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert moment.exists(), (tmp_path / "log").read_text()[-3000:]
    results = sorted((broken / "packets").rglob(RESULT))
    before = {path: path.stat().st_mtime_ns for path in results}
    assert len(before) < NUM_PACKETS
    assert start(tiny, tmp_path, broken, workers=2).wait() == 0, (tmp_path / "log").read_text()[-3000:]
    assert {path: path.stat().st_mtime_ns for path in results} == before  # what was finished was not done again
    one, other = (json.loads((out / "table.json").read_text()) for out in (straight, broken))
    assert one["finished"] == one["packets"] == NUM_PACKETS
    assert without_times(one) == without_times(other)
    assert (broken / "index.html").is_file() and "video data-src" in (broken / "index.html").read_text()
    assert "| Figure 13, row 1 |" in (broken / "table.md").read_text()
    for row, network in (("stage1", 0), ("feature_mapping", 1)):
        result = json.loads((Packet(row, 0).folder(broken) / RESULT).read_text())
        assert (result["network"]["change"] > 0) == bool(network)
    renders = [(Packet(row, 0).folder(broken) / "renders" / "start_gap-pair_0.mp4").read_bytes()
               for row in ("stage1", "stage3", "without_ssae", "reference_first")]  # fmt: skip
    assert len({*renders}) == len(renders)


def test_the_command_lists_its_rows_and_plans(call: Any) -> None:
    listed = call("reproduce", "ablations", "--list", "--out", "x")
    assert listed.code == 0 and "modules: Synergistic Pose Modulation Modules" in listed.out
    assert "without_ssae" in listed.out
    planned = call("reproduce", "ablations", "--rows", "modules, guidance_off", "--out", "x", "--dry-run")
    plan = json.loads(planned.out)
    assert plan["rows"][:3] == ["stage1", "stage2", "stage3"] and plan["packets"] == 3 * 8
    assert plan["within_12_cpu_hours"] and plan["finished"] == 0
    assert plan["training_steps"] == {"stage1": 160, "stage2": 30, "stage3": 40}
    wrong = call("reproduce", "ablations", "--rows", "without_legs", "--out", "x", "--dry-run")
    assert wrong.code == 1 and "'without_legs' is no row of the ablations" in wrong.err


def test_missing_parts_are_named_before_anything_is_made(call: Any, tmp_path: Path) -> None:
    answer = call("reproduce", "ablations", "--out", "x", "--components", tmp_path / "nothing")
    assert answer.code == 1 and "nothing" in answer.err
    assert not (tmp_path / "x").exists()
