"""Provenance of a rendered video: a record next to the file and inside it, so that a copy of the video keeps it.

The record is JSON: `ID.json` beside `ID.mp4`, and the key `steadydancer` of the container's metadata. It contains
digests of contents, never paths.
"""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .. import SteadyDancerError, __version__
from .storage.atomic import write_json
from .storage.digests import content_digest
from .video import VideoError, encode, probe, read_metadata
from .video.info import METADATA_KEY
from .video.sound import Sound

__all__ = ["METADATA_KEY", "ProvenanceError", "make_record", "read_provenance", "write_video"]

SOFTWARE = ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "av")
DETERMINISM = (
    "The same model, inputs, settings, seed, software versions and processor type give the same bytes. On another "
    "processor or with other versions, the noise is the same, because it is drawn on the CPU, and everything else "
    "matches up to rounding."
)


class ProvenanceError(SteadyDancerError):
    """A file has no provenance record; the message states what was expected."""


def make_record(
    *, model: Mapping[str, str], inputs: Mapping[str, str], settings: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Make the provenance record of a video.

    Args:
        model: part → sha256, the network first.
        inputs: name of an input → sha256.
        settings: all settings, as JSON values.
        seed: seed of the noise, the negative pose and the shuffled windows.
    """
    return {
        "made_by": f"SteadyDancer {__version__}",
        "model": dict(model),
        "seed": seed,
        "inputs": dict(inputs),
        "settings": dict(settings),
        "software": {"python": platform.python_version()} | {name: _version(name) for name in SOFTWARE},
        "determinism": DETERMINISM,
    }


def write_video(
    frames: np.ndarray | Iterable[np.ndarray],
    path: str | os.PathLike[str],
    record: Mapping[str, Any],
    fps: float = 16,
    sound: Sound | None = None,
    **coding: Any,
) -> dict[str, Any]:
    """Write an mp4 with `encode`, containing `record`, and next to it the record with the file's own digest.

    Returns the record next to the file: `record` and `video` (sha256, height, width, num_frames, fps). Both files are
    written atomically, the video first. `coding` are `encode`'s `crf` and `chroma`.

    Raises:
        ValueError: the path's suffix is not `.mp4`, the frames cannot be encoded, or the record is not JSON.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path.name}: the file name must end in .mp4, not in {path.suffix or 'no suffix'}")
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    name, digest = next(iter(record["model"].items()))
    line = f"{record['made_by']}, {name} {digest[:16]}, seed {record['seed']}"
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(frames, path, fps, {"comment": line, METADATA_KEY: text}, sound=sound, **coding)
    info = probe(path)
    video = {"sha256": content_digest(path), "height": info.height, "width": info.width,
             "num_frames": info.num_frames, "fps": info.fps}  # fmt: skip
    complete = {**record, "video": video}
    write_json(path.with_suffix(".json"), complete)
    return complete


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the record inside a video that `write_video` wrote; the file may have been renamed.

    Raises:
        ProvenanceError: the file is not a video, or contains no record.
    """
    try:
        text = read_metadata(path).get(METADATA_KEY)
    except VideoError as error:
        raise ProvenanceError(f"{path} cannot be read as a video: {error.detail}") from error
    if text is None:
        raise ProvenanceError(
            f"{path} has no provenance record: its container has no metadata entry {METADATA_KEY!r}. "
            "SteadyDancer did not write it, or another program dropped the metadata: look for a .json file next to "
            "the original."
        )
    return dict(json.loads(text))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
