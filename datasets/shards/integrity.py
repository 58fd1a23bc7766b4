"""Shards against their index: lengths at a glance; checksums of members and of the whole, in one pass over a shard."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from isal import isal_zlib

from ..storage.files import Location, RangeReader, range_reader, size, sizes

CHUNK_BYTES = 8 << 20

Damage = Literal["missing", "cut short", "too long", "damaged"]


@dataclass(frozen=True)
class IndexedShard:
    """A shard as the index says it was written.

    Attributes:
        path: of the tar.
        size: in bytes.
        sha256: of the whole.
        members: (offset, size, crc32, name) of each, by offset.
    """

    path: Location
    size: int
    sha256: str
    members: list[tuple[int, int, int, str]]


def wrong_sizes(shards: Mapping[Location, int]) -> dict[Location, tuple[Damage, str]]:
    """Which shards are missing or not as long as they were written, without reading them.

    Args:
        shards: place → bytes that the index tells of it; all on this machine or all in one bucket.
    """
    there = sizes(shards)
    told = {place: _compare(there[place], wanted) for place, wanted in shards.items()}
    return {place: damage for place, damage in told.items() if damage}


def _compare(size: int | None, wanted: int) -> tuple[Damage, str] | None:
    if size is None:
        return "missing", f"{wanted} bytes"
    if size != wanted:
        return "cut short" if size < wanted else "too long", f"{size} bytes of {wanted}"
    return None


def check_shard(shard: IndexedShard) -> tuple[Damage, str] | None:
    """What is wrong with a shard, in a class and in words; None: it is as it was written. Memory: one chunk."""
    length = size(shard.path)
    if length is None or length != shard.size:
        return _compare(length, shard.size)
    digest, wrong, at = hashlib.sha256(), [], 0
    with range_reader(shard.path) as read:
        for offset, num_bytes, crc32, name in shard.members:
            for piece in _pieces(read, at, offset):
                digest.update(piece)
            seen = 0
            for piece in _pieces(read, offset, offset + num_bytes):
                digest.update(piece)
                seen = isal_zlib.crc32(piece, seen)
            if seen != crc32:
                wrong.append(name)
            at = offset + num_bytes
        for piece in _pieces(read, at, length):
            digest.update(piece)
    if wrong:
        return "damaged", ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    if digest.hexdigest() != shard.sha256:
        return "damaged", "between the members, in the tar's headers"
    return None


def _pieces(read: RangeReader, start: int, stop: int) -> Iterator[bytes]:
    for offset in range(start, stop, CHUNK_BYTES):
        yield read(offset, min(CHUNK_BYTES, stop - offset))
