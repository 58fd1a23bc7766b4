"""Background drift of drawn renders: measured before a still camera only."""

import cv2
import numpy as np
import pytest

from steadydancer.models.metrics.background import Background, measure_background

FPS, NUM_FRAMES, HEIGHT, WIDTH = 8.0, 9, 120, 160


def wall(kind: str) -> np.ndarray:
    if kind == "even":
        return np.full((HEIGHT, WIDTH + 80, 3), 120, np.uint8)
    rng = np.random.default_rng(0)
    layers = [cv2.GaussianBlur(rng.normal(0, 40 * s, (HEIGHT, WIDTH + 80)), (0, 0), s) for s in (1.5, 4)]
    return np.repeat(np.clip(110 + sum(layers), 0, 200).astype(np.uint8)[..., None], 3, axis=-1)


def scene(kind: str = "brick", camera: float = 0, brighter: int = 0, person: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A textured person who goes 3 pixels a frame before a wall; the camera goes, or the wall becomes brighter."""
    frames, masks = [], np.zeros((NUM_FRAMES, HEIGHT, WIDTH), bool)
    behind = wall(kind)
    body = np.random.default_rng(1).integers(0, 256, (100, person, 3), dtype=np.uint8)
    for t in range(NUM_FRAMES):
        left = round(camera * t)
        frame = behind[:, left : left + WIDTH] + np.uint8(brighter if t else 0)
        x = 10 + 3 * t
        frame[10:110, x : x + person] = body[:, : WIDTH - x]
        masks[t, 10:110, x : x + person] = True
        frames.append(frame)
    return np.stack(frames), masks


def measured(render: tuple[np.ndarray, np.ndarray], driving: tuple[np.ndarray, np.ndarray]) -> Background:
    return measure_background(*render, *driving, FPS)


def test_before_a_still_camera_the_drift_is_the_mean_change_of_the_wall() -> None:
    found = measured(scene(brighter=20), scene())
    assert found.reason is None
    np.testing.assert_allclose(found.drift, [20 / 255] * (NUM_FRAMES - 1))
    assert found.mean == pytest.approx(20 / 255)
    assert found.driving == 0 and found.camera_travel == pytest.approx(0, abs=0.01)


def test_before_a_moving_camera_it_is_not_measured() -> None:
    # 1 pixel a frame, 8 steps of 9 frames: 9 pixels of a diagonal of 200, as curation counts speed times seconds.
    found = measured(scene(), scene(camera=1))
    assert found.reason == "moving_camera" and np.isnan(found.mean) and (found.drift == 0).all()
    assert found.camera_travel == pytest.approx(9 / 200, rel=0.05)
    assert found.driving > 0.01
    assert measured(scene(), scene(camera=0.5)).reason is None  # 4.5 pixels: within 3 % of the diagonal


def test_an_even_wall_hides_the_camera_and_does_not_drift() -> None:
    found = measured(scene("even", brighter=10), scene("even"))
    assert found.reason is None and np.isnan(found.camera_travel)
    assert found.mean == pytest.approx(10 / 255)
    assert measured(scene("even"), scene("even", brighter=10)).reason == "unknown_camera"


def test_where_little_background_or_one_frame_is_left_it_is_not_measured() -> None:
    frames, masks = scene()
    masks[:, :, 12:] = True
    found = measured((frames, masks), scene())
    assert found.reason == "little_background" and np.isnan(found.drift).all()
    one = measured((frames[:1], masks[:1]), scene())
    assert one.reason == "one_frame" and one.drift.shape == (0,)


def test_masks_are_dilated_before_anything_is_measured() -> None:
    """A rim of the person outside of her mask, 3 pixels wide, is no background; 2 % are 3 pixels."""
    frames, masks = scene()
    narrow = masks.copy()
    narrow[:, :13], narrow[:, 107:] = False, False
    narrow &= np.roll(masks, 3, axis=2) & np.roll(masks, -3, axis=2)
    rim = measured((frames, narrow), scene())
    assert rim.mean < 0.01 < float(np.abs(frames[1:].astype(float) - frames[0]).mean()) / 255
