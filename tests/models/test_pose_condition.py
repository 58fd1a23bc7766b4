"""The pose as the network is told it: drawn on the released canvas, shrunk, and in the released colours."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steadydancer.datasets.skeleton import PoseSequence, draw
from steadydancer.models import encoders, pose_condition
from steadydancer.models.pose_condition import draw_pose_condition, encode_pose_condition, released_aspect


def standing(num_frames: int, at: float = 0.5) -> PoseSequence:
    """Arms to the sides, a little lower in every frame."""
    places = [
        *((0.0, 0.2), (0.0, 0.3), (-0.1, 0.3), (-0.15, 0.45), (-0.2, 0.6), (0.1, 0.3), (0.15, 0.45), (0.2, 0.6)),
        *((-0.05, 0.6), (-0.05, 0.7), (-0.05, 0.8), (0.05, 0.6), (0.05, 0.7), (0.05, 0.8)),
        *((-0.02, 0.18), (0.02, 0.18), (-0.04, 0.2), (0.04, 0.2)),
    ]
    body = np.array(places)[None].repeat(num_frames, axis=0) + np.array([at, 0])
    body[:, :, 1] += 0.01 * np.arange(num_frames)[:, None]
    return PoseSequence(body, np.ones((num_frames, 18), bool), np.full((num_frames, 2, 21, 2), -1.0))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(576, 1024, 1024 / 576), (1024, 576, 576 / 1024), (500, 500, 1.0), (1000, 990, 752 / 768)],
)
def test_the_aspect_is_that_of_the_released_size(height: int, width: int, expected: float) -> None:
    assert released_aspect(height, width) == pytest.approx(expected)


def test_frames_are_drawn_at_twice_the_released_size_and_shrunk_with_antialiasing() -> None:
    one, other = standing(10, 0.35), standing(10, 0.7)
    frames = draw_pose_condition([one, other], 96, 64, drawing_area_px=96 * 64)
    canvas = draw([one, other], 2 * 96, 2 * 64)
    assert frames.shape == (10, 96, 64, 3) and len(canvas) == 10
    for frame, drawn in zip(frames, canvas, strict=True):  # ten frames: more than are drawn at a time
        np.testing.assert_array_equal(frame, Image.fromarray(drawn).resize((64, 96), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(
        draw_pose_condition(one, 96, 64, drawing_area_px=96 * 64),
        draw_pose_condition([one], 96, 64, drawing_area_px=96 * 64),
    )


def test_the_colours_are_the_released_ones_in_rgb() -> None:
    """Red and blue are exchanged in the release: neck to right shoulder is blue, nose to neck red."""
    (frame,) = draw_pose_condition(standing(1), 192, 128, drawing_area_px=192 * 128)

    def colour_at(x: float, y: float) -> list[int]:
        return frame[round(y * 192), round(x * 128)].tolist()

    red, green, blue = colour_at(0.45, 0.3)  # between neck and right shoulder
    assert blue > 100 and max(red, green) < 40
    red, green, blue = colour_at(0.5, 0.25)  # between nose and neck
    assert red > 80 and blue < 60 and green < 40


def test_by_default_the_canvas_is_of_the_released_area(monkeypatch: pytest.MonkeyPatch) -> None:
    canvases = []

    def watched(people: Any, height: int, width: int) -> np.ndarray:
        canvases.append((len(people[0]), height, width))
        return np.zeros((len(people[0]), height, width, 3), np.uint8)

    monkeypatch.setattr(pose_condition, "draw", watched)
    assert draw_pose_condition(standing(9), 64, 36).shape == (9, 64, 36, 3)
    assert canvases == [(8, 2 * 1024, 2 * 576), (1, 2 * 1024, 2 * 576)]


def test_the_clip_is_encoded_whole_and_its_first_frame_as_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, vae, image_encoder = np.arange(5 * 3, dtype=np.uint8).reshape(5, 1, 1, 3), object(), SimpleNamespace()
    asked: dict[str, Any] = {}

    def encode_video(*given: Any) -> torch.Tensor:
        asked["video"] = given
        return torch.tensor(1)

    def encode_image(*given: Any) -> torch.Tensor:
        asked["image"] = given
        return torch.tensor(2)

    monkeypatch.setattr(encoders, "encode_video", encode_video)
    monkeypatch.setattr(encoders, "encode_image", encode_image)
    assert [int(out) for out in encode_pose_condition(vae, image_encoder, frames, 48, 32)] == [1, 2]  # type: ignore[arg-type]
    assert asked["video"] == (vae, frames, 48, 32)
    assert asked["image"][0] is image_encoder and asked["image"][1].tolist() == [[[0, 1, 2]]]
