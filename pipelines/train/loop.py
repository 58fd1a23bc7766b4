"""The training loop, one for all stages: runs in every worker, resumes from the newest complete engine state."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from ...datasets.artifact import write_json
from ...datasets.storage import location
from ...models.folders import resolve_folder
from ...models.lora import save_trained
from ...models.objectives import Objective, Velocity
from .batches import TrainingData
from .checkpoint import (
    NonFiniteError,
    TrainingRefused,
    append_metrics,
    commit_checkpoint,
    cut_metrics,
    engine_states,
    read_metrics,
    save_engine_state,
)
from .config import TrainConfig
from .draws import SampleDraws, digest
from .engine import (
    Workers,
    full_weights,
    open_engine,
    read_engine,
    set_learning_rate,
    trained_names,
    workers,
    write_engine,
)
from .networks import engine_velocity, load_objective, load_pose_simulation, load_student, torch_dtype


def train_loop(settings: dict[str, Any]) -> None:
    """Train one stage from wherever it stands to its last step, and commit its checkpoint.

    Args:
        settings: JSON values: `config`, the paths `latents`, `out`, `base` and `from_checkpoint` (or None), and
            `record`, what `run.json` shall say beyond what the loop finds out.
    """
    config = TrainConfig.model_validate(settings["config"])
    out, base = Path(settings["out"]), settings["base"]
    parent = None
    if settings["from_checkpoint"]:
        parent = resolve_folder(settings["from_checkpoint"], ("transformer",))
    with workers(config) as team:
        simulation = load_pose_simulation(config, base, out / "pose_simulation", team.device)
        data = TrainingData(location(settings["latents"]), config, simulation)
        engine = open_engine(load_student(config, base, parent, team.device), config)
        objective, velocity = load_objective(config, base, team.device), engine_velocity(engine, config)

        done = _resume(engine, team, out)
        loss_before = _loss_before(engine, objective, velocity, data, team, out, done)
        for step in range(done, config.steps):
            started = time.perf_counter()
            draws = data.draws(step)
            rate = set_learning_rate(engine, config, step)
            terms = _step(engine, objective, config, data, draws, team, step)
            if team.rank == 0:
                row = {"step": step, **terms, "batch_digest": digest(draws)}
                append_metrics(out, {**row, "seconds": time.perf_counter() - started, "lr": rate})
            if (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == config.steps:
                _save(engine, config, team, out, step + 1)

        loss_after = _evaluate(engine, objective, velocity, data, team)
        _commit(engine, config, team, out, {**settings["record"], "loss_before": loss_before, "loss_after": loss_after})
        engine.destroy()


def _step(
    engine: Any,
    objective: Objective,
    config: TrainConfig,
    data: TrainingData,
    draws: list[SampleDraws],
    team: Workers,
    step: int,
) -> dict[str, float]:
    """One optimizer step on the global batch `draws`; the mean over it of every loss term.

    Raises:
        NonFiniteError: on all ranks alike, before the weights are touched, if any rank's loss is not finite.
    """
    micro_batches = data.micro_batches(draws, team.rank, team.world_size)
    sums: dict[str, float] = {}
    for rows in micro_batches:
        velocity = engine_velocity(engine, config, [row.alignment_seed for row in rows])
        terms = objective(velocity, data.load(rows, team.device))
        means = team.mean(terms)
        if not all(math.isfinite(value) for value in means.values()):
            keys = ", ".join(row.key for row in draws)
            raise NonFiniteError(f"step {step}: the loss is not finite ({means}); samples of the batch: {keys}")
        engine.backward(terms["loss"])
        engine.step()
        sums = {name: sums.get(name, 0.0) + value for name, value in means.items()}
    return {name: value / len(micro_batches) for name, value in sums.items()}


@torch.no_grad()
def _evaluate(engine: Any, objective: Objective, velocity: Velocity, data: TrainingData, team: Workers) -> float | None:
    """The objective's mean over the fixed samples, which the ranks share out; None if there are none."""
    rows = data.evaluation_draws()
    if not rows:
        return None
    engine.eval()
    total = torch.zeros((), dtype=torch.float64, device=team.device)
    for start in range(0, len(rows), team.world_size):
        # Every rank takes part in every round (a sharded forward is a joint one); past the end it counts for nothing.
        index = start + team.rank
        terms = objective(velocity, data.load([rows[min(index, len(rows) - 1)]], team.device))
        total += terms["loss"].double() * (index < len(rows))
    engine.train()
    return team.mean({"loss": total})["loss"] * team.world_size / len(rows)


def _loss_before(
    engine: Any,
    objective: Objective,
    velocity: Velocity,
    data: TrainingData,
    team: Workers,
    out: Path,
    done: int,
) -> float | None:
    """The objective on the fixed samples before the first step, measured once in the life of a run."""
    file = out / "state" / "before.json"
    if done > 0:
        return json.loads(file.read_text())["loss"]
    loss = _evaluate(engine, objective, velocity, data, team)
    if team.rank == 0:
        write_json(file, {"loss": loss})
    return loss


def _resume(engine: Any, team: Workers, out: Path) -> int:
    """Load the newest complete engine state, cut the metrics back to it; the number of steps done."""
    newest = next(engine_states(out), None)
    team.barrier()
    done = 0
    if newest is not None:
        done, folder = newest
        saved = json.loads((folder / "complete.json").read_text())
        if saved["trained"] != trained_names(engine):
            raise TrainingRefused(f"{folder} holds other trained weights than this run trains: choose another --out")
        read_engine(engine, folder)
    if team.rank == 0:
        cut_metrics(out, done)
    return done


def _save(engine: Any, config: TrainConfig, team: Workers, out: Path, steps_done: int) -> None:
    save_engine_state(
        out,
        steps_done,
        lambda folder: write_engine(engine, folder),
        {"world_size": team.world_size, "zero_stage": config.zero_stage, "trained": trained_names(engine)},
        keep=config.keep_checkpoints,
        is_first_rank=team.rank == 0,
        barrier=team.barrier,
    )


def _commit(engine: Any, config: TrainConfig, team: Workers, out: Path, record: dict[str, Any]) -> None:
    """Gather the weights and let the first rank write OUT/checkpoint."""
    weights = full_weights(engine)
    if team.rank == 0:

        def write(folder: Path) -> None:
            lora = folder / "lora" if config.trains_lora else None
            save_trained(engine.module, weights, folder / "transformer", lora, torch_dtype(config))

        seconds = sum(row["seconds"] for row in read_metrics(out))
        commit_checkpoint(out, write, {**record, "steps": config.steps, "seconds": seconds})
    team.barrier()
