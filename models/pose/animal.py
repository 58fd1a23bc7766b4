"""Estimate the poses of animals: 17 keypoints of a quadruped from rtmlib's network, mapped to a human skeleton."""

from pathlib import Path

import numpy as np

from ...datasets.arrays import Floats, Frames
from ...datasets.skeleton import PoseSequence
from .top_down import BoxDetector, TopDownEstimator, open_network, run_in_batches
from .track import PoseTrack

MIN_VISIBLE = 0.43  # rtmlib's threshold for this network
ANIMALS = range(14, 24)  # COCO's bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe
# Indices of OpenPose's nose, neck, right and left arm, right and left leg, right and left eye in the network's order:
# 0 left eye, 1 right eye, 2 nose, 3 neck, 4 root of the tail, 5–7 left shoulder, elbow and front paw, 8–10 right,
# 11–13 left hip, knee and back paw, 14–16 right. The tail has no counterpart, and animals have no hands.
ANIMAL_JOINTS = [2, 3, 8, 9, 10, 5, 6, 7, 14, 15, 16, 11, 12, 13, 1, 0]


class AnimalPose(TopDownEstimator):
    """Pose estimator for several animals, body only: YOLOX-l and ViTPose (rtmlib's animal model, APT-36K) in ONNX.

    Args:
        detector: folder with `yolox_l.onnx`.
        keypoints: folder with `onnx/apt36k/vitpose-b-apt36k.onnx`.
        device: "cpu" or "cuda".
        batch_size: images per run of a network, if its file allows more than one.
        max_people: maximum number of animals, the main ones; None: all.
    """

    name = "animal"

    def __init__(
        self,
        detector: Path,
        keypoints: Path,
        *,
        device: str = "cpu",
        batch_size: int = 8,
        max_people: int | None = None,
    ) -> None:
        boxes = BoxDetector(detector / "yolox_l.onnx", ANIMALS, device=device)
        network = AnimalNetwork(keypoints / "onnx" / "apt36k" / "vitpose-b-apt36k.onnx", device)
        super().__init__(boxes, network, batch_size, max_people)

    def prepare(self, frame: Frames) -> Frames:
        """Return the frame unchanged."""
        return frame

    def to_track(self, points: Floats, scores: Floats) -> PoseTrack:
        """Convert APT-36K's 17 keypoints: front legs become arms, hind legs become legs.

        Ears are marked invisible, and placed as far behind the eyes as the eyes are from the nose, because the
        alignment measures the head by eyes and ears.
        """
        num_frames = len(points)
        body, confidence = np.empty((num_frames, 18, 2), np.float32), np.zeros((num_frames, 18), np.float32)
        body[:, :16], confidence[:, :16] = points[:, ANIMAL_JOINTS], scores[:, ANIMAL_JOINTS]
        body[:, 16:] = 2 * body[:, 14:16] - body[:, :1]
        no_hands = np.full((num_frames, 2, 21, 2), -1, np.float32)
        return PoseTrack(PoseSequence(body, confidence > MIN_VISIBLE, no_hands), confidence.clip(0, 1))


class AnimalNetwork:
    """ViTPose, which finds 17 keypoints in a box.

    Args:
        path: the ONNX file.
        device: "cpu" or "cuda".
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from rtmlib import ViTPose

        self._vitpose = open_network(ViTPose, path, device, model_input_size=(192, 256))

    def __call__(self, animals: list[tuple[Frames, Floats]], batch_size: int) -> tuple[Floats, Floats]:
        """Find keypoints in pixels [N, 17, 2] and scores [N, 17] of N pairs (RGB image, box [4])."""
        prepared = [self._vitpose.preprocess(image, box) for image, box in animals]
        crops, centres, sizes = (np.stack(parts) for parts in zip(*prepared, strict=True))
        heatmaps = run_in_batches(self._vitpose.session, crops, batch_size)
        found: tuple[Floats, Floats] = self._vitpose.postprocess(heatmaps, centres[:, None], sizes[:, None])
        return found
