"""How long another process may work on one request: a hang is told from a machine under load."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from .info import VideoError

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Limits:
    """What a request may take. A machine under load stretches the clock, not the child's CPU time.

    The child's own CPU seconds may reach `base_s` + `factor` × what it expects (measured generously for a slow core).
    It may be idle, neither running nor waiting for a processor or a disk, for `idle_s`. By the clock it may take
    `clock_factor` times its CPU seconds.
    """

    base_s: float = 20.0
    factor: float = 5.0
    idle_s: float = 60.0
    clock_factor: float = 20.0


class Deadline:
    """How long the child may still work on one request. See `Limits`."""

    def __init__(self, pid: int, limits: Limits) -> None:
        self._pid, self._limits = pid, limits
        self._budget_s = limits.base_s
        self._start = self._last_sign = time.monotonic()
        self._start_cpu_s = self._last_cpu_s = self._read()[1]

    def extend(self, expected_s: float) -> None:
        """Grant what work of so many seconds may take."""
        self._budget_s += self._limits.factor * expected_s

    def check(self) -> None:
        """Raise `VideoError` (`timeout`) when it is over."""
        now = time.monotonic()
        state, cpu_s = self._read()
        if cpu_s > self._last_cpu_s or state in "RD":
            self._last_sign, self._last_cpu_s = now, cpu_s
        used_s = cpu_s - self._start_cpu_s
        if used_s > self._budget_s:
            raise VideoError("timeout", f"decoding took {used_s:.0f} s of CPU time, {self._budget_s:.0f} s are granted")
        if now - self._last_sign > self._limits.idle_s:
            raise VideoError("timeout", f"the decoder did nothing for {now - self._last_sign:.0f} s")
        if now - self._start > self._limits.clock_factor * self._budget_s:
            raise VideoError("timeout", f"decoding took more than {now - self._start:.0f} s")

    def _read(self) -> tuple[str, float]:
        """The child's state (a letter, see proc(5)) and its CPU seconds."""
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it is gone, which its socket tells
            return "R", 0.0
        return fields[0], (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
