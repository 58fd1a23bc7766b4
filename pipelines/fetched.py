"""Files of a row that lie on a store, on this machine while a step looks at them."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from ..datasets.schema import Row
from ..datasets.storage import is_address, local_copy
from .stage import BadClip

Function = Callable[[Row, Any, Any], "Row | list[Row]"]


def fetched(*columns: str) -> Callable[[Function], Function]:
    """A step that finds files of this machine in these columns, whatever the row says, and leaves what the row says.

    A row whose files are here passes as it is. What is wrong with a file is said of its address.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def on_local_files(row: Row, config: Any, tools: Any = None) -> Row | list[Row]:
            away = {name: row[name] for name in columns if row.get(name) and is_address(row[name])}
            if not away:
                return function(row, config, tools)
            with contextlib.ExitStack() as copies:
                here = {name: str(copies.enter_context(local_copy(place))) for name, place in away.items()}
                try:
                    out = function({**row, **here}, config, tools)
                except BadClip as bad:
                    detail = bad.detail
                    for name, copy in here.items():
                        detail = detail.replace(copy, away[name])
                    raise BadClip(bad.reason, detail) from bad
            return [{**one, **away} for one in out] if isinstance(out, list) else {**out, **away}

        return on_local_files

    return decorate
