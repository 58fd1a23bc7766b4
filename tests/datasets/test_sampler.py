from collections import Counter

import pytest

from steadydancer.datasets.sampler import StepSampler, draw_seed, held_out, rank_slice

BUCKETS = {f"wide{i}": (9, 48, 80) for i in range(7)} | {f"tall{i}": (9, 80, 48) for i in range(4)}


def test_a_step_is_a_pure_function_of_seed_and_step():
    forwards = [StepSampler(BUCKETS, 4, seed=3).batch(step) for step in range(20)]
    sampler = StepSampler(dict(reversed(BUCKETS.items())), 4, seed=3)
    assert [sampler.batch(step) for step in reversed(range(20))] == forwards[::-1]
    assert [StepSampler(BUCKETS, 4, seed=4).batch(step) for step in range(20)] != forwards


def test_an_epoch_holds_every_sample_and_no_batch_mixes_buckets():
    sampler = StepSampler(BUCKETS, 4, seed=0)
    epoch = [sampler.batch(step) for step in range(sampler.steps_per_epoch)]
    assert all(len({BUCKETS[key] for key in batch}) == 1 for batch in epoch)
    counts = Counter(key for batch in epoch for key in batch)
    assert set(counts) == set(BUCKETS)
    assert sum(counts.values()) == 8 + 4


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batch_is_the_same_at_any_world_size(world_size):
    batch = StepSampler(BUCKETS, 4, seed=1).batch(5)
    assert sum((rank_slice(batch, rank, world_size) for rank in range(world_size)), []) == batch


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        rank_slice(list("abcd"), 0, 3)


def test_sources_held_out_follow_their_share_and_stay_where_they_are():
    sources = [f"source{i}" for i in range(5000)]
    chosen = held_out(sources, 0.1, seed=0)
    assert len(chosen) / len(sources) == pytest.approx(0.1, abs=0.015)
    assert held_out(sources[::-1][:3000], 0.1, seed=0) == chosen & set(sources[2000:])
    assert held_out(sources, 0.05, seed=0) < chosen
    assert held_out(sources, 0.1, seed=1) != chosen
    assert held_out(sources, 0.0, seed=0) == set()


def test_draws_differ_by_everything_that_names_them():
    seeds = {draw_seed(s, t, i, p) for s in (0, 1) for t in (0, 1) for i in (0, 1) for p in ("noise", "sigma")}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
