"""Run packets through stages, on Ray or in this process, with progress, resuming and readable errors.

Ray moves small rows and runs actors; the artifact's parts alone decide which packets are done. (Ray's own
checkpointing drops rejected rows and siblings of a failed fan-out; see docs/log.md.)
"""

import contextlib
import json
import socket
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from ... import TemporaryError
from ...datasets.artifact import Packet
from .config import ClusterConfig
from .nodes import NodesMissing, NodeUnfit, require_package, watch_nodes
from .packets import Item as Item
from .packets import Job as Job
from .packets import JobInterrupted, PacketWorker, Parts, item_of
from .packets import JobStopped as JobStopped
from .pools import make_pools, needed_gpus, needed_workers
from .stage import StageFault

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 20.0


@dataclass(frozen=True)
class Engine:
    """Where packets run.

    Args:
        state_dir: folder for the files of a private Ray and for error logs.
        in_process: run without Ray: same rows, same verdicts, `breakpoint()` works.
        address: address of a Ray cluster to join; None starts a private Ray on this machine.
        command: command line that reproduces the job, for messages.
        wait_for_nodes_s: on a cluster, seconds to wait for nodes that can run the job.
    """

    state_dir: Path
    in_process: bool = False
    address: str | None = None
    command: str = ""
    wait_for_nodes_s: float = ClusterConfig().wait_for_nodes_s


def run_packets(job: Job, artifact: Parts, packets: list[Packet], engine: Engine) -> dict[str, float]:
    """Run the packets that have no part in `artifact` yet; return the seconds of each stage, summed over workers.

    Raises:
        JobStopped: the code failed on a row, or the machine failed (a full disk). Finished packets are kept.
    """
    seconds: Counter[str] = Counter()
    remaining = artifact.remaining(packets)
    if not remaining:
        return {}
    with _readable_faults(job, engine), _results(job, artifact, remaining, engine) as results:
        for result in progress(results, job.name, "packets", len(packets), len(packets) - len(remaining)):
            seconds.update(json.loads(result["seconds"]))
    return dict(seconds)


@contextlib.contextmanager
def _results(job: Job, artifact: Parts, packets: list[Packet], engine: Engine) -> Iterator[Iterable[Item]]:
    num_gpus = needed_gpus(job.stages, engine.in_process)
    if engine.in_process:
        if num_gpus:
            import torch

            _require_gpus(job, num_gpus, torch.cuda.device_count())
        worker = PacketWorker(job.stages, job.config, job.schema, job.write_packet)
        with contextlib.closing(worker):
            yield map(worker, (item_of(job, one) for one in packets))
        return
    with contextlib.ExitStack() as stack:
        _enter_ray(job, engine, stack)
        import ray

        if engine.address is None:
            resources = ray.cluster_resources()
            _require_gpus(job, num_gpus, resources.get("GPU", 0))
            pools = make_pools(job.stages, len(packets), resources)
            if len(pools) == 1:
                from .ray_actors import actor_results

                yield actor_results(job, pools[0], artifact, packets)
                return
        else:  # an autoscaler may add nodes later
            require_package()
            stack.enter_context(watch_nodes(job.name, needed_workers(job.stages), engine.wait_for_nodes_s))
        from .ray_data import ray_results

        yield ray_results(job, artifact, packets)


def _enter_ray(job: Job, engine: Engine, stack: contextlib.ExitStack) -> None:
    from .local_ray import local_ray

    try:
        if engine.address and ":" in engine.address:  # fail early: Ray itself retries for ten minutes
            host, port = engine.address.removeprefix("ray://").rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=10).close()
        stack.enter_context(local_ray(engine.state_dir / "ray", engine.address))
    except Exception as error:  # Ray has no common class for start-up errors
        words = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
        if engine.address:
            raise JobStopped(
                f"{job.name} stopped: cannot connect to the Ray cluster at {engine.address} ({words}); check --address"
            ) from error
        raise JobStopped(
            f"{job.name} stopped: Ray did not start ({words})\n"
            f"Check the free disk space and the logs in {engine.state_dir / 'ray' / 'logs'}, or run without Ray: "
            "--in-process"
        ) from error


def _require_gpus(job: Job, wanted: float, available: float) -> None:
    """Fail early: Ray would otherwise wait silently for a GPU that does not exist."""
    if wanted > available:
        raise JobStopped(
            f"{job.name} needs {wanted:g} GPU per worker, but this machine has {available:g}: pass --address of a "
            f"cluster with GPUs, ask for fewer, or use a preset whose {job.name}.num_gpus is 0 (tiny)"
        )


@contextlib.contextmanager
def _readable_faults(job: Job, engine: Engine) -> Iterator[None]:
    """Turn a worker's error into a short message with stage, clip, source line and remedy."""
    try:
        yield
    except (NodesMissing, NodeUnfit) as error:
        raise JobStopped(str(error)) from error
    except OSError as error:
        passes = isinstance(error, TemporaryError)
        remedy = "" if passes else "free disk space or fix the path, then "
        raise (JobInterrupted if passes else JobStopped)(
            f"{job.name} stopped: {error.strerror or error} ({error.filename or engine.state_dir})\n"
            f"Finished packets are kept; {remedy}run the same command again to resume."
        ) from error
    except StageFault as error:
        log = engine.state_dir / "faults" / f"{error.stage}-{error.row_id.split()[0]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(error.trace)
        command = engine.command or "the same command"
        raise JobStopped(
            f"{job.name} stopped: stage `{error.stage}` failed on clip {error.row_id}\n"
            f"  {error.error}\n"
            f"  at {error.place}\n"
            f"  full traceback: {log}\n"
            f"  reproduce in one process: {command}{'' if engine.in_process else ' --in-process'}\n"
            "Finished packets are kept; the same command resumes from there."
        ) from error


def progress(items: Iterable[T], name: str, unit: str, total: int, initial: int = 0) -> Iterator[T]:
    """Yield the items with a progress bar on a terminal, or with a line every 20 seconds in a log."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=name, unit=f" {unit}", total=total, initial=initial, dynamic_ncols=True)
        return
    start = last_line = time.monotonic()
    print(f"{name}: {initial} of {total} {unit} done", file=sys.stderr, flush=True)
    for done, item in enumerate(items, initial + 1):
        yield item
        now = time.monotonic()
        if done == total or now - last_line > SECONDS_BETWEEN_LINES:
            last_line = now
            print(f"{name}: {done} of {total} {unit}, {now - start:.0f} s", file=sys.stderr, flush=True)
