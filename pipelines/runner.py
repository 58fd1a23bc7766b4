"""Packets through stages, on Ray Data or in this process, with progress, resume and readable faults.

Ray Data moves small rows and runs actors; which packets are done is decided by the artifact's parts alone. (Ray's own
checkpointing forgets rejected rows and loses siblings of a failed fan-out; see docs/log.md.)
"""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from tqdm import tqdm

from .. import SteadyDancerError
from ..datasets.artifact import Packet
from ..datasets.schema import Row, from_ipc, to_ipc
from .stage import Stage, StageFault, fault, run_stages

T = TypeVar("T")
WritePacket = Callable[[Packet, list[Row]], None]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a job: its stages, its configuration, and how a packet's rows are committed.

    Args:
        name: of the command.
        stages: in order.
        config: the job's configuration, given to every stage.
        schema: of the rows on their way.
        open_packet: id → row with which the walk begins.
        write_packet: commits all rows of a packet; the last thing done to it.
    """

    name: str
    stages: list[Stage]
    config: Any
    schema: pa.Schema
    open_packet: Callable[[str], Row]
    write_packet: WritePacket


@dataclass(frozen=True)
class Engine:
    """Where packets run.

    Args:
        in_process: no Ray at all: same rows, same verdicts, `breakpoint()` works.
        address: of a Ray cluster to join; None starts a private one on this machine.
        state_dir: where a private Ray keeps its files, and fault logs go.
        command: the words that reproduce the job, for messages.
    """

    state_dir: Path
    in_process: bool = False
    address: str | None = None
    command: str = ""


class JobStopped(SteadyDancerError):
    """A job ended early; the message says what happened and what to do."""


class PacketWorker:
    """Runs consecutive stages on packets; one lives in each Ray actor and loads the models once.

    Args:
        stages: in order.
        config: given to every stage.
        schema: of the rows on their way to the next worker.
        write_packet: given to the worker of the last stages, which commits what it has in hand.
    """

    def __init__(
        self, stages: list[Stage], config: Any, schema: pa.Schema, write_packet: WritePacket | None = None
    ) -> None:
        """Load what the stages need."""
        self.stages, self.config, self.schema, self.write_packet = stages, config, schema, write_packet
        self.tools = [stage.load(config) if stage.load else None for stage in stages]

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Run one packet; `rows` comes and goes as an Arrow stream of the schema."""
        rows, seconds = run_stages(self.stages, from_ipc(item["rows"]), self.config, self.tools)
        out = {**item, "seconds": json.dumps({**json.loads(item["seconds"]), **seconds})}
        if self.write_packet is None:
            return {**out, "rows": to_ipc(rows, self.schema)}
        packet = Packet(item["packet"], tuple(item["ids"]))
        try:
            self.write_packet(packet, rows)
        except OSError:
            raise
        except Exception as error:
            raise fault("write", {"id": packet.id}, error) from error
        return {**out, "rows": b""}


def run_packets(job: Job, packets: list[Packet], engine: Engine, num_done: int = 0) -> dict[str, float]:
    """Run packets to their parts; returns the seconds spent in each stage, summed over workers.

    Raises:
        JobStopped: the code failed on a row, or the machine did (a full disk). Finished packets stay finished.
    """
    seconds: Counter[str] = Counter()
    if not packets:
        return {}
    items: list[dict[str, Any]] = [
        {
            "packet": packet.id,
            "ids": list(packet.ids),
            "rows": to_ipc(map(job.open_packet, packet.ids), job.schema),
            "seconds": "{}",
        }
        for packet in packets
    ]
    with _readable_faults(job, engine), _results(job, items, engine) as results:
        for result in progress(results, job.name, "packet", len(packets) + num_done, num_done):
            seconds.update(json.loads(result["seconds"]))
    return dict(seconds)


@contextlib.contextmanager
def _results(job: Job, items: list[dict[str, Any]], engine: Engine) -> Iterator[Iterable[dict[str, Any]]]:
    if engine.in_process:
        yield map(PacketWorker(job.stages, job.config, job.schema, job.write_packet), items)
        return
    from .submit import local_ray

    with local_ray(engine.state_dir / "ray", engine.address):
        yield _ray_results(job, items)


def _ray_results(job: Job, items: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    import ray
    from ray.data import ActorPoolStrategy

    cluster = ray.cluster_resources()
    # One block a packet: a block is what Ray hands to an actor, and a packet must stay whole.
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    # Stages that need the same share of a machine run fused, in one worker: rows that stay do not travel.
    groups = [list(group) for _, group in groupby(job.stages, key=lambda stage: (stage.num_cpus, stage.num_gpus))]
    for index, group in enumerate(groups):
        cpus, gpus = group[0].num_cpus, group[0].num_gpus
        fits = cluster.get("GPU", 0) / gpus if gpus else cluster.get("CPU", 1) / max(cpus, 1e-3)
        dataset = dataset.map(
            PacketWorker,
            fn_constructor_args=(group, job.config, job.schema, job.write_packet if index == len(groups) - 1 else None),
            num_cpus=cpus,
            num_gpus=gpus,
            compute=ActorPoolStrategy(min_size=1, max_size=max(1, min(len(items), int(fits)))),
        )
    return dataset.iter_rows()


@contextlib.contextmanager
def _readable_faults(job: Job, engine: Engine) -> Iterator[None]:
    """Turn whatever a worker raised into a few lines that name the stage, the clip, the line and the way on."""
    try:
        yield
    except Exception as error:
        cause = _root(error)
        if isinstance(cause, OSError):
            raise JobStopped(
                f"{job.name} stopped: {cause.strerror or cause} ({cause.filename or engine.state_dir})\n"
                "Finished packets are kept; make room or mend the path, then run the same command again."
            ) from error
        if not isinstance(cause, StageFault):
            raise
        log = engine.state_dir / "faults" / f"{cause.stage}-{Path(cause.row_id).name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(cause.trace)
        raise JobStopped(
            f"{job.name} stopped: a fault in stage `{cause.stage}`, clip {cause.row_id}\n"
            f"  {cause.error}\n"
            f"  at {cause.place}\n"
            f"  whole traceback: {log}\n"
            f"  reproduce in one process: {engine.command or 'the same command'} --in-process\n"
            "Finished packets are kept; the same command goes on from there."
        ) from error


def _root(error: BaseException) -> BaseException:
    """The first exception of ours, or of the system, in a chain that Ray wrapped."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, StageFault | OSError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error


def progress(items: Iterable[T], name: str, unit: str, total: int, initial: int = 0) -> Iterator[T]:
    """A progress bar on a terminal; in a log, a line now and then."""
    lines = not sys.stderr.isatty()
    options = {"mininterval": 20.0, "ascii": True, "dynamic_ncols": False} if lines else {"dynamic_ncols": True}
    bar = tqdm(items, desc=name, unit=unit, total=total, initial=initial, **options)
    yield from bar
