"""Local copies of a row's files while a stage reads them, and checks that sources are unchanged since curation."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from ...datasets.local_copies import local_copy
from ...datasets.schema import Row
from ...datasets.source_content import content_mismatch
from ...datasets.storage import is_address
from ...datasets.video import VideoError
from .stage import BadClip

Function = Callable[[Row, Any, Any], "Row | list[Row]"]


def on_local_copies(*columns: str, unchanged_since: str | None = None) -> Callable[[Function], Function]:
    """Wrap a stage function so that it receives local paths in these columns; its output has the original paths.

    Error details name the original address, not the local copy.

    Args:
        columns: columns with paths of files.
        unchanged_since: column with the content digest that the first file had at curation. The digest is checked
            before and after the stage; a row whose file was replaced is quarantined as `source_changed`.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def on_local_files(row: Row, config: Any, tools: Any = None) -> Row | list[Row]:
            remote = {name: row[name] for name in columns if row.get(name) and is_address(row[name])}
            with contextlib.ExitStack() as stack:
                copies = {name: str(stack.enter_context(local_copy(address))) for name, address in remote.items()}
                local = {**row, **copies}

                def with_addresses(detail: str) -> str:
                    for name, copy in copies.items():
                        detail = detail.replace(copy, remote[name])
                    return detail

                try:
                    with require_unchanged(local[columns[0]], row.get(unchanged_since) if unchanged_since else None):
                        out = function(local, config, tools)
                except BadClip as bad:
                    raise BadClip(bad.reason, with_addresses(bad.detail)) from bad
            if not remote:
                return out
            rows = out if isinstance(out, list) else [out]
            restored = [
                {**one, **remote, **({"detail": with_addresses(one["detail"])} if one.get("detail") else {})}
                for one in rows
            ]
            return restored if isinstance(out, list) else restored[0]

        return on_local_files

    return decorate


@contextlib.contextmanager
def require_unchanged(path: str | os.PathLike[str], source_id: str | None) -> Iterator[None]:
    """Check a file's digest before and after the block, also if the block fails; do nothing if `source_id` is None.

    Raises:
        BadClip: the file cannot be opened (`unreadable`) or its content has changed (`source_changed`).
    """
    if source_id is None:
        yield
        return
    _check_unchanged(path, source_id)
    try:
        yield
    except Exception:
        _check_unchanged(path, source_id)  # a mix of two files can cause any error: report the replacement instead
        raise
    _check_unchanged(path, source_id)


@contextlib.contextmanager
def reading_video(named: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Turn a `VideoError` in the block into `BadClip`, which quarantines the clip instead of stopping the job.

    Args:
        named: path to put before the detail, for rows with several files.

    Raises:
        BadClip: a video cannot be read.
    """
    try:
        yield
    except VideoError as error:
        raise BadClip(error.reason, error.detail if named is None else f"{named}: {error.detail}") from error


def _check_unchanged(path: str | os.PathLike[str], source_id: str) -> None:
    with reading_video():
        changed = content_mismatch(path, source_id)
    if changed:
        raise BadClip("source_changed", changed)
