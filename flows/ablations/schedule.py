"""Run the packets that are not finished, on worker processes or in this one; print progress and the time left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import click

from ...pipelines.train.run_folder import steps_done
from ..presets import Run
from .forecast import Forecast
from .packet import Packet, run_packet
from .rows import ROWS, training_of
from .workers import DONE, ENVIRONMENT, Event, Worker, ready

SECONDS_BETWEEN_LINES = 60.0


def run_packets(run: Run, packets: Sequence[Packet], out: Path, num_workers: int, forecast: Forecast) -> None:
    """Run all packets, each after the one that it starts from; finished ones are not run again.

    Args:
        run: the configuration.
        packets: in the order in which they may run.
        out: folder of the run.
        num_workers: worker processes; 0 runs the packets in this process.
        forecast: of the packets, for the time that is left.

    Raises:
        SteadyDancerError: a packet failed; finished ones are kept.
    """
    left = [packet for packet in packets if not packet.is_done(out)]
    clock = _Clock(run, out, packets, forecast, max(num_workers, 1))
    if num_workers == 0:
        with _as_a_worker():
            for packet in left:
                run_packet(packet, run, out, partial(clock.phase, packet))
                clock.finished(packet)
        return
    with ExitStack() as stack:
        workers: list[Worker] = []
        for k in range(min(num_workers, len(left))):
            workers.append(Worker(run, out, out / "logs" / f"worker-{k}.log"))
            stack.callback(workers[-1].close)
        for event in _events(workers, left, out, clock):
            if event.kind == DONE:
                clock.finished(event.packet)
            else:
                clock.phase(event.packet, event.phase)


@contextmanager
def _as_a_worker() -> Iterator[None]:
    """Compute as a worker process does: on one thread, so that the bits are the same."""
    import torch

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _events(workers: list[Worker], left: list[Packet], out: Path, clock: _Clock) -> Iterator[Event]:
    """Give every idle worker the next packet that can run, and yield what they report."""
    waiting = list(left)
    while waiting or any(worker.packet for worker in workers):
        for worker in workers:
            if worker.packet is None and (packet := _next(waiting, out)) is not None:
                waiting.remove(packet)
                worker.begin(packet)
        for worker in ready(workers, timeout_s=5.0):
            yield worker.report()
        clock.tick()


def _next(waiting: Sequence[Packet], out: Path) -> Packet | None:
    """Return the first packet whose parent is finished."""
    return next((packet for packet in waiting if packet.needs is None or packet.needs.is_done(out)), None)


class _Clock:
    """Prints what is done and how long the rest takes, from the forecast and the speed so far."""

    def __init__(self, run: Run, out: Path, packets: Sequence[Packet], forecast: Forecast, num_workers: int) -> None:
        self._run, self._out, self._packets, self._num_workers = run, out, packets, num_workers
        self._costs: Mapping[Packet, float] = forecast.packets
        self._running: dict[Packet, str] = {}
        self._begin, self._last = time.monotonic(), time.monotonic()
        self._before = self._cost_done()

    def phase(self, packet: Packet, phase: str) -> None:
        self._running[packet] = phase

    def finished(self, packet: Packet) -> None:
        self._running.pop(packet, None)
        self._say(f"{packet} is finished")

    def tick(self) -> None:
        if time.monotonic() - self._last > SECONDS_BETWEEN_LINES:
            self._say("; ".join(f"{packet}: {self._where(packet, phase)}" for packet, phase in self._running.items()))

    def _say(self, words: str) -> None:
        self._last = time.monotonic()
        done = sum(packet.is_done(self._out) for packet in self._packets)
        click.echo(f"{done} of {len(self._packets)} packets; {words}; {self._left()}")

    def _where(self, packet: Packet, phase: str) -> str:
        config = training_of(self._run, ROWS[packet.row], packet.seed)
        if phase != "train" or config is None:
            return f"{phase}"
        return f"step {steps_done(packet.folder(self._out) / 'train')} of {config.steps}"

    def _cost_done(self) -> float:
        return sum(self._costs[packet] for packet in self._packets if packet.is_done(self._out))

    def _left(self) -> str:
        """Return the time that the rest takes, at the speed of the packets of this call."""
        done, whole = self._cost_done(), sum(self._costs.values())
        seconds, worked = time.monotonic() - self._begin, done - self._before
        rate = worked / seconds if worked > 0 else float(self._num_workers)
        return f"about {duration((whole - done) / rate)} left" if done < whole else "nothing is left"


def duration(seconds: float) -> str:
    """Format a duration in hours and minutes."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print the name of a step, and how long it took."""
    click.echo(f"→ {name}")
    begin = time.monotonic()
    yield
    click.echo(f"  {name}: {duration(time.monotonic() - begin)}")
