"""Local cache of objects fetched from a store, limited in bytes, shared by all processes of the machine.

An entry is a folder named by the digest of its content and created by a rename. Readers hold a shared lock on it. When
the cache exceeds its limit, unlocked entries are removed, least recently used first. `STEADYDANCER_SCRATCH_GB` (20)
sets the limit, `STEADYDANCER_SCRATCH` (`~/.cache/steadydancer`) the folder.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ... import SteadyDancerError
from .disk import errors_name, sync

_DEFAULT_GB = "20"
_PRIVATE = 0o700  # the folder holds people's videos and networks
# The whole cache is scanned once this share of the limit has been added since the last scan.
_SHARE_BETWEEN_SCANS = 0.02

_added_bytes: int | None = None


def scratch_dir() -> Path:
    """Return the local scratch folder for copies of remote files; create it, for this user alone, if it does not exist.

    Raises:
        SteadyDancerError: the folder cannot be created; the message names the variable that sets it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("STEADYDANCER_SCRATCH") or Path(home) / "steadydancer").absolute()
    try:
        if not folder.is_dir():
            folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        elif not os.environ.get("STEADYDANCER_SCRATCH") and folder.stat().st_uid == os.getuid():
            folder.chmod(_PRIVATE)  # of an earlier version; a folder that the user chose keeps its mode
    except OSError as error:
        raise SteadyDancerError(_cannot_be_written(folder, error)) from error
    return folder


def require_scratch() -> None:
    """Check that the scratch folder is writable before it is needed.

    Raises:
        SteadyDancerError: it is not writable; the message names the variable that sets it.
    """
    folder = scratch_dir()
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SteadyDancerError(_cannot_be_written(folder, error)) from error


def _cannot_be_written(folder: Path, error: OSError) -> str:
    origin = "set by STEADYDANCER_SCRATCH" if os.environ.get("STEADYDANCER_SCRATCH") else "the default"
    return (
        f"The scratch folder {folder} ({origin}) is not writable ({error.strerror or error}). Jobs keep temporary "
        "files there: set STEADYDANCER_SCRATCH to a writable folder"
    )


def limit_bytes() -> int:
    """Return the size limit of the cache in bytes.

    Raises:
        SteadyDancerError: the environment variable is not a number.
    """
    text = os.environ.get("STEADYDANCER_SCRATCH_GB") or _DEFAULT_GB
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise SteadyDancerError(f"STEADYDANCER_SCRATCH_GB: {text!r} is not a number of gigabytes") from None


@contextlib.contextmanager
def cached_entry(key: str, fetch: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the folder of a cache entry, which is kept at least until the block ends.

    Args:
        key: identifies the content; different content needs a different key.
        fetch: fills an empty folder with the content; called only if the entry is not cached yet.
    """
    folder = _entries() / key
    while True:
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            _fill(folder, fetch)
            continue
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_same(lock, folder):
            break
        os.close(lock)  # the entry was removed between `open` and `flock`
    try:
        os.utime(folder)
        yield folder
    finally:
        os.close(lock)


def drop(key: str) -> None:
    """Remove a corrupt entry, unless a process holds it."""
    _remove_if_free(_entries() / key)


def _fill(folder: Path, fetch: Callable[[Path], None]) -> None:
    global _added_bytes
    # One process fetches and the others wait, because components are gigabytes large. All keys share 256 locks.
    locks = scratch_dir() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / folder.name[:2]).open("w") as slot:
        fcntl.flock(slot, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        aside = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        mark = os.open(aside, os.O_RDONLY)  # locked while its owner is alive
        try:
            fcntl.flock(mark, fcntl.LOCK_EX)
            with errors_name(scratch_dir()):
                fetch(aside)
                for file in _files(aside):
                    sync(file)  # a power failure must not leave an entry of zeros
                size = _size(aside)
                aside.rename(folder)
        finally:
            os.close(mark)
            shutil.rmtree(aside, ignore_errors=True)
    limit = limit_bytes()
    if _added_bytes is None or _added_bytes + size > limit * _SHARE_BETWEEN_SCANS:
        _make_room(limit, folder)
        _added_bytes = 0
    else:
        _added_bytes += size


def _make_room(limit: int, newest: Path) -> None:
    """Remove unlocked entries, least recently used first, until the cache is within its limit."""
    sizes = {}
    for folder in _entries().iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process may be removing entries, too
            if folder.name.startswith("."):
                _remove_if_free(folder)  # leftover of a killed process
            else:
                sizes[folder] = (folder.stat().st_mtime_ns, _size(folder))
    total = sum(size for _, size in sizes.values())
    for folder, (_, size) in sorted(sizes.items(), key=lambda item: item[1]):
        if total <= limit:
            return
        if folder != newest and _remove_if_free(folder):
            total -= size


def _remove_if_free(folder: Path) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        folder.rename(removed)
    except OSError:  # another process holds the entry or has removed it
        return False
    finally:
        os.close(lock)
    shutil.rmtree(removed, ignore_errors=True)
    return True


def _entries() -> Path:
    folder = scratch_dir() / "entries"
    folder.mkdir(exist_ok=True)
    return folder


def _is_same(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))
