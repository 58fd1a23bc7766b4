"""Start a stage: check its inputs, hold its folder, and run the loop under Ray Train."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ...datasets.artifact import RECORD, exclusive, json_digest
from ...datasets.sampler import StepSampler
from ...datasets.storage import Location, ObjectPath
from .checkpoint import TrainingRefused, engine_states
from .config import TrainConfig
from .progress import progress
from .publish import begin_on_store, publish, run_folder
from .start import Start, check_same_run, check_start


def run(
    config: TrainConfig,
    *,
    latents: Location,
    base: str | None,
    out: Location,
    from_checkpoint: Location | None = None,
    address: str | None = None,
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

    Returns:
        The checkpoint's record, `out/checkpoint/run.json`, with `"already_finished": True` if there was nothing to do.

    Raises:
        TrainingRefused: inputs or settings do not fit together; the message names the field.
        ArtifactError: the latents are not finished, or another run holds `out`.
    """
    if isinstance(out, ObjectPath):
        with exclusive(out):
            here = begin_on_store(config, out, address)
            done = run(config, latents=latents, base=base, out=here, from_checkpoint=from_checkpoint)
            publish(here, out)
            return done
    out = out.resolve()
    start = check_start(config, latents, base, from_checkpoint)
    with exclusive(out):
        check_same_run(out, start.record)
        finished = _finished(out, config.steps)
        if finished is not None:
            return {**finished, "already_finished": True}
        (out / "state").mkdir(exist_ok=True)
        settings = {
            "config": config.model_dump(mode="json"),
            "latents": str(start.latents),
            "out": str(out),
            "base": start.base and str(start.base),
            "from_checkpoint": start.from_checkpoint and str(start.from_checkpoint),
            "record": start.record,
        }
        if address is None:
            _require_workers(config)
        with progress(config, out, _steps_done(out)):
            _fit(config, settings, out, address)
        record = _finished(out, config.steps)
        assert record is not None, "the loop commits a checkpoint or raises"
        return record


def _require_workers(config: TrainConfig) -> None:
    """Refuse what a private Ray would wait for without a word: GPUs or cores that this machine does not have."""
    import torch

    wanted = max(config.num_workers, 1)
    if config.use_gpu and wanted > (here := torch.cuda.device_count()):
        raise TrainingRefused(
            f"num_workers: {wanted} GPU are asked for and this machine has {here}: give --address of a cluster that "
            "has them, fewer --num-workers, or a preset without GPU (tiny)"
        )
    if not config.use_gpu and wanted > (here := os.cpu_count() or 1):
        raise TrainingRefused(f"num_workers: {wanted} cores are asked for and this machine has {here}")


def _steps_done(out: Path) -> int:
    return next((steps for steps, _ in engine_states(out)), 0)


def _finished(out: Path, steps: int) -> dict[str, Any] | None:
    file = out / "checkpoint" / RECORD
    record = json.loads(file.read_text()) if file.exists() else None
    return record if record is not None and record["steps"] == steps else None


def _fit(config: TrainConfig, settings: dict[str, Any], out: Path, address: str | None) -> None:
    """Run the loop in every worker and raise a worker's own exception when it fails."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.num_workers == 0:
        trainer = _trainer(config, settings, out)
        logging.getLogger("ray.train").setLevel(logging.WARNING)  # local mode is meant, not an accident
        trainer.fit()
        return
    import ray.train

    from ..submit import local_ray

    with local_ray(out / ".engine" / "ray", address):
        try:
            _trainer(config, settings, out).fit()
        except ray.train.WorkerGroupError as error:
            failures = [failure for _, failure in sorted(error.worker_failures.items())]
            raise _original(failures) from error
    shutil.rmtree(out / ".engine", ignore_errors=True)


def _original(failures: list[Exception]) -> Exception:
    """The exception that a worker raised; of several, the one that is not merely a lost neighbour."""
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    own = [cause for cause in causes if not isinstance(cause, RuntimeError)]
    return (own or causes)[0]


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
    )


def plan(
    config: TrainConfig,
    *,
    latents: Location,
    base: str | None,
    out: Location,
    from_checkpoint: Location | None = None,
) -> dict[str, Any]:
    """What `run` would do and need, without loading a weight; refuses what `run` would refuse.

    Returns:
        JSON values: steps to take, samples and batches an epoch, epochs, parameters (all, trained), bytes on disk of
        the checkpoint and of the engine's states.
    """
    start = check_start(config, latents, base, from_checkpoint, fetch=False)
    sampler = StepSampler(start.shards.bucket, config.global_batch_size, config.seed)
    total, trained = _count_parameters(config, start)
    bytes_a_parameter = 2 if config.dtype == "bfloat16" else 4
    # AdamW keeps two float32 moments beside the float32 weights; the engine stores its compute copy as well.
    state_bytes = trained * (12 + bytes_a_parameter)
    return {
        "stage": config.stage,
        "out": str(out.resolve()),
        "steps": config.steps,
        "steps_done": _steps_done(run_folder(out)),
        "samples": len(start.shards),
        "batches_per_epoch": sampler.steps_per_epoch,
        "epochs": config.steps / sampler.steps_per_epoch,
        "workers": config.num_workers,
        "parameters": total,
        "trained_parameters": trained,
        "checkpoint_bytes": total * bytes_a_parameter,
        "engine_state_bytes": state_bytes,
        # While a state is written, the ones that stay are still there.
        "engine_states_bytes_at_most": state_bytes * (config.keep_checkpoints + 1),
        "config_digest": json_digest(config.model_dump(mode="json")),
        "base": start.record["base"],
        "parent": start.record["parent"],
        "latents": start.record["latents"],
    }


def _count_parameters(config: TrainConfig, start: Start) -> tuple[int, int]:
    """(all, trained), from the transformer's configuration alone; adapters count as trained only."""
    import torch

    from ...models.lora import add_lora
    from ...models.transformer import SteadyDancerTransformer3DModel

    arguments = {name: value for name, value in start.transformer_config.items() if not name.startswith("_")}
    with torch.device("meta"):
        network = SteadyDancerTransformer3DModel(**arguments)
        total = sum(weight.numel() for weight in network.parameters())
        if config.trains_lora:
            add_lora(network, config.lora_rank, config.lora_alpha, config.lora_targets)
    return total, sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
