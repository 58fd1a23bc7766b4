"""Integrity of training states on disk: presence, size and checksum of every file."""

from __future__ import annotations

import functools
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isal import isal_zlib

from ...datasets.storage.digests import json_digest

COMPLETE = "complete.json"


def find_damage(folder: Path, share: slice | None = slice(None)) -> str | None:
    """Describe the damage of a training state; None if it is intact.

    Args:
        folder: folder of the state.
        share: slice of the sorted files whose checksums are verified; None checks only names and sizes.
    """
    try:
        facts = json.loads((folder / COMPLETE).read_bytes())
        # The first versions wrote only names and sizes.
        has_sums = "digest" in facts or "crc32" in facts
        if has_sums and facts.pop("digest") != json_digest(facts):
            return f"{COMPLETE} is damaged"
        sizes = sorted(facts["files"].items())
    except FileNotFoundError:
        return f"{COMPLETE} is missing"
    except (OSError, ValueError, KeyError, AttributeError):
        return f"{COMPLETE} is damaged"
    for name, written in sizes:
        size = (folder / name).stat().st_size if (folder / name).exists() else None
        if size != written:
            actual = "missing" if size is None else f"{size} bytes long"
            return f"{name} is {actual}, expected {written} bytes"
    names = sorted(facts["files"])[share] if share and has_sums else []
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda name: _checksum(folder / name, (folder / name).stat().st_mtime_ns), names))
    for name, crc in zip(names, sums, strict=True):
        if crc != facts["crc32"][name]:
            return f"{name} is damaged: its crc32 is {crc}, expected {facts['crc32'][name]}"
    return None


@functools.cache
def warn_damaged_state(folder: Path, damage: str) -> None:
    """Warn once per process about a training state that is skipped."""
    logging.getLogger(__name__).warning(
        "skipping the damaged training state %s (%s), resuming from the previous one", folder, damage
    )


@functools.lru_cache(4096)
def _checksum(file: Path, changed_ns: int) -> int | None:
    """Compute the crc32 of a file; None if it cannot be read. Cached, because a start needs it several times."""
    crc = 0
    try:
        with file.open("rb") as opened:
            while piece := opened.read(1 << 24):
                crc = isal_zlib.crc32(piece, crc)
    except OSError:
        return None
    return crc
