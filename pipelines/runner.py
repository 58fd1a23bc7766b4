"""Packets through stages, on Ray Data or in this process, with progress, resume and readable faults.

Ray Data moves small rows and runs actors; which packets are done is decided by the artifact's parts alone. (Ray's own
checkpointing forgets rejected rows and loses siblings of a failed fan-out; see docs/log.md.)
"""

import contextlib
import json
import logging
import socket
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from tqdm import tqdm

from .. import SteadyDancerError
from ..datasets.artifact import Artifact, Packet
from ..datasets.schema import Row, from_ipc, to_ipc
from .stage import Stage, StageFault, fault, run_stages

T = TypeVar("T")
Item = dict[str, Any]
WritePacket = Callable[[Packet, list[Row]], None]

SECONDS_BETWEEN_LINES = 20.0
# Rows that are on their way through Ray at once: 10,000 packets of sources. Workers start anew for the next wave, which
# costs them a minute in hours.
WAVE_BYTES = 256 << 20
# Ray Data's own work is done once a block, whatever is in it: blocks of several packets, as long as enough are left for
# no worker to stand idle at the end.
BLOCKS_A_WORKER = 16


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a job: its stages, its configuration, and how a packet's rows are committed.

    Args:
        name: of the command.
        stages: in order.
        config: the job's configuration, given to every stage.
        schema: of the rows on their way.
        open_row: id → row with which the walk begins.
        write_packet: commits all rows of a packet; the last thing done to it.
    """

    name: str
    stages: list[Stage]
    config: Any
    schema: pa.Schema
    open_row: Callable[[str], Row]
    write_packet: WritePacket


@dataclass(frozen=True)
class Engine:
    """Where packets run.

    Args:
        state_dir: where a private Ray keeps its files, and fault logs go.
        in_process: no Ray at all: same rows, same verdicts, `breakpoint()` works.
        address: of a Ray cluster to join; None starts a private one on this machine.
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
        """Nothing is loaded yet: what fails in a constructor, Ray reports as the death of an actor."""
        self.stages, self.config, self.schema, self.write_packet = stages, config, schema, write_packet
        self.tools: list[Any] | None = None

    def __call__(self, item: Item) -> Item:
        """Run one packet; `rows` comes and goes as an Arrow stream of the schema."""
        if self.tools is None:
            self.tools = [stage.load_tools(self.config) for stage in self.stages]
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
            raise fault("write", f"packet {packet.id}", error) from error
        return {**out, "rows": b""}


class RayPacketWorker(PacketWorker):
    """The same in a Ray actor, where an exception would lose its cause on its way: it travels as a value, in words."""

    fault = ""

    def __call__(self, item: Item) -> Item:
        """Run one packet, or say in `fault` what stopped it; after that nothing more is begun."""
        self.fault = self.fault or item["fault"]
        if self.fault:
            return {**item, "rows": b"", "fault": self.fault}
        try:
            return super().__call__(item)
        except (StageFault, OSError, SteadyDancerError) as error:
            self.fault = _to_words(error)
            return {**item, "rows": b"", "fault": self.fault}


def _to_words(error: Exception) -> str:
    if isinstance(error, StageFault):
        return json.dumps(["StageFault", *error.args])
    if isinstance(error, OSError):
        return json.dumps(["OSError", error.errno, error.strerror or str(error), error.filename], default=str)
    return json.dumps(["SteadyDancerError", str(error)])


def _from_words(words: str) -> Exception:
    kind, *arguments = json.loads(words)
    kinds: dict[str, Callable[..., Exception]] = {
        "StageFault": StageFault,
        "OSError": OSError,
        "SteadyDancerError": SteadyDancerError,
    }
    return kinds[kind](*arguments)


def run_packets(job: Job, artifact: Artifact, packets: list[Packet], engine: Engine) -> dict[str, float]:
    """Run the packets that have no part in `artifact` yet; returns the seconds of each stage, summed over workers.

    Raises:
        JobStopped: the code failed on a row, or the machine did (a full disk). Finished packets stay finished.
    """
    seconds: Counter[str] = Counter()
    remaining = artifact.remaining(packets)
    if not remaining:
        return {}
    with _readable_faults(job, engine), _results(job, artifact, remaining, engine) as results:
        for result in progress(results, job.name, "packets", len(packets), len(packets) - len(remaining)):
            seconds.update(json.loads(result["seconds"]))
    return dict(seconds)


def _item(job: Job, packet: Packet) -> Item:
    rows = to_ipc(map(job.open_row, packet.ids), job.schema)
    return {"packet": packet.id, "ids": list(packet.ids), "rows": rows, "seconds": "{}", "fault": ""}


@contextlib.contextmanager
def _results(job: Job, artifact: Artifact, packets: list[Packet], engine: Engine) -> Iterator[Iterable[Item]]:
    num_gpus = max(stage.num_gpus for stage in job.stages)
    if engine.in_process:
        if num_gpus:
            import torch

            _require_gpus(job, num_gpus, torch.cuda.device_count())
        yield map(
            PacketWorker(job.stages, job.config, job.schema, job.write_packet), (_item(job, one) for one in packets)
        )
        return
    with contextlib.ExitStack() as stack:
        _enter_ray(job, engine, stack)
        import ray

        if engine.address is None:  # a cluster may be growing towards what is asked of it
            _require_gpus(job, num_gpus, ray.cluster_resources().get("GPU", 0))
        yield _ray_results(job, artifact, packets)


def _enter_ray(job: Job, engine: Engine, stack: contextlib.ExitStack) -> None:
    from .submit import local_ray

    try:
        if engine.address and ":" in engine.address:  # Ray itself tries for ten minutes
            host, port = engine.address.removeprefix("ray://").rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=10).close()
        stack.enter_context(local_ray(engine.state_dir / "ray", engine.address))
    except Exception as error:  # Ray has no class for what goes wrong at its start
        words = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
        if engine.address:
            raise JobStopped(
                f"{job.name} stopped: no Ray cluster can be joined at {engine.address} ({words})"
            ) from error
        raise JobStopped(
            f"{job.name} stopped: Ray did not start ({words})\n"
            f"Is there room on the disk? Its logs: {engine.state_dir / 'ray' / 'logs'}; --in-process runs without it."
        ) from error


def _require_gpus(job: Job, wanted: float, here: float) -> None:
    """A GPU that never comes would be waited for without a word."""
    if wanted > here:
        raise JobStopped(
            f"{job.name} asks for {wanted:g} GPU a worker, and this machine has {here:g}: give --address of a cluster "
            f"that has them, or a preset whose {job.name}.num_gpus is 0 (tiny)"
        )


def _ray_results(job: Job, artifact: Artifact, packets: list[Packet]) -> Iterator[Item]:
    """Results as they come. Packets of a worker that died (killed, out of memory, a crash in a library) run again.

    Those that it had finished before, of the block it died in, do not: their seconds are lost with it.

    Rows are opened a wave at a time: those of a million packets would not fit into the driver.

    Raises:
        JobStopped: packets keep killing their workers.
    """
    import ray.data

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the console; Ray's own file in its session stays
            handler.setLevel(logging.CRITICAL)
    pending = {packet.id: packet for packet in packets}
    attempts_left = 2
    while pending:
        num_pending = len(pending)
        try:
            for result in _ray_dataset(job, _wave(job, pending.values())).iter_rows():
                if result["fault"]:
                    raise _from_words(result["fault"])
                del pending[result["packet"]]
                yield result
        except ray.exceptions.RayActorError as error:
            left = {packet.id: packet for packet in artifact.remaining(list(pending.values()))}
            yield from ({"packet": name, "seconds": "{}"} for name in pending if name not in left)
            pending = left
            attempts_left = 2 if len(pending) < num_pending else attempts_left - 1
            if attempts_left == 0:
                ids = [name for packet in pending.values() for name in packet.ids]
                raise JobStopped(
                    f"{job.name} stopped: workers die (killed, out of memory, or a crash in a library) on one of these "
                    f"{len(ids)}, first {ids[0]}.\nFinished packets are kept; --in-process shows which one it is."
                ) from error


def _wave(job: Job, packets: Iterable[Packet]) -> list[Item]:
    """The first packets, with as many rows as the driver may hold; one packet at least."""
    items: list[Item] = []
    num_bytes = 0
    for packet in packets:
        items.append(_item(job, packet))
        num_bytes += len(items[-1]["rows"])
        if num_bytes >= WAVE_BYTES:
            break
    return items


def _ray_dataset(job: Job, items: list[Item]) -> Any:
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    warnings.filterwarnings("ignore", category=RayDeprecationWarning, message="`ray_remote_args`")
    # Stages that need the same share of a machine run fused, in one worker: rows that stay do not travel.
    groups = [list(group) for _, group in groupby(job.stages, key=lambda stage: (stage.num_cpus, stage.num_gpus))]
    most_workers = [_most_workers(group[0], len(items)) for group in groups]
    num_blocks = min(len(items), BLOCKS_A_WORKER * max(most_workers))
    dataset: Any = ray.data.from_items(items, override_num_blocks=num_blocks)
    for index, group in enumerate(groups):
        dataset = dataset.map(
            RayPacketWorker,
            fn_constructor_args=(group, job.config, job.schema, job.write_packet if index == len(groups) - 1 else None),
            num_cpus=group[0].num_cpus,
            num_gpus=group[0].num_gpus,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most_workers[index]),
            # Ray would start a fallen actor again without end, and cannot always (its arguments may be lost with it).
            # The argument has no other name before Ray 2.64; until then Ray warns.
            max_restarts=0,
        )
    return dataset


def _most_workers(stage: Stage, num_packets: int) -> int:
    """So many workers of a stage as the cluster has room for, and no more than packets."""
    import ray

    kind, share = ("GPU", stage.num_gpus) if stage.num_gpus else ("CPU", max(stage.num_cpus, 1e-3))
    fits = ray.cluster_resources().get(kind, 0) / share
    return max(1, min(num_packets, int(fits)))


@contextlib.contextmanager
def _readable_faults(job: Job, engine: Engine) -> Iterator[None]:
    """Turn what stopped a worker into a few lines that name the stage, the clip, the line and the way on."""
    try:
        yield
    except OSError as error:
        raise JobStopped(
            f"{job.name} stopped: {error.strerror or error} ({error.filename or engine.state_dir})\n"
            "Finished packets are kept; make room or mend the path, then run the same command again."
        ) from error
    except StageFault as error:
        log = engine.state_dir / "faults" / f"{error.stage}-{error.row_id.split()[0]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(error.trace)
        command = engine.command or "the same command"
        raise JobStopped(
            f"{job.name} stopped: a fault in stage `{error.stage}`, clip {error.row_id}\n"
            f"  {error.error}\n"
            f"  at {error.place}\n"
            f"  whole traceback: {log}\n"
            f"  reproduce in one process: {command}{'' if engine.in_process else ' --in-process'}\n"
            "Finished packets are kept; the same command goes on from there."
        ) from error


def progress(items: Iterable[T], name: str, unit: str, total: int, initial: int = 0) -> Iterator[T]:
    """A progress bar on a terminal; in a log, a line now and then."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=name, unit=f" {unit}", total=total, initial=initial, dynamic_ncols=True)
        return
    start = said = time.monotonic()
    print(f"{name}: {initial} of {total} {unit} are done", file=sys.stderr, flush=True)
    for done, item in enumerate(items, initial + 1):
        yield item
        now = time.monotonic()
        if done == total or now - said > SECONDS_BETWEEN_LINES:
            said = now
            print(f"{name}: {done} of {total} {unit}, {now - start:.0f} s", file=sys.stderr, flush=True)
