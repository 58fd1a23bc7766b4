"""The accepted clips of a curation, for a cache. They stay in Arrow: a million clips need less than a gigabyte."""

import hashlib
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from ...datasets.clips import Clips
from ...datasets.schema import CROP_COLUMNS, Row
from ...datasets.storage import Location
from ..common.crop import content_size
from ..common.outcomes import accepted_rows

COLUMNS = ("clip_id", "source_id", "source_path", "prompt", "pose_model", "start_s", "end_s", "num_frames",
           "width", "height", *CROP_COLUMNS, "measured_part", "pose_digest")  # fmt: skip
# Columns that determine a sample's tensors; `clip_id` identifies the video.
DIGESTED_COLUMNS = ("clip_id", "prompt", "pose_digest", *CROP_COLUMNS)


class AcceptedClips:
    """Accepted clips by id; a clip accepted twice, from two files with the same content, is listed once.

    Args:
        clips: the folder given to `curate --out`, or the artifact in it.

    Raises:
        ArtifactError: the artifact is not finished, or no clip was accepted.
    """

    def __init__(self, clips: Location) -> None:
        curated = Clips(clips)
        self.record = curated.record
        table = accepted_rows(curated, COLUMNS)
        order = pc.sort_indices(table, [("clip_id", "ascending"), ("source_path", "ascending")])
        first: dict[str, int] = {}
        for index, clip_id in zip(order.to_numpy(), table["clip_id"].take(order).to_pylist(), strict=True):
            first.setdefault(str(clip_id), index)
        self.table = table.take(pa.array(first.values(), pa.uint64())).combine_chunks()
        del table, order  # half a gigabyte for a million clips
        pa.default_memory_pool().release_unused()
        self._row = {clip_id: index for index, clip_id in enumerate(first)}
        self.fps: float = self.record["config"]["fps"]

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, clip_id: str) -> Row:
        """Return the input row of a clip's first stage."""
        (row,) = self.table.slice(self._row[clip_id], 1).to_pylist()
        size = {"source_height": row.pop("height"), "source_width": row.pop("width")}
        return row | size | {"fps": self.fps}

    @property
    def ids(self) -> list[str]:
        """Ids of the clips, sorted."""
        return list(self._row)

    @property
    def num_prompts(self) -> int:
        """Number of clips that have a prompt."""
        return int(pc.sum(pc.greater(pc.binary_length(self.table["prompt"]), pa.scalar(0))).as_py() or 0)

    def shapes(self) -> Iterator[tuple[int, int, int, int | None]]:
        """Yield (frames, height and width of the picture, bytes of the prompt) of each clip, in the order of `ids`."""
        prompt_bytes = pc.binary_length(self.table["prompt"])
        table = self.table.select(["num_frames", "width", "height", *CROP_COLUMNS])
        table = table.append_column("prompt_bytes", prompt_bytes)
        for batch in table.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                yield row["num_frames"], *content_size(row), row["prompt_bytes"]

    def digest(self) -> str:
        """Compute a sha256 of `fps` and `DIGESTED_COLUMNS`, which determine the samples' tensors."""
        total = hashlib.sha256(f"{self.fps}\n".encode())
        for batch in self.table.select(DIGESTED_COLUMNS).to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                total.update(f"{json.dumps(row, sort_keys=True)}\n".encode())
        return total.hexdigest()
