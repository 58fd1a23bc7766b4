"""Step-indexed order: which samples make the global batch of a step, as a pure function of (seed, step).

Resuming is remembering the step, and the global batch does not depend on how many workers share it.
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
    """Epoch after epoch, every bucket is permuted and cut into global batches, and the batches are permuted.

    A bucket that does not divide by the batch size is filled from its own beginning, so no sample is left out of an
    epoch and no batch mixes sizes.

    Args:
        buckets: sample key → bucket (samples of one bucket have one shape).
        global_batch_size: samples a step, over all workers.
        seed: of the order; the noise has draws of its own (`draw_seed`).
    """

    def __init__(self, buckets: Mapping[str, Hashable], global_batch_size: int, seed: int) -> None:
        """Group the keys by bucket."""
        if not buckets:
            raise ValueError("there are no samples to draw from: the latents folder is empty")
        grouped: dict[str, list[str]] = defaultdict(list)
        for key in sorted(buckets):
            grouped[str(buckets[key])].append(key)
        self._groups = [grouped[name] for name in sorted(grouped)]
        self._batch_size = global_batch_size
        self._seed = seed
        # Places of an epoch that are filled with samples which have one already; more than all samples together means
        # that small buckets are seen several times as often as large ones.
        self.num_repeated = sum(-len(group) % global_batch_size for group in self._groups)
        self.steps_per_epoch = sum(-(-len(group) // global_batch_size) for group in self._groups)
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    def batch(self, step: int) -> list[str]:
        """Keys of the global batch of `step` (from 0), in order."""
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
    """The part of a global batch that one worker takes.

    Raises:
        ValueError: the batch does not divide by the number of workers.
    """
    if len(items) % world_size:
        raise ValueError(f"a global batch of {len(items)} does not divide by {world_size} workers")
    share = len(items) // world_size
    return list(items[rank * share : (rank + 1) * share])


def held_out(sources: Iterable[str], share: float, seed: int) -> set[str]:
    """The sources that are kept for validation: those whose hash falls below `share`.

    A source's side depends on its name and the seed alone, so it stays where it is when others come or go. Of few
    sources the share is kept on average only, and there may be none.
    """
    return {source for source in sources if draw_seed(seed, 0, 0, f"held out/{source}") < share * 2**63}


def draw_seed(seed: int, step: int, position: int, purpose: str) -> int:
    """A 63-bit seed for one random draw: of what, for which place of which step's batch.

    The place in the global batch, not the sample's key, so that a sample repeated in a batch gets noise of its own.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{position}/{purpose}".encode()).digest()
    return int(struct.unpack("<Q", digest[:8])[0] >> 1)


def batch_digest(parts: Iterable[str | bytes]) -> str:
    """16 hex digits that name a global batch: its keys and whatever was drawn for it, in order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()[:16]
