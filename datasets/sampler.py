"""Step-indexed sampling: the global batch of a step is a pure function of (seed, step).

To resume, only the step is needed. The global batch does not depend on the number of workers.
"""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class StepSampler:
    """In every epoch, permute each bucket, divide it into global batches, and permute the batches.

    If a bucket is not divisible by the batch size, its last batch is filled with its first samples. An epoch therefore
    contains every sample, and no batch mixes shapes.

    Args:
        buckets: sample key → bucket (samples of one bucket have one shape).
        global_batch_size: samples per step, over all workers.
        seed: seed of the order; noise has separate draws (`draw_seed`).
    """

    def __init__(self, buckets: Mapping[str, Hashable], global_batch_size: int, seed: int) -> None:
        """Group the keys by bucket."""
        if not buckets:
            raise ValueError("no samples to draw from: the latents folder is empty")
        grouped: dict[str, list[str]] = defaultdict(list)
        for key in sorted(buckets):
            grouped[str(buckets[key])].append(key)
        self._groups = [grouped[name] for name in sorted(grouped)]
        self._batch_size = global_batch_size
        self._seed = seed
        # Positions of an epoch that are filled with repeated samples. If they outnumber the samples, small buckets are
        # seen several times as often as large ones.
        self.num_repeated = sum(-len(group) % global_batch_size for group in self._groups)
        self.steps_per_epoch = sum(-(-len(group) // global_batch_size) for group in self._groups)
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    def batch(self, step: int) -> list[str]:
        """Return the keys of the global batch of `step` (from 0), in order."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[position]

    def _plan_epoch(self, epoch: int) -> list[list[str]]:
        rng = np.random.default_rng([self._seed, epoch])
        batches = []
        for group in self._groups:
            order = [group[i] for i in rng.permutation(len(group))]
            num_batches = -(-len(order) // self._batch_size)
            filled = [order[i % len(order)] for i in range(num_batches * self._batch_size)]
            batches += [filled[i : i + self._batch_size] for i in range(0, len(filled), self._batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]


def rank_slice(items: Sequence[Item], rank: int, world_size: int) -> list[Item]:
    """Return the slice of a global batch for one rank.

    Raises:
        ValueError: the batch is not divisible by the number of workers.
    """
    if len(items) % world_size:
        raise ValueError(f"a global batch of {len(items)} is not divisible by {world_size} workers")
    share = len(items) // world_size
    return list(items[rank * share : (rank + 1) * share])


def held_out(sources: Iterable[str], share: float, seed: int) -> set[str]:
    """Select the sources for validation: those whose hash is below `share`.

    The choice for a source depends only on its name and the seed, so it does not change when others are added or
    removed. The share holds on average; of few sources there may be none.
    """
    return {source for source in sources if draw_seed(seed, 0, 0, f"held out/{source}") < share * 2**63}


def draw_seed(seed: int, step: int, position: int, purpose: str) -> int:
    """Compute a 63-bit seed for one random draw, given its purpose, the step and the position in the batch.

    It uses the position in the global batch instead of the sample's key, so that repeated samples get different noise.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{position}/{purpose}".encode()).digest()
    return int(struct.unpack("<Q", digest[:8])[0] >> 1)


def batch_digest(parts: Iterable[str | bytes]) -> str:
    """Hash the keys and the random draws of a global batch, in order, to 16 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()[:16]
