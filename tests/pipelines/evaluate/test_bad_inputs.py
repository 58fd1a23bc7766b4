"""A benchmark on the disk with files missing, damaged, short, and of another size or rate: each null has its reason.

Render and driving clip have supplied keypoints, so that every number of a pose is that of the drawing.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.benchmarks import BenchmarkError
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.toydance import draw_dancer, save_supplied_pose, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.models.pose.track import PoseTrack
from steadydancer.models.weights import lookup
from steadydancer.pipelines.evaluate import job, judges, selection
from steadydancer.pipelines.evaluate.catalogue import METRICS
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.judges import Availability
from steadydancer.pipelines.evaluate.protocols import Protocol
from steadydancer.pipelines.evaluate.sources import Source
from steadydancer.pipelines.runtime.runner import Engine

COUNT, SIZE, FPS = 25, (64, 48), 16  # upright
ASKED = ("first_frame", "truth", "pixels", "pose", "background", "face", "sets")
TRUTH = [name for name, metric in METRICS.items() if metric.group == "truth"]
POSE = [name for name, metric in METRICS.items() if metric.group == "pose"]
Rows = dict[tuple[str | None, str | None], dict[str, Any]]


def dancer(seed: int, count: int = COUNT, fps: float = FPS) -> PoseSequence:
    return toy_pose(seed, count, fps, aspect=SIZE[1] / SIZE[0])


def write(file: Path, pose: PoseSequence, seed: int, fps: float = FPS, size: tuple[int, int] = SIZE) -> None:
    """A drawn clip, or picture, with its keypoints."""
    file.parent.mkdir(exist_ok=True)
    frames = draw_dancer(pose, seed, *size)
    if file.suffix == ".png":
        cv2.imwrite(str(file), frames[0][..., ::-1])
    else:
        encode(frames, file, fps, lossless=True)
    save_supplied_pose(file, [pose], fps)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bench/` with a table of pairs, whose truth is the driving clip, and `ours/` with a render of each."""
    root, rows = tmp_path_factory.mktemp("bad"), []
    hidden = replace(dancer(3), body_visible=np.zeros((COUNT, 18), bool))
    cases: dict[str, dict[str, Any]] = {
        "good": {}, "no_truth": {}, "no_image": {}, "no_driving": {}, "damaged": {}, "damaged_truth": {},
        "short_truth": {"truth": dancer(3, 7)}, "fast_truth": {"truth": dancer(3, 2 * COUNT, 2 * FPS), "fps": 2 * FPS},
        "wide_truth": {"truth_size": (48, 80)}, "small_truth": {"truth_size": (32, 24)},
        "nobody": {"driving": hidden}, "nobody_shown": {"render": hidden}, "no_reference": {"image": hidden},
        "five": {"driving": dancer(3, 5)}, "one": {"driving": dancer(3, 1)},
        "early": {"render": dancer(3, COUNT + 3)[np.arange(3, COUNT + 3)]},
    }  # fmt: skip
    for name, case in cases.items():
        driving = case.get("driving", dancer(3))
        write(root / "bench" / f"{name}.png", case.get("image", dancer(3, 1)), 3)
        write(root / "bench" / f"{name}-driving.mp4", driving, 3)
        write(root / "bench" / f"{name}-true.mp4", case.get("truth", driving), 3, case.get("fps", FPS),
              case.get("truth_size", SIZE))  # fmt: skip
        write(root / "ours" / f"{name}.mp4", case.get("render", driving), 3)
        rows.append({"id": name, "image": f"{name}.png", "driving": f"{name}-driving.mp4",
                     "truth": f"{name}-true.mp4", "kinds": ["style"]})  # fmt: skip
    (root / "bench" / "pairs.json").write_text(json.dumps(rows))
    for file in ("no_truth-true.mp4", "no_image.png", "no_driving-driving.mp4"):
        (root / "bench" / file).unlink()
    (root / "bench" / "damaged_truth-true.mp4").write_bytes(b"nothing")
    (root / "ours" / "damaged.mp4").write_bytes((root / "ours" / "good.mp4").read_bytes()[:700])
    return root


def evaluate(world: Path, out: Path, **settings: Any) -> dict[str, Any]:
    config = EvaluateConfig(**{"metrics": ASKED, "pose_model": "supplied", **settings})
    return job.run(
        config,
        videos=[Source(None, world / "ours")],
        benchmark=str(world / "bench"),
        out=out,
        engine=Engine(out / ".engine", in_process=True),
    )


@pytest.fixture(scope="module")
def scored(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Rows]:
    out = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patched:  # as on a machine without any weights
        patched.setattr(lookup, "find", lambda row: None)
        record = evaluate(world, out)
    found: Rows = {(row["id"], row["metric"]): row for row in Artifact(out / "metrics").read().to_pylist()}
    assert (out / "report.html").is_file()
    return record, found


def reasons(rows: Rows, name: str, metrics: list[str]) -> set[str | None]:
    return {rows[name, metric]["reason"] for metric in metrics}


def test_every_metric_of_every_pair_has_a_value_or_a_reason(scored: tuple[dict[str, Any], Rows]) -> None:
    record, rows = scored
    assert record["benchmark"]["with_problems"] == 3 and record["counts"]["quarantined"] == 1
    per_video = [name for name in record["metrics"] if METRICS[name].level == "video"]
    names = {name for name, _ in rows if name} - {"damaged"}
    assert len(names) == 15 and {name for _, name in rows if name} == set(record["metrics"])
    for name in names:
        for metric in per_video:
            row = rows[name, metric]
            assert (row["value"] is None) == bool(row["reason"]) and row["reason"] != "not_computed", row
            assert row["value"] is not None or row["detail"], row
    for metric in record["metrics"]:
        if METRICS[metric].level == "set":
            assert rows[None, metric]["reason"] == "weights_missing"


def test_the_pair_without_fault_is_perfect(scored: tuple[dict[str, Any], Rows]) -> None:
    _, rows = scored
    for name, value in {"psnr": 100, "ssim": 1, "pck_10": 1, "velocity_correlation": 1, "lag": 0, "akd_px": 0}.items():
        assert rows["good", name]["value"] == pytest.approx(value, abs=1e-6), name
    assert rows["good", "start_gap"]["value"] == pytest.approx(0, abs=1e-5)
    assert rows["good", "start_gap_resolved"]["reason"] == "small_gap"
    assert rows["good", "psnr"]["kinds"] == "style"


def test_a_video_that_cannot_be_read_is_one_row(scored: tuple[dict[str, Any], Rows]) -> None:
    _, rows = scored
    assert (rows["damaged", None]["verdict"], rows["damaged", None]["value"]) == ("quarantined", None)
    assert rows["damaged", None]["reason"] in ("unreadable", "truncated")
    assert "damaged.mp4" in rows["damaged", None]["detail"]


def test_what_the_benchmark_lacks_costs_its_own_metrics_only(scored: tuple[dict[str, Any], Rows]) -> None:
    _, rows = scored
    assert reasons(rows, "no_truth", TRUTH) == {"no_truth"}
    assert "true.mp4" in rows["no_truth", "psnr"]["detail"]
    assert rows["no_truth", "pck_10"]["value"] == 1
    assert reasons(rows, "damaged_truth", TRUTH) == {"unreadable_truth"}
    assert rows["damaged_truth", "pck_10"]["value"] == 1
    assert rows["no_image", "first_frame_psnr"]["reason"] == "unreadable_image"
    assert reasons(rows, "no_image", ["start_gap", "start_gap_resolved"]) == {"unreadable_image"}
    assert rows["no_image", "pck_10"]["value"] == rows["no_image", "ssim"]["value"] == pytest.approx(1)
    # The truth does not stand in for a driving clip that the benchmark names and lacks.
    assert reasons(rows, "no_driving", POSE) == {"unreadable_driving"} and rows["no_driving", "psnr"]["value"] == 100
    assert "no_driving-driving.mp4" in rows["no_driving", "pck_10"]["detail"]


def test_truths_of_another_length_rate_and_size(scored: tuple[dict[str, Any], Rows]) -> None:
    _, rows = scored
    short, fast = rows["short_truth", "psnr"], rows["fast_truth", "psnr"]
    assert short["value"] == 100 and short["frames_compared"] == 7 and "is shorter" in short["detail"]
    assert rows["short_truth", "start_gap_jump_excess"]["reason"] == "no_motion"
    assert fast["frames_compared"] == COUNT and "sampled at the render's times" in fast["detail"]
    assert reasons(rows, "wide_truth", TRUTH) == {"other_aspect"} and rows["wide_truth", "pck_10"]["value"] == 1
    assert rows["small_truth", "psnr"]["value"] < 60 and "scaled from 24×32" in rows["small_truth", "psnr"]["detail"]


def test_nobody_driven_nobody_shown_and_nobody_in_the_reference(scored: tuple[dict[str, Any], Rows]) -> None:
    _, rows = scored
    assert reasons(rows, "nobody", POSE) == {"no_pose"} and rows["nobody", "psnr"]["value"] == 100
    assert "driving video" in rows["nobody", "lag"]["detail"]
    shown = {name: rows["nobody_shown", name] for name in POSE}
    assert [shown[name]["value"] for name in ("pck_10", "oks", "mkr", "missing_rate", "people_pck_10")] == [
        0,
        0,
        1,
        1,
        0,
    ]
    for name in ("pck_detected_10", "akd_px", "motion_ratio", "velocity_correlation", "lag", "mirrored", "jump_excess",
                 "people_oks"):  # fmt: skip
        assert (shown[name]["value"], shown[name]["reason"]) == (None, "no_pose"), name
    assert shown["jump_driven"]["value"] > 0 and shown["people_extra"]["value"] == 0
    gap = [rows["no_reference", name]["reason"] for name in ("start_gap", "start_gap_resolved")]
    assert gap == ["no_pose", "no_pose"] and "reference image" in rows["no_reference", "start_gap"]["detail"]
    assert rows["no_reference", "pck_10"]["value"] == 1


def test_short_clips_leave_out_what_needs_more_frames(scored: tuple[dict[str, Any], Rows]) -> None:
    _, rows = scored
    values = {name: rows["five", name]["value"] for name in (*POSE, *TRUTH)}
    assert (values["pck_10"], values["lag"], values["psnr"]) == (1, 0, 100) and values["jerk_ratio"] == pytest.approx(1)
    nulls = {name: rows["five", name]["reason"] for name in ("jump", "jump_excess", "jump_driven", "start_gap_jump")}
    assert set(nulls.values()) == {"too_short"}
    single = {name: rows["one", name]["reason"] for name in ("lag", "velocity_correlation", "motion_ratio", "mirrored")}
    assert set(single.values()) == {"no_motion"} and rows["one", "jerk_ratio"]["reason"] == "too_short"
    assert rows["one", "temporal_flickering"]["reason"] == "one_frame" and rows["one", "pck_10"]["value"] == 1


def test_an_early_render_has_a_negative_lag(scored: tuple[dict[str, Any], Rows]) -> None:
    _, rows = scored
    assert rows["early", "lag"]["value"] == -3 and rows["early", "lag_correlation"]["value"] > 0.95
    assert rows["early", "pck_10"]["frames_compared"] == COUNT


def test_a_file_of_the_benchmark_that_changes_or_goes_later_is_said(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "w")
    for file in (tmp_path / "w" / "bench").glob("benchmark*.json"):
        file.unlink()
    evaluate(tmp_path / "w", tmp_path / "first", metrics=("psnr",))
    (tmp_path / "w" / "bench" / "good-true.mp4").unlink()
    evaluate(tmp_path / "w", tmp_path / "second", metrics=("psnr", "pck_10"))
    rows = {(row["id"], row["metric"]): row for row in Artifact(tmp_path / "second" / "metrics").read().to_pylist()}
    assert rows["good", "psnr"]["reason"] == "no_truth" and "good-true.mp4" in rows["good", "psnr"]["detail"]
    assert rows["good", "pck_10"]["value"] == 1 and rows["five", "psnr"]["value"] == 100
    (tmp_path / "w" / "bench" / "good.png").write_bytes(b"another")
    with pytest.raises(BenchmarkError, match=r"good\.png"):
        evaluate(tmp_path / "w", tmp_path / "third", metrics=("psnr",))


def test_driven_frames_of_a_strided_protocol(tmp_path: Path) -> None:
    """A render that holds only every third frame follows those; a late window may lie behind a short driving clip."""
    pose = dancer(3)
    write(tmp_path / "bench" / "a.png", dancer(3, 1), 3)
    write(tmp_path / "bench" / "a.mp4", pose, 3)
    write(tmp_path / "ours" / "a.mp4", pose[np.arange(0, COUNT, 3)], 3)
    strided = Protocol(name="s", num_frames=9, stride=3, rendered="scored-frames")
    evaluate(tmp_path, tmp_path / "strided", protocol=strided, metrics=("pose",))
    rows = {row["metric"]: row for row in Artifact(tmp_path / "strided" / "metrics").read().to_pylist()}
    assert rows["pck_10"]["value"] == 1 and rows["velocity_correlation"]["value"] > 0.999
    assert rows["pck_10"]["frames_compared"] == 9
    write(tmp_path / "ours" / "a.mp4", dancer(3, 80), 3)
    late = Protocol(name="l", num_frames=9, position="middle")
    evaluate(tmp_path, tmp_path / "late", protocol=late, metrics=("pose",))
    rows = {row["metric"]: row for row in Artifact(tmp_path / "late" / "metrics").read().to_pylist()}
    assert {row["reason"] for row in rows.values()} == {"too_short"} and "first scored frame" in rows["lag"]["detail"]


class Estimator:
    """Finds the dancer where pictures are grey; where they are blue, elsewhere in every frame and at every call."""

    name, counts_people = "stub", True

    def __init__(self) -> None:
        self.calls = 0

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        self.calls += 1
        pose = dancer(3)[np.arange(len(frames))]
        is_blue = frames[0, ..., 2].mean() > frames[0, ..., 0].mean() + 40
        noise = np.random.default_rng(self.calls).normal(size=pose.body.shape) * (0.2 if is_blue else 0)
        return [PoseTrack(replace(pose, body=pose.body + noise), None)]


def test_clips_whose_motion_the_estimator_does_not_see_are_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "load_pose_estimator", lambda name, device: Estimator())
    monkeypatch.setattr(selection, "availability", lambda group, estimators: Availability((), None))
    for folder in ("bench", "ours"):
        for name, colour in {"clear": (90, 90, 90), "blurred": (20, 20, 200), "dark": (20, 20, 180)}.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            frames = np.zeros((COUNT, *SIZE, 3), np.uint8) + np.array(colour, np.uint8)
            encode(frames, tmp_path / folder / f"{name}.mp4", FPS)
            cv2.imwrite(str(tmp_path / "bench" / f"{name}.png"), frames[0][..., ::-1])
    record = evaluate(tmp_path, tmp_path / "out", pose_model="blazepose", metrics=("pose",))
    rows = {(row["id"], row["metric"]): row for row in Artifact(tmp_path / "out" / "metrics").read().to_pylist()}
    assert record["not_measurable"] == {"ours": ["blurred", "dark"]}
    assert record["missing"]["velocity_correlation"] == record["missing"]["lag"] == {"not_measurable": 2}
    assert record["methods"]["ours"]["velocity_correlation"]["n"] == 1
    assert record["methods"]["ours"]["pck_10"]["n"] == 3
    for name in ("blurred", "dark"):
        limit = rows[name, "velocity_correlation[ceiling]"]["value"]
        assert limit < 0.5 and f"a velocity correlation of {limit:.2f}" in rows[name, "lag"]["detail"]
    assert rows["clear", "velocity_correlation[ceiling]"]["value"] == pytest.approx(1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "blurred" in page and "dark" in page
