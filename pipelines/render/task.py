"""What the stages of a rendering job share: the job as workers see it, its rows, and the results they hand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...datasets.storage.result_store import ResultStore
from . import mode
from .config import RenderConfig

if TYPE_CHECKING:
    import torch

# Rows of the renders.
_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("id", "image", "driving", "prompt", "video", "pose_model")),
    *((name, pa.int32()) for name in ("height", "width", "num_frames")),
    ("aligned", pa.bool_()),
    ("sound", pa.string()),  # note on the driving video's sound; null: not requested
    ("pose_start_frame", pa.int32()),  # alignment is measured here, earlier frames repeat its pose; null: not aligned
    ("seed", pa.uint64()),
    ("seed_index", pa.int32()),  # number of the seed among those of the pair, from 0; null: the pair has one
    *((name, pa.string()) for name in ("licence", "consent", "verdict", "reason", "detail")),
]
SCHEMA = pa.schema(_FIELDS)

# Columns that only the stages use: names of results in the work folder, digests, and notes.
_BETWEEN_STAGES = ("checkpoint", "image_digest", "driving_digest", "changes", "notes", "motion", "encoded", "latents")
WORK = pa.schema([*_FIELDS, ("key", pa.string()), *((name, pa.string()) for name in _BETWEEN_STAGES)])


@dataclass(frozen=True)
class CheckpointTask:
    """A checkpoint to render with: its place, that of VAE and encoders, all digests, and the folder of its videos.

    Paths are local or on a store. The digest of the network comes first.
    """

    checkpoint: str
    components: str
    digests: dict[str, str]
    out: str


@dataclass(frozen=True)
class RenderTask:
    """Input of a worker: the configuration, the checkpoints by name, and the folder of the results."""

    config: RenderConfig
    checkpoints: dict[str, CheckpointTask]
    work: str

    @property
    def device(self) -> str:
        """Where networks run."""
        return "cuda" if self.config.num_gpus else "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Number type of transformer and encoders."""
        import torch

        dtype: torch.dtype = getattr(torch, self.config.dtype)
        return dtype

    @property
    def store(self) -> ResultStore:
        """Results of the stages."""
        return ResultStore(self.work)


class Components:
    """Networks of a worker, loaded when first needed; checkpoints with the same components share them."""

    def __init__(self, task: RenderTask) -> None:
        self.task = task
        self.loaded: dict[tuple[str, str], Any] = {}

    def get(self, place: CheckpointTask, name: str) -> Any:
        """Return a component by name."""
        from ...models.components import load_components  # here: workers that find poses load no networks of torch

        key = name, place.digests.get(name, place.components)
        if key not in self.loaded:
            device = mode.device_to_load_on(self.task.config, self.task.device, name)
            parts = load_components(place.components, (name,), self.task.dtype, device)
            self.loaded[key] = mode.place(self.task.config, self.task.device, name, parts[name])
        return self.loaded[key]
