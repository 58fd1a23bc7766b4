"""What a protocol makes of a video and its truth: frames, sizes, crops, rates, and the codec."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.video import encode
from steadydancer.pipelines.evaluate.protocols import Codec, Protocol
from steadydancer.pipelines.evaluate.scores import NotMeasured
from steadydancer.pipelines.evaluate.video import Rendered, Video, through_codec
from steadydancer.pipelines.runtime.stage import BadClip


def numbered(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frame k is grey 10 + 5 k, its left half red."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (10 + 5 * np.arange(count))[:, None, None, None]
    frames[:, :, : width // 2, 0] = 250
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers of frames, from their right half."""
    return [round((float(frame[:, -8:, 1].mean()) - 10) / 5) for frame in frames]


def read(folder: Path, protocol: Protocol, render: np.ndarray, truth: np.ndarray | None, **more: Any) -> Video:
    row = {
        "video": str(folder / "r.mp4"),
        "image": None,
        "driving": None,
        "truth": None,
        "reason": None,
        "detail": None,
    }
    encode(render, folder / "r.mp4", more.pop("fps", 16), lossless=True)
    if truth is not None:
        row["truth"] = str(folder / "t.mp4")
        encode(truth, folder / "t.mp4", more.pop("truth_fps", 16), lossless=True)
    return Video.read(row | more, protocol, Rendered())


def test_strided_frames_meet_the_truths_frames_of_the_same_times(tmp_path: Path) -> None:
    video = read(tmp_path, Protocol(name="a", num_frames=4, stride=3), numbered(20), numbered(20))
    assert numbers(video.frames) == numbers(video.pair.truth) == [0, 3, 6, 9]
    assert video.fps == pytest.approx(16 / 3)
    assert video.pair.detail == "4 of 20 ground-truth frames were compared"  # not the first 4
    slow = read(tmp_path, Protocol(name="a", fps=8), numbered(20), numbered(20))
    assert numbers(slow.frames) == numbers(slow.pair.truth) == [*range(0, 20, 2)]
    assert "the render was sampled at 8 frames per second (its own: 16)" in str(slow.pair.detail)
    late = read(tmp_path, Protocol(name="a", num_frames=4, position="middle"), numbered(20), numbered(30), truth_fps=32)
    assert numbers(late.frames) == [8, 9, 10, 11] and numbers(late.pair.truth) == [16, 18, 20, 22]
    short = read(tmp_path, Protocol(name="a", num_frames=9, stride=2), numbered(20), numbered(6))
    assert numbers(short.pair.truth) == numbers(short.pair.render) == [0, 2, 4]
    assert "3 of 9 rendered frames were compared" in str(short.pair.detail)


def test_a_render_of_the_scored_frames_meets_every_third_of_the_truth(tmp_path: Path) -> None:
    protocol = Protocol(
        name="h", num_frames=4, stride=3, rendered="scored-frames", position="middle", reference_index=2
    )
    video = read(tmp_path, protocol, numbered(6), numbered(15))
    assert numbers(video.frames) == [1, 2, 3, 4] and numbers(video.pair.truth) == [0, 3, 6, 9]
    assert numbers(video.image[None]) == [6]  # a pair without an image: the third scored frame of the truth
    kept = read(tmp_path, protocol.model_copy(update={"score_first_frame": False}), numbered(6), numbered(15))
    assert numbers(kept.compared.truth) == [3, 6, 9] and numbers(kept.compared.render) == [2, 3, 4]


def test_another_aspect_is_refused_stretched_or_cropped(tmp_path: Path) -> None:
    wide = numbered(3, 32, 96)
    for fit, left_red in (("stretch", 24), ("crop", 24)):
        video = read(tmp_path, Protocol(name="f", fit=fit, truth_filter="pil-bilinear"), numbered(3), wide)
        truth = video.pair.truth
        assert truth.shape == (3, 32, 48, 3) and fit[:4] in str(video.pair.detail).replace("aspect not kept", "stre")
        assert (truth[0, :, : left_red - 2, 0] > 200).all() and (truth[0, :, left_red + 2 :, 0] < 50).all()
    # The picture's left tenth is white: a crop loses it, a stretch keeps it.
    wide[:, :, :10] = 255
    for fit, seen in (("stretch", True), ("crop", False)):
        video = read(tmp_path, Protocol(name="f", fit=fit, truth_filter="pil-bicubic"), numbered(3), wide)
        assert (video.pair.truth[0, 0, 0, 1] > 200) == seen
    with pytest.raises(NotMeasured, match="other_aspect"):
        read(tmp_path, Protocol(name="f"), numbered(3), wide).pair  # noqa: B018


def test_a_size_is_that_of_render_and_truth(tmp_path: Path) -> None:
    sized = Protocol(name="s", height=16, width=24, render_filter="pil-bilinear")
    video = read(tmp_path, sized, numbered(3), numbered(3))
    assert video.frames.shape == video.pair.truth.shape == (3, 16, 24, 3)


def test_other_rates_are_resampled_or_refused(tmp_path: Path) -> None:
    resampled = read(tmp_path, Protocol(name="r", fps=8), numbered(8), numbered(8))
    assert numbers(resampled.frames) == numbers(resampled.pair.truth) == [0, 2, 4, 6]
    strict = Protocol(name="r", fps=8, other_fps="refuse")
    with pytest.raises(BadClip, match="other_fps"):
        read(tmp_path, strict, numbered(8), None)
    with pytest.raises(NotMeasured, match="other_fps"):
        read(tmp_path, Protocol(name="r", other_fps="refuse"), numbered(8), numbered(8), truth_fps=24).pair  # noqa: B018


def test_a_truth_may_pass_through_the_renders_codec(tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), np.uint8)
    codec = Codec(crf=30)
    plain, coded = (read(tmp_path, Protocol(name="c", codec=one), noisy, noisy).pair.truth for one in (None, codec))
    assert (plain == noisy).all() and np.abs(coded.astype(int) - noisy).mean() > 5
    assert (coded == through_codec(noisy, 16, codec)).all()
    odd = through_codec(noisy[:, :31, :47], 16, codec)
    assert odd.shape == (3, 31, 47, 3)


def test_what_is_missing_is_a_reason_each_time_it_is_asked(tmp_path: Path) -> None:
    video = read(tmp_path, Protocol(name="m"), numbered(3), None, reason="no_truth", detail="why")
    for _ in range(2):
        with pytest.raises(NotMeasured, match="why"):
            video.pair  # noqa: B018
        with pytest.raises(NotMeasured, match="no_image"):
            video.reference  # noqa: B018
