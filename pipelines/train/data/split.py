"""Split clips into training and validation by source, chosen by hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....datasets.artifact import Artifact
from ....datasets.sampler import held_out
from ....datasets.shards import ShardDataset
from ....datasets.storage.digests import json_digest
from ..config import TrainConfig
from ..run_folder import TrainingRefused


@dataclass(frozen=True)
class Split:
    """Sorted keys of the training and validation clips of a latents folder; `sources` of the validation clips."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    sources: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the entry in a checkpoint's record: counts, and a digest of the validation sources and clips."""
        counts = {"sources": len(self.sources), "clips": len(self.validation)}
        return {**counts, "digest": json_digest([self.sources, self.validation])}


def split(shards: ShardDataset, config: TrainConfig) -> Split:
    """Split by source: all clips of a source are on the same side, so validation clips have no training neighbours.

    Raises:
        TrainingRefused: no clip is left to train on.
    """
    rows = Artifact(shards.path).read(["clip_id", "source_id"]).to_pylist()
    source_of = {row["clip_id"]: row["source_id"] or row["clip_id"] for row in rows}
    usable = {key: source_of[key] for key in shards.keys}
    sources = held_out(set(usable.values()), config.validation_share, config.seed)
    training = tuple(key for key in shards.keys if usable[key] not in sources)
    if not training:
        raise TrainingRefused(
            f"validation_share: at {config.validation_share} all {len(set(usable.values()))} sources of {shards.path} "
            "are held out: lower it"
        )
    validation = tuple(key for key in shards.keys if usable[key] in sources)
    return Split(training, validation, tuple(sorted(sources)))
