"""One run at a time in a folder: by a kernel lock, or by claims in an object store, which has no locks.

Arrow has no conditional PUT. Every run therefore writes its own claim, `FOLDER/.lock/.ID`, and then lists the claims. A
run that sees another live claim withdraws its own and stops. If the store lists every object that it has acknowledged
(S3 does since 2020), at least one of two runs sees the other; two that start at the same moment may both stop. A run
renews its claim while it is alive. A claim is dead if it was not renewed for `EXPIRY_S` by the store's clock, or if its
process belonged to this machine and no longer exists.

Limit: a run that is suspended for longer than `EXPIRY_S` loses its claim without noticing. The only harm is duplicate
work: parts are atomic and identical for every writer, and `begin` refuses a different plan.
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

from .cache import scratch_dir
from .files import Location
from .requests import StorageError
from .s3 import Entry, ObjectPath, describe, entry, listing, upload_file

RENEWAL_S = 20.0
EXPIRY_S = 90.0


class FolderInUseError(Exception):
    """Another run is using the folder; the message names that run and what to do."""


@contextlib.contextmanager
def folder_lock(folder: Location) -> Iterator[None]:
    """Lock a folder for this run until the block ends; also released when the process is killed.

    Raises:
        FolderInUseError: another run is using the folder.
        StorageError: the store rejected the claim.
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
    """Claim a folder of a store until the block ends.

    Raises:
        FolderInUseError: another run is using the folder.
        StorageError: the store rejected the claim.
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
        with contextlib.suppress(StorageError):  # the claim expires anyway; do not hide why the run ended
            claim.unlink(missing_ok=True)


def _renew(claim: ObjectPath, stop: threading.Event) -> None:
    while not stop.wait(RENEWAL_S):
        with contextlib.suppress(OSError):  # the store may be reachable again at the next renewal
            _write(claim)


def _write(claim: ObjectPath) -> None:
    with tempfile.TemporaryDirectory(dir=scratch_dir()) as folder:
        file = Path(folder) / "claim.json"
        file.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "space": _process_space()}))
        upload_file(file, claim)


def _is_live(other: Entry, own: Entry) -> bool:
    """Check whether a claim's run is alive; remove the claim if it is not."""
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
    """Read who wrote a claim; None if it was withdrawn in the meantime."""
    try:
        holder = json.loads(claim.path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _process_space() -> str | None:
    """Return an id of this boot and PID namespace: a process id is unique only within them."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - no path
    except OSError:
        return None


def _refusal(folder: ObjectPath, other: Entry, own: Entry) -> str:
    holder = _read(other) or {}
    age_s = max(0.0, (own.modified_ns - other.modified_ns) / 1e9)
    return (
        f"{folder} is in use by another run (process {holder.get('process', 'unknown')} on "
        f"{holder.get('host', 'an unknown host')}, last seen {age_s:.0f} s ago): wait for it to end, or choose another "
        f"--out. If it was killed, its claim expires {EXPIRY_S:.0f} s after it was last seen; to remove it now, "
        f"delete {other.path}"
    )
