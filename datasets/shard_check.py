"""Shards against their index: lengths at a glance; checksums of members and of the whole, in one pass over a shard."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from isal import isal_zlib

from .object_store import ObjectPath, describe
from .storage import Location
from .store_requests import attempt

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
    objects = [place for place in shards if isinstance(place, ObjectPath)]
    sizes: dict[Location, int | None] = {
        place: int(info.size or 0) if info.is_file else None
        for place, info in zip(objects, describe(objects), strict=True)
    }
    sizes |= {place: _size(place) for place in shards if not isinstance(place, ObjectPath)}
    told = {place: _compare(sizes[place], wanted) for place, wanted in shards.items()}
    return {place: damage for place, damage in told.items() if damage}


def _compare(size: int | None, wanted: int) -> tuple[Damage, str] | None:
    if size is None:
        return "missing", f"{wanted} bytes"
    if size != wanted:
        return "cut short" if size < wanted else "too long", f"{size} bytes of {wanted}"
    return None


def check_shard(shard: IndexedShard) -> tuple[Damage, str] | None:
    """What is wrong with a shard, in a class and in words; None: it is as it was written. Memory: one chunk."""
    size = _size(shard.path)
    if size is None or size != shard.size:
        return _compare(size, shard.size)
    digest, wrong, at = hashlib.sha256(), [], 0
    with _reader(shard.path) as read:
        for offset, length, crc32, name in shard.members:
            for piece in _pieces(read, at, offset):
                digest.update(piece)
            seen = 0
            for piece in _pieces(read, offset, offset + length):
                digest.update(piece)
                seen = isal_zlib.crc32(piece, seen)
            if seen != crc32:
                wrong.append(name)
            at = offset + length
        for piece in _pieces(read, at, size):
            digest.update(piece)
    if wrong:
        return "damaged", ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    if digest.hexdigest() != shard.sha256:
        return "damaged", "between the members, in the tar's headers"
    return None


def _size(path: Location) -> int | None:
    if isinstance(path, ObjectPath):
        (info,) = describe([path])
        return int(info.size or 0) if info.is_file else None
    return path.stat().st_size if path.is_file() else None


@contextlib.contextmanager
def _reader(path: Location) -> Iterator[Callable[[int, int], bytes]]:
    """`(offset, size) → bytes` of a file or an object."""
    if isinstance(path, ObjectPath):
        with path.open() as stream:
            yield lambda offset, size: attempt(path, lambda: stream.read_at(size, offset))
    else:
        with path.open("rb") as file:
            yield lambda offset, size: os.pread(file.fileno(), size, offset)


def _pieces(read: Callable[[int, int], bytes], start: int, stop: int) -> Iterator[bytes]:
    for offset in range(start, stop, CHUNK_BYTES):
        yield read(offset, min(CHUNK_BYTES, stop - offset))
