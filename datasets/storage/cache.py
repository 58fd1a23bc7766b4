"""What was fetched from a store and lies on this machine, bounded in bytes, shared by all processes of the machine.

An entry is a folder under the digest of what it holds. It appears whole, by a rename; whoever reads it holds a shared
lock on it, and what nobody holds is removed, the longest unused first, when the limit is passed. The limit is
`STEADYDANCER_SCRATCH_GB` (20), the place `STEADYDANCER_SCRATCH` (`~/.cache/steadydancer`).
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ... import SteadyDancerError

_DEFAULT_GB = "20"
# The whole cache is looked through when this share of the limit has been added since it last was.
_SHARE_BETWEEN_LOOKS = 0.02

_added_bytes: int | None = None


def scratch() -> Path:
    """The folder of this machine for copies of what lies elsewhere; made if it is not there.

    Raises:
        SteadyDancerError: it cannot be made; the message names the variable that says where it is.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("STEADYDANCER_SCRATCH") or Path(home) / "steadydancer").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SteadyDancerError(_cannot_be_written(folder, error)) from error
    return folder


def require_scratch() -> None:
    """Find out whether something can be written there, before there is something to write.

    Raises:
        SteadyDancerError: it cannot; the message names the variable that says where it is.
    """
    folder = scratch()
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SteadyDancerError(_cannot_be_written(folder, error)) from error


def _cannot_be_written(folder: Path, error: OSError) -> str:
    where = "as STEADYDANCER_SCRATCH says" if os.environ.get("STEADYDANCER_SCRATCH") else "in the home folder"
    return (
        f"{folder} cannot be written ({error.strerror or error}). Jobs keep temporary files there, {where}: set "
        "STEADYDANCER_SCRATCH to a folder that can be written"
    )


def limit_bytes() -> int:
    """What the entries may weigh together.

    Raises:
        SteadyDancerError: the variable holds no number.
    """
    text = os.environ.get("STEADYDANCER_SCRATCH_GB") or _DEFAULT_GB
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise SteadyDancerError(f"STEADYDANCER_SCRATCH_GB: {text!r} is no number of gigabytes") from None


@contextlib.contextmanager
def cached_entry(key: str, fetch: Callable[[Path], None]) -> Iterator[Path]:
    """The folder of an entry, which stays at least as long as the block runs.

    Args:
        key: names the content: another content has another key.
        fetch: fills an empty folder with it; called only if no process of this machine has done so before.
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
        os.close(lock)  # it was removed between the opening and the lock
    try:
        os.utime(folder)
        yield folder
    finally:
        os.close(lock)


def drop(key: str) -> None:
    """Forget an entry that turned out to be wrong; one that somebody holds stays."""
    _remove_if_free(_entries() / key)


def _fill(folder: Path, fetch: Callable[[Path], None]) -> None:
    global _added_bytes
    # One process fetches, the others wait for it: components weigh gigabytes. 256 locks serve all keys.
    locks = scratch() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / folder.name[:2]).open("w") as slot:
        fcntl.flock(slot, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        aside = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        mark = os.open(aside, os.O_RDONLY)  # held: its owner lives
        try:
            fcntl.flock(mark, fcntl.LOCK_EX)
            fetch(aside)
            for file in _files(aside):
                _sync(file)  # a machine that loses power must not leave an entry of zeros
            size = _size(aside)
            aside.rename(folder)
        except OSError as error:
            if error.filename is None:  # a full disk names no file
                error.filename = str(scratch())
            raise
        finally:
            os.close(mark)
            shutil.rmtree(aside, ignore_errors=True)
    limit = limit_bytes()
    if _added_bytes is None or _added_bytes + size > limit * _SHARE_BETWEEN_LOOKS:
        _make_room(limit, folder)
        _added_bytes = 0
    else:
        _added_bytes += size


def _make_room(limit: int, newest: Path) -> None:
    """Remove what nobody holds, the longest unused first, until the rest is within the limit."""
    sizes = {}
    for folder in _entries().iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process makes room too
            if folder.name.startswith("."):
                _remove_if_free(folder)  # left by a process that was killed
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
        gone = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        folder.rename(gone)
    except OSError:  # somebody holds it, or has removed it
        return False
    finally:
        os.close(lock)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _entries() -> Path:
    folder = scratch() / "entries"
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


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
