"""Pieces of shards on a store: fetched once a machine, kept there, and not believed before they were checked."""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from .node_cache import drop, held
from .object_store import ObjectPath
from .store_requests import attempt


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
    with held(key, partial(_fetch, path, offset, size)) as folder:
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
