"""Write what the sets consist of: clips with their sidecars, pictures, silhouettes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import load_file, save

from ..skeleton import PoseSequence
from ..storage.atomic import atomic_write
from ..supplied_poses import save_supplied_pose
from ..video import encode

MASKS = ".masks.safetensors"


def write_clip(path: Path, frames: np.ndarray, persons: list[PoseSequence], caption: str, fps: float) -> Path:
    """Write keypoints and caption before the clip, so that an existing clip always has both."""
    save_supplied_pose(path, persons, fps)
    write_bytes(path.with_suffix(".txt"), caption.encode() + b"\n")
    encode(frames, path, fps)
    return path


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB picture."""
    write_bytes(path, cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file at once or not at all."""
    with atomic_write(path) as aside:
        aside.write_bytes(data)


def save_masks(path: Path, masks: np.ndarray) -> None:
    """Write silhouettes bool [F, H, W] beside the video `path`, eight pixels a byte."""
    packed: dict[str, np.ndarray] = {
        "bits": np.ascontiguousarray(np.packbits(masks, axis=-1)),  # `save` writes the memory as it lies
        "width": np.array([masks.shape[-1]], np.int64),
    }
    write_bytes(path.with_name(path.stem + MASKS), save(packed))


def load_masks(path: Path) -> np.ndarray:
    """Read the silhouettes bool [F, H, W] beside the video `path`."""
    packed = load_file(path.with_name(path.stem + MASKS))
    return np.unpackbits(packed["bits"], axis=-1, count=int(packed["width"][0])).astype(bool)
