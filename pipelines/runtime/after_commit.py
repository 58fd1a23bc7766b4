"""Optional work after an artifact is committed: pages, cards, UI artifacts. A failure does not affect the artifact."""

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

from ... import SteadyDancerError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def after_commit(what: str, remedy: str) -> Iterator[None]:
    """Log a warning instead of raising if the block fails; the job has already succeeded with the commit.

    Args:
        what: the output of the block, the subject of the warning: "OUT/report.html".
        remedy: how to create it later: "run `steadydancer report --clips OUT` to write it".
    """
    try:
        yield
    except Exception as error:  # bugs too: the artifact itself is complete
        _log.warning("%s could not be written (%s). The job is not affected; %s", what, _one_line(error), remedy)
        _log.debug("%s: full traceback", what, exc_info=True)


def _one_line(error: Exception) -> str:
    """Format an error as one line; unexpected errors include their class and source line."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    if isinstance(error, SteadyDancerError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}, at {Path(frame.filename).name}:{frame.lineno}"
