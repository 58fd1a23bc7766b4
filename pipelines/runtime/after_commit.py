"""What is made of a finished artifact: pages, cards, what a user interface shows. It may fail; the artifact stands."""

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

from ... import SteadyDancerError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def after_commit(what: str, remedy: str) -> Iterator[None]:
    """Warn where the block fails, and go on: the outcome of a job was decided when its artifact was committed.

    Args:
        what: the block makes, as the subject of the warning: "OUT/report.html".
        remedy: how it is made again, in the imperative: "`steadydancer report --clips OUT` makes it again".
    """
    try:
        yield
    except Exception as error:  # a fault of ours, too: what it would tell of is whole
        _log.warning("%s could not be made (%s). The job is not affected; %s", what, _one_line(error), remedy)
        _log.debug("%s: the whole traceback", what, exc_info=True)


def _one_line(error: Exception) -> str:
    """An error in a line: a person's by its words, one of the code with its class and place."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    if isinstance(error, SteadyDancerError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}, at {Path(frame.filename).name}:{frame.lineno}"
