"""Assign clips to shards by size. The same clips always give the same shards."""

from collections.abc import Iterable

from ..artifact import Packet
from ..storage.digests import json_digest

# With fewer shards, loader workers and caching GPUs would be idle.
MIN_SHARDS = 8
# A cache with fewer full shards than this gets shards of a quarter of the size.
LARGE_CACHE_SHARDS = 20


def shard_limit(total_bytes: int, shard_bytes: int) -> int:
    """Return the largest size of a shard in bytes: `shard_bytes`, or less if the cache is small.

    A cache of fewer than 20 full shards uses a quarter of `shard_bytes`. The limit never gives fewer than 8 shards.
    """
    if total_bytes < LARGE_CACHE_SHARDS * shard_bytes:
        shard_bytes //= 4
    return max(1, min(shard_bytes, -(-total_bytes // MIN_SHARDS)))


def plan_shards(sizes: dict[str, int], limit_bytes: int, max_clips: int) -> list[Packet]:
    """Group clips, sorted by id, into packets of at most `limit_bytes`, with at least one clip each.

    Args:
        sizes: estimated bytes by clip id.
        limit_bytes: largest size of a shard.
        max_clips: largest number of clips in a shard.
    """
    packets: list[Packet] = []
    ids: list[str] = []
    num_bytes = 0
    for clip_id in [*sorted(sizes), None]:
        full = clip_id is None or num_bytes + sizes[clip_id] > limit_bytes or len(ids) == max_clips
        if ids and full:
            packets.append(Packet(packet_id(ids), tuple(ids)))
            ids, num_bytes = [], 0
        if clip_id is not None:
            ids.append(clip_id)
            num_bytes += sizes[clip_id]
    return packets


def packet_id(ids: Iterable[str]) -> str:
    """Hash the clip ids of a packet, in order, to its id. A part can so be checked against its own name."""
    return json_digest(tuple(ids))[:16]
