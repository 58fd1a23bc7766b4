"""Read and write the keypoints supplied beside a video or an image: `NAME` + `sidecars.KEYPOINTS`.

`sidecars` decides whose a file of keypoints is, where several videos and images share a name.
"""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from .file_names import LONGEST_BYTES
from .sidecars import KEYPOINTS, file_exists, media_called, sidecar
from .skeleton import PoseSequence
from .storage.atomic import atomic_write


def save_supplied_pose(path: Path, persons: list[PoseSequence], fps: float, by_full_name: bool = False) -> None:
    """Lay keypoints beside the video or image `path`: one sequence a person, the main one first, all from frame 0.

    They are called `STEM.pose.safetensors`; after the full name if asked, where another file of that stem lies there
    already, or where keypoints by the full name do.
    """
    tensors: dict[str, np.ndarray] = {"fps": np.array([fps], np.float64)}
    for k, person in enumerate(persons):
        tensors[f"{k}.body"] = person.body.astype(np.float32)
        tensors[f"{k}.body_visible"] = person.body_visible
        tensors[f"{k}.hands"] = person.hands.astype(np.float32)
        if person.faces is not None:
            tensors[f"{k}.faces"] = person.faces.astype(np.float32)
    full = path.with_name(path.name + KEYPOINTS)
    by_full_name = by_full_name or file_exists(full) or (path.parent.is_dir() and bool(media_called(path)))
    by_full_name = by_full_name and len(os.fsencode(full.name)) <= LONGEST_BYTES
    with atomic_write(full if by_full_name else path.with_name(path.stem + KEYPOINTS)) as aside:
        aside.write_bytes(save(tensors))


def load_supplied_pose(video_path: Path) -> tuple[list[PoseSequence], float] | None:
    """Keypoints that lie beside a video or image and are its own (see `sidecars`), and their rate; None without.

    Raises `ValueError` if the file is not what `save_supplied_pose` writes.
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
        raise ValueError(f"{path.name} holds no keypoints as save_supplied_pose writes them: {error}") from error
