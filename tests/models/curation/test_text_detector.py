"""Text is found where it was written, and only there."""

import cv2
import numpy as np
import pytest

from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.models.curation.text_detector import TextDetector, crop_line, is_installed, text_regions

needs_package = pytest.mark.skipif(not is_installed(), reason="rapidocr-onnxruntime is not installed")


@pytest.fixture(scope="module")
def detector() -> TextDetector:
    return TextDetector()


def dancer() -> np.ndarray:
    return draw_dancer(toy_pose(4, 1, 16), 4, 256, 192)


def captioned(text: str, left: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    """A dancer with a caption, and the rectangle that it fills: left, top, right, bottom."""
    frame = np.ascontiguousarray(dancer()[0])
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 0.7, 2)
    cv2.putText(frame, text, (left, bottom), cv2.FONT_HERSHEY_DUPLEX, 0.7, (255, 255, 255), 2, cv2.LINE_AA)
    return frame[None], np.array([left, bottom - height, left + width, bottom])


@needs_package
def test_a_caption_is_found_in_its_place_and_read(detector: TextDetector) -> None:
    frames, (left, top, right, bottom) = captioned("SING WITH ME", 12, 240)
    (mask,) = detector(frames)
    scale = mask.shape[1] / frames.shape[2]
    rows, columns = np.nonzero(mask)
    found = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) / scale
    np.testing.assert_allclose(found, (left, top, right, bottom), atol=7)
    line = crop_line(frames[0], np.array([(left, top - 3), (right, top - 3), (right, bottom + 3), (left, bottom + 3)]))
    text, confidence = detector.read(line)
    assert text.replace(" ", "") == "SINGWITHME" and confidence > 0.8


@needs_package
def test_a_dancer_before_a_wall_and_stripes_are_no_text(detector: TextDetector) -> None:
    stripes = np.tile(np.repeat(np.array([30, 220], np.uint8), 6), 22)[:256]
    pattern = np.broadcast_to(stripes[:, None, None], (256, 192, 3))
    assert not detector(np.concatenate([dancer(), pattern[None]])).any()


def test_regions_are_turned_rectangles_grown_by_their_own_thickness() -> None:
    probability = np.zeros((100, 200), np.float32)
    probability[40:60, 50:150] = 0.9
    probability[10:20, 10:40] = 0.5  # likely pixels, but no certain region
    (corners,) = text_regions(probability)
    margin = 1.6 * 99 * 19 / (99 + 19) / 2  # area × ratio / perimeter of the contour's rectangle
    low, high = corners.min(axis=0), corners.max(axis=0)
    np.testing.assert_allclose(low, (50 - margin, 40 - margin), atol=0.6)
    np.testing.assert_allclose(high, (149 + margin, 59 + margin), atol=0.6)


def test_a_turned_line_is_laid_level() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    corners = cv2.boxPoints(((50, 50), (60, 12), 30))
    cv2.fillConvexPoly(picture, corners.astype(np.int32), (255, 255, 255))
    line = crop_line(picture, corners)
    assert line.shape[1] == pytest.approx(60, abs=1) and line.shape[0] == pytest.approx(12, abs=1)
    assert (line > 128).mean() > 0.9
    assert crop_line(picture, np.array([(45.0, 10.0), (55, 10), (55, 90), (45, 90)])).shape[:2] == (10, 80)
