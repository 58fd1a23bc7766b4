"""DWPose, the release's estimator: body, hands and face of the best person in each frame."""

from pathlib import Path

import cv2
import numpy as np

from ..datasets.skeleton import PoseSequence
from .pose_estimator import Frames, PoseTrack, to_openpose

MIN_VISIBLE, MIN_NECK = 0.35, 0.3
# OpenPose's joints without the neck in COCO-WholeBody's numbering.
COCO_JOINTS = (0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
COCO_SHOULDERS = (5, 6)
COCO_FACE, COCO_HANDS = slice(23, 91), (slice(91, 112), slice(112, 133))  # left hand first


class DWPose:
    """YOLOX and DWPose in ONNX, prepared as in the release; the release's flip test is left out.

    Args:
        detector: folder with `yolox_l.onnx`.
        whole_body: folder with `dw-ll_ucoco_384.onnx`.
    """

    name = "dwpose"
    counts_people = False

    def __init__(self, detector: Path, whole_body: Path) -> None:
        from rtmlib import YOLOX, RTMPose

        self._detector = YOLOX(
            str(detector / "yolox_l.onnx"), (640, 640), det_mode="multiclass", nms_thr=0.7, score_thr=0.5
        )
        self._whole_body = RTMPose(str(whole_body / "dw-ll_ucoco_384.onnx"), (288, 384))

    def estimate(self, frames: Frames) -> list[PoseTrack]:
        """One track: in every frame the person that scores best, or the whole picture's if none is found."""
        height, width = whole_body_size(*frames.shape[1:3])
        bodies, hands, faces, confidences, visible = [], [], [], [], []
        for frame in frames:
            resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
            # The release hands RGB to a detector that expects BGR, and BGR to a pose model that expects RGB.
            boxes, classes = self._detector(resized)
            people = [box for box, kind in zip(boxes, classes, strict=True) if kind == 0][:1]
            points, scores = self._whole_body(resized[..., ::-1], people)
            points = (points[0] / (width, height)).astype(np.float32)
            body, confidence = to_openpose(points, scores[0], COCO_JOINTS, COCO_SHOULDERS)
            seen = confidence > MIN_VISIBLE
            seen[1] = (scores[0][list(COCO_SHOULDERS)] > MIN_NECK).all()
            points[scores[0] <= MIN_VISIBLE] = -1
            bodies.append(body)
            confidences.append(confidence)
            visible.append(seen)
            hands.append(np.stack([points[hand] for hand in COCO_HANDS]))
            faces.append(points[COCO_FACE])
        pose = PoseSequence(np.stack(bodies), np.stack(visible), np.stack(hands), np.stack(faces))
        return [PoseTrack(pose, np.stack(confidences).astype(np.float32))]


def whole_body_size(height: int, width: int, short_side: int = 1024) -> tuple[int, int]:
    """The size (height, width) that DWPose sees: short side 1024, both sides rounded to multiples of 64."""
    scale = short_side / min(height, width)
    return round(height * scale / 64) * 64, round(width * scale / 64) * 64
