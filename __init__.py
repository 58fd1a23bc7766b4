"""SteadyDancer: animate a person so that the video starts exactly at the reference image.

Packages, each importing only those after it: `flows` (command line and Prefect flows), `pipelines` (jobs and how they
run on machines), `models` (the paper's networks and sampling), `datasets` (data formats, video and storage).
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


class SteadyDancerError(Exception):
    """An error that the user can fix. The message states problem and remedy; commands print it and exit."""

    exit_status = 1


class TemporaryError(SteadyDancerError):
    """A temporary error, such as a store that does not answer: the same command, run again later, resumes."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h


def lazy_names(package: str, module_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package that imports each public name on first access.

    Accessing one name then does not load the libraries of the others.

    Args:
        package: `__name__` of the package.
        module_of: name -> module of the package that defines it.
    """

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{module_of[name]}", package), name)

    return get, lambda: sorted(module_of)
