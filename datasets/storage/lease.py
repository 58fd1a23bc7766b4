"""One run at a time on a folder: by a lock of the kernel, or on an object store, which has none, by claims.

Arrow has no conditional PUT, so every run writes a claim of its own, `FOLDER/.lock/.ID`, and then lists the claims:
whoever sees another live one withdraws and refuses. Of two runs at least one sees the other, if the store lists what it
has acknowledged (S3 does since 2020); two that begin in the same moment may both refuse. A claim is renewed while its
run lives. It is dead when the store's own clock says that it was not renewed for `EXPIRY_S`, or when its process is
known on this machine to be gone.

Limit: a run that is suspended for longer than that loses its claim and does not notice. No harm comes of it but double
work, since parts are whole, the same whoever writes them, and `begin` refuses another plan.
"""

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cache import scratch
from .files import Location
from .requests import StorageError
from .s3 import Entry, ObjectPath, describe, entry, listing, put

RENEWAL_S = 20.0
EXPIRY_S = 90.0


class FolderInUseError(Exception):
    """Another run holds the folder; the message says which, and what to do."""


@contextlib.contextmanager
def folder_lock(folder: Location) -> Iterator[None]:
    """Hold a folder while the block runs; it is let go of when the process dies, however it dies.

    Raises:
        FolderInUseError: another run holds it.
        StorageError: the store does not let us.
    """
    with folder_claim(folder) if isinstance(folder, ObjectPath) else _locked(folder):
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise FolderInUseError(
                f"{folder} is in use by another run (process {holder}): wait for it to end, or choose another --out"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def folder_claim(folder: ObjectPath) -> Iterator[None]:
    """Hold a folder while the block runs.

    Raises:
        FolderInUseError: another run holds it.
        StorageError: the store does not let us.
    """
    claim = folder / ".lock" / f".{uuid.uuid4().hex}"
    _write(claim)
    try:
        (own,) = (entry(info) for info in describe([claim]))
        for other in listing(claim.parent):
            if other.path != claim and _is_live(other, own):
                raise FolderInUseError(_refusal(folder, other, own))
        stop = threading.Event()
        heart = threading.Thread(target=_renew, args=(claim, stop), daemon=True)
        heart.start()
        try:
            yield
        finally:
            stop.set()
            heart.join()
    finally:
        with contextlib.suppress(StorageError):  # it expires by itself, and must not hide why the run ended
            claim.unlink(missing_ok=True)


def _renew(claim: ObjectPath, stop: threading.Event) -> None:
    while not stop.wait(RENEWAL_S):
        with contextlib.suppress(OSError):  # a store that is away now may be back at the next beat
            _write(claim)


def _write(claim: ObjectPath) -> None:
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        file = Path(folder) / "claim.json"
        file.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "space": _process_space()}))
        put(file, claim)


def _is_live(other: Entry, own: Entry) -> bool:
    """Whether a claim's run lives; what is left of one that does not is removed."""
    holder = _read(other)
    if holder is None:
        return False
    live = own.modified_ns - other.modified_ns < EXPIRY_S * 1e9
    if holder.get("space") == _process_space():
        live = live and Path(f"/proc/{holder.get('process')}").exists()
    if not live:
        other.path.unlink(missing_ok=True)
    return live


def _read(claim: Entry) -> dict[str, Any] | None:
    """Who made a claim; None if it was withdrawn meanwhile."""
    try:
        holder = json.loads(claim.path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _process_space() -> str | None:
    """Names this boot and this process table: only within them a process number means one process."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - no path
    except OSError:
        return None


def _refusal(folder: ObjectPath, other: Entry, own: Entry) -> str:
    holder = _read(other) or {}
    age_s = max(0.0, (own.modified_ns - other.modified_ns) / 1e9)
    return (
        f"{folder} is in use by another run (process {holder.get('process', 'unknown')} on "
        f"{holder.get('host', 'an unknown host')}, seen {age_s:.0f} s ago): wait for it to end, or choose another "
        f"--out. If it was killed, its claim ends by itself {EXPIRY_S:.0f} s after it was last seen; to break it at "
        f"once, delete {other.path}"
    )
