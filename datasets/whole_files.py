"""Files that readers see whole or not at all, on this machine or on an object store."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .file_names import aside_of
from .node_cache import scratch
from .object_store import ObjectPath, put
from .storage import location


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str] | ObjectPath) -> Iterator[Path]:
    """Yield a hidden path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    For an object the hidden path is a file of this machine, and the renaming its upload.
    """
    path = location(path)
    if isinstance(path, ObjectPath):
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            aside = Path(folder) / path.name
            yield aside
            put(aside, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        if error.filename is None:  # Arrow and full disks name no file
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str] | ObjectPath, value: Any) -> None:
    """Write a JSON file so that readers see all of it or none.

    Raises:
        ValueError: NaN or infinity, which JSON does not have; what was not measured is None.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with written_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
