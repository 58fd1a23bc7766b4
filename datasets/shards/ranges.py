"""Read byte ranges of shards, from open local files or, for object stores, through a checked cache on this machine."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..storage.cache import cached_entry, drop
from ..storage.digests import json_digest
from ..storage.files import Location
from ..storage.requests import call_with_retries
from ..storage.s3 import ObjectPath
from .memory import ReusedMemory, read_into

T = TypeVar("T", bytes, memoryview)


class MemberReader:
    """Reads members of shards.

    Args:
        open_files: number of local shards that stay open.
        memory: where bytes of local shards are read to; None: to new memory.
    """

    def __init__(self, open_files: int, memory: ReusedMemory | None = None) -> None:
        self._memory = memory
        # An evicted file is closed when its last reader releases it.
        self._file: Callable[[Path], BinaryIO] = lru_cache(maxsize=open_files)(lambda shard: shard.open("rb"))

    def __call__(
        self, shard: Location, members: list[dict[str, Any]], is_valid: Callable[[list[bytes]], bool]
    ) -> Sequence[bytes | memoryview]:
        """Read adjacent members, in one read if they are an object (`read_range`) or go to reused memory.

        Args:
            shard: path of the tar.
            members: rows of the index, with `offset` and `size`.
            is_valid: return whether the bytes of the members are correct. Called for objects only.

        Raises:
            FileNotFoundError: the shard does not exist.
            StorageError: the store denies access or cannot be reached.
        """
        start, stop = members[0]["offset"], members[-1]["offset"] + members[-1]["size"]

        def cut(span: T) -> list[T]:
            return [span[m["offset"] - start : m["offset"] - start + m["size"]] for m in members]

        if isinstance(shard, Path):
            file = self._file(shard)
            if self._memory is not None:
                return cut(read_into(file.fileno(), self._memory.take(stop - start), start))
            return [os.pread(file.fileno(), member["size"], member["offset"]) for member in members]
        # Each request costs a round trip to the store.
        return cut(read_range(shard, start, stop - start, json_digest(members), lambda span: is_valid(cut(span))))


def read_range(path: ObjectPath, offset: int, size: int, digest: str, is_valid: Callable[[bytes], bool]) -> bytes:
    """Read `size` bytes of an immutable object, from the copy on this machine if one exists.

    A corrupt copy is dropped and the object is read again, so neither a disk error on this machine nor an object that
    has since been repaired fails forever. If the bytes are still corrupt or short after the retry, the object itself
    is damaged.

    Args:
        path: path of the object.
        offset: start of the range in bytes.
        size: length of the range in bytes.
        digest: digest of the expected content. It differs if the cache was rebuilt under the same name.
        is_valid: return whether the bytes are correct.

    Raises:
        FileNotFoundError: the object does not exist.
        StorageError: the store denies access or cannot be reached.
    """
    key = sha256(f"{path} {offset} {size} {digest}".encode()).hexdigest()
    with cached_entry(key, partial(_fetch, path, offset, size)) as folder:
        data = (folder / "bytes").read_bytes()
    if is_valid(data):
        return data
    drop(key)
    return _read(path, offset, size)


def _fetch(path: ObjectPath, offset: int, size: int, folder: Path) -> None:
    (folder / "bytes").write_bytes(_read(path, offset, size))


def _read(path: ObjectPath, offset: int, size: int) -> bytes:
    with path.open() as file:
        # Arrow raises an unspecific error for a range that starts beyond the end.
        available = max(0, min(size, file.size() - offset))
        return bytes(call_with_retries(path, lambda: file.read_at(available, offset))) if available else b""
