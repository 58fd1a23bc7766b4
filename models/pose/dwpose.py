"""DWPose, the release's estimator of body, hands and face, with the release's preprocessing and thresholds."""

from pathlib import Path

import cv2
import numpy as np

from ...datasets.arrays import Floats, Frames
from ...datasets.skeleton import PoseSequence
from .top_down import BoxDetector, TopDownEstimator, open_network, run_in_batches
from .track import PoseTrack, to_openpose

SHORT_SIDE = 1024
MIN_VISIBLE, MIN_NECK = 0.35, 0.3
SIMCC_SPLIT = 2  # positions per pixel
# Indices of OpenPose's joints without the neck in COCO-WholeBody's order.
COCO_JOINTS = (0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
COCO_SHOULDERS = (5, 6)
COCO_FACE, COCO_HANDS = slice(23, 91), (slice(91, 112), slice(112, 133))  # left hand first
PERSON = 0  # class in COCO


class DWPose(TopDownEstimator):
    """Pose estimator for several people with YOLOX-l and DWPose-l in ONNX, with the release's flip test, in batches.

    Args:
        detector: folder with `yolox_l.onnx`.
        whole_body: folder with `dw-ll_ucoco_384.onnx`.
        device: "cpu" or "cuda".
        batch_size: frames prepared at a time, and images per run of a network if its file allows more than one.
        max_people: maximum number of tracks, the main ones; None: all.
        short_side: short side of the pictures that both networks are given, see `detection_size`.
        max_overlap: threshold of intersection over union; of two boxes above it, the better one is kept.
    """

    name = "dwpose"

    def __init__(
        self,
        detector: Path,
        whole_body: Path,
        *,
        device: str = "cpu",
        batch_size: int = 8,
        max_people: int | None = None,
        short_side: int = SHORT_SIDE,
        max_overlap: float = 0.7,
    ) -> None:
        self.short_side = short_side
        # The release passes RGB to a detector that expects BGR, and BGR to a pose network that expects RGB.
        file = detector / "yolox_l.onnx"
        boxes = BoxDetector(file, [PERSON], max_overlap=max_overlap, is_rgb=True, device=device)
        network = WholeBodyNetwork(whole_body / "dw-ll_ucoco_384.onnx", device)
        super().__init__(boxes, network, batch_size, max_people)

    def prepare(self, frame: Frames) -> Frames:
        """Resize the frame to `detection_size` as released: Lanczos to enlarge it, area averaging to shrink it."""
        height, width = frame.shape[:2]
        grows = min(height, width) < self.short_side
        method = cv2.INTER_LANCZOS4 if grows else cv2.INTER_AREA
        size = detection_size(height, width, self.short_side)[::-1]
        return np.asarray(cv2.resize(frame, size, interpolation=method), np.uint8)

    def to_track(self, points: Floats, scores: Floats) -> PoseTrack:
        """Convert COCO-WholeBody's 133 keypoints; only invisible points of hands and face become −1."""
        body, confidence = to_openpose(points, scores, COCO_JOINTS, COCO_SHOULDERS)
        visible = confidence > MIN_VISIBLE
        visible[:, 1] = confidence[:, 1] > MIN_NECK
        points = np.where((scores > MIN_VISIBLE)[..., None], points, np.float32(-1))
        hands = np.stack([points[:, hand] for hand in COCO_HANDS], axis=1)
        return PoseTrack(PoseSequence(body, visible, hands, points[:, COCO_FACE]), confidence.clip(0, 1))


class WholeBodyNetwork:
    """DWPose, which finds 133 keypoints in a box from the image and its mirror image (flip test).

    Args:
        path: the ONNX file.
        device: "cpu" or "cuda".
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from rtmlib import RTMPose

        self._rtmpose = open_network(RTMPose, path, device, model_input_size=(288, 384))
        self._mirrored = mirrored_keypoints()

    def __call__(self, people: list[tuple[Frames, Floats]], batch_size: int) -> tuple[Floats, Floats]:
        """Find keypoints in pixels [N, 133, 2] and scores [N, 133] of N pairs (RGB image, box [4])."""
        prepared = [self._rtmpose.preprocess(image[..., ::-1], box) for image, box in people]
        crops, centres, sizes = (np.stack(parts) for parts in zip(*prepared, strict=True))
        x, y = run_in_batches(self._rtmpose.session, crops, batch_size)
        x_mirrored, y_mirrored = run_in_batches(self._rtmpose.session, crops[:, :, ::-1], batch_size)
        x = (x + x_mirrored[:, self._mirrored, ::-1]) / 2
        y = (y + y_mirrored[:, self._mirrored]) / 2
        places, scores = decode_simcc(x, y)
        shares = places / self._rtmpose.model_input_size
        return (shares - 0.5) * sizes[:, None] + centres[:, None], scores


def decode_simcc(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Decode responses along the axes [N, K, 2W] and [N, K, 2H] to crop pixels [N, K, 2] and scores [N, K].

    As in the release, a score is the minimum over the two axes (rtmlib takes their mean), and a keypoint without a
    response has the position −1, before the division by `SIMCC_SPLIT`.
    """
    places = np.stack([x.argmax(axis=-1), y.argmax(axis=-1)], axis=-1).astype(np.float64)
    scores = np.minimum(x.max(axis=-1), y.max(axis=-1))
    places[scores <= 0] = -1
    return places / SIMCC_SPLIT, scores


def mirrored_keypoints() -> list[int]:
    """List for each of COCO-WholeBody's 133 keypoints its counterpart in a mirror image."""
    from rtmlib.visualization.skeleton import coco133

    rows = coco133["keypoint_info"]
    number = {row["name"]: index for index, row in rows.items()}
    return [number[row["swap"] or row["name"]] for _, row in sorted(rows.items())]


def detection_size(height: int, width: int, short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """Compute the input size (height, width) of both networks: short side 1024, both rounded to multiples of 64."""
    scale = short_side / min(height, width)
    return round(height * scale / 64) * 64, round(width * scale / 64) * 64
