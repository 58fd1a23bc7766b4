import dataclasses
import hashlib
import json

import pytest
import torch

from steadydancer.datasets.sampler import StepSampler, rank_slice
from steadydancer.models.flow_matching import shift_sigma
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data.draws import (
    SampleDraws,
    digest,
    draw_batch,
    draw_evaluation,
    draw_validation,
    noise,
    simulated_poses,
)

KEYS = {f"clip{i:02d}": (81, 640, 640) if i % 3 else (81, 512, 800) for i in range(29)}


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"stage": 3, "global_batch_size": 8, "num_workers": 8, **changes})


def draws_of(step: int, **changes):
    chosen = config(**changes)
    return draw_batch(chosen, step, StepSampler(KEYS, chosen.global_batch_size, chosen.seed).batch(step))


def bits(seed: int, step: int, place: int, purpose: str) -> int:
    """63 bits of sha256, as runs have drawn them from the first."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{place}/{purpose}".encode()).digest()[:8], "little") // 2


def share_of_one(*place: int | str) -> float:
    return (bits(*place) // 1024) / 2**53


def by_hand(seed: int, step: int, place: int, key: str) -> SampleDraws:
    """A stage-3 sample at shift 3, text dropout 0.4, pose dropout 0.6, simulation 0.7 of (2, 5, 9)."""
    u = share_of_one(seed, step, place, "sigma")
    target = (2, 5, 9)[int(3 * share_of_one(seed, step, place, "pose simulation target"))]
    return SampleDraws(
        key=key,
        sigma=3 * u / (1 + 2 * u),
        noise_seed=bits(seed, step, place, "noise"),
        text_dropped=share_of_one(seed, step, place, "text dropout") < 0.4,
        pose_dropped=share_of_one(seed, step, place, "pose dropout") < 0.6,
        pose_target=target if share_of_one(seed, step, place, "pose simulation") < 0.7 else None,
        alignment_seed=bits(seed, step, place, "alignment dropout"),
    )


DRAWN = {
    "seed": 7, "flow_shift": 3.0, "text_dropout": 0.4, "pose_dropout": 0.6, "pose_simulation_probability": 0.7,
    "pose_simulation_targets": (2, 5, 9),
}  # fmt: skip


def test_every_draw_has_a_purpose_of_its_own_and_its_own_probability():
    """Draw for draw as computed here: no two share a number, so that text and pose are dropped independently."""
    drawn = config(**DRAWN)
    for step in (0, 3, 12_345):
        keys = [f"clip{place}" for place in range(40)]
        assert draw_batch(drawn, step, keys) == [by_hand(7, step, place, key) for place, key in enumerate(keys)]
    rows = draw_batch(drawn, 1, ["a"] * 400)
    both = {(row.text_dropped, row.pose_dropped) for row in rows}
    assert both == {(False, False), (False, True), (True, False), (True, True)}


def test_noise_is_torchs_of_the_samples_seed():
    row = draw_batch(config(**DRAWN), 2, ["a", "b"])[1]
    made = noise(row, (4, 3, 2))
    expected = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(bits(7, 2, 1, "noise")))
    assert made.dtype == torch.float32 and torch.equal(made, expected)


def test_a_digest_names_keys_and_draws_in_order():
    """As the metrics of earlier runs have it: a resumed run is held against these lines."""
    rows = [SampleDraws("a", 0.25, 3, True, False, None, 5), SampleDraws("b", 0.5, 4, False, True, 2, 6)]
    whole = hashlib.sha256()
    for row in rows:
        text = json.dumps(dataclasses.asdict(row), sort_keys=True).encode()
        whole.update(len(text).to_bytes(8, "little") + text)
    assert digest(rows) == whole.hexdigest()[:16] != digest(rows[::-1])


def test_validation_is_a_fixed_choice_of_clips_each_with_one_noise_at_every_sigma():
    keys = [f"clip{i}" for i in range(9)]
    reported = config(seed=7, validation_clips=3, validation_sigmas=(0.2, 0.7))
    chosen = sorted(keys, key=lambda key: bits(7, 0, 0, f"validation/{key}"))[:3]
    assert (
        draw_validation(reported, keys)
        == draw_validation(reported, keys[::-1])
        == [
            SampleDraws(key, sigma, bits(7, 0, i, "validation noise"))
            for i, key in enumerate(chosen)
            for sigma in (0.2, 0.7)
        ]
    )
    assert chosen != sorted(chosen)  # by hash, not by name
    assert len(draw_validation(reported, keys[:2])) == 4 and draw_validation(reported, []) == []


def test_evaluation_simulates_poses_of_its_own():
    rows = draw_evaluation(config(**DRAWN, evaluation_samples=30), ["a", "b", "c"])
    assert rows == [
        SampleDraws(
            key="abc"[i % 3],
            sigma=3 * u / (1 + 2 * u),
            noise_seed=bits(7, 0, i, "evaluation noise"),
            pose_target=(2, 5, 9)[int(3 * share_of_one(7, 0, i, "evaluation pose simulation target"))]
            if share_of_one(7, 0, i, "evaluation pose simulation") < 0.7
            else None,
        )
        for i in range(30)
        for u in [(i + 0.5) / 30]
    ]
    assert len({row.pose_target for row in rows}) == 4


def test_poses_that_will_be_simulated_are_those_of_all_steps_and_of_the_fixed_samples():
    reported = config(**DRAWN, steps=3, evaluation_samples=5, global_batch_size=8)
    sampler = StepSampler(KEYS, 8, 7)
    expected = {
        (row.key, row.pose_target)
        for step in range(3)
        for place, key in enumerate(sampler.batch(step))
        if (row := by_hand(7, step, place, key)).pose_target
    }
    fixed = {(row.key, row.pose_target) for row in draw_evaluation(reported, ["x", "y"]) if row.pose_target}
    assert fixed and expected and simulated_poses(reported, sampler, ["x", "y"]) == expected | fixed
    assert simulated_poses(config(stage=1), sampler, ["x", "y"]) == set()


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
    assert [row.sigma for row in rows] == [shift_sigma((i + 0.5) / 6, 5.0) for i in range(6)]
    assert not any(row.text_dropped or row.pose_dropped for row in rows)
    assert shift_sigma(0, 5) == 0 and shift_sigma(1, 5) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 80}, r"num_frames must be 4k \+ 1"),
        ({"global_batch_size": 6, "num_workers": 4}, "global_batch_size 6 must be a multiple"),
        ({"pose_simulation_targets": (1, 2)}, "pose_simulation_targets must be in 2..80"),
        ({"pose_simulation_unit": "latent", "num_frames": 9}, "must be in 2..2"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_stages_begin_with_the_papers_numbers():
    reported = {stage: TrainConfig(stage=stage) for stage in (1, 2, 3)}
    assert [reported[stage].steps for stage in reported] == [12_000, 2_000, 500]
    assert [reported[stage].learning_rate for stage in reported] == [1e-4, 1e-6, 1e-4]
    assert reported[1].num_frames == 81 and reported[1].num_workers == 8
    assert TrainConfig.model_validate_json(reported[2].model_dump_json()) == reported[2]
