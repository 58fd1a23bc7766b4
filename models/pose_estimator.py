"""Keypoints of the people in a clip as OpenPose's 18 joints: what an estimator is, and the ones that are here.

| name | finds | files |
|---|---|---|
| `dwpose` | several people: body, hands, face (the release's estimator) | `yolox_l.onnx`, `dw-ll_ucoco_384.onnx` |
| `animal` | animals: four legs as arms and legs | `yolox_l.onnx`, `vitpose-b-apt36k.onnx` |
| `blazepose` | one person's body, on a CPU | two files out of a Python package |

Another estimator needs no base class and no registration: any object with the two attributes and the method of
`PoseEstimator` can be given wherever one is taken (`SteadyDancerPipeline(..., pose_estimator=...)`, `driven_pose`):

    class Mine:
        name, counts_people = "mine", True

        def estimate(self, frames):  # uint8 [F, H, W, 3] RGB
            pose = PoseSequence(body, body_visible, hands)  # x, y as shares of width and height; see PoseSequence
            return [PoseTrack(pose, confidence)]  # the main person first; [] where nobody is seen
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.skeleton import PoseSequence
from . import weights

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

_JOINTS = (0, *range(2, 18))  # OpenPose's joints without the neck (index 1)


@dataclass(frozen=True)
class PoseTrack:
    """One person through a clip.

    Attributes:
        pose: keypoints; frames without the person have −1 everywhere and nothing visible.
        confidence: [F, 18] in [0, 1], one per body joint, 0 where the person was not found.
    """

    pose: PoseSequence
    confidence: Floats


class PoseEstimator(Protocol):
    """Finds persons. `counts_people` is False where the number of tracks says nothing about the number of people."""

    name: str
    counts_people: bool

    def estimate(self, frames: Frames) -> list[PoseTrack]:
        """Tracks of a clip [F, H, W, 3] RGB, main person first; empty where nobody was found in any frame."""
        ...


def open_pose_estimator(
    name: str, *, device: str = "cpu", max_people: int | None = None, download: bool = False
) -> PoseEstimator:
    """The estimator of that name, with weights of this machine.

    Args:
        name: "dwpose", "animal" or "blazepose".
        device: "cpu" or "cuda" (onnxruntime's); BlazePose knows the CPU only.
        max_people: tracks at most, the main ones; None: all. BlazePose finds one.
        download: fetch what is missing first, where there is a network.

    Raises:
        WeightsError: its files are not here (or cannot be fetched, or are no models); the message names them.
        ValueError: no estimator has that name.
    """
    if name not in NEEDS:
        raise ValueError(f"No pose estimator is called {name!r}; there are {', '.join(NEEDS)}.")
    folders = [_folder_of(part, download) for part in NEEDS[name]]
    if name == "blazepose":
        from .blazepose import BlazePose

        return BlazePose(*folders)
    if name == "dwpose":
        from .dwpose import DWPose

        return DWPose(*folders, device=device, max_people=max_people)
    from .animal_pose import AnimalPose

    return AnimalPose(*folders, device=device, max_people=max_people)


# Which weights each estimator needs.
NEEDS = {"dwpose": ("yolox", "dwpose"), "animal": ("yolox", "animal"), "blazepose": ("blazepose",)}


def to_openpose(
    points: Floats, scores: Floats, joints: Sequence[int], shoulders: Sequence[int]
) -> tuple[Floats, Floats]:
    """[..., 18, 2] and [..., 18] of [..., K, 2] and [..., K] in another numbering.

    The neck is the middle of the shoulders and as sure as the less sure of them.

    Args:
        points: keypoints.
        scores: their confidences.
        joints: the 17 joints without the neck, in OpenPose's order, in the other numbering.
        shoulders: the two shoulders in the other numbering.
    """
    body = np.empty((*points.shape[:-2], 18, 2), np.float32)
    confidence = np.empty((*scores.shape[:-1], 18), np.float32)
    body[..., _JOINTS, :], confidence[..., _JOINTS] = points[..., list(joints), :], scores[..., list(joints)]
    body[..., 1, :] = points[..., list(shoulders), :].mean(axis=-2)
    confidence[..., 1] = scores[..., list(shoulders)].min(axis=-1)
    return body, confidence


def _folder_of(name: str, download: bool) -> Path:
    row = weights.weight(name)
    folder = weights.find(row)
    if folder is None and download:
        return weights.fetch(name)
    if folder is None:
        raise weights.WeightsError(f"{' and '.join(row.files)} not found in {row.looked_for}: {row.remedy}.")
    return folder
