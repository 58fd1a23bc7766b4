"""Files of a row, on this machine while a step looks at them, and the same ones that were curated."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from ...datasets.schema import Row
from ...datasets.source_content import what_changed
from ...datasets.storage import is_address, local_copy
from ...datasets.video import VideoError
from .stage import BadClip

Function = Callable[[Row, Any, Any], "Row | list[Row]"]


def on_local_copies(*columns: str, unchanged_since: str | None = None) -> Callable[[Function], Function]:
    """A step that finds files of this machine in these columns, whatever the row says, and leaves what the row says.

    What is wrong with a file is said of its address.

    Args:
        columns: with places of files.
        unchanged_since: the column with the digest that the content of the first of them had when it was curated. The
            file is held against it before the step and after it: a row of one that was replaced meanwhile is
            quarantined as `source_changed`.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def on_local_files(row: Row, config: Any, tools: Any = None) -> Row | list[Row]:
            away = {name: row[name] for name in columns if row.get(name) and is_address(row[name])}
            with contextlib.ExitStack() as copies:
                here = {name: str(copies.enter_context(local_copy(place))) for name, place in away.items()}
                local = {**row, **here}

                def by_address(detail: str) -> str:
                    for name, copy in here.items():
                        detail = detail.replace(copy, away[name])
                    return detail

                try:
                    with require_unchanged(local[columns[0]], row.get(unchanged_since) if unchanged_since else None):
                        out = function(local, config, tools)
                except BadClip as bad:
                    raise BadClip(bad.reason, by_address(bad.detail)) from bad
            if not away:
                return out
            rows = out if isinstance(out, list) else [out]
            named = [
                {**one, **away, **({"detail": by_address(one["detail"])} if one.get("detail") else {})} for one in rows
            ]
            return named if isinstance(out, list) else named[0]

        return on_local_files

    return decorate


@contextlib.contextmanager
def require_unchanged(path: str | os.PathLike[str], source_id: str | None) -> Iterator[None]:
    """Hold a file against its digest before the block and after it, also where the block fails; None: do not look.

    Raises:
        BadClip: it cannot be opened (`unreadable`), or is another file now (`source_changed`).
    """
    if source_id is None:
        yield
        return
    _check_unchanged(path, source_id)
    try:
        yield
    except Exception:
        _check_unchanged(path, source_id)  # what was read of two files can fail in any way
        raise
    _check_unchanged(path, source_id)


@contextlib.contextmanager
def reading_video(named: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Quarantine the clip, not the job, where a video cannot be read in the block.

    Args:
        named: the path that begins the detail, where a row has several files.

    Raises:
        BadClip: in place of a `VideoError`.
    """
    try:
        yield
    except VideoError as error:
        raise BadClip(error.reason, error.detail if named is None else f"{named}: {error.detail}") from error


def _check_unchanged(path: str | os.PathLike[str], source_id: str) -> None:
    with reading_video():
        changed = what_changed(path, source_id)
    if changed:
        raise BadClip("source_changed", changed)
