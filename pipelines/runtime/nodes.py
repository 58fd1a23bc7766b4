"""What a job asks of a Ray cluster against what its nodes have. Ray itself waits for ever, and says nothing."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from math import floor
from typing import Any

from ... import SteadyDancerError

Node = Mapping[str, float]

_CHECK_S = 5.0
_PROBE_S = 30.0
_SECONDS_BETWEEN_LINES = 60.0
_EPSILON = 1e-6


class NodeUnfit(SteadyDancerError):
    """A node of the cluster lacks this project, or has another version; the message says which node."""


class NodesMissing(SteadyDancerError):
    """No set of the cluster's nodes can run a job; the message names what it asks for and what is there."""


@dataclass(frozen=True)
class Workers:
    """`num` workers that run at the same time, each with these resources on one node.

    With `waits`, they may run after the job's other workers.
    """

    num: int
    cpus: float
    gpus: float
    waits: bool = False

    def __str__(self) -> str:
        resources = [f"{amount:g} {kind}" for kind, amount in (("GPU", self.gpus), ("CPU", self.cpus)) if amount]
        each = " each" if self.num > 1 else ""
        return f"{self.num} worker{'s' * (self.num > 1)} with {' and '.join(resources) or 'no resources'}{each}"

    def fit_on(self, node: Node) -> int:
        """Return how many of the workers fit on an empty node."""
        asked = ((self.cpus, node.get("CPU", 0.0)), (self.gpus, node.get("GPU", 0.0)))
        return min((floor(there / each + _EPSILON) for each, there in asked if each), default=self.num)


def shortage(wanted: Sequence[Workers], nodes: Sequence[Node]) -> str | None:
    """Return what is asked for against what is there, if the nodes cannot run the workers even when they are idle."""
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    for workers in wanted:
        if sum(map(workers.fit_on, nodes)) < workers.num:
            largest = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
            return (
                f"{workers} asked for, but the cluster has {len(nodes)} nodes with {gpus:g} GPU and {cpus:g} CPU in "
                f"all, at most {largest:g} CPU on one"
            )
    total = sum(workers.num * workers.gpus for workers in wanted if not workers.waits)
    if total > gpus + _EPSILON:
        return f"{total:g} GPU asked for at the same time, but the cluster has {gpus:g}"
    return None


@contextmanager
def watch_nodes(name: str, wanted: Sequence[Workers], wait_s: float) -> Iterator[None]:
    """End the block if for `wait_s` seconds the living nodes of the cluster cannot run the workers.

    The block itself asks for them, so an autoscaler starts nodes meanwhile. A busy cluster is waited for without limit.
    Only the main thread can be interrupted; in another one this does nothing.

    Raises:
        NodesMissing: the nodes are too few or too small.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    ended = threading.Event()
    found: list[str] = []

    def interrupt(number: int, frame: object) -> None:
        if not ended.is_set():
            raise KeyboardInterrupt  # the only exception that `ray.get` lets pass; libraries do not catch it

    def report(words: str) -> None:
        found.append(words)
        while not ended.is_set():  # once more, if it came at a moment when exceptions are ignored
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            ended.wait(_CHECK_S)

    before = signal.signal(signal.SIGUSR1, interrupt)
    watch = threading.Thread(target=_watch, args=(name, wanted, wait_s, ended, report), daemon=True)
    watch.start()
    try:
        yield
    except KeyboardInterrupt:
        if not found:
            raise
        raise NodesMissing(found[0]) from None
    finally:
        ended.set()
        watch.join()
        signal.signal(signal.SIGUSR1, before)


def _watch(
    name: str, wanted: Sequence[Workers], wait_s: float, ended: threading.Event, report: Callable[[str], None]
) -> None:
    began: float | None = None
    last_line: float | None = None
    while not ended.wait(min(_CHECK_S, max(wait_s, 0.1))):
        nodes = _living_nodes()
        short = None if nodes is None else shortage(wanted, nodes)
        now = time.monotonic()
        if short is None:
            if nodes is not None:
                began = last_line = None
            continue
        began = now if began is None else began
        if last_line is None or now - last_line > _SECONDS_BETWEEN_LINES:
            last_line = now
            print(f"{name}: {short}; waiting up to {wait_s:g} s for nodes", file=sys.stderr, flush=True)
        if now - began >= wait_s:
            report(
                f"{name}: {short}. Waited {wait_s:g} s (cluster.wait_for_nodes_s): add nodes, or ask for fewer "
                "workers, CPUs or GPUs; finished work is kept"
            )
            return


def require_package() -> None:
    """Check that the nodes of the cluster have this project, in this version; a node that does not answer is skipped.

    Ray would tell a library's name and a traceback, or that actors died.

    Raises:
        NodeUnfit: one of the nodes is without it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def installed() -> str:  # in here: a node without the project cannot import this module
        from importlib.metadata import version
        from importlib.util import find_spec

        return version("steadydancer") if find_spec("steadydancer") else ""

    probe: Any = ray.remote(num_cpus=0, max_retries=0)(installed)
    asked: dict[Any, str] = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[probe.options(scheduling_strategy=there).remote()] = node["NodeManagerAddress"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_S)
    here = version("steadydancer")
    for answer in answered:
        try:
            found = ray.get(answer)
        except ray.exceptions.RayError:  # the node was lost meanwhile
            continue
        if found != here:
            has = f"has steadydancer {found}, but this job runs {here}" if found else "has no package steadydancer"
            raise NodeUnfit(
                f"node {asked[answer]} of the cluster {has}: install this project in the Python that runs Ray, in one "
                "version on every node (the image does), and start the node again"
            )


def _living_nodes() -> list[Node] | None:
    """Return the resources of the living nodes; None if the cluster does not say."""
    import ray

    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    except Exception:  # the head is away: other code notices
        return None
