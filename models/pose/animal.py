"""Animals: rtmlib's animal network finds 17 keypoints of a quadruped, and a skeleton of a person takes them over."""

from pathlib import Path

import numpy as np

from ...datasets.arrays import Floats, Frames
from ...datasets.skeleton import PoseSequence
from .top_down import BoxDetector, TopDownEstimator, open_network, run
from .track import PoseTrack

MIN_VISIBLE = 0.43  # rtmlib's cut for this network
ANIMALS = range(14, 24)  # COCO's bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe
# OpenPose's nose, neck, right and left arm, right and left leg, right and left eye in the network's numbering:
# 0 left eye, 1 right eye, 2 nose, 3 neck, 4 root of the tail, 5–7 left shoulder, elbow and front paw, 8–10 right,
# 11–13 left hip, knee and back paw, 14–16 right. The tail has no counterpart, and nothing here has hands.
ANIMAL_JOINTS = [2, 3, 8, 9, 10, 5, 6, 7, 14, 15, 16, 11, 12, 13, 1, 0]


class AnimalPose(TopDownEstimator):
    """YOLOX-l and ViTPose (rtmlib's animal model, trained on APT-36K) in ONNX: several animals, body only.

    Args:
        detector: folder with `yolox_l.onnx`.
        keypoints: folder with `onnx/apt36k/vitpose-b-apt36k.onnx`.
        device: "cpu" or "cuda".
        batch_size: images a run of a network where its file allows more than one.
        max_people: animals at most, the main ones; None: all.
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
        """The frame as it is."""
        return frame

    def to_track(self, points: Floats, scores: Floats) -> PoseTrack:
        """Of APT-36K's 17: front legs are arms, hind legs are legs.

        The ears are unseen; they stand as far behind the eyes as these from the nose, about where a person's do,
        because the alignment measures the head by eyes and ears.
        """
        num_frames = len(points)
        body, confidence = np.empty((num_frames, 18, 2), np.float32), np.zeros((num_frames, 18), np.float32)
        body[:, :16], confidence[:, :16] = points[:, ANIMAL_JOINTS], scores[:, ANIMAL_JOINTS]
        body[:, 16:] = 2 * body[:, 14:16] - body[:, :1]
        no_hands = np.full((num_frames, 2, 21, 2), -1, np.float32)
        return PoseTrack(PoseSequence(body, confidence > MIN_VISIBLE, no_hands), confidence.clip(0, 1))


class AnimalNetwork:
    """ViTPose: 17 keypoints within a box.

    Args:
        path: the ONNX file.
        device: "cpu" or "cuda".
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from rtmlib import ViTPose

        self._vitpose = open_network(ViTPose, path, device, model_input_size=(192, 256))

    def __call__(self, animals: list[tuple[Frames, Floats]], batch_size: int) -> tuple[Floats, Floats]:
        """Pixels [N, 17, 2] and scores [N, 17] of N pairs (RGB image, box [4])."""
        prepared = [self._vitpose.preprocess(image, box) for image, box in animals]
        crops, centres, sizes = (np.stack(parts) for parts in zip(*prepared, strict=True))
        heatmaps = run(self._vitpose.session, crops, batch_size)
        found: tuple[Floats, Floats] = self._vitpose.postprocess(heatmaps, centres[:, None], sizes[:, None])
        return found
