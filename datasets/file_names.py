"""Names of files out of what people call things, which may be long and have any characters."""

import os
import re
from hashlib import sha256
from pathlib import Path

# What file systems take, in bytes of UTF-8: a letter may have four.
LONGEST_BYTES = 255
# Left for what is put around a name: `.NAME.PID.tmp.json`, `NAME-reference.jpeg`.
_AROUND_BYTES = 25
_DIGEST_LETTERS = 10


def file_stem(text: str) -> str:
    """The name of a file, without a suffix, for what a person calls `text`.

    Letters and digits of any script, `_`, `-` and `.` stay; runs of others become `_`. The same text gives the same
    name. One that is too long is cut, and what tells it from others of the same beginning is put at its end.
    """
    name = re.sub(r"[^\w.-]+", "_", text.strip())
    name = re.sub(r"^\.", "_", name)  # one that begins with a dot is hidden: nobody would copy it
    return _fitting(name, LONGEST_BYTES - _AROUND_BYTES)


def aside_of(path: Path, keeps_suffix: bool = True) -> Path:
    """The hidden path beside `path` at which this process writes it; some writers go by the suffix."""
    end = f".{os.getpid()}.tmp{path.suffix if keeps_suffix else ''}"
    return path.with_name("." + _fitting(path.stem, LONGEST_BYTES - 1 - len(os.fsencode(end))) + end)


def _fitting(name: str, most_bytes: int) -> str:
    data = os.fsencode(name)
    if len(data) <= most_bytes:
        return name
    end = f"-{sha256(data).hexdigest()[:_DIGEST_LETTERS]}"
    return data[: most_bytes - len(end)].decode(errors="ignore") + end
