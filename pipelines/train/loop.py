"""The training loop of all stages: runs in every worker and resumes from the newest intact training state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...datasets.storage import location
from ...models.checkpoints.folders import resolve_folder
from ...models.objectives import Objective
from .config import TrainConfig
from .data.batches import StepBatch, TrainingData
from .data.draws import digest
from .data.prefetch import Prefetch
from .engine import ProcessGroup, full_weights, grad_norm, open_engine, process_group, set_learning_rate, trained_names
from .gallery.kept_weights import write_parts
from .gallery_schedule import report_weights
from .metrics.evaluation import Evaluator
from .metrics.meter import Meter
from .metrics_file import read_rows
from .networks import engine_velocity, load_objective, load_pose_simulation, load_student
from .optimizer import use_average
from .resume.states import StateWriter, newest_state, read_state_record
from .resume.stop import preemption_watch, stop_requested
from .resume.universal import read_state
from .run_folder import NonFiniteError, TrainingRefused, append_metrics, commit_checkpoint, cut_metrics
from .weights_writer import TrainedWriter


def train_loop(settings: dict[str, Any]) -> None:
    """Train one stage from its newest training state to its last step, and commit its checkpoint.

    On a stop request the loop ends after the current step, with a training state and without a checkpoint.

    Args:
        settings: JSON values: `config`, the paths `latents`, `out`, `base` and `from_checkpoint` (or None), and
            `record`, the fields of `run.json` that are known before training.
    """
    config = TrainConfig.model_validate(settings["config"])
    out, base = Path(settings["out"]), settings["base"]
    parent = None
    if settings["from_checkpoint"]:
        parent = resolve_folder(settings["from_checkpoint"], ("transformer",))
    with process_group(config) as group:
        simulation = load_pose_simulation(config, base, out / "pose_simulation", group.device)
        data = TrainingData(location(settings["latents"]), config, simulation)
        engine = open_engine(load_student(config, base, parent, group.device), config)
        objective = load_objective(config, base, group.device)
        evaluator = Evaluator(engine, objective, engine_velocity(engine, config), data, group)
        meter = Meter(config, group.device, engine.module.config)

        done = _resume(engine, group, out)
        loss_before = evaluator.loss_before(out, done)
        steps, node_is_leaving = range(done, config.steps), preemption_watch(config)
        with (
            Prefetch(lambda step: data.share(step, group.rank, group.world_size), steps) as batches,
            StateWriter(out, config, group) as states,
            TrainedWriter(out, group, settings) as trained,
        ):
            trained.keep(engine, done)  # the last run may have been killed between the state and this
            for step in steps:
                meter.begin()
                with meter("data"):
                    batch = batches(step)
                rate = set_learning_rate(engine, config, step)
                try:
                    terms = _step(engine, objective, config, batch, group, meter, step)
                    norm, stop = group.largest(grad_norm(engine), stop_requested(out, group))
                    _check_finite("gradient norm", {"grad_norm": norm}, batch, step)
                except NonFiniteError:
                    states.finish()  # raised on all ranks; an earlier state may still be being written
                    raise
                measured = meter.end(data.shards.bucket[batch.draws[0].key])
                is_last = step + 1 == config.steps
                if (step + 1) % config.validation_every_steps == 0:
                    terms |= evaluator.validation(config)
                if group.rank == 0:
                    taken = {"grad_norm": norm, "batch_digest": digest(batch.draws), "lr": rate}
                    append_metrics(out, {"step": step, **terms, **taken, **measured})
                states.check()
                is_stopping, is_leaving = stop > 0, node_is_leaving()
                if is_last or is_stopping or is_leaving or (step + 1) % config.checkpoint_every_steps == 0:
                    states.save(engine, step + 1, wait=is_last or is_stopping or is_leaving)
                if is_stopping and not is_last:
                    engine.destroy()
                    return
                trained.keep(engine, step + 1)

        if config.ema_decay:
            use_average(engine)
        # Not in the metrics of the last step: they must be the same when the run is continued later.
        losses = {"loss_before": loss_before, "loss_after": evaluator.loss(), **evaluator.validation(config)}
        _commit(engine, config, group, out, {**settings["record"], **losses})
        report_weights(config, group, config.steps)
        engine.destroy()


def _step(
    engine: Any,
    objective: Objective,
    config: TrainConfig,
    batch: StepBatch,
    group: ProcessGroup,
    meter: Meter,
    step: int,
) -> dict[str, float]:
    """Take one optimizer step on a global batch; return the mean of every loss term.

    Raises:
        NonFiniteError: on all ranks, before the weights change, if any rank's loss is not finite.
    """
    losses: list[dict[str, Any]] = []
    means: dict[str, float] = {}
    for rows, samples in batch.micro_batches:
        with meter("forward"):
            velocity = engine_velocity(engine, config, [row.alignment_seed for row in rows])
            terms = objective(velocity, samples.to(group.device))
        with meter("backward"):
            engine.backward(terms["loss"])
        losses.append({name: value.detach() for name, value in terms.items()})
        if len(losses) == len(batch.micro_batches):
            means = group.mean(losses)
            _check_finite("loss", means, batch, step)
        with meter("optimizer"):
            engine.step()  # DeepSpeed counts: only the last micro-batch updates the weights
    return means


def _check_finite(what: str, values: dict[str, float], batch: StepBatch, step: int) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        keys = ", ".join(row.key for row in batch.draws)
        raise NonFiniteError(
            f"step {step}: the {what} is not finite ({values}), so the weights were not updated. Resume from the "
            f"newest training state, or change settings with --fork. Samples in the batch: {keys}"
        )


def _resume(engine: Any, group: ProcessGroup, out: Path) -> int:
    """Load the newest intact training state and truncate the metrics to it; return the number of steps done."""
    newest = newest_state(out, group)
    group.barrier()
    done = 0
    if newest is not None:
        done, folder = newest
        if read_state_record(folder)["trained"] != trained_names(engine):
            raise TrainingRefused(
                f"{folder} has a different set of trained weights from this run: choose another --out"
            )
        read_state(engine, folder, group)
    if group.rank == 0:
        cut_metrics(out, done)
    return done


def _commit(engine: Any, config: TrainConfig, group: ProcessGroup, out: Path, record: dict[str, Any]) -> None:
    """Gather the weights; rank 0 writes OUT/checkpoint."""
    weights = full_weights(engine)
    if group.rank == 0:

        def write(folder: Path) -> None:
            write_parts(folder, config, engine.module, weights, record)

        rows = read_rows(out)
        measured = {"seconds": sum(row["seconds"] for row in rows), "steps_measured": len(rows)}
        commit_checkpoint(out, write, {**record, "steps": config.steps, **measured})
    group.barrier()
