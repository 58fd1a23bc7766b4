"""Results of networks, kept by content: one file per result, named by the digest of all that determines it.

A result has arrays and a JSON value: a safetensors file, or without arrays a JSON file. Each file has a digest of its
content, and those of the files from which it was made, so that the results of a file can be removed with it. A damaged
file counts as missing and is written again; nothing is ever unpickled.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from ... import SteadyDancerError
from .atomic import atomic_write
from .digests import json_digest
from .files import Location, files_below, opened
from .locations import location

Array = np.ndarray[Any, Any]

_log = logging.getLogger(__name__)

_TENSORS, _VALUE = ".safetensors", ".json"
_CONTENT, _FILES = "content", "made_from"
_LENGTH_BYTES = 8  # of a safetensors header's length
_OLD_S = 24 * 3600  # an unfinished file of this age is of a process that was killed


@dataclass(frozen=True)
class Result:
    """What a computation returned.

    Attributes:
        arrays: arrays by name.
        value: JSON value.
        made_from: digests of the files that it was made from; None: not known.
    """

    arrays: Mapping[str, Array] = field(default_factory=dict)
    value: Any = None
    made_from: Iterable[str] | None = None


class ResultStore:
    """Results in a folder, local or on a store, which several processes and runs may use at the same time.

    Args:
        folder: holds one folder per kind of result; created when a result is written.
    """

    def __init__(self, folder: str | Location) -> None:
        self.folder = location(folder)

    @staticmethod
    def key(kind: str, **determined_by: Any) -> str:
        """Return the key of a result: its kind and the digest of the JSON values that determine it."""
        return f"{kind}/{json_digest(determined_by)}"

    def has(self, key: str) -> bool:
        """Return whether a result is kept. It may be damaged."""
        return any(self._file(key, suffix).is_file() for suffix in (_TENSORS, _VALUE))

    def get(self, key: str) -> Result | None:
        """Read a result; None if it is not kept, or damaged."""
        for suffix in (_TENSORS, _VALUE):
            place = self._file(key, suffix)
            if not place.is_file():
                continue
            try:
                return _read(place)
            except FileNotFoundError:
                continue
            except (SafetensorError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s is damaged (%s) and is computed again", place, error)
        return None

    def require(self, key: str) -> Result:
        """Read a result that an earlier stage wrote.

        Raises:
            SteadyDancerError: it is missing or damaged.
        """
        found = self.get(key)
        if found is None:
            raise SteadyDancerError(
                f"{self.folder} has no usable result {key}, which an earlier stage wrote: it was removed or damaged "
                "while the job ran; run the same command again"
            )
        return found

    def put(
        self,
        key: str,
        arrays: Mapping[str, Array] | None = None,
        value: Any = None,
        made_from: Iterable[str] | None = None,
    ) -> None:
        """Write a result atomically."""
        kept = _contiguous(arrays or {})
        place = self._file(key, _TENSORS if kept else _VALUE)
        if isinstance(place, Path):
            place.parent.mkdir(parents=True, exist_ok=True)
        text, files = _text(value), _sorted(made_from)
        content = {"value": text, "digest": _digest(kept, text, files)} | ({} if files is None else {_FILES: files})
        with atomic_write(place) as aside:
            if kept:
                save_file(kept, aside, metadata={_CONTENT: json.dumps(content)})  # one entry: several have no order
            else:
                aside.write_text(json.dumps(content), encoding="utf-8")

    def put_by_content(
        self, kind: str, arrays: Mapping[str, Array], value: Any = None, made_from: Iterable[str] | None = None
    ) -> str:
        """Keep a result under the digest of its content and of what it was made from; return its key."""
        kept, files = _contiguous(arrays), _sorted(made_from)
        key = f"{kind}/{_digest(kept, _text(value), files)}"
        if self.get(key) is None:
            self.put(key, kept, value, files)
        return key

    def get_or_compute(self, key: str, compute: Callable[[], Result]) -> Result:
        """Read a result, or compute and write it. Processes on one machine compute a result once: others wait for it.

        On a store, two processes may compute the same result at the same time, to the same content.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._only_one(key):
            found = self.get(key)
            if found is None:
                found = compute()
                self.put(key, found.arrays, found.value, found.made_from)
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of results of each kind."""
        return dict(sorted(Counter(file.parent.name for file in self._files()).items()))

    def made_from(self, files: Collection[str]) -> list[Location]:
        """Return the results that were made from one of these files, and those of which it is not known or readable.

        Args:
            files: their digests.
        """
        wanted = frozenset(files)
        return [place for place in self._files() if (known := _made_from(place)) is None or wanted & known]

    def remove_leftovers(self) -> None:
        """Remove unfinished files of processes that were killed a day ago or earlier."""
        if not isinstance(self.folder, Path):
            return
        for file in self.folder.rglob(".*"):
            with contextlib.suppress(OSError):
                if file.is_file() and time.time() - file.stat().st_mtime > _OLD_S:
                    file.unlink()

    def _files(self) -> list[Location]:
        if not self.folder.is_dir():
            return []
        files = files_below(self.folder)
        return [file for file in files if file.suffix in (_TENSORS, _VALUE) and not file.name.startswith(".")]

    def _file(self, key: str, suffix: str) -> Location:
        return self.folder / f"{key}{suffix}"

    @contextlib.contextmanager
    def _only_one(self, key: str) -> Iterator[None]:
        """Hold a lock on a key, which the system releases if the process is killed. Without effect on a store."""
        place = self._file(key, ".lock")
        if not isinstance(place, Path):
            yield
            return
        lock = place.with_name(f".{place.name}")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)  # who waits holds the old file, and finds the result


def _contiguous(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _read(place: Location) -> Result:
    """Read a file of a result.

    Raises:
        ValueError: its content has another digest.
        KeyError, TypeError, SafetensorError: it does not have the format.
    """
    with opened(place) as file:
        data = file.read()
    arrays: dict[str, Array] = {} if place.suffix == _VALUE else load(data)
    content = _content(place, data)
    if _digest(arrays, content["value"], content.get(_FILES)) != content["digest"]:
        raise ValueError("its digest is not that of its content")
    return Result(arrays, json.loads(content["value"]), content.get(_FILES))


def _made_from(place: Location) -> frozenset[str] | None:
    """Return the digests of the files that a result was made from; None if it does not say, or cannot be read."""
    try:
        with opened(place) as file:
            data = file.read(_LENGTH_BYTES)
            data += file.read(-1 if place.suffix == _VALUE else int.from_bytes(data, "little"))
        files = _content(place, data).get(_FILES)
    except (ValueError, KeyError, TypeError):
        return None
    return None if files is None else frozenset(files)


def _content(place: Location, data: bytes) -> dict[str, Any]:
    """Return the JSON entry of a file, of which the tensors need not be there."""
    if place.suffix == _VALUE:
        content: dict[str, Any] = json.loads(data)
        return content
    header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")])
    content = json.loads(header["__metadata__"][_CONTENT])
    return content


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _sorted(made_from: Iterable[str] | None) -> list[str] | None:
    return None if made_from is None else sorted(set(made_from))


def _digest(arrays: Mapping[str, Array], text: str, files: Collection[str] | None = None) -> str:
    total = hashlib.sha256(text.encode())
    if files is not None:
        total.update(json.dumps([*files]).encode())
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
