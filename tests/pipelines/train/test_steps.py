"""The training loop with stand-ins around it: what is done at which step, with what, and what is written of it."""

import itertools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steadydancer.datasets.storage.digests import content_digest
from steadydancer.models.conditions import Conditions
from steadydancer.pipelines.train import loop, networks, run_folder, weights_writer
from steadydancer.pipelines.train.config import GalleryConfig, TrainConfig
from steadydancer.pipelines.train.data.batches import StepBatch
from steadydancer.pipelines.train.data.draws import SampleDraws, digest
from steadydancer.pipelines.train.engine import deepspeed_config, set_learning_rate
from steadydancer.pipelines.train.metrics.evaluation import Evaluator
from steadydancer.pipelines.train.metrics_file import read_rows
from steadydancer.pipelines.train.run_folder import (
    NonFiniteError,
    NotWritten,
    TrainingRefused,
    append_metrics,
    checkpoint_folder,
    commit_checkpoint,
    read_checkpoint_record,
    state_folders,
)

BUCKET = (9, 32, 48)


class Team:
    """Ranks one after another in this process; sums and means are left to who asks."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size, self.device = rank, world_size, torch.device("cpu")
        self.summed: list[torch.Tensor] = []

    def barrier(self) -> None:
        pass

    def any(self, flag: bool) -> bool:
        return flag

    def mean(self, micro_batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        return {
            name: sum(float(terms[name]) for terms in micro_batches) / len(micro_batches) for name in micro_batches[0]
        }

    def largest(self, *values: float) -> list[float]:
        return [float(value) for value in values]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.summed.append(values.clone())
        return values


class Engine:
    """Notes what is called, in order."""

    def __init__(self) -> None:
        self.called: list[Any] = []
        self.module = SimpleNamespace(config={"num_layers": 2})
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}, {"lr": 0.0}])
        self.norms: Iterator[float] = itertools.count(0.25)

    def get_global_grad_norm(self) -> float:
        return next(self.norms)

    def backward(self, loss: torch.Tensor) -> None:
        self.called.append(("backward", float(loss)))

    def step(self) -> None:
        self.called.append("step")

    def train(self) -> None:
        self.called.append("train")

    def eval(self) -> None:
        self.called.append("eval")

    def destroy(self) -> None:
        self.called.append("destroy")


class Meter:
    """Counts parts instead of timing them."""

    def __init__(self, *_: Any) -> None:
        self.parts: list[str] = []

    def begin(self) -> None:
        self.parts.append("begin")

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self.parts.append(part)
        yield

    def end(self, bucket: Any) -> dict[str, float]:
        assert bucket == BUCKET
        return {"seconds": 2.5}


class Samples:
    """A micro-batch that is told apart by its place."""

    def __init__(self, place: int) -> None:
        self.place = place

    def to(self, device: torch.device) -> "Samples":
        return self


def config(**changes: Any) -> TrainConfig:
    values = {
        "stage": 1, "steps": 7, "seed": 3, "global_batch_size": 4, "gradient_accumulation": 2, "num_workers": 0,
        "use_gpu": False, "learning_rate": 0.1, "warmup_steps": 4, "checkpoint_every_steps": 3,
        "validation_every_steps": 2, "trackers": (), "dtype": "float32",
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


def rows_of(step: int) -> list[SampleDraws]:
    return [SampleDraws(f"clip{step}{i}", 0.5, step, alignment_seed=100 * step + i) for i in range(4)]


def batch_of(step: int) -> StepBatch:
    rows = rows_of(step)
    return StepBatch(rows, [(rows[:2], Samples(0)), (rows[2:], Samples(1))])  # type: ignore[list-item]


def one_step(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> tuple[Engine, list[Any], Any]:
    """The engine and the seeds of the alignment's dropout that a step has asked for, and how to take the step."""
    engine, seeds = Engine(), []

    def velocity(given: Any, reported: TrainConfig, alignment_seeds: Any) -> str:
        assert given is engine and reported == config()
        seeds.append(list(alignment_seeds))
        return f"velocity {len(seeds)}"

    def objective(velocity: str, samples: Samples) -> dict[str, torch.Tensor]:
        assert velocity == f"velocity {samples.place + 1}"
        loss = torch.tensor(losses[samples.place])
        return {"loss": loss, "fidelity": loss / 2}

    monkeypatch.setattr(loop, "engine_velocity", velocity)
    group: Any = Team()
    return engine, seeds, lambda: loop._step(engine, objective, config(), batch_of(6), group, Meter(), 6)  # type: ignore[arg-type]


def test_a_step_takes_each_micro_batch_with_its_own_alignment_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seeds, take = one_step(monkeypatch, [1.0, 4.0])
    assert take() == {"loss": 2.5, "fidelity": 1.25}
    assert seeds == [[600, 601], [602, 603]]
    assert engine.called == [("backward", 1.0), "step", ("backward", 4.0), "step"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_reaches_no_weight_and_names_the_batch(
    monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    engine, _, take = one_step(monkeypatch, [bad, 1.0])
    with pytest.raises(NonFiniteError, match=r"^step 6: the loss is not finite .*clip60, clip61, clip62, clip63$"):
        take()
    assert engine.called.count("step") == 1 and engine.called[-1] == ("backward", 1.0)  # the first one only counts


class World:
    """All that `train_loop` opens, and what it did with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, out: Path, done: int = 0) -> None:
        self.did: list[Any] = []
        self.engine, self.out, self.leaves_at, self.committed = Engine(), out, -1, None
        self.group = Team()
        world = self

        @contextmanager
        def process_group(_: TrainConfig) -> Iterator[Team]:
            yield world.group

        class Data:
            def __init__(self, latents: Path, reported: TrainConfig, simulation: Any) -> None:
                assert simulation == "simulation"
                self.shards = SimpleNamespace(bucket={row.key: BUCKET for step in range(9) for row in rows_of(step)})

            def share(self, step: int, rank: int, world_size: int) -> StepBatch:
                assert (rank, world_size) == (0, 1)
                return batch_of(step)

        class Measures:
            def __init__(self, *_: Any) -> None: ...

            def loss_before(self, where: Path, steps: int) -> float:
                assert where == out
                world.did.append(("before", steps))
                return 9.0

            def loss(self) -> float:
                world.did.append("after")
                return 1.0

            def validation(self, reported: TrainConfig) -> dict[str, float]:
                world.did.append("validation")
                return {"validation_loss": 0.5}

        class Writer:
            def __init__(self, where: Path, *_: Any) -> None:
                assert where == out

            def __enter__(self) -> "Writer":
                return self

            def __exit__(self, *_: Any) -> None: ...

            def check(self) -> None: ...

            def finish(self) -> None:
                world.did.append("finish")

            def save(self, engine: Engine, steps: int, *, wait: bool) -> None:
                world.did.append(("state", steps, wait))

            def keep(self, engine: Engine, steps: int) -> None:
                world.did.append(("keep", steps))

        def step(engine: Any, objective: str, reported: TrainConfig, batch: StepBatch, *rest: Any) -> dict[str, float]:
            at = rest[-1]
            assert (objective, batch.draws) == ("objective", rows_of(at))
            world.did.append(("step", at, engine.optimizer.param_groups[0]["lr"]))
            return {"loss": at + 0.5}

        def preemption_watch(_: TrainConfig) -> Any:
            return lambda: world.did[-1] == ("step", world.leaves_at, 0.1)

        given = {
            "process_group": process_group, "TrainingData": Data,
            "Evaluator": Measures, "Meter": Meter, "StateWriter": Writer,
            "TrainedWriter": Writer, "load_pose_simulation": lambda *_: "simulation",
            "preemption_watch": preemption_watch,
            "load_student": lambda *_: "student", "open_engine": lambda *_: self.engine, "_step": step,
            "load_objective": lambda *_: "objective", "engine_velocity": lambda *_: None,
            "newest_state": lambda *_: None, "full_weights": lambda _: {"w": torch.ones(1)},
            "report_weights": lambda reported, group, steps: self.did.append(("offer", steps)),
            "commit_checkpoint": lambda where, write, record: setattr(self, "committed", record),
        }  # fmt: skip
        for name, value in given.items():
            monkeypatch.setattr(loop, name, value)
        if done:
            monkeypatch.setattr(loop, "_resume", lambda *_: done)

    def run(self, reported: TrainConfig) -> None:
        loop.train_loop({
            "config": reported.model_dump(mode="json"), "latents": str(self.out), "out": str(self.out), "base": "base",
            "from_checkpoint": None, "record": {"kind": "checkpoint"},
        })  # fmt: skip


def test_what_is_done_at_which_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """States after 3 and 6 of 7 steps and after the last, validation after 2, 4 and 6, weights kept after each."""
    world = World(monkeypatch, tmp_path)
    world.run(config())
    rates = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1]  # four steps of warm-up
    expected: list[Any] = [("before", 0), ("keep", 0)]
    for step, rate in enumerate(rates):
        expected.append(("step", step, pytest.approx(rate)))
        expected += ["validation"] * (step in (1, 3, 5))
        expected += [("state", step + 1, step == 6)] if step in (2, 5, 6) else []
        expected.append(("keep", step + 1))
    assert world.did == [*expected, "after", "validation", ("offer", 7)]
    assert world.engine.called == ["destroy"]
    rows = read_rows(tmp_path)
    assert [(row["step"], row["loss"], row["batch_digest"]) for row in rows] == [
        (step, step + 0.5, digest(rows_of(step))) for step in range(7)
    ]
    assert [row["grad_norm"] for row in rows] == [0.25 + step for step in range(7)]
    assert list(rows[1]) == ["step", "loss", "validation_loss", "grad_norm", "batch_digest", "lr", "seconds"]
    assert [row.get("validation_loss") for row in rows] == [None, 0.5, None, 0.5, None, 0.5, None]
    assert [row["lr"] for row in rows] == pytest.approx(rates)
    assert world.committed == {
        "kind": "checkpoint", "loss_before": 9.0, "loss_after": 1.0, "validation_loss": 0.5, "steps": 7,
        "seconds": 17.5, "steps_measured": 7,
    }  # fmt: skip


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_nothing_is_kept_of_a_step_whose_gradient_norm_is_not_finite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, norm: float
) -> None:
    world = World(monkeypatch, tmp_path)
    world.engine.norms = iter([0.5, 0.5, norm])
    with pytest.raises(
        NonFiniteError, match=r"^step 2: the gradient norm is not finite .*clip20, clip21, clip22, clip23$"
    ):
        world.run(config())
    assert world.did[-2:] == [("step", 2, pytest.approx(0.075)), "finish"]  # for the state before, on all ranks
    assert [row["step"] for row in read_rows(tmp_path)] == [0, 1] and world.committed is None


def test_a_run_that_is_asked_to_stop_ends_after_its_step_with_a_state_and_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(monkeypatch, tmp_path)
    monkeypatch.setattr(loop, "stop_requested", lambda out, group: ("step", 3, 0.1) in world.did)
    world.run(config())
    assert world.did[-3:] == [("step", 3, 0.1), "validation", ("state", 4, True)]
    assert world.committed is None and world.engine.called == ["destroy"]
    assert [row["step"] for row in read_rows(tmp_path)] == [0, 1, 2, 3]


def test_a_stop_at_the_last_step_ends_the_run_as_any_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(monkeypatch, tmp_path)
    monkeypatch.setattr(loop, "stop_requested", lambda out, group: ("step", 6, 0.1) in world.did)
    world.run(config())
    assert world.committed is not None and world.committed["steps"] == 7


def test_a_machine_that_leaves_costs_a_state_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(monkeypatch, tmp_path)
    world.leaves_at = 4
    world.run(config())
    assert [one for one in world.did if one[0] == "state"] == [
        ("state", 3, False), ("state", 5, True), ("state", 6, False), ("state", 7, True),
    ]  # fmt: skip
    assert world.committed is not None


def test_a_resumed_run_takes_the_steps_that_are_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(monkeypatch, tmp_path, done=5)
    for step in range(5):
        append_metrics(tmp_path, {"step": step, "seconds": 1.0})
    world.run(config())
    assert world.did[:3] == [("before", 5), ("keep", 5), ("step", 5, 0.1)]
    assert [one[1] for one in world.did if one[0] == "step"] == [5, 6]
    assert world.committed is not None
    assert (world.committed["seconds"], world.committed["steps_measured"]) == (10.0, 7)


def test_resuming_reads_the_state_and_cuts_the_metrics_and_refuses_other_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for step in range(5):
        append_metrics(tmp_path, {"step": step})
    read: list[Any] = []
    folder, engine, group = tmp_path / "state/step-000003", Engine(), Team()
    monkeypatch.setattr(loop, "newest_state", lambda out, ranks: (3, folder))
    monkeypatch.setattr(loop, "read_state_record", lambda state: {"trained": ["a", "b"]})
    monkeypatch.setattr(loop, "read_state", lambda *given: read.append(given))
    monkeypatch.setattr(loop, "trained_names", lambda engine: ["a", "c"])
    with pytest.raises(TrainingRefused, match="step-000003 has a different set of trained weights from this run"):
        loop._resume(engine, group, tmp_path)  # type: ignore[arg-type]
    assert not read and len(read_rows(tmp_path)) == 5
    monkeypatch.setattr(loop, "trained_names", lambda engine: ["a", "b"])
    assert loop._resume(engine, Team(1, 2), tmp_path) == 3  # type: ignore[arg-type]
    assert len(read_rows(tmp_path)) == 5  # the first rank alone writes
    assert loop._resume(engine, group, tmp_path) == 3  # type: ignore[arg-type]
    assert read[-1] == (engine, folder, group) and [row["step"] for row in read_rows(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize(("warmup", "rates"), [(4, [0.025, 0.05, 0.075, 0.1, 0.1]), (0, [0.1] * 5), (1, [0.1] * 5)])
def test_the_rate_rises_to_its_value_and_stays(warmup: int, rates: list[float]) -> None:
    engine = Engine()
    for step, rate in enumerate(rates):
        assert set_learning_rate(engine, config(warmup_steps=warmup), step) == pytest.approx(rate)
        assert [group["lr"] for group in engine.optimizer.param_groups] == pytest.approx([rate, rate])


def test_a_cosine_falls_from_the_rate_after_warm_up_to_0_at_the_end_of_the_stage() -> None:
    engine, told = Engine(), {"warmup_steps": 4, "steps": 12, "learning_rate_schedule": "cosine"}
    rates = [set_learning_rate(engine, config(**told), step) for step in range(12)]
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates[8] == pytest.approx(0.05) and rates[10] == pytest.approx(0.1 * (1 - math.sqrt(0.5)) / 2)
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[11] > 0
    assert set_learning_rate(engine, config(**{**told, "warmup_steps": 12}), 11) == pytest.approx(0.1)


def test_deepspeed_is_told_the_stages_settings() -> None:
    reported = deepspeed_config(config(num_workers=2, global_batch_size=12, gradient_accumulation=3, max_grad_norm=0.5,
                                   zero_stage=3, offload_optimizer=True, dtype="bfloat16"))  # fmt: skip
    assert (reported["train_batch_size"], reported["train_micro_batch_size_per_gpu"]) == (12, 2)
    assert (reported["gradient_accumulation_steps"], reported["gradient_clipping"]) == (3, 0.5)
    assert reported["zero_optimization"]["stage"] == 3
    assert reported["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert reported["bf16"] == {"enabled": True} and deepspeed_config(config())["bf16"] == {"enabled": False}
    assert "offload_optimizer" not in deepspeed_config(config())["zero_optimization"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_network_is_asked_in_the_stages_type_with_the_seeds_and_answers_in_float32(dtype: Any) -> None:
    asked: dict[str, Any] = {}
    kind = getattr(torch, dtype)

    def engine(latents: torch.Tensor, timestep: torch.Tensor, **reported: Any) -> tuple[torch.Tensor]:
        asked.update(reported, latents=latents, timestep=timestep)
        return (latents * 2,)

    parts = [torch.full((2, 3), float(i)) for i in range(5)]
    conditions = Conditions(*parts)
    velocity = networks.engine_velocity(engine, config(dtype=dtype), [11, 12])
    answer = velocity(torch.ones(2, 3), torch.tensor([250.0, 999.5]), conditions)
    assert answer.dtype == torch.float32 and torch.equal(answer, torch.full((2, 3), 2.0))
    assert asked["alignment_seeds"] == [11, 12] and asked["return_dict"] is False
    assert asked["latents"].dtype == asked["pose_latents"].dtype == asked["encoder_hidden_states"].dtype == kind
    assert asked["timestep"].tolist() == [250.0, 999.5]  # never rounded
    networks.engine_velocity(engine, config(dtype=dtype))(torch.ones(2, 3), torch.ones(2), conditions)
    assert asked["alignment_seeds"] is None


class Fixed:
    """Samples whose objective is 100 · (place of the clip) + σ."""

    def __init__(self, rows: list[SampleDraws]) -> None:
        self.rows, self.loaded = rows, []  # type: ignore[var-annotated]

    def evaluation_draws(self) -> list[SampleDraws]:
        return self.rows

    def validation_draws(self) -> list[SampleDraws]:
        return self.rows

    def load(self, rows: list[SampleDraws], device: torch.device) -> SampleDraws:
        (row,) = rows
        self.loaded.append(row)
        return row


def evaluator(data: Fixed, group: Team) -> tuple[Evaluator, Engine]:
    engine = Engine()

    def objective(velocity: str, row: SampleDraws) -> dict[str, torch.Tensor]:
        assert velocity == "velocity" and engine.called[-1] == "eval" and not torch.is_grad_enabled()
        return {"loss": torch.tensor(100.0 * int(row.key) + row.sigma), "fidelity": torch.tensor(-1.0)}

    return Evaluator(engine, objective, "velocity", data, group), engine  # type: ignore[arg-type]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_each_fixed_sample_is_measured_by_one_rank_and_all_ranks_take_part_in_every_round(world_size: int) -> None:
    rows = [SampleDraws(str(i), 0.25, 0) for i in range(5)]
    sums = torch.zeros(5, dtype=torch.float64)
    for rank in range(world_size):
        data, group = Fixed(rows), Team(rank, world_size)
        measured, engine = evaluator(data, group)
        measured.losses(rows)
        assert engine.called == ["eval", "train"] and len(data.loaded) == math.ceil(5 / world_size)
        sums += group.summed[0]
    assert sums.tolist() == [100 * i + 0.25 for i in range(5)]


def test_validation_is_the_mean_over_clips_and_that_of_each_sigma() -> None:
    sigmas = (0.25, 0.5)
    measured, _ = evaluator(Fixed([SampleDraws(str(i), sigma, 0) for i in (1, 2, 6) for sigma in sigmas]), Team())
    assert measured.validation(config(validation_sigmas=sigmas)) == {
        "validation_loss": 300.375, "validation_loss_0.25": 300.25, "validation_loss_0.5": 300.5,
    }  # fmt: skip
    assert measured.loss() == 300.375
    nothing, engine = evaluator(Fixed([]), Team())
    assert nothing.validation(config()) == {} and nothing.loss() is None and not engine.called


def test_the_loss_before_is_measured_once_by_all_and_written_by_the_first(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    rows = [SampleDraws("3", 0.5, 0)]
    assert evaluator(Fixed(rows), Team(1, 2))[0].loss_before(tmp_path, 0) is not None
    assert not list((tmp_path / "state").iterdir())
    assert evaluator(Fixed(rows), Team())[0].loss_before(tmp_path, 0) == 300.5
    assert json.loads((tmp_path / "state/before.json").read_text()) == {"loss": 300.5}
    assert evaluator(Fixed([SampleDraws("4", 0.5, 0)]), Team())[0].loss_before(tmp_path, 2) == 300.5


def made(text: str) -> Any:
    def write(folder: Path) -> None:
        (folder / "transformer").mkdir()
        (folder / "transformer/weights").write_text(text)

    return write


def test_a_checkpoint_is_there_when_it_is_whole_and_one_of_fewer_steps_stays(tmp_path: Path) -> None:
    commit_checkpoint(tmp_path, made("five"), {"steps": 5, "stage": 1})
    first = tmp_path / "checkpoint"
    digested = content_digest(first / "transformer")
    assert json.loads((first / "run.json").read_text()) == {"steps": 5, "stage": 1, "digest": digested}
    commit_checkpoint(tmp_path, made("seven"), {"steps": 7, "stage": 1})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "checkpoint-000005"}
    assert (tmp_path / "checkpoint-000005/transformer/weights").read_text() == "five"
    assert read_checkpoint_record(tmp_path)["steps"] == read_checkpoint_record(tmp_path / "checkpoint")["steps"] == 7
    assert checkpoint_folder(tmp_path) == first == checkpoint_folder(first)
    with pytest.raises(TrainingRefused, match=r"contains no finished checkpoint \(no run.json\)"):
        read_checkpoint_record(tmp_path / "nowhere")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    commit_checkpoint(tmp_path, made("five"), {"steps": 5})

    def full(folder: Path) -> None:
        made("half")(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(NotWritten, match=r"^disk: the checkpoint of 7 steps .*No space left.* to write it again"):
        commit_checkpoint(tmp_path, full, {"steps": 7})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}
    assert read_checkpoint_record(tmp_path)["steps"] == 5


def test_kept_weights_leave_room_for_the_next_engine_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Training would stop without a state, and goes on without a gallery."""
    (tmp_path / "state/step-000002").mkdir(parents=True)
    (tmp_path / "state/step-000002/engine.pt").write_bytes(bytes(1000))
    writer = weights_writer.TrainedWriter(tmp_path, Team(), {"config": config().model_dump(mode="json")})  # type: ignore[arg-type]
    usage = weights_writer.shutil.disk_usage(tmp_path)
    weights = {"w": torch.zeros(100)}
    for free, is_refused in ((1400, False), (1399, True)):
        monkeypatch.setattr(weights_writer.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        if is_refused:
            with pytest.raises(OSError, match="0.00 GB to write and 0.00 GB for the next training state"):
                writer._refuse_without_room(weights)
        else:
            writer._refuse_without_room(weights)


def test_a_checkpoint_with_a_folder_of_that_name_in_it_is_itself(tmp_path: Path) -> None:
    commit_checkpoint(tmp_path, made("five"), {"steps": 5})
    (tmp_path / "checkpoint/checkpoint").mkdir()
    assert checkpoint_folder(tmp_path / "checkpoint") == tmp_path / "checkpoint"


def test_states_are_told_newest_first_by_their_number_and_what_is_aside_is_none(tmp_path: Path) -> None:
    for name in ("step-000009", "step-000010", ".step-000011.tmp", "step-1000000", "universal", "step-x"):
        (tmp_path / "state" / name).mkdir(parents=True)
    assert [steps for steps, _ in state_folders(tmp_path)] == [1000000, 10, 9]
    assert [folder.name for _, folder in state_folders(tmp_path)] == ["step-1000000", "step-000010", "step-000009"]


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_are_kept_at_the_steps_of_a_gallery_and_what_is_kept_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: int
) -> None:
    """Of 9 steps every third, and not the last: that one has the checkpoint. With LoRA in float32."""
    reported = config(stage=stage, steps=9, gallery=GalleryConfig(num_clips=1, every_steps=3), validation_clips=2,
                  dtype="bfloat16")  # fmt: skip
    gathered: list[Any] = []
    offered: list[int] = []

    def gather(engine: Any, dtype: torch.dtype, is_first: bool) -> dict[str, torch.Tensor]:
        gathered.append(dtype)
        return {"w": torch.full((2,), float(len(gathered)), dtype=dtype)} if is_first else {}

    monkeypatch.setattr(weights_writer, "gather_trained", gather)
    monkeypatch.setattr(weights_writer, "report_weights", lambda config, group, steps: offered.append(steps))
    settings = {"config": reported.model_dump(mode="json"), "attempt": "a"}
    for steps in (range(10), range(10)):
        with weights_writer.TrainedWriter(tmp_path, Team(), settings) as writer:  # type: ignore[arg-type]
            for step in steps:
                writer.keep(Engine(), step)
    kept = sorted((tmp_path / "trained").iterdir())
    assert [folder.name for folder in kept] == ["step-000003", "step-000006"]
    assert offered == [0, 3, 6, 0]
    assert gathered == [torch.float32 if stage == 1 else torch.bfloat16] * 2
    assert [load_file(folder / "trained.safetensors")["w"][0].item() for folder in kept] == [1.0, 2.0]
    assert json.loads((kept[1] / "run.json").read_text()) == {"steps": 6, "settings": settings}
    with weights_writer.TrainedWriter(
        tmp_path / "none", Team(), {**settings, "config": config().model_dump(mode="json")}
    ) as writer:  # type: ignore[arg-type]
        writer.keep(Engine(), 3)
    assert not (tmp_path / "none").exists()
    assert run_folder.steps_done(tmp_path) == 0
