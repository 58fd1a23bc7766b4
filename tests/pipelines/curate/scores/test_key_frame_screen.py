"""What a few key frames refuse, all frames refuse."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from steadydancer.datasets.schema import Row
from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.gates import Gates
from steadydancer.pipelines.curate.scores import key_frame_screen as glance
from steadydancer.pipelines.curate.selection.select import failed_gate
from steadydancer.pipelines.curate.steps import find_shots, open_source, probe_source, score_frames

CONFIG = CurateConfig(num_frames=33, shot_detector="threshold", pose_model="supplied")


def written(path: Path, frames: np.ndarray, group: int = 12) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": str(group), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def scored(path: Path) -> list[Row]:
    (row,) = [probe_source(open_source(str(path)), CONFIG)]
    assert isinstance(row, dict)
    out = find_shots(row, CONFIG)
    assert isinstance(out, list)
    return [one if one.get("verdict") else dict(score_frames(one, CONFIG)) for one in out]


def reasons(rows: list[Row]) -> set[str | None]:
    return {row.get("reason") or (failed_gate(row, CONFIG.gates) or (None,))[0] for row in rows}


def films() -> dict[str, np.ndarray]:
    pose = toy_pose(4, 96, 24.0, aspect=0.75)
    good = draw_dancer(pose, 4, 256, 192)
    night = (good * 0.08).astype(np.uint8)
    bars = np.pad(night, ((0, 0), (40, 40), (0, 0), (0, 0)))
    return {
        "good": good,
        "dark": night,
        "dim": (good * 0.2).astype(np.uint8),
        "soft": np.stack([cv2.GaussianBlur(frame, (0, 0), 14) for frame in good]),
        "fades_in": (good * np.linspace(0, 1, 96)[:, None, None, None]).astype(np.uint8),
        "barred": bars,
        "pillar": np.pad(good, ((0, 0), (0, 0), (100, 100), (0, 0))),
        "lit_once": np.concatenate([night[:40], good[40:80], night[80:]]),
    }


def test_verdicts_are_those_of_the_whole_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_a_glance = set()
    for name, frames in films().items():
        path = written(tmp_path / f"{name}.mp4", frames)
        monkeypatch.setattr(glance, "LEAST_PIXELS", 10**12)
        whole = scored(path)
        monkeypatch.setattr(glance, "LEAST_PIXELS", 0)
        quick = scored(path)
        if quick[0]["num_frames"] != whole[0]["num_frames"]:
            at_a_glance.add(name)
            (row,) = quick
            assert (row["start_s"], row["num_frames"]) == (0, 64) and row["end_s"] == pytest.approx(63 / 16)
            assert failed_gate(row, CONFIG.gates) is not None
            assert all(one.get("verdict") or failed_gate(one, CONFIG.gates) for one in whole)
        else:
            assert quick == whole
        assert (None in reasons(quick)) == (None in reasons(whole)), name
    assert {"dark", "soft"} <= at_a_glance <= {"dark", "soft", "dim"}


def test_few_key_frames_tell_nothing_and_a_gate_that_is_off_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glance, "LEAST_PIXELS", 0)
    one_group = written(tmp_path / "one_group.mp4", films()["dark"], group=500)
    grouped = written(tmp_path / "grouped.mp4", films()["dark"])

    def refused(path: Path, **gates: Any) -> bool:
        row = probe_source(open_source(str(path)), CONFIG)
        assert isinstance(row, dict)
        return glance.screen_key_frames(row, CONFIG.model_copy(update={"gates": Gates(**gates)})) is not None

    assert not refused(one_group) and refused(grouped)
    still = {"min_contrast": None, "min_sharpness": None, "max_blur": None}
    assert refused(grouped, **still) and not refused(grouped, min_brightness=None, **still)
    assert not refused(encode(films()["dark"], tmp_path / "x.mp4") or tmp_path / "x.mp4", **still)


def test_of_bounds_that_differ_by_shape_the_one_that_lets_most_through_decides() -> None:
    """The shape inside the borders is not known yet."""
    config = CONFIG.model_copy(
        update={
            "gates": Gates(min_brightness=0.3, min_contrast=0.05, min_sharpness=0.002, max_blur=0.5),
            "gates_by_shape": {
                "vertical": {"min_brightness": 0.1, "max_blur": 0.7, "min_contrast": None},
                "square": {"min_brightness": 0.4, "max_blur": 0.4, "min_sharpness": 0.004},
            },
        }
    )
    assert glance._loosest(config) == {"min_brightness": 0.1, "min_sharpness": 0.002, "max_blur": 0.7}
