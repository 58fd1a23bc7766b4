"""Which clips are trained on and which are only measured: whole sources, chosen by hash."""

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
    """Keys of the clips of a latents folder, sorted; `sources` are those of the validation clips."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    sources: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of it; the digest names the validation's sources and clips."""
        counts = {"sources": len(self.sources), "clips": len(self.validation)}
        return {**counts, "digest": json_digest([self.sources, self.validation])}


def split(shards: ShardDataset, config: TrainConfig) -> Split:
    """All clips of a source fall on one side, so that no validation clip has a neighbour in the training set.

    Raises:
        TrainingRefused: nothing is left to train on.
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
