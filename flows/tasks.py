"""The verbs of the flows: each task runs one job, here or on a Ray cluster, and returns the artifact's record.

Only paths and records travel between tasks. Jobs take up where they were stopped, so a task may be retried freely.
"""

import shlex
from collections.abc import Callable
from typing import Any

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from ..datasets.artifact import Artifact
from ..datasets.finished import find_artifact
from ..datasets.shards.dataset import require_settings
from ..datasets.storage import Location, state_folder
from ..datasets.storage.atomic import write_json
from ..pipelines.cache import job as cache_job
from ..pipelines.cache.config import CacheConfig
from ..pipelines.common.older_versions import absent_fields
from ..pipelines.curate import job as curate_job
from ..pipelines.evaluate import job as evaluate_job
from ..pipelines.render import job as render_job
from ..pipelines.runtime.runner import Engine
from ..pipelines.runtime.submit import submit_job
from ..pipelines.train import job as train_job
from .presets import Run

Record = dict[str, Any]
Words = list[str | Location]


def _job(cluster: str | None, arguments: Words, run: Run, artifact: Location, here: Callable[[], Record]) -> Record:
    """Run a job here, or the same as a command submitted to a cluster, which must see the same paths."""
    if cluster is None:
        return here()
    words = [*map(str, arguments), "--preset", run.model_dump_json(), "--address", "auto"]
    submit_job(cluster, words, run_key=str(flow_run.root_flow_run_id), on_log=get_run_logger().info)
    return Artifact(artifact).record()


def _engine(run: Run, out: Location, in_process: bool, arguments: Words) -> Engine:
    """Where packets run here; its command reproduces the job, with the configuration in a file beside its logs."""
    state = state_folder(out)
    preset = state / "preset.json"
    write_json(preset, run.model_dump(mode="json"))
    command = shlex.join(["steadydancer", *map(str, arguments), "--preset", str(preset)])
    return Engine(state, in_process, command=command)


@task(task_run_name="curate {clips}")
def curate(run: Run, clips: str, out: Location, cluster: str | None = None, in_process: bool = False) -> Record:
    """Ingest, probe, shots, scores, pose, select: `out/clips`."""
    arguments: Words = ["curate", "--clips", clips, "--out", out]

    def here() -> Record:
        return curate_job.run(run.curate, clips=clips, out=out, engine=_engine(run, out, in_process, arguments))

    return _job(cluster, arguments, run, out / "clips", here)


@task(task_run_name="cache {clips}")
def cache(run: Run, clips: Location, out: Location, cluster: str | None = None, in_process: bool = False) -> Record:
    """Latents, image features and text embeddings of the accepted clips: `out/latents`."""
    arguments: Words = ["cache", "--clips", clips, "--out", out]

    def here() -> Record:
        engine = _engine(run, out, in_process, arguments)
        return cache_job.run(run.cache, clips=clips, out=out, engine=engine, samples_drawn=run.samples_drawn)

    return _job(cluster, arguments, run, out / "latents", here)


@task(task_run_name="train stage {stage}")
def train(
    run: Run,
    stage: int,
    latents: Location,
    base: str,
    out: Location,
    from_checkpoint: Location | None,
    cluster: str | None = None,
) -> Record:
    """One training stage: `out/checkpoint`."""
    arguments: Words = ["train", "--latents", latents, "--stage", str(stage), "--base", base, "--out", out]
    if from_checkpoint is not None:
        arguments += ["--from", from_checkpoint]

    def here() -> Record:
        config, place = run.stage(stage), find_artifact(latents, "latents").path
        require_settings(place, run.cache.settings, absent_fields(CacheConfig))
        return train_job.run(config, latents=place, base=base, out=out, from_checkpoint=from_checkpoint)

    return _job(cluster, arguments, run, out / "checkpoint", here)


@task(task_run_name="pick {steps} steps")
def pick(run_out: Location, steps: int, cluster: str | None = None) -> Location:
    """The checkpoint of a training run after `steps`, made if it is not there."""
    if cluster is None:
        return train_job.pick(run_out, steps)
    words = ["pick", "--run", str(run_out), "--steps", str(steps)]
    submit_job(cluster, words, run_key=str(flow_run.root_flow_run_id), on_log=get_run_logger().info)
    return train_job.find_checkpoint(run_out, steps)


@task(task_run_name="render {pairs}")
def render(
    run: Run, checkpoint: Location, pairs: Location, out: Location, cluster: str | None = None, in_process: bool = False
) -> Record:
    """One video a pair: `out/renders`."""
    arguments: Words = ["render", "--checkpoint", checkpoint, "--pairs", pairs, "--out", out]

    def here() -> Record:
        engine = _engine(run, out, in_process, arguments)
        wanted = render_job.read_pairs(pairs)
        return render_job.run(run.render, checkpoint=checkpoint, pairs=wanted, out=out, engine=engine)

    return _job(cluster, arguments, run, out / "renders", here)


@task(task_run_name="evaluate {renders}")
def evaluate(
    run: Run,
    renders: Location,
    truth: Location | None,
    out: Location,
    cluster: str | None = None,
    in_process: bool = False,
) -> Record:
    """Metric rows and a page: `out/metrics`, `out/report.html`."""
    arguments: Words = ["evaluate", "--renders", renders, "--out", out]
    if truth is not None:
        arguments += ["--truth", truth]

    def here() -> Record:
        engine = _engine(run, out, in_process, arguments)
        return evaluate_job.run(run.evaluate, renders=renders, truth=truth, out=out, engine=engine)

    return _job(cluster, arguments, run, out / "metrics", here)
