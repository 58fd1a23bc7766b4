"""The demo from end to end: the files that it writes, and that it can be killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, Packet
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.video import probe
from steadydancer.flows.demo import report
from steadydancer.flows.demo import run as demo
from steadydancer.flows.presets import tiny

KEYS = {"clips", "latents", "stage1", "stage2", "stage3", "renders", "metrics", "report"}


def test_the_plan_names_every_artifact_and_makes_nothing(tmp_path: Path) -> None:
    plan = demo.plan(tiny(), None, tmp_path / "out")
    assert plan["finished"] == dict.fromkeys(KEYS - {"report"}, False)
    assert [plan[f"stage{n}_steps"] for n in (1, 2, 3)] == [40, 20, 20]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_videos_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    with pytest.raises(SteadyDancerError, match="contains no video"):
        demo.run_demo(tiny(), clips=str(tmp_path / "clips"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_summary_has_the_keys_that_others_read(tmp_path: Path) -> None:
    counts = {"inputs": 3, "ok": 2, "rejected": 1, "quarantined": 0}
    stage = {"steps": 4, "loss_before": 2.0, "loss_after": 1.0, "seconds": 3}
    records: dict[str, Any] = {
        "clips": {"counts": counts},
        "latents": {"counts": counts, "bytes": 10},
        **{f"stage{n}": stage for n in (1, 2, 3)},
        "renders": {"counts": counts},
        "metrics": {"means": {"psnr": {"mean": None, "videos": 0}, "ssim": {"mean": 0.5, "videos": 2}}},
    }
    summary = demo.summarise(records, tmp_path)
    assert set(summary) == KEYS
    assert summary["clips"] == counts and summary["metrics"] == {"psnr": None, "ssim": 0.5}
    write_json(tmp_path / "summary.json", summary)  # JSON, and no NaN in it


def test_the_page_shows_the_ground_truth_of_a_render_in_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs/demo`, the default, is relative; the tables name videos by absolute paths."""
    monkeypatch.chdir(tmp_path)
    files = {name: str(tmp_path / name) for name in ("image.png", "driving.mp4", "truth.mp4")}
    for file in (*files.values(), "out/renders/pair_0.mp4"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(b"")
    render = {"id": "pair_0", "image": files["image.png"], "driving": files["driving.mp4"], "video": "pair_0.mp4"}
    metric = {"id": "pair_0", "video": str(tmp_path / "out/renders/pair_0.mp4"), "truth": files["truth.mp4"]}
    for name, row in (("renders", render), ("metrics", metric)):
        artifact = Artifact(Path("out") / name)
        artifact.begin({})
        artifact.write_part(Packet("x", ()), pa.Table.from_pylist([row]))
        artifact.commit({"counts": {"inputs": 1, "ok": 1, "rejected": 0, "quarantined": 0}})
    groups = list(report._media(tmp_path / "page", Path("out")))
    assert [dict(group)["truth"] for group in groups] == ["media/pair_0-truth.mp4"]
    assert (tmp_path / "page/media/pair_0-truth.mp4").is_file()


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "steadydancer.flows.cli", "demo", "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "127.0.0.1:1"}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_the_demo_is_killed_at_three_moments_and_ends_whole(tmp_path: Path) -> None:
    """-9 to the driver while it curates, caches and trains; then the same command to its end, and once more."""
    out = tmp_path / "demo"
    moments = ("measured/part-*.parquet", "latents/part-*.parquet", "stage2/metrics.jsonl")
    for moment in moments:
        with start(out) as run:
            while run.poll() is None and not list(out.glob(moment)):
                time.sleep(0.05)
            assert run.poll() is None, run.stdout and run.stdout.read()
            run.send_signal(signal.SIGKILL)
        assert not (out / "summary.json").exists()
    with start(out) as run:
        text, _ = run.communicate(timeout=1800)
    assert run.returncode == 0, text
    check_demo(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("run.json")}
    with start(out) as run:
        text, _ = run.communicate(timeout=120)
    assert run.returncode == 0 and "already finished" in text
    assert {path: path.stat().st_mtime_ns for path in out.rglob("run.json")} == before


def check_demo(out: Path) -> None:
    """What stands in the summary is what lies in the folders."""
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) >= KEYS
    for name in ("clips", "latents", "renders"):
        counts = Artifact(out / name).record()["counts"]
        assert counts["inputs"] == counts["ok"] + counts["rejected"] + counts["quarantined"]
        assert {key: summary[name][key] for key in counts} == counts
    for n in (1, 2, 3):
        stage = summary[f"stage{n}"]
        assert stage["loss_after"] < stage["loss_before"]
        steps = [json.loads(line)["step"] for line in (out / f"stage{n}" / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(stage["steps"]))
    videos = sorted((out / "renders").glob("*.mp4"))
    assert len(videos) == summary["renders"]["ok"] == 24
    assert all(probe(video).num_frames == 33 for video in videos)
    assert set(summary["metrics"]) >= {"right_minus_wrong_pose_psnr_db", "pck_0_1", "start_gap_jump_stage3"}
    assert all(result["num_clips"] == 24 for result in summary["metrics"].values())
    page = (out / "report" / "index.html").read_text()
    assert page.count("<video") >= 6 * len(videos)
    assert all((out / "report" / "media").iterdir())
