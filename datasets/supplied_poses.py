"""Read and write the keypoints supplied next to a video or an image: `NAME` + `sidecars.KEYPOINTS`.

If several videos and images share a name, `sidecars` determines to which one a file of keypoints belongs.
"""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from .file_names import LONGEST_BYTES
from .sidecars import KEYPOINTS, file_exists, media_with_stem, sidecar
from .skeleton import PoseSequence
from .storage.atomic import atomic_write

SUPPLIED = "supplied"  # source of keypoints that were read from a sidecar; otherwise the name of an estimator


def save_supplied_pose(path: Path, persons: list[PoseSequence], fps: float, by_full_name: bool = False) -> None:
    """Write keypoints next to the video or image `path`: one sequence per person, main person first, from frame 0 on.

    The file is `STEM.pose.safetensors`. It has the full name instead if `by_full_name`, if another video or image has
    that stem, or if keypoints with the full name exist.
    """
    # `save` writes the memory of an array as it lies, whatever its strides: all arrays must be contiguous.
    tensors: dict[str, np.ndarray] = {"fps": np.array([fps], np.float64)}
    for k, person in enumerate(persons):
        tensors[f"{k}.body"] = np.ascontiguousarray(person.body, np.float32)
        tensors[f"{k}.body_visible"] = np.ascontiguousarray(person.body_visible)
        tensors[f"{k}.hands"] = np.ascontiguousarray(person.hands, np.float32)
        if person.faces is not None:
            tensors[f"{k}.faces"] = np.ascontiguousarray(person.faces, np.float32)
    full = path.with_name(path.name + KEYPOINTS)
    by_full_name = by_full_name or file_exists(full) or (path.parent.is_dir() and bool(media_with_stem(path)))
    by_full_name = by_full_name and len(os.fsencode(full.name)) <= LONGEST_BYTES
    with atomic_write(full if by_full_name else path.with_name(path.stem + KEYPOINTS)) as aside:
        aside.write_bytes(save(tensors))


def load_supplied_pose(video_path: Path) -> tuple[list[PoseSequence], float] | None:
    """Load the keypoints of a video or image from its sidecar (see `sidecars`), and their rate; None without one.

    Raises `ValueError` if the file does not have the format of `save_supplied_pose`.
    """
    path = sidecar(Path(video_path), KEYPOINTS)
    if path is None:
        return None
    try:
        tensors = load_file(path)
        fps = float(tensors.pop("fps")[0])
        fields: dict[int, dict[str, np.ndarray]] = {}
        for name, tensor in tensors.items():
            person, field = name.split(".")
            fields.setdefault(int(person), {})[field] = tensor
        return [PoseSequence(**fields[person]) for person in sorted(fields)], fps
    except Exception as error:  # the library's own error class is a bare Exception
        raise ValueError(f"{path.name} does not have the format of save_supplied_pose: {error}") from error
