"""Start a stage: check its inputs, hold its folder, and run the loop under Ray Train."""

from __future__ import annotations

import logging
import os
import shutil
import textwrap
import time
from pathlib import Path
from typing import Any

from ...datasets.artifact import RECORD, exclusive
from ...datasets.finished import what_lies_at
from ...datasets.storage import Location
from ..runtime.after_commit import after_commit
from .config import TrainConfig
from .gallery.schedule import ray_validation, render_remaining
from .metrics.progress import progress
from .metrics.report import write_run_report
from .preflight.fork import begin_fork, forked_from
from .preflight.inputs import check_inputs, check_same_run
from .preflight.plan import check_feasible
from .preflight.plan import plan as plan  # the job's, as of every job
from .publish import prepare_store_run, publish, publish_folder, run_folder
from .resume.stop import TrainingStopped, WorkerLost, stops_on_sigterm
from .run_folder import TrainingRefused, read_checkpoint_record, read_json, steps_done


def run(
    config: TrainConfig,
    *,
    latents: Location,
    base: str | None,
    out: Location,
    from_checkpoint: Location | None = None,
    address: str | None = None,
    fork: Location | None = None,
) -> dict[str, Any]:
    """Train one stage to its last step, from wherever it stands.

    With `out` on a store the run's own files (engine states above all) stay on this machine's scratch, and the
    checkpoint and the metrics are uploaded when they are finished.

    Args:
        config: the stage.
        latents: a finished latents folder.
        base: Wan 2.1 I2V folder or hub id; None takes the one that `from_checkpoint` names.
        out: folder of the run, on a file system that all workers share, or on a store. A finished run is left as it
            is.
        from_checkpoint: the stage before's checkpoint, for stages 2 and 3.
        address: of a Ray cluster; None: a private Ray on this machine, or none at all with `num_workers=0`.
        fork: another run's folder, from whose newest engine state this run begins, with other settings.

    Returns:
        The checkpoint's record, `out/checkpoint/run.json`, with `"already_finished": True` if there was nothing to do.

    Raises:
        TrainingRefused: inputs or settings do not fit together; the message names the field.
        ArtifactError: the latents are not finished, or another run holds `out`.
        TrainingStopped: SIGTERM came; what was done is kept.
        WorkerLost: more workers died than `max_restarts` lets Ray replace; what was done is kept.
    """
    if (folder := run_folder(out)) != out:
        with exclusive(out):
            here = prepare_store_run(config, out, address)
            done = run(config, latents=latents, base=base, out=here, from_checkpoint=from_checkpoint, fork=fork)
            publish(here, out)
            return done
    out = folder.resolve()
    inputs = check_inputs(config, latents, base, from_checkpoint)
    with exclusive(out):
        finished = _finished(out, config.steps)
        if finished is None:  # before anything is written that would bind the folder to these settings
            check_feasible(config, inputs, out, address)
        if fork is not None:
            begin_fork(run_folder(fork).resolve(), out, inputs.record)
        check_same_run(out, inputs.record)
        settings = {
            "config": config.model_dump(mode="json"),
            "latents": str(inputs.latents),
            "out": str(out),
            "base": inputs.base and str(inputs.base),
            "from_checkpoint": inputs.from_checkpoint and str(inputs.from_checkpoint),
            "record": {**inputs.record, "forked_from": forked_from(out)},
            "attempt": str(time.time_ns()),
        }
        if finished is not None:
            _show(config, settings, out, address)
            shutil.rmtree(out / ".engine", ignore_errors=True)  # of a driver that was killed while its workers finished
            return {**finished, "already_finished": True}
        (out / "state").mkdir(exist_ok=True)
        with progress(config, out, steps_done(out)):
            _fit(config, settings, out, address)
        record = _finished(out, config.steps)
        if record is None:  # the loop commits a checkpoint, or raises, or was asked to stop
            raise TrainingStopped(
                f"stopped after {steps_done(out)} of {config.steps} steps, their state is in {out / 'state'}: the same "
                "command goes on from there"
            )
        _show(config, settings, out, address)
        return record


def pick(out: Location, steps: int) -> Location:
    """The checkpoint of the run in `out` after `steps`, made of the weights that were kept for its gallery.

    It lies beside the last one, as `out`/checkpoint-NNNNNN, on a store as well; the run may still be going on.

    Raises:
        TrainingRefused: the weights of that step are not kept on this machine; the message names those that are.
    """
    from .gallery import kept_weights

    here = run_folder(out)
    if not any((here / name).exists() for name in ("start.json", "trained", "checkpoint")):
        there = "a file" if out.is_file() else what_lies_at(out)
        words = f"no training run but {there}" if there else "no training run"
        raise TrainingRefused(f"run: {out} is {words}: give what `train --out` was given")
    name = kept_weights.pick(here, steps).name
    if here != out:
        publish_folder(here / name, out / name)
    return out / name


def picked(out: Location, steps: int) -> Location:
    """The checkpoint of the run in `out` after `steps`, which is there."""
    for name in (f"checkpoint-{steps:06d}", "checkpoint"):
        if (out / name / RECORD).is_file() and read_checkpoint_record(out / name)["steps"] == steps:
            return out / name
    raise TrainingRefused(f"steps: {out} holds no checkpoint of {steps} steps")


def _show(config: TrainConfig, settings: dict[str, Any], out: Path, address: str | None) -> None:
    """Galleries that are not there yet, and the page; nothing that goes wrong with them is a fault of the training."""
    with after_commit(f"galleries of {out}", "the same command, given again, tries them again"):
        render_remaining(config, settings, out, address)
    write_run_report(out)


def _finished(out: Path, steps: int) -> dict[str, Any] | None:
    file = out / "checkpoint" / RECORD
    record = read_json(file) if file.exists() else None
    return record if record is not None and record["steps"] == steps else None


def _fit(config: TrainConfig, settings: dict[str, Any], out: Path, address: str | None) -> None:
    """Run the loop in every worker and raise a worker's own exception when it fails."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.num_workers == 0:
        trainer = _trainer(config, settings, out)
        logging.getLogger("ray.train").setLevel(logging.WARNING)  # local mode is meant, not an accident
        with stops_on_sigterm(out):
            trainer.fit()
        return
    import ray.train

    from ..runtime.local_ray import local_ray

    with local_ray(out / ".engine" / "ray", address):
        try:
            with stops_on_sigterm(out):  # in here: Ray's beginning takes the signal for itself
                _trainer(config, settings, out).fit()
        except ray.train.WorkerGroupError as error:
            failures = [failure for _, failure in sorted(error.worker_failures.items())]
            raise _original(failures, out) from error
    shutil.rmtree(out / ".engine", ignore_errors=True)


def _original(failures: list[Exception], out: Path) -> Exception:
    """The exception that a worker raised; of several, the one that is not merely a lost neighbour."""
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    lost = [cause for cause in causes if type(cause).__module__.startswith("ray.")]  # Ray has no one class for it
    own = [cause for cause in causes if not isinstance(cause, RuntimeError) and cause not in lost]
    if own or not lost:
        return (own or causes)[0]
    words = textwrap.shorten(str(lost[0]), 300, placeholder=" …")
    return WorkerLost(
        f"a worker was lost ({words})\n{steps_done(out)} steps are kept in {out / 'state'}: the same command goes on "
        "from there; with max_restarts Ray does that by itself"
    )


def _trainer(config: TrainConfig, settings: dict[str, Any], out: Path) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from .loop import train_loop

    env = {} if config.use_gpu else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return TorchTrainer(
        train_loop,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=config.use_gpu),
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        run_config=RunConfig(
            # A name of its own for every attempt: what to resume from is in OUT/state, not in Ray's records.
            name=f"{out.name}-{os.getpid()}-{time.time_ns()}",
            storage_path=str(out / ".engine"),
            failure_config=FailureConfig(max_failures=config.max_restarts),
            worker_runtime_env={"env_vars": env},  # type: ignore[call-arg]  # typed as Ray Train's first version
        ),
        validation_config=ray_validation(config, settings),
    )
