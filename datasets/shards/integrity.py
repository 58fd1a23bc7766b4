"""Check shards against their index: sizes without reading, checksums of members and of the file in one pass."""

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
    """A shard as recorded in the index.

    Attributes:
        path: path of the tar.
        size: bytes of the tar.
        sha256: digest of the tar.
        members: (offset, size, crc32, name) of each member, sorted by offset.
    """

    path: Location
    size: int
    sha256: str
    members: list[tuple[int, int, int, str]]


def wrong_sizes(shards: Mapping[Location, int]) -> dict[Location, tuple[Damage, str]]:
    """Find shards that are missing or have the wrong size, without reading them.

    Args:
        shards: path → bytes by the index. All are local or all in one bucket.
    """
    actual = sizes(shards)
    compared = {path: _compare(actual[path], expected) for path, expected in shards.items()}
    return {path: damage for path, damage in compared.items() if damage}


def _compare(size: int | None, expected: int) -> tuple[Damage, str] | None:
    if size is None:
        return "missing", f"{expected} bytes"
    if size != expected:
        return "cut short" if size < expected else "too long", f"{size} bytes of {expected}"
    return None


def check_shard(shard: IndexedShard) -> tuple[Damage, str] | None:
    """Read a shard and return the kind and the description of its damage, or None. Memory: one chunk."""
    length = size(shard.path)
    if length is None or length != shard.size:
        return _compare(length, shard.size)
    digest, damaged, at = hashlib.sha256(), [], 0
    with range_reader(shard.path) as read:
        for offset, num_bytes, crc32, name in shard.members:
            for piece in _pieces(read, at, offset):
                digest.update(piece)
            actual = 0
            for piece in _pieces(read, offset, offset + num_bytes):
                digest.update(piece)
                actual = isal_zlib.crc32(piece, actual)
            if actual != crc32:
                damaged.append(name)
            at = offset + num_bytes
        for piece in _pieces(read, at, length):
            digest.update(piece)
    if damaged:
        return "damaged", ", ".join(damaged[:3]) + (f" and {len(damaged) - 3} more" if len(damaged) > 3 else "")
    if digest.hexdigest() != shard.sha256:
        return "damaged", "outside the members (tar headers or padding)"
    return None


def _pieces(read: RangeReader, start: int, stop: int) -> Iterator[bytes]:
    for offset in range(start, stop, CHUNK_BYTES):
        yield read(offset, min(CHUNK_BYTES, stop - offset))
