"""Prefect tasks: each runs one job, on this machine or on a Ray cluster, and returns the artifact's record.

Tasks exchange only paths and records. Jobs resume after an interruption, so a task can be retried. A job on a cluster
is followed, not owned: it ends with its run's cancellation, not with this process. Jobs that need torch are imported
where they run: twenty processes that follow jobs on a cluster would take 20 GB.
"""

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect import get_run_logger
from prefect import task as prefect_task

from .. import SteadyDancerError, TemporaryError
from ..datasets.artifact import Artifact
from ..datasets.artifact_lookup import find_artifact
from ..datasets.benchmarks import read_benchmark
from ..datasets.schema import Row
from ..datasets.storage import Location, state_folder
from ..datasets.storage.atomic import write_json
from ..datasets.storage.digests import json_digest
from ..pipelines.cache.config import CacheConfig
from ..pipelines.common.older_versions import absent_fields
from ..pipelines.curate import job as curate_job
from ..pipelines.evaluate.imported import ScoreFile
from ..pipelines.evaluate.sources import Source
from ..pipelines.render import job as render_job
from ..pipelines.runtime.job_server import JobUnknown
from ..pipelines.runtime.runner import Engine
from ..pipelines.runtime.submit import JobFailed, Order, submit_job
from ..pipelines.train.resume.stop import TrainingStopped
from .presets import Run
from .run_state import RunState

Record = dict[str, Any]
Words = list[str | Location]

_ran: set[str] = set()  # flow runs for which this process has seen a job to its end


def _may_pass(task: Any, task_run: Any, state: Any) -> bool:
    """Return whether a failed task is tried again: after a temporary error, or if the server does not know its job.

    A training that was asked to stop stays stopped.
    """
    try:
        state.result()
    except TrainingStopped:
        return False
    except (JobUnknown, TemporaryError):
        return True
    except Exception as error:
        return isinstance(error, JobFailed) and error.is_temporary
    return False


def task(name: str) -> Any:
    """Make a Prefect task that is tried again after faults that pass."""
    options: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [30, 120], "retry_condition_fn": _may_pass}
    return prefect_task(task_run_name=name, **options)


def _job(
    cluster: str | None,
    arguments: Words,
    run: Run,
    out: Location,
    name: str,
    run_local: Callable[[], Record],
    made: Sequence[Location] = (),
) -> Record:
    """Run a job on this machine, or submit it as a command to a cluster that has the same paths; return its record.

    Args:
        cluster: address of the job server; None: this machine.
        arguments: words of the command without its preset.
        run: the configuration.
        out: folder that the command writes to.
        name: the artifact in it.
        run_local: runs the job here.
        made: the artifacts, if they are not `out/name`.
    """
    if cluster is None:
        return run_local()
    artifacts = [Artifact(place) for place in made or (out / name,)]
    words = [*map(str, arguments), "--preset", str(_stored_preset(run, out)), "--address", "auto"]
    _submit(cluster, run, words, out / name, lambda: all(one.committed for one in artifacts))
    if missing := [one.path for one in artifacts if not one.committed]:
        raise SteadyDancerError(
            f"{missing[0]}: the job has written it, but it is not here: mount the same folder at the same path on the "
            "worker and on every node, or use s3:// addresses"
        )
    return artifacts[0].record()


def _submit(cluster: str, run: Run, words: list[str], artifact: Location, is_finished: Callable[[], bool]) -> None:
    state = RunState()
    order = Order(
        words,
        artifact=str(artifact),
        # After a job that ran, its successors are submitted again: they compare their inputs with the new ones.
        is_finished=lambda: state.root not in _ran and is_finished(),
        run=state.root,
        is_cancelled=state.is_cancelled,
        on_job=functools.partial(state.note_job, cluster),
        stop_grace_s=run.cluster.stop_grace_s,
    )
    if submit_job(cluster, order, state.log):
        _ran.add(state.root)


def _stored_preset(run: Run, out: Location) -> Location:
    """Write the configuration beside the artifacts, where every node reads it: in a command it would fill the logs."""
    settings = run.model_dump(mode="json")
    file = out / ".presets" / f"{json_digest(settings)[:16]}.json"
    write_json(file, settings)  # also over one that somebody has edited
    return file


def _engine(run: Run, out: Location, in_process: bool, arguments: Words) -> Engine:
    """Return the engine of a local job; its command reproduces the job from a preset file in the state folder."""
    state = state_folder(out)
    preset = state / "preset.json"
    write_json(preset, run.model_dump(mode="json"))
    command = shlex.join(["steadydancer", *map(str, arguments), "--preset", str(preset)])
    return Engine(state, in_process, command=command)


@task("curate {clips}")
def curate(run: Run, clips: str, out: Location, cluster: str | None = None, in_process: bool = False) -> Record:
    """Curate clips: ingest, probe, shots, scores, pose, select; write `out/clips`."""
    arguments: Words = ["curate", "--clips", clips, "--out", out]

    def run_local() -> Record:
        return curate_job.run(run.curate, clips=clips, out=out, engine=_engine(run, out, in_process, arguments))

    return _job(cluster, arguments, run, out, "clips", run_local)


@task("cache {clips}")
def cache(run: Run, clips: Location, out: Location, cluster: str | None = None, in_process: bool = False) -> Record:
    """Cache latents, image features and text embeddings of the accepted clips; write `out/latents`."""
    arguments: Words = ["cache", "--clips", clips, "--out", out]

    def run_local() -> Record:
        from ..pipelines.cache import job as cache_job

        engine = _engine(run, out, in_process, arguments)
        return cache_job.run(run.cache, clips=clips, out=out, engine=engine, samples_drawn=run.samples_drawn)

    return _job(cluster, arguments, run, out, "latents", run_local)


@task("train stage {stage}")
def train(
    run: Run,
    stage: int,
    latents: Location,
    base: str,
    out: Location,
    from_checkpoint: Location | None,
    cluster: str | None = None,
) -> Record:
    """Train one stage; write `out/checkpoint`."""
    arguments: Words = ["train", "--latents", latents, "--stage", str(stage), "--base", base, "--out", out]
    if from_checkpoint is not None:
        arguments += ["--from", from_checkpoint]

    def run_local() -> Record:
        from ..datasets.shards.dataset import require_settings
        from ..pipelines.train import job as train_job

        config, place = run.stage(stage), find_artifact(latents, "latents").path
        require_settings(place, run.cache.settings, absent_fields(CacheConfig))
        return train_job.run(config, latents=place, base=base, out=out, from_checkpoint=from_checkpoint)

    require_workers(run, cluster, stage)
    return _job(cluster, arguments, run, out, "checkpoint", run_local)


def require_workers(run: Run, cluster: str | None, *stages: int) -> None:
    """Refuse a training on a cluster that would run in the job's driver, on the head.

    Raises:
        SteadyDancerError: a stage has no workers.
    """
    alone = [stage for stage in stages if run.stage(stage).num_workers == 0]
    if cluster is not None and alone:
        raise SteadyDancerError(
            f"stage{alone[0]}.num_workers is 0, which trains in one process, on the cluster's head: set the number of "
            "workers, or use a preset that has some (tiny_cluster, paper)"
        )


@task("pick {steps} steps")
def pick(run: Run, run_out: Location, steps: int, cluster: str | None = None) -> Location:
    """Return the checkpoint of a training run after `steps`; write it if it does not exist."""
    from ..pipelines.train import job as train_job

    if cluster is None:
        return train_job.pick(run_out, steps)
    words = ["pick", "--run", str(run_out), "--steps", str(steps)]
    made = run_out / f"checkpoint-{steps:06d}"
    _submit(cluster, run, words, made, lambda: Artifact(made).committed)
    return train_job.find_checkpoint(run_out, steps)


@task("render into {out}")
def render(
    run: Run,
    checkpoint: Location | Mapping[str, Location],
    pairs: Location | None,
    out: Location,
    cluster: str | None = None,
    in_process: bool = False,
    benchmark: str | None = None,
) -> Record:
    """Render the pairs of a table or a benchmark; write `out/renders`, or of several checkpoints `out/NAME/renders`.

    Returns the record; of several checkpoints, those by name.
    """
    several = checkpoint if isinstance(checkpoint, Mapping) else {"": checkpoint}
    chosen: Words = ["--benchmark", benchmark or ""] if pairs is None else ["--pairs", pairs]
    named = _named_words("--checkpoint", list(several.items()))
    arguments: Words = ["render", *named, *chosen, "--out", out]

    def run_local() -> Record:
        engine = _engine(run, out, in_process, arguments)
        wanted, source = _pairs_of(pairs, benchmark or "")
        given: Record = {"pairs": wanted, "out": out, "engine": engine, **source}
        if several is checkpoint:
            return dict(render_job.run_checkpoints(run.render, checkpoints=several, **given))
        return render_job.run(run.render, checkpoint=several[""], **given)

    if several is not checkpoint or cluster is None:
        return _job(cluster, arguments, run, out, "renders", run_local)
    folders = {name: render_job.folder_of(out, name) / "renders" for name in several}
    _job(cluster, arguments, run, out, "renders", run_local, list(folders.values()))
    return {name: Artifact(folder).record() for name, folder in folders.items()}


def _pairs_of(pairs: Location | None, benchmark: str) -> tuple[list[Row], Record]:
    """Return the pairs to render, and what the record states about their benchmark."""
    if pairs is not None:
        return render_job.read_pairs(pairs), {}
    found = read_benchmark(benchmark)
    for line in found.remarks:
        get_run_logger().info(f"{found.name}: {line}")
    return [pair.to_row() for pair in found.pairs], {"benchmark": found.to_record()}


@task("evaluate into {out}")
def evaluate(
    run: Run,
    renders: Location | None,
    truth: Location | None,
    out: Location,
    cluster: str | None = None,
    in_process: bool = False,
    benchmark: str | None = None,
    videos: Sequence[Source] = (),
    scores: Sequence[ScoreFile] = (),
) -> Record:
    """Evaluate renders and the videos of other methods; write `out/metrics`, and page, CSV and LaTeX table."""
    arguments: Words = ["evaluate", *(["--renders", renders] if renders else []), "--out", out]
    given: Record = {}
    if truth is not None:
        arguments += ["--truth", truth]
    if benchmark is not None:
        arguments += ["--benchmark", benchmark]
        given["benchmark"] = benchmark
    if videos:
        arguments += _named_words("--videos", [(one.name, one.folder) for one in videos])
        given["videos"] = list(videos)
    if scores:
        arguments += _named_words("--scores", [(one.method, one.file) for one in scores])
        given["scores"] = list(scores)

    def run_local() -> Record:
        from ..pipelines.evaluate import job as evaluate_job

        engine = _engine(run, out, in_process, arguments)
        return evaluate_job.run(run.evaluate, renders=renders, truth=truth, out=out, engine=engine, **given)

    return _job(cluster, arguments, run, out, "metrics", run_local)


def _named_words(option: str, named: Sequence[tuple[str | None, Location]]) -> Words:
    """Return the words of an option that is given once for each `NAME=PATH`."""
    return [word for name, place in named for word in (option, f"{name}={place}" if name else place)]
