"""Keypoints of the people in a clip as OpenPose's 18 joints: what an estimator is, and the ones that are here.

| name | finds | files |
|---|---|---|
| `dwpose` | several people: body, hands, face (the release's estimator) | `yolox_l.onnx`, `dw-ll_ucoco_384.onnx` |
| `animal` | animals: four legs as arms and legs | `yolox_l.onnx`, `vitpose-b-apt36k.onnx` |
| `blazepose` | one person's body, on a CPU | two files out of a Python package |

Another estimator needs no base class and no registration: any object with the two attributes and the method of
`PoseEstimator` can be given wherever one is taken (`SteadyDancerPipeline(..., pose_estimator=...)`):

    class Mine:
        name, counts_people = "mine", True

        def estimate(self, frames):  # uint8 [F, H, W, 3] RGB
            pose = PoseSequence(body, body_visible, hands)  # x, y as shares of width and height; see PoseSequence
            return [PoseTrack(pose, confidence)]  # the main person first; [] where nobody is seen
"""

from pathlib import Path
from typing import Protocol

from ...datasets.arrays import Frames
from ..weights import lookup
from .track import PoseTrack


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
    if name not in REQUIRED_WEIGHTS:
        raise ValueError(f"No pose estimator is called {name!r}; there are {', '.join(REQUIRED_WEIGHTS)}.")
    folders = [_folder_of(part, download) for part in REQUIRED_WEIGHTS[name]]
    if name == "blazepose":
        from .blazepose import BlazePose

        return BlazePose(*folders)
    if name == "dwpose":
        from .dwpose import DWPose

        return DWPose(*folders, device=device, max_people=max_people)
    from .animal import AnimalPose

    return AnimalPose(*folders, device=device, max_people=max_people)


# Which weights each estimator needs.
REQUIRED_WEIGHTS = {"dwpose": ("yolox", "dwpose"), "animal": ("yolox", "animal"), "blazepose": ("blazepose",)}


def _folder_of(name: str, download: bool) -> Path:
    row = lookup.weight(name)
    folder = lookup.find(row)
    if folder is None and download:
        return lookup.fetch(name)
    if folder is None:
        raise lookup.WeightsError(f"{' and '.join(row.files)} not found in {row.looked_for}: {row.remedy}.")
    return folder
