"""Fingerprints and their comparison against the rule, written once more with plain loops."""

from pathlib import Path

import numpy as np
import pytest

from steadydancer.pipelines.curate.scores.duplicates import Excluded, Match, align, fingerprint, mirrored, pictures


def test_a_fingerprint_is_the_mean_of_a_quarter_second_in_eight_by_eight_cells() -> None:
    cells = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3))
    frames = cells.repeat(6, axis=1).repeat(9, axis=2).astype(np.uint8)  # 48 high, 72 wide
    luma = cells @ [0.299, 0.587, 0.114]
    # At 16 a second four frames a picture, and what is left at the end is one, too.
    expected = np.stack([luma[:4].mean(axis=0), luma[4:8].mean(axis=0), luma[8:].mean(axis=0)])
    got = pictures(fingerprint(frames, 16.0))
    assert got.shape == (3, 64) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected.reshape(3, 64), atol=0.51)
    np.testing.assert_allclose(pictures(fingerprint(frames, 11.0))[1], luma[3:6].mean(axis=0).ravel(), atol=0.51)
    assert len(pictures(fingerprint(frames, 1.0))) == 10  # slower than four a second: each frame is one
    np.testing.assert_array_equal(mirrored(got).reshape(3, 8, 8), got.reshape(3, 8, 8)[:, :, ::-1])


def by_hand(first: np.ndarray, second: np.ndarray, min_overlap: int) -> tuple[int, float]:
    """Every shift, every picture: how well places and events correlate where both are."""
    best = (0, 0.0)
    for other in (second, second.reshape(-1, 8, 8)[:, :, ::-1].reshape(-1, 64)):
        for shift in range(-len(first), len(other)):
            common = [k for k in range(len(first)) if 0 <= k + shift < len(other)]
            if len(common) < max(2, min_overlap):
                continue
            places, events, energy, other_energy = [], 0.0, 0.0, 0.0
            for k in common:
                one, two = first[k] - first[k].mean(), other[k + shift] - other[k + shift].mean()
                places.append(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
                change, other_change = first[k] - first.mean(axis=0), other[k + shift] - other.mean(axis=0)
                events += change @ other_change
                energy, other_energy = energy + change @ change, other_energy + other_change @ other_change
            if np.sqrt(energy * other_energy) < len(common) * 64 * 0.25:  # half a grey level changes
                continue
            similar = float(np.mean(places)), float(events / np.sqrt(energy * other_energy))
            asked = 0.65 if len(common) >= 16 else 0.8
            if similar[0] >= 0.8 and similar[1] >= asked and min(similar) > best[1]:
                best = len(common), min(similar)
    return best


def scene(num_pictures: int, seed: int, events: float = 12.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 60 + 100 * np.random.default_rng(9).random(64) + rng.normal(0, events, (num_pictures, 64))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda one, rng: one, (20, 1.0)),
        (lambda one, rng: one[3:], (17, None)),
        (lambda one, rng: np.concatenate([scene(2, 5), one]), (20, None)),
        (lambda one, rng: mirrored(one.astype(np.float32)), (20, 1.0)),
        (lambda one, rng: one + rng.normal(0, 6, one.shape), (20, None)),
        (lambda one, rng: one + rng.normal(0, 11, one.shape), (20, None)),  # events hardly more than asked
        (lambda one, rng: one + rng.normal(0, 16, one.shape), (0, 0.0)),  # and less
        (lambda one, rng: one[:15] + rng.normal(0, 6, (15, 64)), (15, None)),  # fewer than sixteen: more is asked
        (lambda one, rng: one[:15] + rng.normal(0, 11, (15, 64)), (0, 0.0)),
        (lambda one, rng: one[:16] + rng.normal(0, 11, (16, 64)), (16, None)),
        (lambda one, rng: one[:9], (0, 0.0)),  # too short for the overlap
        (lambda one, rng: one * 0.1 + 100, (20, None)),  # paler, but the same
        (lambda one, rng: 128 + one - scene(1, 0, 0.0), (0, 0.0)),  # the same events in another place
        (lambda one, rng: scene(20, 77), (0, 0.0)),  # the same place, other events
    ],
)  # fmt: skip
def test_two_sequences_agree_at_the_shift_that_looking_at_all_finds(change, expected) -> None:  # type: ignore[no-untyped-def]
    one = scene(20, 0).astype(np.float32)
    other = np.asarray(change(one, np.random.default_rng(1)), np.float32)
    overlap, similarity = by_hand(one.astype(float), other.astype(float), 10)
    for first, second in ((one, other), (other, one)):
        match = align(first, second, 10)
        assert match.overlap == overlap == expected[0]
        assert match.similarity == pytest.approx(similarity, abs=1e-4)
        if expected[1] is not None:
            assert similarity == pytest.approx(expected[1], abs=1e-5)


def test_what_hardly_changes_agrees_with_nothing() -> None:
    """Less than half a grey level a cell, in the mean of the squares: a still picture has no events."""
    for size, overlap in ((0.45, 0), (0.55, 12)):
        alternating = scene(1, 0, 0.0) + size * np.where(np.arange(12) % 2, 1, -1)[:, None]
        assert align(alternating.astype(np.float32), alternating.astype(np.float32), 12).overlap == overlap
    assert Match() == Match(0, 0.0)


def test_a_leak_is_the_likest_of_the_excluded_over_half_of_the_shorter_one(tmp_path: Path) -> None:
    clip = np.clip(scene(20, 0), 0, 255).round()
    data = clip.astype(np.uint8).tobytes()
    rng = np.random.default_rng(2)
    noisy = np.clip(clip + rng.normal(0, 5, clip.shape), 0, 255).round()
    others = {"far": scene(40, 8), "noisy": noisy, "half": clip[:10], "after": np.concatenate([clip[8:], scene(30, 6)])}
    sequences = {name: np.clip(one, 0, 255).astype(np.float32) for name, one in others.items()}

    def closest(*names: str) -> tuple[float, str | None]:
        return Excluded(names, [sequences[name] for name in names]).closest(data)

    assert closest("far") == (0.0, None)
    similarity, name = closest("far", "noisy")
    assert name == "noisy" and 0.8 < similarity < 0.99
    # Half of the clip itself is more like it than the whole of a noisy copy; and it does not matter which comes first.
    assert closest("noisy", "half") == closest("half", "noisy") == (pytest.approx(0.974, abs=1e-3), "half")
    # Twelve of the clip's twenty are in it: more than half. Nine would be less.
    assert closest("after")[0] > 0.9 and closest("after")[1] == "after"
    assert Excluded(["x"], [sequences["after"][3:]]).closest(data) == (0.0, None)
    assert Excluded(["x"], [sequences["after"][3:]]).closest(data, min_ratio=0.45)[0] > 0.9
    # A short one counts by its own length: five pictures of five.
    assert Excluded(["x"], [sequences["half"][:5]]).closest(data)[0] > 0.9
    kept = Excluded(["far", "noisy"], [sequences["far"], noisy.astype(np.float32)])
    kept.save(tmp_path / "kept.npz")
    again = Excluded.load(tmp_path / "kept.npz")
    assert again.names == ["far", "noisy"]
    np.testing.assert_array_equal(again.sequences[1], noisy)
    np.testing.assert_array_equal(again.sequences[0], np.floor(sequences["far"]))
