"""Which clips go into which shard: by bytes, and always the same way."""

from collections.abc import Iterable

from ..artifact import Packet
from ..storage.digests import json_digest

# With fewer shards, workers of a loader and GPUs that make a cache would stand idle.
MIN_SHARDS = 8
# A cache of fewer full shards than this gets shards of a quarter.
LARGE_CACHE_SHARDS = 20


def shard_limit(total_bytes: int, shard_bytes: int) -> int:
    """Bytes that a shard of a cache of `total_bytes` may have: `shard_bytes`, less where the whole is small.

    A quarter below 20 full shards, and never so many that there would be fewer than 8 shards.
    """
    if total_bytes < LARGE_CACHE_SHARDS * shard_bytes:
        shard_bytes //= 4
    return max(1, min(shard_bytes, -(-total_bytes // MIN_SHARDS)))


def plan_shards(sizes: dict[str, int], limit_bytes: int, max_clips: int) -> list[Packet]:
    """Cut clips, sorted by id, into packets whose estimated bytes stay within a limit; at least one clip each.

    Args:
        sizes: estimated bytes by clip id.
        limit_bytes: of a shard.
        max_clips: in a shard.
    """
    packets: list[Packet] = []
    ids: list[str] = []
    held = 0
    for clip_id in [*sorted(sizes), None]:
        full = clip_id is None or held + sizes[clip_id] > limit_bytes or len(ids) == max_clips
        if ids and full:
            packets.append(Packet(packet_id(ids), tuple(ids)))
            ids, held = [], 0
        if clip_id is not None:
            ids.append(clip_id)
            held += sizes[clip_id]
    return packets


def packet_id(ids: Iterable[str]) -> str:
    """The name of a packet of these ids, in order; so a part can be checked against its own name."""
    return json_digest(tuple(ids))[:16]
