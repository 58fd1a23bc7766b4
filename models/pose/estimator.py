"""Interface of pose estimators, which find OpenPose's 18 joints of the people in a clip, and the built-in ones.

| name | finds | files |
|---|---|---|
| `dwpose` | several people: body, hands, face (the release's estimator) | `yolox_l.onnx`, `dw-ll_ucoco_384.onnx` |
| `animal` | animals: four legs as arms and legs | `yolox_l.onnx`, `vitpose-b-apt36k.onnx` |
| `blazepose` | one person's body, on a CPU | two files from a Python package |
| `toydance` | as `dwpose`, procedural dancers only | small files of the same names, part of this package |

A custom estimator needs no base class and no registration: any object with the two attributes and the method of
`PoseEstimator` is accepted (`SteadyDancerPipeline(..., pose_estimator=...)`):

    class Mine:
        name, counts_people = "mine", True

        def estimate(self, frames):  # uint8 [F, H, W, 3] RGB
            pose = PoseSequence(body, body_visible, hands)  # x, y as shares of width and height; see PoseSequence
            return [PoseTrack(pose, confidence)]  # the main person first; [] if no person is found
"""

from pathlib import Path
from typing import Any, Protocol

from ...datasets.arrays import Frames
from ..weights import lookup
from .track import PoseTrack


class PoseEstimator(Protocol):
    """Finds people. `counts_people` is False if the number of tracks does not reflect the number of people."""

    name: str
    counts_people: bool

    def estimate(self, frames: Frames) -> list[PoseTrack]:
        """Estimate tracks of a clip [F, H, W, 3] RGB, main person first; empty if no frame has a person."""
        ...


def open_pose_estimator(
    name: str, *, device: str = "cpu", max_people: int | None = None, download: bool = False
) -> PoseEstimator:
    """Open a pose estimator by name, with the weights on this machine.

    Args:
        name: "dwpose", "animal", "blazepose" or "toydance".
        device: "cpu" or "cuda" (for onnxruntime); BlazePose always runs on the CPU.
        max_people: maximum number of tracks, the main ones; None: all. BlazePose finds one.
        download: download missing weights first.

    Raises:
        WeightsError: weights are missing, cannot be downloaded, or are not models; the message names the files.
        ValueError: no estimator has that name.
    """
    if name not in REQUIRED_WEIGHTS:
        raise ValueError(f"Unknown pose estimator {name!r}; expected one of {', '.join(REQUIRED_WEIGHTS)}.")
    folders = [_folder_of(part, download) for part in REQUIRED_WEIGHTS[name]]
    if name == "blazepose":
        from .blazepose import BlazePose

        return BlazePose(*folders)
    if name == "dwpose":
        from .dwpose import DWPose

        return DWPose(*folders, device=device, max_people=max_people)
    if name == "toydance":
        from .dwpose import DWPose

        (folder,) = folders
        estimator = DWPose(folder, folder, device=device, max_people=max_people, **TOYDANCE_SETTINGS)
        estimator.name = name
        return estimator
    from .animal import AnimalPose

    return AnimalPose(*folders, device=device, max_people=max_people)


# The small networks see crops of 96 × 128 pixels: enlarging frames to DWPose's 1024 first would change nothing.
# Neighbouring cells of the small detector find one dancer twice, with an overlap of .45 to .7; a clip would fall into
# two tracks.
TOYDANCE_SETTINGS: dict[str, Any] = {"short_side": 256, "max_overlap": 0.4}

# Weights that each estimator needs, by their names in the catalogue.
REQUIRED_WEIGHTS = {
    "dwpose": ("yolox", "dwpose"),
    "animal": ("yolox", "animal"),
    "blazepose": ("blazepose",),
    "toydance": ("toydance-pose",),
}


def _folder_of(name: str, download: bool) -> Path:
    row = lookup.weight(name)
    folder = lookup.find(row)
    if folder is None and download:
        return lookup.fetch(name)
    if folder is None:
        raise lookup.WeightsError(f"{' and '.join(row.files)} not found in {row.search_locations}: {row.remedy}.")
    return folder
