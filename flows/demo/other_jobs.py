"""Jobs of the demo that run in Ray workers beside others: small networks on one clip use one core."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..presets import Run


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
