"""Top-down pose estimation with two networks in ONNX: a box detector, and a keypoint network for each box.

rtmlib provides the pre- and postprocessing. It runs networks frame by frame, so this module runs them in batches.
"""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...datasets.arrays import Floats, Frames
from ..weights import WeightsError
from .track import PoseTrack
from .tracking import Detections, link

NUM_STRIPES = 4  # horizontal stripes of a box whose colours identify a person: about head, chest, hips, legs


def open_network(kind: Callable[..., Any], path: Path, device: str, height_first: bool = False, **options: Any) -> Any:
    """Open an ONNX file with a class of rtmlib; `model_input_size` is read from the file if it is fixed there.

    rtmlib's detectors take that size as (height, width), `height_first`; its pose networks as (width, height).

    Raises:
        WeightsError: the file does not exist or is not an ONNX model.
    """
    if not path.is_file():
        raise WeightsError(f"The file {path} does not exist: pass the folder that contains {path.name}.")
    try:
        with redirect_stdout(io.StringIO()):  # rtmlib prints to stdout, which is for a command's own output
            tool = kind(str(path), device=device, **options)
    except Exception as error:  # onnxruntime's errors have no common base class
        raise WeightsError(f"{path} cannot be opened as an ONNX model ({error}): download it again.") from error
    height, width = tool.session.get_inputs()[0].shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        tool.model_input_size = (height, width) if height_first else (width, height)
    return tool


def run_in_batches(session: Any, inputs: Floats, batch_size: int) -> list[Floats]:
    """Run a network on inputs [N, H, W, 3] in batches, or in the fixed batch size of its file; return all outputs."""
    node = session.get_inputs()[0]
    if isinstance(node.shape[0], int):
        batch_size = node.shape[0]
    pictures = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), np.float32)
    batches = [
        session.run(None, {node.name: pictures[start : start + batch_size]})
        for start in range(0, len(pictures), batch_size)
    ]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


class BoxDetector:
    """YOLOX trained on COCO, which finds boxes of some of its classes.

    Args:
        path: the ONNX file.
        classes: indices of COCO's 80 classes; an object that matches two of them is found once.
        min_score: score threshold (objectness × class); boxes at or below it are dropped.
        max_overlap: threshold of intersection over union; of two boxes above it, the better one is kept.
        is_rgb: pass images as RGB; otherwise as BGR, on which it was trained.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        path: Path,
        classes: Sequence[int],
        min_score: float = 0.5,
        max_overlap: float = 0.7,
        is_rgb: bool = False,
        device: str = "cpu",
    ) -> None:
        from rtmlib import YOLOX

        self._yolox = open_network(YOLOX, path, device, height_first=True)
        self.classes, self.min_score, self.max_overlap = list(classes), min_score, max_overlap
        self._channels = slice(None, None, 1 if is_rgb else -1)

    def __call__(self, images: Sequence[Frames], batch_size: int) -> list[tuple[Floats, Floats]]:
        """Find (boxes [N, 4] as x1, y1, x2, y2 in pixels, scores [N]) in each RGB image, highest score first."""
        squares, ratios = zip(*[self._yolox.preprocess(image[..., self._channels]) for image in images], strict=True)
        (output,) = run_in_batches(self._yolox.session, np.stack(squares), batch_size)
        return [self._boxes(rows, ratio) for rows, ratio in zip(output, ratios, strict=True)]

    def _boxes(self, rows: Floats, ratio: float) -> tuple[Floats, Floats]:
        """Decode [cells, 85]: centre and log size in units of the cell's stride, objectness, 80 classes."""
        from rtmlib.tools.object_detection.post_processings import nms

        scores = (rows[:, 4:5] * rows[:, 5:][:, self.classes]).max(axis=1)
        likely = scores > self.min_score
        rows, scores, cells = rows[likely], scores[likely], _cells(*self._yolox.model_input_size)[likely]
        corners, strides = cells[:, :2], cells[:, 2:]
        centres, halves = (rows[:, :2] + corners) * strides, np.exp(rows[:, 2:4]) * strides / 2
        boxes = np.concatenate([centres - halves, centres + halves], axis=1) / ratio
        selected = nms(boxes, scores, self.max_overlap)
        return boxes[selected], scores[selected]


def _cells(height: int, width: int) -> Floats:
    """List column, row and stride [cells, 3] of YOLOX's cells, row by row, fine grids first."""
    grids = []
    for stride in (8, 16, 32):
        rows, columns = np.mgrid[: height // stride, : width // stride]
        grids.append(np.stack([columns, rows, np.full_like(rows, stride)], axis=-1).reshape(-1, 3))
    return np.concatenate(grids)


class TopDownEstimator:
    """Base class of top-down estimators: detect boxes, track them, and find keypoints in each.

    A subclass defines the input of the networks (`prepare`) and the conversion of keypoints (`to_track`).

    Args:
        detector: returns (boxes [N, 4], scores [N]) per image, such as `BoxDetector`.
        network: returns pixels [N, K, 2] and scores [N, K] of N pairs of an image and a box.
        batch_size: frames prepared at a time, and images per run of a network if its file allows more than one.
        max_people: maximum number of tracks, the main ones; None: all.
    """

    def __init__(
        self,
        detector: Callable[[Sequence[Frames], int], list[tuple[Floats, Floats]]],
        network: Callable[[list[tuple[Frames, Floats]], int], tuple[Floats, Floats]],
        batch_size: int,
        max_people: int | None,
    ) -> None:
        self._detector, self._network = detector, network
        self.batch_size, self.max_people = batch_size, max_people
        self.counts_people = max_people is None

    def prepare(self, frame: Frames) -> Frames:
        """Prepare a frame [H, W, 3] RGB for both networks."""
        raise NotImplementedError

    def to_track(self, points: Floats, scores: Floats) -> PoseTrack:
        """Convert a person's keypoints [F, K, 2] in [0, 1] and scores [F, K]; −1 and 0 where not found."""
        raise NotImplementedError

    def estimate(self, frames: Frames) -> list[PoseTrack]:
        """Estimate tracks of a clip [F, H, W, 3] RGB, main person first (see `link`).

        Tracks without a visible joint are dropped. As released, the box of the main person is the whole frame if
        nothing is detected in it.
        """
        if not len(frames):
            return []
        people, size = self._find_people(frames)
        points, scores = self._find_keypoints(frames, people, size)
        tracks = [self.to_track(*one) for one in zip(points, scores, strict=True)]
        return [track for track in tracks if track.pose.body_visible.any()]

    def _find_people(self, frames: Frames) -> tuple[Floats, tuple[int, int]]:
        """Find boxes [P, F, 4] in pixels of the prepared frames, NaN where not found, and their (width, height)."""
        found: list[Detections] = []
        for start in range(0, len(frames), self.batch_size):
            images = [self.prepare(frame) for frame in frames[start : start + self.batch_size]]
            for image, (boxes, scores) in zip(images, self._detector(images, self.batch_size), strict=True):
                found.append(Detections(boxes, scores, _colours(image, boxes)))
        size = (images[0].shape[1], images[0].shape[0])
        tracks = link(found)[: self.max_people]
        people = np.full((max(len(tracks), 1), len(frames), 4), np.nan)
        for person, track in zip(people, tracks, strict=False):
            for frame in np.flatnonzero(track >= 0):
                person[frame] = found[frame].boxes[track[frame]]
        people[0, [not len(detections) for detections in found]] = (0, 0, *size)
        return people, size

    def _find_keypoints(self, frames: Frames, people: Floats, size: tuple[int, int]) -> tuple[Floats, Floats]:
        """Find points [P, F, K, 2] in [0, 1], −1 where not found, and scores [P, F, K], 0 where not found."""
        seen = ~np.isnan(people[..., 0])
        found = []
        for start in range(0, len(frames), self.batch_size):
            images = [self.prepare(frame) for frame in frames[start : start + self.batch_size]]
            where = np.argwhere(seen[:, start : start + len(images)])
            where[:, 1] += start
            for first in range(0, len(where), self.batch_size):
                some = where[first : first + self.batch_size]
                pairs = [(images[frame - start], people[person, frame]) for person, frame in some]
                found.append((some, *self._network(pairs, self.batch_size)))
        where, points, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        person, frame = where.T
        all_points = np.full((*seen.shape, points.shape[1], 2), -1, np.float32)
        all_scores = np.zeros((*seen.shape, points.shape[1]), np.float32)
        all_points[person, frame], all_scores[person, frame] = points / size, scores
        return all_points, all_scores


def _colours(image: Frames, boxes: Floats) -> Floats:
    """Compute the mean colours [N, stripes, 3] in [0, 1] of the middle half of each box, from top to bottom."""
    height, width = image.shape[:2]
    colours = np.zeros((len(boxes), NUM_STRIPES, 3))
    for colour, (left, top, right, bottom) in zip(colours, boxes, strict=True):
        quarter = (right - left) / 4
        x1, x2 = np.clip([left + quarter, right - quarter], 0, width).astype(int)
        y1, y2 = np.clip([top, bottom], 0, height).astype(int)
        if x2 > x1 and y2 > y1:
            stripes = cv2.resize(image[y1:y2, x1:x2], (1, NUM_STRIPES), interpolation=cv2.INTER_AREA)
            colour[:] = np.asarray(stripes).reshape(NUM_STRIPES, 3) / 255
    return colours
