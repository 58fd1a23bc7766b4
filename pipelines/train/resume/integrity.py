"""Whether an engine state on the disk is what was written: every file, its size, its checksum."""

from __future__ import annotations

import functools
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isal import isal_zlib

from ....datasets.storage.digests import json_digest

COMPLETE = "complete.json"


def find_damage(folder: Path, share: slice | None = slice(None)) -> str | None:
    """What is wrong with an engine state, in words; None if nothing is.

    Args:
        folder: of the state.
        share: the files, in order of their names, whose bytes are read; None looks at names and sizes alone.
    """
    try:
        facts = json.loads((folder / COMPLETE).read_bytes())
        # The first versions wrote names and sizes alone.
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
            there = "missing" if size is None else f"{size} bytes long"
            return f"{name} is {there} where {written} bytes were written"
    names = sorted(facts["files"])[share] if share and has_sums else []
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda name: _checksum(folder / name, (folder / name).stat().st_mtime_ns), names))
    for name, crc in zip(names, sums, strict=True):
        if crc != facts["crc32"][name]:
            return f"{name} is damaged: its crc32 is {crc}, {facts['crc32'][name]} was written"
    return None


@functools.cache
def warn_damaged_state(folder: Path, wrong: str) -> None:
    """Warn, once a process, of a state that is not used."""
    logging.getLogger(__name__).warning("%s is not used, the state before it is: %s", folder, wrong)


@functools.lru_cache(4096)
def _checksum(file: Path, changed_ns: int) -> int | None:
    """crc32 of a file's bytes; None if they cannot be read. A start asks for it several times."""
    crc = 0
    try:
        with file.open("rb") as opened:
            while piece := opened.read(1 << 24):
                crc = isal_zlib.crc32(piece, crc)
    except OSError:
        return None
    return crc
