"""SteadyDancer: animate a person so that the video starts exactly at the reference image.

Rooms, each importing only those below it: `flows` (which job runs, in which order), `pipelines` (how a job runs on
machines), `models` (what the paper says), `datasets` (what the data is).
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


class SteadyDancerError(Exception):
    """Something a person can mend. The message says what happened and what to do; commands print it and end with 1."""


def lazy_names(package: str, module_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package that imports each public name when it is first asked for.

    Asking for one name then does not load the libraries of the others.

    Args:
        package: `__name__` of the package.
        module_of: name -> module of the package that defines it.
    """

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{module_of[name]}", package), name)

    return get, lambda: sorted(module_of)
