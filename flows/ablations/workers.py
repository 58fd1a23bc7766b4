"""Worker processes of the ablations: each runs packets one after another, and ends with the process that started it."""

from __future__ import annotations

import json
import os
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from ... import SteadyDancerError
from ...datasets.child_processes import serving, start_child
from ..presets import Run
from .packet import Packet, run_packet

START = serving("steadydancer.flows.ablations.workers")
PHASE, DONE, FAILED = "phase", "done", "failed"
# One thread each: tiny tensors do not profit from more, and the bits depend on their number.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


class PacketFailed(SteadyDancerError):
    """A packet failed, or its worker ended; the message says why, and where its log is."""


class Event(NamedTuple):
    """What a worker reports: the packet, "phase" or "done", and the phase."""

    packet: Packet
    kind: str
    phase: str = ""


class Worker:
    """A process that runs one packet at a time.

    Args:
        run: the configuration.
        out: folder of the run.
        log: file that gets its output.
    """

    def __init__(self, run: Run, out: Path, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.packet: Packet | None = None
        with log.open("ab") as output:
            self.process, control, self._lifeline = start_child(
                START, str(out), stdout=output, stderr=output, env={**os.environ, **ENVIRONMENT}
            )
        self.connection = Connection(control.detach())
        self.connection.send_bytes(run.model_dump_json().encode())

    def begin(self, packet: Packet) -> None:
        """Start a packet."""
        self.packet = packet
        self.connection.send_bytes(json.dumps([packet.row, packet.seed]).encode())

    def report(self) -> Event:
        """Read the next report.

        Raises:
            PacketFailed: the packet failed, or the process ended.
        """
        assert self.packet is not None
        try:
            kind, words = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            status = self.process.wait()
            raise PacketFailed(
                f"{self.packet}: its process ended with status {status} (-9: killed, perhaps for want of memory); see "
                f"{self.log}, and run the same command again to resume"
            ) from error
        if kind == FAILED:
            raise PacketFailed(f"{self.packet} failed: {words}\nSee {self.log}; the same command resumes")
        event = Event(self.packet, kind, words)
        if kind == DONE:
            self.packet = None
        return event

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        os.close(self._lifeline)


def ready(workers: list[Worker], timeout_s: float) -> list[Worker]:
    """Return the workers that have something to report, after at most `timeout_s`."""
    by_connection = {worker.connection: worker for worker in workers if worker.packet is not None}
    return [by_connection[one] for one in wait(list(by_connection), timeout_s) if isinstance(one, Connection)]


def serve(descriptor: int, out: str) -> None:
    """Run the packets that are asked for, in this process, until the other side closes."""
    import torch

    torch.set_num_threads(1)
    connection = Connection(descriptor)

    def tell(kind: str, words: Any = "") -> None:
        connection.send_bytes(json.dumps([kind, words]).encode())

    run = Run.model_validate_json(connection.recv_bytes())
    while True:
        try:
            row, seed = json.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            run_packet(Packet(row, seed), run, Path(out), lambda phase: tell(PHASE, phase))
        except Exception as error:  # told to the process that started this one
            traceback.print_exc()
            tell(FAILED, str(error) if isinstance(error, SteadyDancerError) else f"{type(error).__name__}: {error}")
        else:
            tell(DONE)
