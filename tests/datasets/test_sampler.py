import hashlib
from collections import Counter

import pytest

from steadydancer.datasets.sampler import StepSampler, batch_digest, draw_seed, held_out, rank_slice

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


def test_the_order_is_the_one_that_earlier_runs_began_with():
    """Two epochs as they have always been: a run that is resumed by another version must go on with the same order."""
    buckets = {f"wide{i}": (9, 48, 80) for i in range(5)} | {f"tall{i}": (9, 80, 48) for i in range(2)}
    sampler = StepSampler(buckets, 4, seed=3)
    assert [sampler.batch(step) for step in range(6)] == [
        ["tall1", "tall0", "tall1", "tall0"],
        ["wide0", "wide4", "wide2", "wide1"],  # the rest, then the bucket's own beginning
        ["wide4", "wide2", "wide1", "wide3"],
        ["wide1", "wide4", "wide0", "wide2"],
        ["wide3", "wide1", "wide4", "wide0"],
        ["tall0", "tall1", "tall0", "tall1"],
    ]
    assert sampler.steps_per_epoch == 3 and sampler.num_repeated == 3 + 2


def test_the_order_does_not_depend_on_how_buckets_were_met():
    one = {"a": (9, 80, 48), "b": (9, 48, 80), "c": (9, 48, 80), "d": (9, 80, 48)}
    other = {"a": (9, 48, 80), "b": (9, 80, 48), "c": (9, 80, 48), "d": (9, 48, 80)}
    # The same buckets, first met in another order, hold other samples at the same places.
    swap = str.maketrans("abcd", "badc")
    batches = [[key.translate(swap) for key in StepSampler(one, 2, seed=0).batch(step)] for step in range(8)]
    assert batches == [[str(key) for key in StepSampler(other, 2, seed=0).batch(step)] for step in range(8)]


def test_every_epoch_has_an_order_of_its_own():
    sampler = StepSampler({f"clip{i}": 0 for i in range(8)}, 4, seed=5)
    epochs = [tuple(map(tuple, (sampler.batch(2 * epoch), sampler.batch(2 * epoch + 1)))) for epoch in range(6)]
    assert len(set(epochs)) == 6
    assert all(sorted(first + second) == [f"clip{i}" for i in range(8)] for first, second in epochs)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="no samples to draw from"):
        StepSampler({}, 4, seed=0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batch_is_the_same_at_any_world_size(world_size):
    batch = StepSampler(BUCKETS, 4, seed=1).batch(5)
    assert sum((rank_slice(batch, rank, world_size) for rank in range(world_size)), []) == batch


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="is not divisible"):
        rank_slice(list("abcd"), 0, 3)


def test_sources_held_out_follow_their_share_and_stay_where_they_are():
    sources = [f"source{i}" for i in range(5000)]
    chosen = held_out(sources, 0.1, seed=0)
    assert len(chosen) / len(sources) == pytest.approx(0.1, abs=0.015)
    assert held_out(sources[::-1][:3000], 0.1, seed=0) == chosen & set(sources[2000:])
    assert held_out(sources, 0.05, seed=0) < chosen
    assert held_out(sources, 0.1, seed=1) != chosen
    assert held_out(sources, 0.0, seed=0) == set() and held_out(sources, 1.0, seed=0) == set(sources)
    # Of a source that an earlier run held out, the side must not change.
    hashed = int.from_bytes(hashlib.sha256(b"3/0/0/held out/source7").digest()[:8], "little") / 2**64
    assert held_out(["source7"], hashed + 1e-9, seed=3) == {"source7"}
    assert held_out(["source7"], hashed - 1e-9, seed=3) == set()


def test_draws_differ_by_everything_that_names_them():
    seeds = {draw_seed(s, t, i, p) for s in (0, 1) for t in (0, 1) for i in (0, 1) for p in ("noise", "sigma")}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(7, 12, 3, "noise") == int.from_bytes(hashlib.sha256(b"7/12/3/noise").digest()[:8], "little") // 2


def test_a_batch_digest_sees_every_part_its_order_and_where_it_ends():
    assert batch_digest(["clip1", b"\x00\x01"]) == "4adfea0e9a49586c"  # as runs of earlier versions logged it
    framed = b"".join(len(part).to_bytes(8, "little") + part for part in (b"clip1", b"\x00\x01"))
    assert batch_digest(["clip1", b"\x00\x01"]) == hashlib.sha256(framed).hexdigest()[:16]
    others = [["clip1"], [b"\x00\x01", "clip1"], ["clip", b"1\x00\x01"], ["clip1", b"\x00\x02"], []]
    assert len({batch_digest(parts) for parts in others} | {"4adfea0e9a49586c"}) == 6
