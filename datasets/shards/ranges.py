"""Pieces of shards: read from open files, or of a store fetched once a machine, kept there, and checked before use."""

import os
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from ..storage.cache import cached_entry, drop
from ..storage.digests import json_digest
from ..storage.files import Location
from ..storage.requests import attempt
from ..storage.s3 import ObjectPath


class PieceReader:
    """Reads members of shards.

    Args:
        open_files: how many shards of this machine stay open.
    """

    def __init__(self, open_files: int) -> None:
        # A file that falls out is closed when nobody reads from it any more.
        self._file: Callable[[Path], BinaryIO] = lru_cache(maxsize=open_files)(lambda shard: shard.open("rb"))

    def __call__(
        self, shard: Location, members: list[dict[str, Any]], is_sound: Callable[[list[bytes]], bool]
    ) -> list[bytes]:
        """Read members that follow each other, with `offset` and `size`; of an object in one request (`read_range`).

        Args:
            shard: the tar.
            members: rows of the index.
            is_sound: whether pieces are what they should be; asked of what was fetched and kept.

        Raises:
            FileNotFoundError: there is no such shard.
            StorageError: the store denies it or cannot be reached.
        """
        if isinstance(shard, Path):
            file = self._file(shard)
            return [os.pread(file.fileno(), member["size"], member["offset"]) for member in members]
        # Each request costs its way to the store and back.
        start, stop = members[0]["offset"], members[-1]["offset"] + members[-1]["size"]

        def cut(span: bytes) -> list[bytes]:
            return [span[m["offset"] - start : m["offset"] - start + m["size"]] for m in members]

        return cut(read_range(shard, start, stop - start, json_digest(members), lambda span: is_sound(cut(span))))


def read_range(path: ObjectPath, offset: int, size: int, digest: str, is_sound: Callable[[bytes], bool]) -> bytes:
    """`size` bytes of an object that does not change, from the copy on this machine if there is one.

    A copy that is not sound is forgotten and the object asked again, so that neither a disk of this machine nor an
    object that was damaged and has been mended since stays wrong for ever. What is given back after that may still
    not be sound, or be too short: then the object is not.

    Args:
        path: of the object.
        offset: where the bytes begin.
        size: how many they are.
        digest: of what they should be: a cache that was made anew under the old name has another.
        is_sound: whether they are it.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the store denies it or cannot be reached.
    """
    key = sha256(f"{path} {offset} {size} {digest}".encode()).hexdigest()
    with cached_entry(key, partial(_fetch, path, offset, size)) as folder:
        data = (folder / "bytes").read_bytes()
    if is_sound(data):
        return data
    drop(key)
    return _read(path, offset, size)


def _fetch(path: ObjectPath, offset: int, size: int, folder: Path) -> None:
    (folder / "bytes").write_bytes(_read(path, offset, size))


def _read(path: ObjectPath, offset: int, size: int) -> bytes:
    with path.open() as file:
        # Arrow refuses to begin behind the end, and says no more of it than that it will not.
        there = max(0, min(size, file.size() - offset))
        return bytes(attempt(path, lambda: file.read_at(there, offset))) if there else b""
