"""Packets on Ray actors of one kind: the jobs whose workers run all stages, on a private Ray.

Ray Data also starts three actors of its own, and each worker imports it: half of a small job's start-up. It pays where
pools hand rows on to each other, and where a cluster grows.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import ray

from ... import SteadyDancerError, TemporaryError
from ...datasets.artifact import Packet
from ...datasets.storage import StorageError, StoreUnavailableError
from .packets import Item, Job, JobStopped, PacketWorker, Parts, item_of
from .pools import Pool
from .stage import StageFault

MAX_DEATHS = 2  # workers that a packet may kill while no other packet is finished


class RayPacketWorker(PacketWorker):
    """`PacketWorker` in a Ray actor. Returns errors as values, because Ray would drop an exception's cause."""

    fault = ""

    def __call__(self, item: Item) -> Item:
        """Run one packet, or return the error in `fault`; after an error, skip all further packets."""
        self.fault = self.fault or item["fault"]
        if self.fault:
            return {**item, "rows": b"", "fault": self.fault}
        try:
            return super().__call__(item)
        except (StageFault, OSError, SteadyDancerError) as error:
            self.fault = _serialise_error(error)
            return {**item, "rows": b"", "fault": self.fault}


# An error is restored as the first of these that it is.
_KINDS: dict[str, Callable[..., Exception]] = {
    kind.__name__: kind
    for kind in (StageFault, StoreUnavailableError, StorageError, OSError, TemporaryError, SteadyDancerError)
}


def _serialise_error(error: Exception) -> str:
    kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))  # type: ignore[arg-type]
    if isinstance(error, OSError):
        return json.dumps([kind, error.errno, error.strerror or str(error), error.filename], default=str)
    return json.dumps([kind, *(error.args if isinstance(error, StageFault) else [str(error)])])


def raise_fault(result: Item) -> None:
    """Raise the error that a worker returned, if there is one."""
    if result["fault"]:
        kind, *arguments = json.loads(result["fault"])
        raise _KINDS[kind](*arguments)


def workers_die(job: Job, packets: list[Packet]) -> JobStopped:
    """Return the error that ends a job whose packets keep killing their workers."""
    ids = [name for packet in packets for name in packet.ids]
    return JobStopped(
        f"{job.name} stopped: workers die (killed, out of memory, or a crash in a library) on one of "
        f"{len(ids)} inputs, starting with {ids[0]}.\n"
        "Finished packets are kept; run with --in-process to find the input."
    )


class _Workers:
    """Actors, and the packets that each of them has. Only one that has started gets any: others may wait for a CPU that
    another job holds.
    """

    def __init__(self, job: Job, pool: Pool) -> None:
        self._job, self._pool = job, pool
        options: Any = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus, "max_restarts": 0}
        self._worker_class: Any = ray.remote(**options)(RayPacketWorker)
        self._starting: dict[Any, Any] = {}  # sign of life → worker
        self._running: dict[Any, tuple[Any, Packet]] = {}  # answer → worker and packet
        self._loads: dict[Any, int] = {}  # started worker → its packets
        for _ in range(pool.most):
            self._start()

    def _start(self) -> None:
        job = self._job
        worker = self._worker_class.remote(self._pool.stages, job.config, job.schema, job.write_packet)
        self._starting[worker.__ray_ready__.remote()] = worker

    def packets(self) -> list[Packet]:
        """Return the packets that workers have."""
        return [packet for _, packet in self._running.values()]

    def give(self, waiting: deque[Packet]) -> None:
        """Give each worker a packet, and a second one while there are enough: it then waits for no answer of ours."""
        for depth in (1, 2):
            for worker, load in self._loads.items():
                if load < depth and len(waiting) > (depth - 1) * self._pool.most:
                    packet = waiting.popleft()
                    self._running[worker.__call__.remote(item_of(self._job, packet))] = worker, packet
                    self._loads[worker] += 1

    def next_answer(self) -> tuple[Packet | None, Item | ray.exceptions.RayActorError]:
        """Wait for a packet and its answer, or for the start of a worker (no packet, an empty answer).

        The answer of a worker that died is the error. It is replaced.
        """
        ready, _ = ray.wait([*self._running, *self._starting])
        answer = ready[0]
        worker, packet = self._running.pop(answer) if answer in self._running else (self._starting.pop(answer), None)
        try:
            result = ray.get(answer)
        except ray.exceptions.RayActorError as error:
            if packet is None or self._loads.pop(worker, None) is not None:
                self._start()
            return packet, error
        self._loads[worker] = self._loads[worker] - 1 if packet else 0
        return packet, result if packet else {}

    def kill(self) -> None:
        """End all workers, also within a packet."""
        for worker in (*self._loads, *self._starting.values()):
            ray.kill(worker)


def actor_results(job: Job, pool: Pool, artifact: Parts, packets: list[Packet]) -> Iterator[Item]:
    """Yield results as they arrive. Packets of a worker that died (killed, out of memory, library crash) run again.

    Raises:
        JobStopped: packets keep killing their workers, or workers die when they start.
    """
    waiting, deaths = deque(packets), Counter[str]()
    workers = _Workers(job, pool)
    try:
        while waiting or workers.packets():
            workers.give(waiting)
            packet, result = workers.next_answer()
            if isinstance(result, dict):
                if packet is not None:
                    deaths.clear()
                    raise_fault(result)
                    yield result
                continue
            if packet is not None and not artifact.remaining([packet]):  # finished: only its timings are lost
                yield {"packet": packet.id, "seconds": "{}"}
                continue
            name = "" if packet is None else packet.id
            waiting.extend([] if packet is None else [packet])
            deaths[name] += 1
            if deaths[name] == MAX_DEATHS:
                raise workers_die(job, [*workers.packets(), *waiting]) from result
    finally:
        workers.kill()
