"""The log of a job on a cluster: which lines a person is shown, and the reason in them."""

import re
from collections import deque

from ...datasets.text import without_controls

MAX_REASON = 300  # with what Prefect puts before it, and the job after it, at most 500 characters
_COMMAND = "steadydancer: "  # the command line begins its messages so
_TRACEBACK = re.compile(r"^(\(.*?\)\s*)?Traceback \(most recent call last\):\s*$")
_CHAINED = re.compile(r"^(During handling of the above exception|The above exception was the direct cause)")
# A dead raylet's dump of its state, its stack, and Ray's own log lines of the level INFO.
_NOISE = re.compile(
    r"\[state-dump\]|^\*\*\* (SIG|Aborted)|^\s*@\s+0x|^PC: @|^\[(failure_signal_handler|symbolize)"
    r"|^\(?\w*\)?\s*\[\d{4}-\d\d-\d\d [\d:,]+ [IDE] \d+ \d+\]|\bINFO \w+\.py:\d+ -- "
)
_MAX_LINE = 2000


class JobLog:
    """Takes the lines of a job's log one by one, and keeps what is needed to say why it failed."""

    def __init__(self) -> None:
        """Begin with no lines."""
        self._in_traceback = False
        self._error = ""  # the line after the last traceback
        self._message: list[str] = []  # the last message of the command line, with its continuation
        self._last: deque[str] = deque(maxlen=3)

    def take(self, line: str) -> str | None:
        """Return the line as it is shown; None for an empty line and for tracebacks, dumps and Ray's own lines.

        The whole log stays on the cluster.
        """
        line = without_controls(line.rpartition("\r")[2]).rstrip()[:_MAX_LINE]
        if not line.strip() or _CHAINED.match(line) or _NOISE.search(line):
            return None
        if _TRACEBACK.match(line):
            self._in_traceback = True
            return None
        if self._in_traceback:
            if line.startswith((" ", "\t", "| ", "+-")):
                return None
            self._in_traceback, self._error = False, line
        if line.startswith(_COMMAND):
            self._message = [line.removeprefix(_COMMAND)]
        elif self._message:
            self._message.append(line)
        self._last.append(line)
        return line

    def reason(self) -> str:
        """Return why the job failed, its first sentence first, in at most `MAX_REASON` characters; empty if unknown."""
        words = self._message or [self._error] if self._message or self._error else list(self._last)
        text = "\n".join(words).strip()
        return text if len(text) <= MAX_REASON else text[: MAX_REASON - 2].rstrip() + " …"
