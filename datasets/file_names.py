"""Make valid file names from user-given text, which may be long and contain any characters."""

import os
import re
from hashlib import sha256
from pathlib import Path

# Limit of common file systems, in bytes of UTF-8, which takes up to four for a character.
LONGEST_BYTES = 255
# Reserved for prefixes and suffixes: `.NAME.PID.tmp.json`, `NAME-reference.jpeg`.
_AROUND_BYTES = 25
_DIGEST_LETTERS = 10


def file_stem(text: str) -> str:
    """Convert text to a file name without suffix; the same text gives the same name.

    Letters and digits of any script, `_`, `-` and `.` are kept; runs of other characters become `_`. A name that is too
    long is truncated, and ends in a digest of the full name.
    """
    name = re.sub(r"[^\w.-]+", "_", text.strip())
    name = re.sub(r"^\.", "_", name)  # a leading dot would make the file hidden
    return _fitting(name, LONGEST_BYTES - _AROUND_BYTES)


def aside_of(path: Path, keeps_suffix: bool = True) -> Path:
    """Return the hidden path beside `path` for this process's write; `keeps_suffix` for writers that need it."""
    end = f".{os.getpid()}.tmp{path.suffix if keeps_suffix else ''}"
    return path.with_name("." + _fitting(path.stem, LONGEST_BYTES - 1 - len(os.fsencode(end))) + end)


def _fitting(name: str, most_bytes: int) -> str:
    data = os.fsencode(name)
    if len(data) <= most_bytes:
        return name
    end = f"-{sha256(data).hexdigest()[:_DIGEST_LETTERS]}"
    return data[: most_bytes - len(end)].decode(errors="ignore") + end
