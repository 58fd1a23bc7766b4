"""The verbs of the flows: each task runs one job, here or on a Ray cluster, and returns the artifact's record.

Only paths and records travel between tasks. Jobs take up where they were stopped, so a task may be retried freely.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from ..datasets.artifact import Artifact
from ..pipelines.cache import job as cache_job
from ..pipelines.curate import job as curate_job
from ..pipelines.evaluate import job as evaluate_job
from ..pipelines.render import job as render_job
from ..pipelines.runner import Engine
from ..pipelines.submit import submit_job
from ..pipelines.train import job as train_job
from .presets import Run

Record = dict[str, Any]


def _job(
    cluster: str | None, arguments: list[str | Path], run: Run, artifact: Path, here: Callable[[], Record]
) -> Record:
    """Run a job here, or the same as a command submitted to a cluster, which must see the same paths."""
    if cluster is None:
        return here()
    words = [*map(str, arguments), "--preset", run.model_dump_json(), "--address", "auto"]
    submit_job(cluster, words, run_key=str(flow_run.root_flow_run_id), on_log=get_run_logger().info)
    return Artifact(artifact).record()


@task(task_run_name="curate {clips}")
def curate(run: Run, clips: str, out: Path, cluster: str | None = None, in_process: bool = False) -> Record:
    """Ingest, probe, shots, scores, pose, select: `out/clips`."""
    engine = Engine(out / ".engine", in_process, command=f"steadydancer curate --clips {clips} --out {out}")
    return _job(
        cluster,
        ["curate", "--clips", clips, "--out", out],
        run,
        out / "clips",
        lambda: curate_job.run(run.curate, clips=clips, out=out, engine=engine),
    )


@task(task_run_name="cache {clips}")
def cache(run: Run, clips: Path, out: Path, cluster: str | None = None, in_process: bool = False) -> Record:
    """Latents, image features and text embeddings of the accepted clips: `out/latents`."""
    engine = Engine(out / ".engine", in_process, command=f"steadydancer cache --clips {clips} --out {out}")
    return _job(
        cluster,
        ["cache", "--clips", clips, "--out", out],
        run,
        out / "latents",
        lambda: cache_job.run(run.cache, clips=clips, out=out, engine=engine),
    )


@task(task_run_name="train stage {stage}")
def train(
    run: Run, stage: int, latents: Path, base: str, out: Path, from_checkpoint: Path | None, cluster: str | None = None
) -> Record:
    """One training stage: `out/checkpoint`."""
    arguments: list[str | Path] = ["train", "--latents", latents, "--stage", str(stage), "--base", base, "--out", out]
    if from_checkpoint is not None:
        arguments += ["--from", from_checkpoint]
    return _job(
        cluster,
        arguments,
        run,
        out / "checkpoint",
        lambda: train_job.run(run.stage(stage), latents=latents, base=base, out=out, from_checkpoint=from_checkpoint),
    )


@task(task_run_name="render {pairs}")
def render(
    run: Run, checkpoint: Path, pairs: Path, out: Path, cluster: str | None = None, in_process: bool = False
) -> Record:
    """One video a pair: `out/renders`."""
    command = f"steadydancer render --checkpoint {checkpoint} --pairs {pairs} --out {out}"
    return _job(
        cluster,
        ["render", "--checkpoint", checkpoint, "--pairs", pairs, "--out", out],
        run,
        out / "renders",
        lambda: render_job.run(
            run.render,
            checkpoint=checkpoint,
            pairs=render_job.read_pairs(pairs),
            out=out,
            engine=Engine(out / ".engine", in_process, command=command),
        ),
    )


@task(task_run_name="evaluate {renders}")
def evaluate(
    run: Run, renders: Path, truth: Path | None, out: Path, cluster: str | None = None, in_process: bool = False
) -> Record:
    """Metric rows and a page: `out/metrics`, `out/report.html`."""
    engine = Engine(out / ".engine", in_process, command=f"steadydancer evaluate --renders {renders} --out {out}")
    arguments: list[str | Path] = ["evaluate", "--renders", renders, "--out", out]
    if truth is not None:
        arguments += ["--truth", truth]
    return _job(
        cluster,
        arguments,
        run,
        out / "metrics",
        lambda: evaluate_job.run(run.evaluate, renders=renders, truth=truth, out=out, engine=engine),
    )
