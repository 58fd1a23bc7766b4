"""Start a stage: check its inputs, lock its folder, and run the training loop under Ray Train."""

from __future__ import annotations

import logging
import os
import shutil
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets.artifact import RECORD, exclusive
from ...datasets.artifact_lookup import describe_artifacts
from ...datasets.storage import Location
from ..runtime.after_commit import after_commit
from ..runtime.config import ClusterConfig
from .config import TrainConfig
from .gallery_schedule import ray_validation, render_remaining
from .metrics.progress import progress
from .metrics.report import write_run_report
from .preflight.fork import begin_fork, forked_from
from .preflight.inputs import check_inputs, check_same_run
from .preflight.plan import check_feasible
from .preflight.plan import plan as plan  # re-exported, as in every job
from .publish import prepare_store_run, publish, publish_folder, run_folder
from .resume.stop import TrainingStopped, WorkerLost, stops_on_sigterm
from .run_folder import TrainingRefused, read_checkpoint_record, read_json, steps_done

if TYPE_CHECKING:
    from ..runtime.nodes import Workers


def run(
    config: TrainConfig,
    *,
    latents: Location,
    base: str | None,
    out: Location,
    from_checkpoint: Location | None = None,
    address: str | None = None,
    fork: Location | None = None,
    wait_for_nodes_s: float = ClusterConfig().wait_for_nodes_s,
) -> dict[str, Any]:
    """Train one stage to its last step, from the beginning or from its newest training state.

    If `out` is on a store, the training states stay in a local working folder; the checkpoint and the metrics are
    uploaded when the run is finished.

    Args:
        config: the stage.
        latents: a finished latents folder.
        base: Wan 2.1 I2V folder or hub id; None: the one recorded in `from_checkpoint`.
        out: folder of the run, on a file system that all workers share, or on a store. A finished run is not
            changed.
        from_checkpoint: checkpoint of the previous stage, for stages 2 and 3.
        address: address of a Ray cluster; None: a private Ray on this machine, or no Ray with `num_workers=0`.
        fork: folder of another run; this run starts from its newest training state, with different settings.
        wait_for_nodes_s: on a cluster, seconds to wait for nodes that can hold all workers.

    Returns:
        The checkpoint's record, `out/checkpoint/run.json`; with `"already_finished": True` if the run was complete.

    Raises:
        TrainingRefused: inputs or settings do not fit together; the message names the field.
        ArtifactError: the latents are not finished, or another process is using `out`.
        TrainingStopped: stopped by SIGTERM; the training state is saved.
        WorkerLost: more workers died than `max_restarts` allows; the training states written so far remain.
        NodesMissing: the cluster's nodes cannot hold all workers, from the start or after the loss of a node.
        NodeUnfit: a node of the cluster lacks this project.
    """
    if (folder := run_folder(out)) != out:
        with exclusive(out):
            local = prepare_store_run(config, out, address)
            done = run(config, latents=latents, base=base, out=local, from_checkpoint=from_checkpoint, fork=fork)
            publish(local, out)
            return done
    out = folder.resolve()
    inputs = check_inputs(config, latents, base, from_checkpoint)
    with exclusive(out):
        finished = _finished(out, config.steps)
        if finished is None:  # before start.json ties the folder to these settings
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
            _report(config, settings, out, address)
            shutil.rmtree(out / ".engine", ignore_errors=True)  # left by a driver that was killed
            return {**finished, "already_finished": True}
        (out / "state").mkdir(exist_ok=True)
        with progress(config, out, steps_done(out)):
            _fit(config, settings, out, address, wait_for_nodes_s)
        record = _finished(out, config.steps)
        if record is None:  # the loop commits a checkpoint, raises, or stops on request
            raise TrainingStopped(
                f"stopped after {steps_done(out)} of {config.steps} steps; the training state is in {out / 'state'}: "
                "run the same command to resume"
            )
        _report(config, settings, out, address)
        return record


def pick(out: Location, steps: int) -> Location:
    """Write the checkpoint of the run in `out` after `steps` from the weights that were kept for its gallery.

    It is written to `out`/checkpoint-NNNNNN, also on a store; the run may still be training.

    Raises:
        TrainingRefused: the weights of that step are not on this machine; the message lists the steps that are.
    """
    from .gallery import kept_weights

    local = run_folder(out)
    if not any((local / name).exists() for name in ("start.json", "trained", "checkpoint")):
        found = "a file" if out.is_file() else describe_artifacts(out)
        words = f"{found}, not a training run" if found else "not a training run"
        raise TrainingRefused(f"run: {out} is {words}: pass the --out of `train`")
    name = kept_weights.pick(local, steps).name
    if local != out:
        publish_folder(local / name, out / name)
    return out / name


def find_checkpoint(out: Location, steps: int) -> Location:
    """Return the folder of the existing checkpoint of the run in `out` after `steps`."""
    for name in (f"checkpoint-{steps:06d}", "checkpoint"):
        if (out / name / RECORD).is_file() and read_checkpoint_record(out / name)["steps"] == steps:
            return out / name
    raise TrainingRefused(f"steps: {out} has no checkpoint for step {steps}")


def _report(config: TrainConfig, settings: dict[str, Any], out: Path, address: str | None) -> None:
    """Render missing galleries and write the report page; failures are logged and do not fail the training."""
    with after_commit(f"galleries of {out}", "run the same command again to retry them"):
        render_remaining(config, settings, out, address)
    write_run_report(out)


def _finished(out: Path, steps: int) -> dict[str, Any] | None:
    file = out / "checkpoint" / RECORD
    record = read_json(file) if file.exists() else None
    return record if record is not None and record["steps"] == steps else None


def _fit(
    config: TrainConfig, settings: dict[str, Any], out: Path, address: str | None, wait_for_nodes_s: float
) -> None:
    """Run the training loop in every worker; if one fails, raise its original exception."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.num_workers == 0:
        trainer = _trainer(config, settings, out)
        logging.getLogger("ray.train").setLevel(logging.WARNING)  # local mode is intended
        with stops_on_sigterm(out):
            trainer.fit()
        return
    import ray.train

    from ..runtime.local_ray import local_ray
    from ..runtime.nodes import require_package, watch_nodes

    with local_ray(out / ".engine" / "ray", address), ExitStack() as stack:
        if address is not None:
            require_package()
            workers = needed_workers(config)
            stack.enter_context(watch_nodes(f"train stage {config.stage}", workers, wait_for_nodes_s))
        try:
            with stops_on_sigterm(out):  # inside local_ray: ray.init installs its own handler
                _trainer(config, settings, out).fit()
        except ray.train.WorkerGroupError as error:
            failures = [failure for _, failure in sorted(error.worker_failures.items())]
            raise _original(failures, out) from error
    shutil.rmtree(out / ".engine", ignore_errors=True)


def needed_workers(config: TrainConfig) -> list[Workers]:
    """Return the workers of a training, and the one that renders its galleries, which may wait until they end."""
    from ..runtime.nodes import Workers

    def workers(num: int, gpus: float, waits: bool = False) -> Workers:
        return Workers(num, 0.0 if config.use_gpu else 1.0, gpus if config.use_gpu else 0.0, waits)

    needed = [workers(config.num_workers, 1.0)]
    return [*needed, workers(1, config.gallery.num_gpus, waits=True)] if config.gallery.num_clips else needed


def _original(failures: list[Exception], out: Path) -> Exception:
    """Pick the exception that caused the failure, rather than those of workers that only lost a peer."""
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    # Ray has no common base class for them.
    lost = [cause for cause in causes if type(cause).__module__.startswith("ray.")]
    own = [cause for cause in causes if not isinstance(cause, RuntimeError) and cause not in lost]
    if own or not lost:
        return (own or causes)[0]
    words = textwrap.shorten(str(lost[0]), 300, placeholder=" …")
    return WorkerLost(
        f"a worker was lost ({words})\n{steps_done(out)} steps are saved in {out / 'state'}: run the same command to "
        "resume, or set max_restarts to let Ray restart lost workers"
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
            # A unique name per attempt: the state to resume from is in OUT/state, not in Ray's storage.
            name=f"{out.name}-{os.getpid()}-{time.time_ns()}",
            storage_path=str(out / ".engine"),
            failure_config=FailureConfig(max_failures=config.max_restarts),
            worker_runtime_env={"env_vars": env},  # type: ignore[call-arg]  # typed for Ray Train v1
        ),
        validation_config=ray_validation(config, settings),
    )
