"""Run jobs of the demo beside others, each in a Ray worker: small networks on one clip use one core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..presets import Run

T = TypeVar("T")


def beside(function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Start a function in a Ray worker; return a function that waits for its result, or raises its exception.

    Without Ray in this process, the function runs when its result is asked for. It reserves no CPU, so that the workers
    of other jobs do not wait for it.
    """
    import ray

    if not ray.is_initialized():
        return lambda: function(*arguments)
    result = ray.remote(num_cpus=0)(function).remote(*arguments)

    def wait() -> T:
        try:
            value: T = ray.get(result)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return value

    return wait


def train_stage(run: Run, stage: int, latents: Path, base: str, out: Path, from_checkpoint: Path) -> dict[str, Any]:
    """Train a stage as the task `train` does; return the checkpoint's record."""
    from ...pipelines.train import job

    return job.run(run.stage(stage), latents=latents, base=base, out=out, from_checkpoint=from_checkpoint)


def render_pairs(run: Run, checkpoint: Path, pairs: Path, out: Path, work: Path) -> dict[str, Any]:
    """Render a table of pairs in this process; inputs that are already encoded in `work` are read."""
    from ...datasets.storage import state_folder
    from ...pipelines.render import job
    from ...pipelines.runtime.runner import Engine

    engine = Engine(state_folder(out), in_process=True)
    return job.run(run.render, checkpoint=checkpoint, pairs=job.read_pairs(pairs), out=out, engine=engine, work=work)
