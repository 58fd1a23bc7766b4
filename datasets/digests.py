"""What names a value, a file or a folder by its content, and what tells two values apart."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from .object_store import CHUNK_BYTES, ObjectPath, listing
from .storage import location
from .store_requests import told


def json_digest(value: Any) -> str:
    """sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def content_digest(path: str | os.PathLike[str] | ObjectPath) -> str:
    """sha256 of a file's bytes; of a folder, of the (relative name, digest) pairs of its visible files.

    Raises:
        FileNotFoundError: there is nothing.
    """
    path = location(path)
    if isinstance(path, ObjectPath):
        return _content_digest_on_store(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        return json_digest([[p.relative_to(path).as_posix(), content_digest(p)] for p in files])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content_digest_on_store(path: ObjectPath) -> str:
    if path.is_file():
        digest = hashlib.sha256()
        with path.open() as file, told(path):
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()
    visible = [found.path for found in listing(path) if not found.path.name.startswith(".")]
    if not visible:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    names = {PurePosixPath(found.key.removeprefix(f"{path.key}/")): found for found in visible}
    return json_digest([[str(name), _content_digest_on_store(names[name])] for name in sorted(names)])


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """`field: old → new` for every leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {_short(old)} → {_short(new)}"


def shown_differences(old: Any, new: Any, most: int = 8) -> str:
    """The first `most` differences of two JSON values as lines of a message; empty where there are none."""
    return "\n".join(f"  {change}" for change in islice(differences(old, new), most))


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}…"
