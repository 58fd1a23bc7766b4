"""The camera's speed where people cover it, in drawn pictures whose motion is known."""

import cv2
import numpy as np
import pytest

from steadydancer.datasets.video.camera import camera_path, camera_speed, is_mostly_known

FPS = 10.0
HEIGHT, WIDTH = 90, 120  # a diagonal of 150


def texture(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.normal(0, 40 * s, (height, width)), (0, 0), s) for s in (1.5, 4)]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


def clip(wall: np.ndarray, wall_step: int, person_step: int, num_frames: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A textured person of 50 × 80 who goes to the right before a wall that goes to the right, and her masks."""
    frames, masks = [], np.zeros((num_frames, HEIGHT, WIDTH), bool)
    person = texture(80, 50, 1)
    for t in range(num_frames):
        left = 60 - wall_step * t
        frame = wall[:HEIGHT, left : left + WIDTH].copy()
        x = 20 + person_step * t
        frame[5:85, x : x + 50] = person
        masks[t, 3:87, x - 2 : x + 52] = True
        frames.append(frame)
    return np.stack(frames), masks


def test_a_person_before_an_even_wall_does_not_pass_for_the_camera() -> None:
    even = np.full((HEIGHT, 300), 120, np.uint8)
    luma, people = clip(even, 0, 3)
    assert camera_speed(luma, FPS) == pytest.approx(3 / 150 * FPS, rel=0.1)
    assert camera_speed(luma, FPS, people) is None


@pytest.mark.parametrize("wall_step", [0, 2])
def test_outside_of_people_the_wall_tells_the_cameras_speed(wall_step: int) -> None:
    luma, people = clip(texture(HEIGHT, 300, 0), wall_step, 4)
    assert camera_speed(luma, FPS, people) == pytest.approx(wall_step / 150 * FPS, rel=0.05, abs=0.01)
    matrices, agreed, _ = camera_path(luma, people)
    np.testing.assert_allclose(matrices[:, :, 2], [[wall_step, 0]] * 5, atol=0.3)
    assert (agreed > 0.8).all()


def test_half_of_the_neighbouring_steps_must_be_known() -> None:
    assert is_mostly_known(np.array([True, True, True, False, True]))
    assert not is_mostly_known(np.array([True, True, False, True, False]))
    assert not is_mostly_known(np.array([True]))
    assert camera_speed(np.zeros((1, HEIGHT, WIDTH), np.uint8), FPS) is None
