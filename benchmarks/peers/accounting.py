"""CPU seconds of a command with all of its descendants, by a control group: Ray's processes disown their children."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")
LINGER_S = 30.0  # longest time for processes that the command left behind


@dataclass(frozen=True)
class Used:
    """CPU and wall seconds of a command; `counted` names the processes whose CPU seconds are included."""

    status: int
    cpu_s: float
    wall_s: float
    counted: str


def measured(command: Sequence[str | Path], log: Path, environ: Mapping[str, str], limit_s: float) -> Used:
    """Run a command, its output in `log`; after `limit_s` of the clock it is killed with its descendants."""
    group = _make_group()
    enter = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(group / "cgroup.procs")] if group else []
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*enter, *map(str, command)], stdout=output, stderr=output, env=environ, start_new_session=True
        )
        ended = _wait(process, limit_s, group)
    wall = time.perf_counter() - start
    if group is None:
        return Used(process.returncode, ended.ru_utime + ended.ru_stime, wall, "processes that were waited for")
    _empty(group, LINGER_S)
    cpu = _seconds(group)
    group.rmdir()
    return Used(process.returncode, cpu, wall, "control group")


def _make_group() -> Path | None:
    name = f"peers-{os.getpid()}-{time.monotonic_ns()}"
    for root, file in ((V1, "cpuacct.usage"), (V2, "cpu.stat")):
        if (root / file).is_file() or root == V2:
            try:
                (root / name).mkdir()
            except OSError:
                continue
            if (root / name / file).is_file():
                return root / name
            (root / name).rmdir()
    return None


def _wait(process: subprocess.Popen[bytes], limit_s: float, group: Path | None) -> os.struct_rusage:  # type: ignore[name-defined]
    end = time.monotonic() + limit_s
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return used
        if time.monotonic() > end:
            os.killpg(process.pid, 9)
            if group:
                _empty(group, 0.0)
            end = float("inf")
        time.sleep(0.05)


def _empty(group: Path, patience_s: float) -> None:
    """Wait until no process is left in the group; kill those that stay."""
    end = time.monotonic() + patience_s
    while pids := (group / "cgroup.procs").read_text().split():
        if time.monotonic() > end:
            for pid in pids:
                try:
                    os.kill(int(pid), 9)
                except ProcessLookupError:
                    continue
        time.sleep(0.05)


def _seconds(group: Path) -> float:
    if (group / "cpuacct.usage").is_file():
        return int((group / "cpuacct.usage").read_text()) / 1e9
    rows = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(rows["usage_usec"]) / 1e6
