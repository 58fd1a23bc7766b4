"""The face embedding: which face is followed, and, with the weights, whom it takes for whom among drawn faces."""

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.models.metrics.judges import face
from steadydancer.models.metrics.judges.face import Faces, choose
from steadydancer.models.weights import lookup

Colour = tuple[int, int, int]
ONE: dict[str, Any] = {}
OTHER: dict[str, Any] = {"skin": (240, 205, 190), "hair": (200, 160, 80), "width": 0.86, "eyes": 1.15}


def drawn(
    centre: tuple[int, int] = (180, 200),
    r: int = 60,
    skin: Colour = (224, 180, 150),
    hair: Colour = (60, 40, 30),
    width: float = 1.0,
    eyes: float = 1.0,
) -> np.ndarray:
    """A face of about 2.3 r pixels, drawn in a picture of 480 × 360; no real person."""
    picture = np.full((480, 360, 3), (150, 170, 190), np.uint8)
    x, y = centre
    dark, shade = (tuple(int(v * share) for v in skin) for share in (0.75, 0.8))

    def oval(cx: float, cy: float, ax: float, ay: float, colour: Colour, start: int = 0, line: float = 0) -> None:
        thickness = max(1, int(line * r)) if line else -1
        cv2.ellipse(
            picture,
            (int(x + cx * r), int(y + cy * r)),
            (int(ax * r), int(ay * r)),
            0,
            start,
            start + (180 if line else 360),
            colour,
            thickness,
            cv2.LINE_AA,
        )

    oval(0, -0.25, 1.05 * width, 1.25, hair)
    cv2.rectangle(picture, (int(x - 0.35 * r), int(y + 0.8 * r)), (int(x + 0.35 * r), int(y + 1.8 * r)), dark, -1)
    oval(0, 0, 0.85 * width, 1.15, skin)
    oval(0, -1, 0.8 * width, 0.35, hair)
    for side in (-1, 1):
        oval(side * 0.36 * eyes, -0.17, 0.24, 0.12, shade)
        oval(side * 0.36 * eyes, -0.15, 0.17, 0.09, (245, 245, 245))
        oval(side * 0.36 * eyes, -0.15, 0.09, 0.09, (40, 30, 25))
        oval(side * 0.36 * eyes, -0.36, 0.24, 0.08, hair, 180, line=0.07)
        oval(side * 0.1, 0.27, 0.06, 0.04, dark)
    oval(0, 0.32, 0.18, 0.08, dark, 0, line=0.05)
    oval(0, 0.6, 0.32, 0.1, (150, 70, 70))
    return cv2.GaussianBlur(picture, (0, 0), max(0.6, r / 40))


def faces() -> Faces:
    folder = lookup.find(lookup.weight("dlib-face"))
    if folder is None or importlib.util.find_spec("dlib") is None:
        pytest.skip("dlib's files (`steadydancer weights fetch dlib-face`) or dlib-bin are not on this machine")
    return Faces(folder)


def box(left: float, top: float, side: float) -> np.ndarray:
    return np.array([left, top, left + side, top + side], float)


def test_the_face_that_overlaps_the_last_one_is_followed_else_the_largest() -> None:
    small, large = box(0, 0, 40), box(100, 0, 60)
    both = np.stack([small, large])
    assert choose(both, None).tolist() == large.tolist()
    assert choose(both, box(20, 20, 40)).tolist() == small.tolist()
    assert choose(both, box(39, 39, 70)).tolist() == large.tolist()  # 1 of the small one, 9 · 21 of the large one
    # Boxes that only meet in one direction share nothing.
    assert choose(both, box(0, 200, 40)).tolist() == large.tolist()
    assert choose(both, box(40, 0, 10)).tolist() == large.tolist()


class _Lighthouse(Faces):
    """Stands for the detector: frame k has the boxes k; its embedding is the middle of the box."""

    def __init__(self, boxes: list[list[np.ndarray]]) -> None:
        self._boxes = boxes

    def candidates(self, frame: np.ndarray) -> np.ndarray:
        return np.array(self._boxes[frame[0, 0, 0]], float).reshape(-1, 4)

    def _embedding(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        return np.full(128, box[[0, 2]].mean())


def test_a_frame_without_a_face_is_nan_and_the_same_person_is_found_after_it() -> None:
    """Two people of nearly one size: now the one, now the other is larger, and no frame changes between them."""
    judge = _Lighthouse(
        [
            [box(0, 0, 50), box(100, 0, 60)],
            [box(2, 0, 60), box(102, 0, 50)],
            [],
            [box(110, 0, 50), box(4, 0, 70)],
            [box(0, 0, 70)],
        ]
    )
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    embedded = judge.embed(frames)
    assert embedded.shape == (5, 128) and embedded.dtype == np.float32
    np.testing.assert_array_equal(embedded[:, 0], [130, 127, np.nan, 135, 35])
    assert np.isnan(judge.boxes(frames)[2]).all()
    assert judge.embed(frames[:0]).shape == (0, 128)


def test_without_weights_the_message_names_the_files() -> None:
    with pytest.raises(ValueError, match=r"resnet_model_v1\.dat and shape_predictor_5"):
        Faces(None)


def test_a_drawn_face_is_nearer_to_itself_elsewhere_than_to_another_drawn_face() -> None:
    places: list[tuple[tuple[int, int], int]] = [((180, 200), 60), ((150, 230), 75), ((220, 160), 50)]
    frames = np.stack([drawn(place, r, **look) for look in (ONE, OTHER) for place, r in places])
    judge = faces()
    boxes = judge.boxes(frames[:3])
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    np.testing.assert_allclose(middles, [place for place, _ in places], atol=25)
    sides = boxes[:, 2] - boxes[:, 0]
    assert sides[1] > sides[0] > sides[2]
    embedded = judge.embed(frames)
    distances = np.linalg.norm(embedded[:, None] - embedded, axis=-1)
    same = np.kron(np.eye(2), np.ones((3, 3))).astype(bool)
    # 0.09 to 0.22 and 0.39 to 0.44 when this was written.
    assert distances[same].max() < 0.3 < distances[~same].min()


def test_the_size_of_the_picture_does_not_matter_and_no_face_is_found_in_none() -> None:
    judge, small = faces(), drawn()
    large = cv2.resize(small, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)  # above and below SEARCHED_PIXELS
    assert large.shape[0] * large.shape[1] > face.SEARCHED_PIXELS / 2
    one, other = judge.embed(small[None])[0], judge.embed(large[None])[0]
    assert np.linalg.norm(one - other) < 0.3
    noise = np.random.default_rng(0).integers(0, 256, (1, 200, 150, 3), dtype=np.uint8)
    assert np.isnan(judge.embed(np.concatenate([noise, np.zeros_like(noise)]))).all()


CLIPS = Path(__file__).resolve().parents[5] / "shared" / "corpus" / "clips"


def test_two_real_people_are_two() -> None:
    if not CLIPS.is_dir():
        pytest.skip("the corpus of real clips is not on this machine")
    from steadydancer.datasets.video import decode

    judge, times_s = faces(), np.array([0.5, 2.0, 3.0])
    one, other = (judge.embed(decode(CLIPS / name, times_s)) for name in ("head_speech_a.mp4", "talkshow_half.mp4"))
    assert not np.isnan([one, other]).any()
    apart = np.linalg.norm(one[:, None] - other, axis=-1)
    assert np.linalg.norm(one[:, None] - one, axis=-1).max() < 0.5 < 0.7 < apart.min()
