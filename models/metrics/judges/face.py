"""Embedding of faces by dlib, on a CPU: 128 numbers whose distance tells whether two faces are one person's.

The usual threshold for one person is a distance of 0.6. Faces below about 40 pixels or turned away are not found. The
weights are CC0, and the faces that they were trained on were collected from the web.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ....datasets.arrays import Floats32, Floats64, Frames
from ..identity import distance_similarity

EMBEDDING_FILE = "dlib_face_recognition_resnet_model_v1.dat"
POINTS_FILE = "shape_predictor_5_face_landmarks.dat"
NUM_FEATURES = 128
# Frames are scaled to about this many pixels, at most doubled: the detector's smallest face has 80 pixels. dlib's other
# detector, a network, takes 8 to 25 s for such a frame on one CPU, and does not find more of them.
SEARCHED_PIXELS = 1_600_000
MAX_SCALE = 2.0
MIN_SCORE = 0.25  # a margin; between 0, the detector's own threshold, and 0.25, half of the faces are none


class Faces:
    """Finds the face of a clip's main person and embeds it.

    Args:
        weights: folder of the embedding network and the predictor of 5 points.
        device: ignored, dlib's wheels run on a CPU.

    Raises:
        ValueError: no weights are given; dlib's networks have no random ones.
    """

    name = "dlib-face"
    missing = "no_face"
    similarity = staticmethod(distance_similarity)

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        if weights is None:
            raise ValueError(f"Faces has no random weights: give the folder of {EMBEDDING_FILE} and {POINTS_FILE}.")
        import dlib

        self._dlib: Any = dlib
        self._detector = dlib.get_frontal_face_detector()
        self._points = dlib.shape_predictor(str(weights / POINTS_FILE))
        self._network = dlib.face_recognition_model_v1(str(weights / EMBEDDING_FILE))

    def embed(self, frames: Frames) -> Floats32:
        """Return the embedding of the main person's face in each frame [F, 128]; NaN where no face is found.

        Args:
            frames: uint8 RGB [F, H, W, 3].
        """
        found = np.full((len(frames), NUM_FEATURES), np.nan, np.float32)
        for index, box in enumerate(self.boxes(frames)):
            if not np.isnan(box).any():
                found[index] = self._embedding(frames[index], box)
        return found

    def boxes(self, frames: Frames) -> Floats64:
        """Return the box (left, top, right, bottom) of that face in pixels [F, 4]; NaN where no face is found.

        It is the face that overlaps the last one that was found, else the largest.
        """
        found = np.full((len(frames), 4), np.nan)
        last: Floats64 | None = None
        for index, frame in enumerate(frames):
            candidates = self.candidates(frame)
            if len(candidates):
                last = found[index] = choose(candidates, last)
        return found

    def candidates(self, frame: Frames) -> Floats64:
        """Return the boxes of all faces in a frame [N, 4], in pixels."""
        height, width = frame.shape[:2]
        scale = min(MAX_SCALE, (SEARCHED_PIXELS / (height * width)) ** 0.5)
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=interpolation)
        boxes, _, _ = self._detector.run(picture, 0, MIN_SCORE)
        corners = [[box.left(), box.top(), box.right(), box.bottom()] for box in boxes]
        return np.array(corners, np.float64).reshape(-1, 4) / scale

    def _embedding(self, frame: Frames, box: Floats64) -> Floats64:
        picture = np.ascontiguousarray(frame)
        points = self._points(picture, self._dlib.rectangle(*(int(value) for value in box.round())))
        return np.array(self._network.compute_face_descriptor(picture, points))


def choose(candidates: Floats64, last: Floats64 | None) -> Floats64:
    """Return the box that overlaps the box `last` most; the largest one if none does.

    Args:
        candidates: [N, 4] (left, top, right, bottom), N ≥ 1.
        last: [4], or None at a clip's start.
    """
    if last is not None:
        sides = np.minimum(candidates[:, 2:], last[2:]) - np.maximum(candidates[:, :2], last[:2])
        shared = sides.clip(0).prod(axis=1)
        if shared.any():
            return candidates[shared.argmax()]
    return candidates[(candidates[:, 2:] - candidates[:, :2]).prod(axis=1).argmax()]
