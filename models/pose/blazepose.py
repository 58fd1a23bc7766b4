"""BlazePose: detection and tracking of one person's body on a CPU.

Pixel coordinates have x to the right and y down; `estimate` returns them normalised to [0, 1] by width and height.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...datasets.arrays import Floats32, Floats64, Frames
from ...datasets.skeleton import PoseSequence
from .track import PoseTrack, to_openpose

DETECTOR_SIDE, LANDMARK_SIDE = 224, 256
MIN_CONFIDENCE = 0.5  # threshold for a detection, a pose in its region, and a visible joint
# Indices of OpenPose's joints without the neck (index 1) in BlazePose's order.
JOINTS, SHOULDERS = (0, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7), (11, 12)
_REGION = (33, 34)  # auxiliary landmarks: hip centre, and the point that defines size and rotation


@dataclass(frozen=True)
class Region:
    """A rotated square in pixels: its centre, half its side, and the unit vector of its upward direction."""

    centre: Floats64
    half_side: float
    up: Floats64

    @classmethod
    def around(cls, hip_centre: Floats32, toward: Floats32) -> "Region":
        """Build a region centred on the hips, with half side 1.25 × the distance to `toward`, which is upward."""
        offset = np.asarray(toward, np.float64) - hip_centre
        length = max(float(np.hypot(*offset)), 1.0)  # a degenerate detection still gives a region
        return cls(np.asarray(hip_centre, np.float64), 1.25 * length, offset / length)

    def to_image(self, side: int) -> Floats64:
        """Return the affine map [2, 3] from pixels of a side² crop of this region to pixels of the image."""
        right = np.array([-self.up[1], self.up[0]])
        axes = np.stack([right, -self.up], axis=1) * (2 * self.half_side / side)
        return np.concatenate([axes, (self.centre - axes @ np.full(2, side / 2))[:, None]], axis=1)

    def crop(self, image: Frames, side: int) -> Frames:
        """Crop the region as an upright side² image, black outside the image."""
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(image, self.to_image(side), (side, side), flags=flags), np.uint8)


class BlazePose:
    """Pose estimator for one person's body with BlazePose (full). It does not count people or find hands or faces.

    Args:
        weights_dir: folder with `pose_detection.tflite` and `pose_landmark_full.tflite`.
    """

    name = "blazepose"
    counts_people = False

    def __init__(self, weights_dir: Path) -> None:
        self._detector = TFLiteModel(weights_dir / "pose_detection.tflite")
        self._landmarker = TFLiteModel(weights_dir / "pose_landmark_full.tflite")

    def estimate(self, frames: Frames) -> list[PoseTrack]:
        """Estimate one track, or none. The region follows the landmarks; a lost person is detected again."""
        num_frames, height, width = frames.shape[:3]
        body, confidence = np.full((num_frames, 18, 2), -1, np.float32), np.zeros((num_frames, 18), np.float32)
        region: Region | None = None
        for index, frame in enumerate(frames):
            found = self._landmarks(frame, region) if region else None
            if found is None and (region := self._detect(frame)):
                found = self._landmarks(frame, region)
            region = None
            if found is not None:
                points, scores = found
                region = Region.around(*points[list(_REGION)])
                body[index], confidence[index] = to_openpose(points, scores, JOINTS, SHOULDERS)
                body[index] /= (width, height)
        if not confidence.any():
            return []
        inside = ((body >= 0) & (body <= 1)).all(axis=-1)
        no_hands = np.full((num_frames, 2, 21, 2), -1, np.float32)
        return [PoseTrack(PoseSequence(body, (confidence > MIN_CONFIDENCE) & inside, no_hands), confidence)]

    def _detect(self, frame: Frames) -> Region | None:
        picture, scale, margin = letterbox(frame, DETECTOR_SIDE)
        outputs = self._detector((picture / 127.5 - 1).astype(np.float32))
        best = decode_detection(outputs[2254, 12], outputs[2254, 1])
        return None if best is None else Region.around(*((best - margin) / scale))

    def _landmarks(self, frame: Frames, region: Region) -> tuple[Floats32, Floats32] | None:
        """Find points in pixels [39, 2] and confidences [39], or None if the region contains no person."""
        outputs = self._landmarker((region.crop(frame, LANDMARK_SIDE) / 255).astype(np.float32))
        if outputs[1,].item() < MIN_CONFIDENCE:
            return None
        return decode_landmarks(outputs[195,], region)


def letterbox(frame: Frames, side: int) -> tuple[Frames, float, Floats32]:
    """Fit a frame into a black square; return (square, its pixels per pixel of the frame, left and top margin [2])."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    new_height, new_width = round(height * scale), round(width * scale)
    left, top = (side - new_width) // 2, (side - new_height) // 2
    square = np.zeros((side, side, 3), np.uint8)
    resized = cv2.resize(frame, (new_width, new_height), interpolation=cv2.INTER_AREA)
    square[top : top + new_height, left : left + new_width] = resized
    return square, scale, np.array([left, top], np.float32)


@cache
def anchors() -> Floats32:
    """Compute the centres [2254, 2] of the detector's anchors in pixels: cells by row, anchors of a cell together."""
    centres = []
    for stride, per_cell in ((8, 2), (16, 2), (32, 6)):
        steps = (np.arange(DETECTOR_SIDE // stride) + 0.5) * stride
        cells = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        centres.append(cells.repeat(per_cell, axis=0))
    return np.concatenate(centres).astype(np.float32)


def decode_detection(boxes: Floats32, logits: Floats32) -> Floats32 | None:
    """Decode the hip centre and region point [2, 2] of the most likely person in detector pixels, None below 0.5.

    Args:
        boxes: [2254, 12], pixels relative to the anchor; values 4–7 are the two points.
        logits: [2254, 1].
    """
    best = int(logits.argmax())
    if _sigmoid(logits.reshape(-1)[best]) < MIN_CONFIDENCE:
        return None
    return boxes[best, 4:8].reshape(2, 2) + anchors()[best]


def decode_landmarks(output: Floats32, region: Region) -> tuple[Floats32, Floats32]:
    """Decode the output [195] = 39 × (x, y, z, visible, present) to image pixels [39, 2] and confidences [39]."""
    rows = output.reshape(39, 5).astype(np.float64)
    matrix = region.to_image(LANDMARK_SIDE)
    points = rows[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return points.astype(np.float32), _sigmoid(rows[:, 3:5].min(axis=1)).astype(np.float32)


class TFLiteModel:
    """A TFLite network that runs on one thread of the CPU.

    Args:
        path: the `.tflite` file.
    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [
            (tuple(row["shape"][1:].tolist()), row["index"]) for row in self._interpreter.get_output_details()
        ]

    def __call__(self, picture: Floats32) -> dict[tuple[int, ...], Floats32]:
        """Run the network on an image [S, S, 3]; return its outputs by their shapes without the batch axis."""
        self._interpreter.set_tensor(self._input, picture[None])
        self._interpreter.invoke()
        return {shape: self._interpreter.get_tensor(index)[0] for shape, index in self._outputs}


def _sigmoid(logit: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(logit, -80, 80)))
