"""Inputs of a call: pictures, the lengths of motions, and what is made of a driving video."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steadydancer.datasets import driving_poses
from steadydancer.datasets.skeleton import PoseSequence, align_people_to_reference
from steadydancer.datasets.toydance import toy_pose
from steadydancer.datasets.video import encode
from steadydancer.models import pipeline_inputs
from steadydancer.models.pipeline_inputs import (
    DrivingError,
    InputError,
    align_driving_pose,
    as_frame,
    as_motion,
    as_reference,
    frames_of,
    num_frames_of,
    prepare_motion,
)
from steadydancer.models.pose.track import PoseTrack
from steadydancer.models.pose_condition import draw_pose_condition, released_aspect

IMAGE = np.zeros((64, 40, 3), np.uint8)
DRIVING = np.zeros((6, 48, 80, 3), np.uint8)


def person(num_frames: int, seed: int = 7) -> PoseSequence:
    return toy_pose(seed, num_frames, 16, aspect=80 / 48)


def clip(num_frames: int) -> np.ndarray:
    """Each frame has its number as grey."""
    return np.arange(num_frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)


class Estimator:
    """Two people in a video, the second one smaller; one in an image."""

    name, counts_people = "two", True

    def __init__(self, in_image: bool = True, in_video: bool = True) -> None:
        self.in_image, self.in_video, self.shown = in_image, in_video, []

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        self.shown.append(frames.shape)
        people = (
            [toy_pose(3, 1, 16, aspect=40 / 64)] if len(frames) == 1 else [person(len(frames)), person(len(frames), 8)]
        )
        there = self.in_image if len(frames) == 1 else self.in_video
        return [PoseTrack(one, one.body_visible.astype(np.float32)) for one in people] if there else []


def prepared(
    driving: Any = DRIVING, estimator: Any = None, num_frames: int | None = None, **options: Any
) -> tuple[Any, Any]:
    return prepare_motion(IMAGE, None, driving, estimator or Estimator(), num_frames, **options)


def assert_same(people: list[PoseSequence], expected: list[PoseSequence]) -> None:
    for one, other in zip(people, expected, strict=True):
        for name in ("body", "body_visible", "hands"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(("length", "taken"), [(1, 1), (4, 1), (5, 5), (8, 5), (9, 9), (12, 9)])
def test_without_a_number_a_motion_is_as_long_as_4k_plus_1_allows(length: int, taken: int) -> None:
    frames = as_motion(clip(length), None)
    np.testing.assert_array_equal(frames, clip(length)[:taken])
    people = as_motion([person(length), person(length, 8)], None)
    assert_same(people, [person(length)[:taken], person(length, 8)[:taken]])
    assert num_frames_of(frames) == num_frames_of(people) == taken


def test_a_motion_is_cut_to_its_number_whatever_it_is_given_as() -> None:
    pictures = [Image.fromarray(frame) for frame in clip(9)]
    for given in (clip(9), list(clip(9)), pictures):
        np.testing.assert_array_equal(as_motion(given, 5), clip(5))
    assert_same(as_motion(person(9), 5), [person(9)[:5]])
    np.testing.assert_array_equal(as_motion(clip(9), 9), clip(9))
    with pytest.raises(InputError, match=r"has 9 frames and num_frames is 13.*num_frames=9 \(None"):
        as_motion(clip(9), 13)
    with pytest.raises(InputError, match=r"has 8 frames .*num_frames=5 "):
        as_motion([person(8)], 9)
    with pytest.raises(InputError, match=r"the same number of frames, not \[8, 9\]"):
        as_motion([person(9), person(8)], 5)
    for empty in ([], clip(0), person(1)[:0], [person(1)[:0]]):
        with pytest.raises(InputError, match="The motion is empty"):
            as_motion(empty, None)


def test_some_frames_of_a_motion_are_these_frames() -> None:
    np.testing.assert_array_equal(frames_of(clip(9), [8, 0, 3])[:, 0, 0, 0], [8, 0, 3])
    assert_same(
        frames_of([person(9), person(9, 8)], [8, 0, 3]),
        [person(9)[np.array([8, 0, 3])], person(9, 8)[np.array([8, 0, 3])]],
    )


def test_a_motion_is_drawn_at_the_images_size() -> None:
    image = np.zeros((40, 24, 3), np.uint8)
    np.testing.assert_array_equal(
        pipeline_inputs.draw_motion([person(2)], image, 64 * 64), draw_pose_condition([person(2)], 40, 24, 64 * 64)
    )
    wide = np.zeros((1, 20, 40, 3), np.uint8)
    wide[:, :, 20:] = 200
    drawn = pipeline_inputs.draw_motion(wide, image)
    assert drawn.shape == (1, 40, 24, 3) and (drawn[0, :, 3] < 20).all() and (drawn[0, :, 20] > 180).all()


@pytest.mark.parametrize("main_person_only", [False, True])
def test_a_driving_video_is_aligned_by_its_own_aspect_and_the_images(main_person_only: bool) -> None:
    estimator = Estimator()
    motion, driven = prepared(DRIVING, estimator, 5, main_person_only=main_person_only)
    people = [person(5), person(5, 8)][: 1 if main_person_only else 2]
    reference = toy_pose(3, 1, 16, aspect=40 / 64)
    assert_same(motion, align_people_to_reference(people, reference, 80 / 48, released_aspect(64, 40)))
    assert driven.people is motion and driven.aligned and driven.start_frame == 0
    assert sorted(estimator.shown) == [(1, 64, 40, 3), (5, 48, 80, 3)]


def test_a_motion_that_is_given_is_left_as_it_is() -> None:
    motion, driven = prepare_motion(IMAGE, person(9), None, None, None)
    assert_same(motion, [person(9)])
    assert driven is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pose_video": clip(5), "driving_video": DRIVING}, "not both"),
        ({}, "not neither"),
        ({"driving_video": DRIVING}, "requires a pose_estimator"),
    ],
)
def test_one_motion_and_somebody_who_looks_at_it_are_needed(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepare_motion(IMAGE, given.get("pose_video"), given.get("driving_video"), None, 5)


def test_a_file_is_read_at_its_rate_and_scaled_down_for_the_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving_poses, "POSE_SIDE_PX", 64)
    encode(np.zeros((13, 80, 130, 3), np.uint8), tmp_path / "dance.mp4", 24)
    for fps, num_frames, expected in ((None, None, 13), (None, 5, 5), (12.0, None, 5)):
        estimator = Estimator()
        motion, _ = prepared(tmp_path / "dance.mp4", estimator, num_frames, driving_fps=fps)
        assert num_frames_of(motion) == expected
        assert estimator.shown == [(expected, 40, 64, 3), (1, 64, 40, 3)]  # 80 × 130: not the file's own aspect
        tracks = Estimator().estimate(np.zeros((expected, 40, 64, 3)))
        assert_same(motion, align_driving_pose(tracks, Estimator().estimate(IMAGE[None]), 130 / 80, IMAGE).people)
    with pytest.raises(InputError, match="has 13 frames, but 17 are needed"):
        prepared(str(tmp_path / "dance.mp4"), num_frames=17)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"driving_video text.mp4 cannot be read \(unreadable\)"):
        prepared(tmp_path / "text.mp4")


class HeadOnly(Estimator):
    """A face without a neck in what has so many frames."""

    def __init__(self, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        tracks = super().estimate(frames)
        for track in tracks if len(frames) == self.num_frames else []:
            track.pose.body_visible[:, 1:14] = False
        return tracks


def test_a_driving_video_with_nobody_to_follow_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DrivingError, match="two found no person .*in the driving video: choose one"):
        prepared(estimator=Estimator(in_video=False))
    with pytest.raises(
        DrivingError, match=r"cannot be aligned with the keypoints of two: none of its 5 frames shows a neck"
    ):
        prepared(estimator=HeadOnly(5))
    assert caplog.records == []


@pytest.mark.parametrize("estimator", [Estimator(in_image=False), HeadOnly(1)])
def test_an_image_with_nobody_to_align_to_keeps_the_pose_or_is_refused_as_chosen(
    estimator: Estimator, caplog: pytest.LogCaptureFixture
) -> None:
    motion, driven = prepared(estimator=estimator)
    assert not driven.aligned
    assert_same(motion, [person(5), person(5, 8)])
    assert [record.message for record in caplog.records] == driven.notes() == [
        "no pose found in the image: the driving pose is used without alignment"
    ]  # fmt: skip
    with pytest.raises(
        DrivingError, match='two found no person .*in the reference image: .*on_missing_reference="keep"'
    ):
        prepared(estimator=estimator, on_missing_reference="raise")


def quarters() -> np.ndarray:
    picture = np.zeros((40, 64, 3), np.uint8)
    picture[:20, :32], picture[:20, 32:], picture[20:, :32] = (200, 30, 40), (30, 180, 60), (40, 60, 200)
    return picture


def opened(image: Image.Image, **options) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return Image.open(data)


def test_an_image_that_was_opened_is_upright_and_opaque():
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright: a quarter turn clockwise
    turned = np.rot90(quarters(), -1)
    np.testing.assert_array_equal(as_reference(opened(Image.fromarray(quarters()), exif=exif)), turned)
    clear = Image.fromarray(np.dstack([quarters(), np.where(quarters()[..., :1] > 100, 255, 0).astype(np.uint8)]))
    shown = np.where(quarters()[..., :1] > 100, quarters(), 255)
    np.testing.assert_array_equal(as_frame(opened(clear)), shown)
    np.testing.assert_array_equal(as_frame(opened(clear, exif=exif)), np.rot90(shown, -1))


def test_images_and_arrays_that_are_as_they_should_be_stay_so():
    array = quarters()
    assert as_frame(array) is array
    np.testing.assert_array_equal(as_frame(Image.fromarray(array)), array)
    deep = Image.fromarray(array[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(as_frame(deep), np.repeat(array[..., :1], 3, axis=2))


def test_what_is_no_picture_of_eight_bits_is_refused():
    for image in (quarters().astype(np.float32), quarters()[..., 0], np.dstack([quarters()] * 2), "me.png", None):
        with pytest.raises(InputError, match="the pose must be a PIL image or uint8 RGB"):
            as_frame(image, "the pose")
    with pytest.raises(InputError, match="the pose contains floating-point numbers"):
        as_frame(Image.fromarray(np.zeros((40, 40), np.float32)), "the pose")
    with pytest.raises(InputError, match="31×40 px, but the minimum is 32×32"):
        as_reference(quarters()[:, :31])
