"""Digests of JSON values, files and folders, and differences between JSON values."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from .files import Location, files_below, name_below, opened
from .locations import location
from .s3 import CHUNK_BYTES, ObjectPath


def json_digest(value: Any) -> str:
    """Return the sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def content_digest(path: str | os.PathLike[str] | ObjectPath) -> str:
    """Return the sha256 of a file's bytes, or of the (relative name, digest) pairs of a folder's visible files.

    Raises:
        FileNotFoundError: `path` does not exist.
    """
    path = location(path)
    if not path.is_dir():
        return _file_digest(path)
    files = {name_below(file, path): file for file in files_below(path) if not file.name.startswith(".")}
    return folder_digest({name: _file_digest(file) for name, file in files.items()})


def folder_digest(digests: Mapping[str, str]) -> str:
    """Return the `content_digest` of a folder from the digests of its files by their relative names."""
    return json_digest([[name, digests[name]] for name in sorted(digests, key=PurePosixPath)])


def _file_digest(path: Location) -> str:
    digest = hashlib.sha256()
    with opened(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield `field: old → new` for every leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {_short(old)} → {_short(new)}"


def format_differences(old: Any, new: Any, most: int = 8) -> str:
    """Format the first `most` differences of two JSON values as lines of a message; empty if there are none."""
    return "\n".join(f"  {change}" for change in islice(differences(old, new), most))


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}…"
