"""A transition and a clip become one video that shows the shared frame once; what does not fit is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.video import decode, encode, frame_times_s
from steadydancer.models.metrics import psnr_per_frame
from steadydancer.pipelines.benchmarks.first_last_frame import NotStitched, plan, stitch, stitch_folder


def levels(values: list[int], size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """Plain frames of these levels, with a gradient so that frames are pictures."""
    ramp = np.linspace(0, 40, size[1])[None, None, :, None]
    return np.clip(np.array(values)[:, None, None, None] + ramp, 0, 255).astype(np.uint8) * np.ones(
        (1, *size, 3), np.uint8
    )


def write(path: Path, values: list[int], fps: float = 16, size: tuple[int, int] = (32, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(levels(values, size), path, fps, crf=4)
    return path


def test_the_shared_frame_is_shown_once(tmp_path: Path) -> None:
    transition = write(tmp_path / "t.mp4", [10, 30, 50, 70])
    clip = write(tmp_path / "c.mp4", [70, 90, 110, 130, 150])
    facts = stitch(transition, clip, tmp_path / "out.mp4")
    assert (facts["fps"], facts["transition_frames"], facts["clip_frames"]) == (16, 3, 5)
    assert facts["shared_frame_psnr_db"] > 40
    times_s = frame_times_s(tmp_path / "out.mp4")
    assert times_s == pytest.approx(np.arange(8) / 16, abs=1e-4)
    expected = levels([10, 30, 50, 70, 90, 110, 130, 150])
    assert psnr_per_frame(decode(tmp_path / "out.mp4", times_s), expected).min() > 38


def test_a_transition_that_ends_elsewhere_is_measured(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.mp4", [10, 250])
    write(tmp_path / "c" / "a.mp4", [70, 90])
    (result,) = stitch_folder(tmp_path / "t", tmp_path / "c", tmp_path / "out")
    assert result.verdict == "ok" and result.detail == "the transition does not end at the clip's first frame"
    assert result.shared_frame_psnr_db is not None and result.shared_frame_psnr_db < 5


@pytest.mark.parametrize(
    ("transition", "clip", "reason", "detail"),
    [
        (([1, 2, 3], 16, (32, 48)), ([1, 2, 3], 16, (48, 32)), "other_size", "48×32, the clip 32×48"),
        (([1, 2, 3], 24, (32, 48)), ([1, 2, 3], 16, (32, 48)), "other_fps", "has 24 frames per second, the clip 16"),
        (([1], 16, (32, 48)), ([1, 2], 16, (32, 48)), "too_short", "has one frame"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, transition: tuple, clip: tuple, reason: str, detail: str
) -> None:  # fmt: skip
    first, second = write(tmp_path / "t.mp4", *transition), write(tmp_path / "c.mp4", *clip)
    with pytest.raises(NotStitched, match=detail) as refused:
        stitch(first, second, tmp_path / "out.mp4")
    assert refused.value.reason == reason and not (tmp_path / "out.mp4").exists()


def test_a_folder_gives_every_clip_a_verdict_and_goes_on(tmp_path: Path) -> None:
    for name in ("a", "b", "e"):
        write(tmp_path / "t" / f"{name}.mp4", [10, 20, 30])
    for name in ("a", "b", "c"):
        write(tmp_path / "c" / f"{name}.mp4", [30, 40])
    (tmp_path / "c" / "b.mp4").write_bytes(b"not a video")
    assert plan(tmp_path / "t", tmp_path / "c", tmp_path / "out") == {
        "clips": 3, "with_transition": 2, "without_transition": ["c"], "transitions_without_clip": ["e"], "present": 0,
    }  # fmt: skip
    results = stitch_folder(tmp_path / "t", tmp_path / "c", tmp_path / "out")
    assert [(one.id, one.verdict, one.reason) for one in results] == [
        ("a", "ok", None),
        ("b", "quarantined", "unreadable"),
        ("c", "rejected", "no_transition"),
        ("e", "rejected", "no_clip"),
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "a.mp4"]
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["kind"] == "stitched" and record["transition_frames"] == 2 and len(record["inputs"]["clip"]) == 64

    made = (tmp_path / "out" / "a.mp4").stat().st_mtime_ns
    write(tmp_path / "c" / "b.mp4", [30, 40])
    again = stitch_folder(tmp_path / "t", tmp_path / "c", tmp_path / "out")
    assert [one.verdict for one in again] == ["ok", "ok", "rejected", "rejected"] and again[0] == results[0]
    assert (tmp_path / "out" / "a.mp4").stat().st_mtime_ns == made
    write(tmp_path / "t" / "a.mp4", [10, 15, 20, 30])
    assert stitch_folder(tmp_path / "t", tmp_path / "c", tmp_path / "out")[0].transition_frames == 3


def test_a_folder_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.mp4", [1, 2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SteadyDancerError, match="empty contains no videos: expected ID.mp4"):
        stitch_folder(tmp_path / "t", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(SteadyDancerError, match="is an input"):
        stitch_folder(tmp_path / "t", tmp_path / "t", tmp_path / "t")
    write(tmp_path / "t" / "a.mkv", [1, 2])
    with pytest.raises(SteadyDancerError, match=r"a\.mkv and a\.mp4 are both called a"):
        stitch_folder(tmp_path / "t", tmp_path / "t", tmp_path / "out")
