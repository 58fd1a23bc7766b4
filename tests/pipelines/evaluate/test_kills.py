"""Evaluations whose driver is killed, -9, at three moments, against the same one left alone: the same table."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.toydance import draw_dancer, save_supplied_pose, toy_pose
from steadydancer.datasets.video import encode

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

# A part takes its time, so that the moment of the kill is not a matter of luck.
SLOWLY = """
import time
from steadydancer.datasets.artifact import Artifact
write_part = Artifact.write_part
Artifact.write_part = lambda *arguments: (write_part(*arguments), time.sleep(0.4))
from steadydancer.flows.cli import main
main()
"""
# A process is killed once these files are there.
MOMENTS = ("measurements/truth/part-*.parquet", "measurements/pose/part-*.parquet", "metrics/part-*.parquet")
LEAST = (1, 4, 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills")
    for method, shift in {"truth": 0, "ours": 0, "theirs": 2}.items():
        (root / method).mkdir()
        for seed in range(3):
            pose = toy_pose(seed, 17, 16, motion_seed=seed + shift)
            encode(draw_dancer(pose, seed, 64, 48), root / method / f"{seed}.mp4", 16)
            save_supplied_pose(root / method / f"{seed}.mp4", [pose], 16)
    return root


def start(folders: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    preset = folders / "preset.json"
    if not preset.exists():
        from steadydancer.flows.presets import change, tiny

        preset.write_text(change(tiny(), "evaluate", packet_size=1, pose_model="supplied").model_dump_json())
    words = ["--videos", folders / "ours", "--videos", folders / "theirs", "--truth", folders / "truth", "--out", out,
             "--preset", preset, "--metrics", "truth,pixels,pose", *options]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, "evaluate", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "127.0.0.1:1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def result(out: Path) -> tuple[list[Any], dict[str, Any]]:
    artifact = Artifact(out / "metrics")
    record = artifact.record()
    return artifact.read().to_pylist(), {name: record[name] for name in record if name != "seconds"}


@pytest.mark.parametrize("options", [("--in-process",), ()], ids=["in-process", "ray"])
def test_three_kills_leave_the_same_table(folders: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """While the first and a later group are measured, and while the table is written."""
    with start(folders, tmp_path / "whole", *options) as run:
        text, _ = run.communicate(timeout=600)
    assert run.returncode == 0, text
    out = tmp_path / "killed"
    for moment, least in zip(MOMENTS, LEAST, strict=True):
        with start(folders, out, *options) as run:
            while run.poll() is None and len(list(out.glob(moment))) < least:
                time.sleep(0.02)
            assert run.poll() is None, run.stdout and run.stdout.read()
            run.send_signal(signal.SIGKILL)
            run.wait()
        assert not (out / "metrics" / "run.json").exists()
    kept = {file: file.stat().st_mtime_ns for file in (out / "measurements").rglob("part-*.parquet")}
    assert len(kept) == 3 * 6  # groups and packets: nothing is measured again
    with start(folders, out, *options) as run:
        text, _ = run.communicate(timeout=600)
    assert run.returncode == 0, text
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert result(out) == result(tmp_path / "whole")
    assert not list(out.rglob(".*.tmp*")) and (out / "report.html").is_file()
