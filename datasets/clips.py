"""A finished curation as those who come after it read it: rows with verdicts, and keypoints where they were measured.

`OUT/clips` holds every row's scores and verdict; keypoints stay in the parts of `OUT/measured`, so that another
selection of a million clips copies none of them.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from .artifact import Artifact, ArtifactError
from .schema import CLIP_SCHEMA, Row
from .storage import Location, join, location

BIG_COLUMNS = ("fingerprint", "pose")  # in `measured` alone
COLUMNS = [name for name in CLIP_SCHEMA.names if name not in BIG_COLUMNS]


class Clips:
    """A finished clips artifact.

    Args:
        folder: what `curate --out` or `refilter --out` was given, or the artifact in it.

    Raises:
        ArtifactError: it is not finished.
    """

    def __init__(self, folder: str | os.PathLike[str] | Location) -> None:
        place = location(folder)
        self.artifact = Artifact(place / "clips" if (place / "clips").is_dir() else place)
        self.record: dict[str, Any] = self.artifact.record()
        if "measured" not in self.record:
            raise ArtifactError(f"{self.artifact.path} holds {self.record.get('kind')}, no clips: give `curate --out`")
        self.measured = Artifact(join(self.artifact.path.parent, self.record["measured"]))

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, or some of their columns; `pose` and `fingerprint` are not among them."""
        return self.artifact.read(columns)

    def poses(self, rows: Iterable[Row]) -> dict[str, bytes]:
        """Keypoints (safetensors) of rows with `clip_id`, `source_path` and `measured_part`: clip_id → bytes.

        Raises:
            ArtifactError: a part is missing or damaged, or does not hold a row's keypoints.
        """
        wanted: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for row in rows:
            wanted[row["measured_part"]][row["clip_id"], row["source_path"]] = row["clip_id"]
        poses = {}
        for part, keys in wanted.items():
            table = self.measured.read_part(part, ["clip_id", "source_path", "pose"])
            ids, paths = (table.column(name).to_pylist() for name in ("clip_id", "source_path"))
            for index, key in enumerate(zip(ids, paths, strict=True)):
                if key in keys and (pose := table.column("pose")[index].as_py()) is not None:
                    poses[keys.pop(key)] = pose
            if keys:
                raise ArtifactError(f"{self.measured.path / part} holds no keypoints of {min(keys)[0]}: curate it anew")
        return poses


def place_of(measured: Location, clips_folder: Location) -> str:
    """How the record of `clips_folder / "clips"` names the measured parts: relative, so that folders can be moved."""
    if isinstance(measured, Path) and isinstance(clips_folder, Path):
        return os.path.relpath(measured.absolute(), clips_folder.absolute())
    return measured.name if measured.parent == clips_folder else str(measured)
