"""Detect text in images with PP-OCRv4's detector (DBNet) and recogniser from `rapidocr-onnxruntime`.

The detector alone reports sequins and folds of a dress as text, up to a tenth of the image and with a high score, but
the recogniser finds no letters in them. Therefore a region counts only if letters are recognised in it. The package's
own pipeline is not used, because it rotates and reads every region and uses all threads.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...datasets.arrays import Floats, Frames, Mask

_PACKAGE = "rapidocr_onnxruntime"
_DETECTOR, _READER = "ch_PP-OCRv4_det_infer.onnx", "ch_PP-OCRv4_rec_infer.onnx"
LONG_SIDE_PX = 640  # 30 to 60 ms per image on one core
MIN_PROBABILITY, MIN_REGION = 0.3, 0.6  # of a pixel; mean over a region: defaults of the model
UNCLIP_RATIO = 1.6  # the model is trained on shrunk regions; expand each side by area × ratio / perimeter
# Mean over the letters. Measured: at least 0.77 on text; at most 0.56 elsewhere, but up to 0.95 for single letters.
MIN_CONFIDENCE, MIN_SINGLE_CONFIDENCE = 0.7, 0.97
_MEAN, _STD = np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)], np.float32)
_LINE_HEIGHT, _MAX_LINE_WIDTH = 48, 640


def is_installed() -> bool:
    """Check whether the package is installed."""
    return importlib.util.find_spec(_PACKAGE) is not None


class TextDetector:
    """Finds regions of legible text: Chinese, Latin letters, digits.

    Args:
        device: "cpu", or "cuda" if the installed onnxruntime supports it (otherwise the CPU is used).
    """

    def __init__(self, device: str = "cpu") -> None:
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ImportError(f"{_PACKAGE} is not installed: pip install rapidocr-onnxruntime")
        folder = Path(spec.origin).parent / "models"
        self._detector, self._reader = (_session(folder / name, device) for name in (_DETECTOR, _READER))
        letters = self._reader.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._letters = ["", *letters, " "]  # index 0 means no letter

    def __call__(self, frames: Frames) -> Mask:
        """Compute text masks [F, h, w] of images uint8 [F, H, W, 3] RGB; the longer of h, w is about 640."""
        return np.stack([self._mask(frame) for frame in frames])

    def _mask(self, frame: Frames) -> Mask:
        probability = self._probability(frame)
        mask = np.zeros(probability.shape, np.uint8)
        scale = np.array(frame.shape[1::-1]) / probability.shape[::-1]
        for corners in text_regions(probability):
            text, confidence = self.read(crop_line(frame, corners * scale))
            if confidence >= (MIN_CONFIDENCE if len(text) > 1 else MIN_SINGLE_CONFIDENCE):
                cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 1)
        return mask.astype(bool)

    def _probability(self, frame: Frames) -> Floats:
        scale = LONG_SIDE_PX / max(frame.shape[:2])
        height, width = (max(32, round(side * scale / 32) * 32) for side in frame.shape[:2])
        picture = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        # The network was trained on BGR with the statistics of RGB.
        inputs = (picture[..., ::-1].astype(np.float32) / 255 - _MEAN) / _STD
        return np.asarray(_run(self._detector, inputs)[0])

    def read(self, line: Frames) -> tuple[str, float]:
        """Read a line of text uint8 [H, W, 3] RGB; return it with the mean confidence of its letters, or ("", 0)."""
        width = min(max(32, round(_LINE_HEIGHT * line.shape[1] / line.shape[0] / 8) * 8), _MAX_LINE_WIDTH)
        picture = cv2.resize(line, (width, _LINE_HEIGHT))[..., ::-1]
        found = _run(self._reader, (picture.astype(np.float32) / 255 - 0.5) / 0.5)
        best = found.argmax(axis=1)
        # A letter repeats until the next one; index 0 separates two equal letters.
        begins = (best > 0) & (best != np.concatenate([[0], best[:-1]]))
        text = "".join(self._letters[letter] for letter in best[begins])
        return text, float(found.max(axis=1)[begins].mean()) if begins.any() else 0.0


def text_regions(probability: Floats) -> Iterator[Floats]:
    """Yield the corners [4, 2] (x, y) of rotated rectangles around the likely regions of a map [h, w] in [0, 1]."""
    likely = (probability > MIN_PROBABILITY).astype(np.uint8)
    contours, _ = cv2.findContours(likely, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < 3:
            continue
        inside = cv2.drawContours(np.zeros_like(likely), [contour], -1, 1, -1)
        if probability[inside > 0].mean() >= MIN_REGION:
            margin = UNCLIP_RATIO * width * height / (width + height)  # 2 × area × ratio / perimeter: both sides
            yield np.asarray(cv2.boxPoints((centre, (width + margin, height + margin), angle)), np.float32)


def crop_line(frame: Frames, corners: Floats) -> Frames:
    """Crop a rotated rectangle as a horizontal line of text; rotate it by 90° if it is much higher than wide."""
    by_row = corners[np.argsort(corners[:, 1], kind="stable")]
    (top_left, top_right), (bottom_left, bottom_right) = (
        two[np.argsort(two[:, 0])] for two in (by_row[:2], by_row[2:])
    )
    width = max(2, round(float(np.linalg.norm(top_right - top_left))))
    height = max(2, round(float(np.linalg.norm(bottom_left - top_left))))
    source = np.array([top_left, top_right, bottom_right, bottom_left], np.float32)
    target = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    line = cv2.warpPerspective(frame, cv2.getPerspectiveTransform(source, target), (width, height))
    return np.ascontiguousarray(np.rot90(line)) if height > 1.5 * width else np.asarray(line, np.uint8)


def _session(path: Path, device: str) -> Any:
    import onnxruntime

    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _run(session: Any, picture: Floats) -> Floats:
    """Run a network on one image [H, W, 3]; return its output without the batch axis."""
    inputs = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0][0])
