"""Time limits of a request to another process, which distinguish a hang from a machine under load."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from .info import VideoError

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Limits:
    """Time limits of a request. Load on the machine extends the wall time, not the worker's CPU time.

    Attributes:
        base_s: CPU seconds granted to every request.
        factor: multiple of the CPU seconds that the worker expects (estimated for a slow core), granted in addition.
        idle_s: longest time in which the worker neither runs nor waits for a processor or a disk.
        clock_factor: wall seconds per granted CPU second.
    """

    base_s: float = 20.0
    factor: float = 5.0
    idle_s: float = 60.0
    clock_factor: float = 20.0


class Deadline:
    """Deadline of one request. See `Limits`."""

    def __init__(self, pid: int, limits: Limits) -> None:
        self._pid, self._limits = pid, limits
        self._budget_s = limits.base_s
        self._start = self._last_active = time.monotonic()
        self._start_cpu_s = self._last_cpu_s = self._read()[1]

    def extend(self, expected_s: float) -> None:
        """Extend the limit for work of `expected_s` CPU seconds."""
        self._budget_s += self._limits.factor * expected_s

    def check(self) -> None:
        """Raise `VideoError` (`timeout`) if a limit is exceeded."""
        now = time.monotonic()
        state, cpu_s = self._read()
        if cpu_s > self._last_cpu_s or state in "RD":
            self._last_active, self._last_cpu_s = now, cpu_s
        used_s = cpu_s - self._start_cpu_s
        if used_s > self._budget_s:
            raise VideoError("timeout", f"decoding took {used_s:.0f} s of CPU time (limit: {self._budget_s:.0f} s)")
        if now - self._last_active > self._limits.idle_s:
            raise VideoError("timeout", f"the decoder was idle for {now - self._last_active:.0f} s")
        limit_s = self._limits.clock_factor * self._budget_s
        if now - self._start > limit_s:
            raise VideoError("timeout", f"decoding took {now - self._start:.0f} s (limit: {limit_s:.0f} s)")

    def _read(self) -> tuple[str, float]:
        """Read the state of the process (a letter, see proc(5)) and its CPU seconds."""
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # the process ended; its socket reports that
            return "R", 0.0
        return fields[0], (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
