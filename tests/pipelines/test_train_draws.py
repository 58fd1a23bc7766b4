import dataclasses

import pytest
import torch

from steadydancer.datasets.sampler import StepSampler, rank_slice
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.draws import digest, draw_batch, draw_evaluation, noise, shifted

KEYS = {f"clip{i:02d}": (81, 640, 640) if i % 3 else (81, 512, 800) for i in range(29)}


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"stage": 3, "global_batch_size": 8, "num_workers": 8, **changes})


def draws_of(step: int, **changes):
    chosen = config(**changes)
    return draw_batch(chosen, step, StepSampler(KEYS, chosen.global_batch_size, chosen.seed).batch(step))


@pytest.mark.parametrize("step", [0, 7, 11_999])
def test_the_global_batch_is_the_same_at_any_world_size(step):
    alone = draws_of(step, num_workers=1)
    for world_size in (1, 2, 4):
        # What every worker computes by itself, put together again.
        shares = [rank_slice(draws_of(step, num_workers=world_size), rank, world_size) for rank in range(world_size)]
        together = [row for share in shares for row in share]
        assert together == alone
        assert digest(together) == digest(alone)
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.equal(noise(ours, (16, 2, 4, 4)), noise(theirs, (16, 2, 4, 4)))


def test_steps_samples_and_seeds_draw_differently():
    first = draws_of(0)
    assert len({row.noise_seed for row in first}) == len(first)
    assert len({row.alignment_seed for row in first} | {row.noise_seed for row in first}) == 2 * len(first)
    assert digest(first) != digest(draws_of(1)) != digest(draws_of(1, seed=1))
    # A sample that fills up a batch twice has two noises.
    twice = draw_batch(config(), 0, ["clip00"] * 8)
    assert len({row.sigma for row in twice}) == 8


def test_the_digest_sees_every_draw():
    rows = draws_of(0)
    changes = {"key": "x", "sigma": 0.5, "noise_seed": 1, "text_dropped": None, "pose_dropped": None, "pose_target": 9}
    changes["alignment_seed"] = 1
    assert changes.keys() == {field.name for field in dataclasses.fields(rows[0])}
    for name, value in changes.items():
        assert digest([dataclasses.replace(rows[0], **{name: value}), *rows[1:]]) != digest(rows)


def test_draws_follow_their_distributions():
    rows = [row for step in range(500) for row in draw_batch(config(), step, ["a"] * 8)]

    def share(flags) -> float:
        return sum(flags) / len(rows)

    assert share(row.text_dropped for row in rows) == pytest.approx(0.1, abs=0.02)
    assert share(row.pose_dropped for row in rows) == pytest.approx(0.05, abs=0.015)
    assert share(row.pose_target is not None for row in rows) == pytest.approx(0.5, abs=0.03)
    for target in (2, 3, 4):
        assert share(row.pose_target == target for row in rows) == pytest.approx(1 / 6, abs=0.03)
    # The inverse of the shift gives back a uniform draw.
    u = sorted(row.sigma / (5 - 4 * row.sigma) for row in rows)
    assert max(abs(value - (i + 0.5) / len(u)) for i, value in enumerate(u)) < 0.03


@pytest.mark.parametrize("stage", [1, 2])
def test_only_stage_3_simulates_poses(stage):
    assert all(row.pose_target is None for step in range(20) for row in draws_of(step, stage=stage))


def test_evaluation_is_fixed_and_drops_nothing():
    rows = draw_evaluation(config(evaluation_samples=6), ["a", "b", "c", "d"])
    assert rows == draw_evaluation(config(evaluation_samples=6, learning_rate=1.0, steps=1), ["a", "b", "c", "d"])
    assert [row.key for row in rows] == ["a", "b", "c", "d", "a", "b"]
    assert [row.sigma for row in rows] == [shifted((i + 0.5) / 6, 5.0) for i in range(6)]
    assert not any(row.text_dropped or row.pose_dropped for row in rows)
    assert shifted(0, 5) == 0 and shifted(1, 5) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 80}, r"num_frames must be 4k \+ 1"),
        ({"global_batch_size": 6, "num_workers": 4}, "global_batch_size 6 must be a multiple"),
        ({"pose_simulation_targets": (1, 2)}, "pose_simulation_targets must lie in 2..80"),
        ({"pose_simulation_unit": "latent", "num_frames": 9}, "must lie in 2..2"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_stages_begin_with_the_papers_numbers():
    told = {stage: TrainConfig(stage=stage) for stage in (1, 2, 3)}
    assert [told[stage].steps for stage in told] == [12_000, 2_000, 500]
    assert [told[stage].learning_rate for stage in told] == [1e-4, 1e-6, 1e-4]
    assert told[1].num_frames == 81 and told[1].num_workers == 8
    assert TrainConfig.model_validate_json(told[2].model_dump_json()) == told[2]
