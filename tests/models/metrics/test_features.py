"""VBench's formulas, set distances, LPIPS and identity: published values, slow loops, and known answers."""

import logging
import math
from collections.abc import Mapping

import numpy as np
import pytest

from steadydancer.models import metrics

RNG = np.random.default_rng(0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return max(0.0, float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))


def test_published_values_of_vbench(golden: Mapping[str, np.ndarray]) -> None:
    videos = [golden[f"vbench.features_{k}"] for k in range(3)]
    images = [golden[f"vbench.reference_{k}"] for k in range(3)]
    values = [metrics.consistency(video) for video in videos]
    np.testing.assert_allclose(values, golden["vbench.consistency_per_video"], atol=1e-6)
    assert np.mean(values) == pytest.approx(golden["vbench.consistency_video_mean"], abs=1e-6)
    weighted = metrics.frame_weighted_mean(values, [len(video) for video in videos])
    assert weighted == pytest.approx(golden["vbench.consistency_frame_weighted"], abs=1e-6)
    plain = [metrics.image_to_video(*pair) for pair in zip(videos, images, strict=True)]
    np.testing.assert_allclose(plain, golden["vbench.i2v_per_video"], atol=1e-6)
    assert np.mean(plain) == pytest.approx(golden["vbench.i2v_mean"], abs=1e-6)
    offset = golden["vbench.i2v_centred_offset"]
    moved = [(video + offset, image + offset) for video, image in zip(videos, images, strict=True)]
    centred = [metrics.image_to_video(*pair, centred=True) for pair in moved]
    np.testing.assert_allclose(centred, golden["vbench.i2v_centred_per_video"], atol=3e-6)
    assert abs(metrics.image_to_video(*moved[1]) - centred[1]) > 0.05


def test_published_values_of_aesthetics_imaging_and_the_board(golden: Mapping[str, np.ndarray]) -> None:
    head = golden["aesthetic.weight"], golden["aesthetic.bias"]
    values = [metrics.aesthetic_quality(golden[f"aesthetic.embeddings_{k}"], *head) for k in range(2)]
    np.testing.assert_allclose(values, golden["aesthetic.per_video"], atol=1e-6)
    assert np.mean(values) == pytest.approx(golden["aesthetic.mean"], abs=1e-6)
    scores = [metrics.imaging_quality(golden[f"imaging.scores_{k}"]) for k in range(3)]
    np.testing.assert_allclose(scores, golden["imaging.per_video"], rtol=1e-6)
    assert np.mean(scores) / 100 == pytest.approx(golden["imaging.mean"], abs=1e-6)
    board = dict(zip(map(str, golden["vbench.leaderboard_names"]), golden["vbench.leaderboard_dims"], strict=True))
    np.testing.assert_allclose(metrics.leaderboard_scores(board), golden["vbench.leaderboard_quality_i2v_total"])
    with pytest.raises(ValueError, match="missing: Dynamic Degree"):
        metrics.leaderboard_scores({name: value for name, value in board.items() if name != "Dynamic Degree"})


def test_consistency_and_i2v_by_loops() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        features, image = rng.normal(size=(rng.integers(2, 9), 5)), rng.normal(size=5)
        n = len(features)
        steps = [cosine(features[i], features[i - 1]) for i in range(1, n)]
        both = [(steps[i - 1] + cosine(features[i], features[0])) / 2 for i in range(1, n)]
        assert metrics.consistency(features) == pytest.approx(sum(both) / (n - 1))
        for centred in (False, True):
            rows = features - features.mean(1, keepdims=True) if centred else features
            target = image - image.mean() if centred else image
            steps = [cosine(rows[i], rows[i - 1]) for i in range(1, n)]
            expected = 0.4 * max(cosine(row, target) for row in rows) + 0.3 * sum(steps) / (n - 1) + 0.3 * min(steps)
            assert metrics.image_to_video(features, image, centred) == pytest.approx(expected)


def test_a_frozen_clip_is_consistent_and_one_frame_is_not_measured() -> None:
    frame = RNG.normal(size=(1, 7))
    frozen = np.repeat(frame, 5, axis=0)
    assert metrics.consistency(frozen) == pytest.approx(1)
    assert metrics.image_to_video(frozen, frame[0]) == pytest.approx(1)
    assert math.isnan(metrics.consistency(frame)) and math.isnan(metrics.image_to_video(frame, frame[0]))
    opposite = np.concatenate([frame, -frame])
    assert metrics.consistency(opposite) == 0  # clamped before the average
    assert metrics.consistency(np.zeros((3, 7))) == 0


@pytest.mark.parametrize("name", ["many", "few", "two", "close"])
def test_published_frechet_distances(golden: Mapping[str, np.ndarray], name: str) -> None:
    x, y = golden[f"frechet.{name}_x"], golden[f"frechet.{name}_y"]
    value = metrics.frechet_distance(x, y)
    assert value == pytest.approx(golden[f"frechet.{name}"], rel=1e-9)
    np.testing.assert_allclose(golden[f"frechet.{name}_packages"], value, rtol=1e-7)
    assert metrics.frechet_distance(y, x) == pytest.approx(value)


def test_frechet_distance_by_the_root_of_the_covariances() -> None:
    """tr √(S_x S_y) from the eigenvalues of √S_x S_y √S_x, of sets with more rows than columns and with fewer."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n, m, d = (int(k) for k in rng.integers(2, 12, 3))
        x, y = rng.normal(size=(n, d)), 2 * rng.normal(size=(m, d)) + 1
        s_x, s_y = (np.cov(rows, rowvar=False).reshape(d, d) for rows in (x, y))
        values, vectors = np.linalg.eigh(s_x)
        root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
        trace = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s_y @ root), 0)).sum()
        expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s_x) + np.trace(s_y) - 2 * trace
        assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_equal_sets_are_at_no_distance_and_shifted_ones_at_the_square() -> None:
    x = RNG.normal(size=(30, 6))
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(x, x + 3) == pytest.approx(9 * 6)
    assert math.isnan(metrics.frechet_distance(x[:1], x)) and math.isnan(metrics.kernel_distance(x, x[:1]))
    with pytest.raises(ValueError, match="Expected features"):
        metrics.frechet_distance(x, x[:, :5])


def test_kernel_distance(golden: Mapping[str, np.ndarray]) -> None:
    for name in ("many", "few"):
        value = metrics.kernel_distance(golden[f"frechet.{name}_x"][:20], golden[f"frechet.{name}_y"][:20])
        assert value == pytest.approx(golden[f"kid.{name}_first20"], rel=1e-9)
    x, y = RNG.normal(size=(7, 4)), RNG.normal(size=(5, 4))

    def average(a: np.ndarray, b: np.ndarray, same: bool) -> float:
        terms = [(a[i] @ b[j] / 4 + 1) ** 3 for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return float(np.mean(terms))

    expected = average(x, x, True) + average(y, y, True) - 2 * average(x, y, False)
    assert metrics.kernel_distance(x, y) == pytest.approx(expected)


def test_humanvids_fvd_is_a_mean_over_pairs_and_prefixes(golden: Mapping[str, np.ndarray]) -> None:
    render, truth = golden["humanvid_fvd.render"], golden["humanvid_fvd.truth"]
    value = metrics.humanvid_fvd(render, truth)
    assert value == pytest.approx(golden["humanvid_fvd.value"], rel=1e-6)
    assert metrics.humanvid_fvd(truth, truth) == 0
    with pytest.raises(ValueError, match="cannot be paired"):
        metrics.humanvid_fvd(render, truth[:5])


def test_fid_at_infinity(golden: Mapping[str, np.ndarray]) -> None:
    arguments = golden["fidinf.n"].tolist(), golden["fidinf.permutation"].tolist()
    intercept, slope, values = metrics.fid_infinity(golden["fidinf.x"], golden["fidinf.y"], *arguments)
    np.testing.assert_allclose(values, golden["fidinf.values"], rtol=1e-9)
    np.testing.assert_allclose([slope, intercept], golden["fidinf.slope_intercept"], rtol=1e-5)
    same = np.random.default_rng(1).normal(size=(600, 4))
    limit, bias, drawn = metrics.fid_infinity(same[:200], same[200:])
    assert len(drawn) == 8 and bias > 0 and limit < drawn[-1] < drawn[0]
    assert drawn[-1] == pytest.approx(metrics.frechet_distance(same[:200], same[200:]))


def test_lpips_with_the_published_heads(golden: Mapping[str, np.ndarray]) -> None:
    activations = [golden[f"lpips.alex_activation_{k}"] for k in range(5)]
    heads = [golden[f"lpips.alex_linear_{k}"] for k in range(5)]
    first, second = [layer[0] for layer in activations], [layer[1] for layer in activations]
    value = metrics.lpips_distance(first, second, heads)
    assert value == pytest.approx(golden["lpips.alex_value"], abs=1e-6)
    assert metrics.lpips_distance(second, first, heads) == pytest.approx(value)
    assert metrics.lpips_distance(first, first, heads) == 0


def test_identity_over_time(golden: Mapping[str, np.ndarray]) -> None:
    ours = metrics.identity_over_time(golden["identity.similarity"], float(golden["identity.fps"]))
    np.testing.assert_allclose(ours, golden["identity.mean_min_p5_slope_lastquarter_found"], rtol=1e-9)


def test_identity_that_falls_by_a_tenth_per_second() -> None:
    similarity = 0.9 - 0.1 * np.arange(17) / 8
    similarity[[2, 5]] = math.nan
    ours = metrics.identity_over_time(similarity, 8)
    assert ours.slope_per_s == pytest.approx(-0.1) and ours.found_share == pytest.approx(15 / 17)
    assert ours.min == pytest.approx(0.7) and ours.last_quarter == pytest.approx(np.mean(similarity[13:]))
    nobody = metrics.identity_over_time(np.full(5, math.nan), 8)
    assert nobody.found_share == 0 and np.isnan(nobody[:5]).all()
    once = metrics.identity_over_time(np.array([0.5, math.nan]), 8)
    assert once.mean == 0.5 and math.isnan(once.slope_per_s) and math.isnan(once.last_quarter)


RESIZED = (
    "dino_frames clip_frames i2v_dino_frames i2v_dino_image i2v_dreamsim_frames i2v_dreamsim_image imaging_longer "
    "cleanfid_299 pytorchfid_299 torchfidelity_299 fvd_humanvid_224 fvd_cdfvd_224"
)


@pytest.mark.parametrize("name", RESIZED.split())
def test_published_inputs_of_the_networks(golden: Mapping[str, np.ndarray], name: str) -> None:
    (ours,) = metrics.preprocess(golden["resize.image"][None], name)
    assert ours.shape == tuple(golden[f"resize.{name}_shape"]) and ours.dtype == np.float32
    np.testing.assert_allclose(ours[tuple(golden[f"resize.{name}_at"].T)], golden[f"resize.{name}"], atol=3e-5)


def test_a_truth_is_resized_as_by_humanvid(golden: Mapping[str, np.ndarray]) -> None:
    _, height, width = golden["resize.humanvid_size_shape"]
    (ours,) = metrics.resize_truth(golden["resize.image"][None], height, width)
    assert ours.dtype == np.uint8
    values = ours.transpose(2, 0, 1)[tuple(golden["resize.humanvid_size_at"].T)]
    np.testing.assert_allclose(values / 255, golden["resize.humanvid_size"], atol=1e-6)


@pytest.mark.parametrize("size", [(300, 540), (540, 300), (256, 256), (90, 61)])
@pytest.mark.parametrize("name", metrics.PREPROCESSING)
def test_a_flat_picture_stays_flat_at_every_size(name: str, size: tuple[int, int]) -> None:
    """Also upright, small and square ones; a turned picture gives the turned input."""
    flat = np.zeros((2, *size, 3), np.uint8) + np.array([10, 100, 200], np.uint8)
    ours = metrics.preprocess(flat, name)
    assert ours.shape[:2] == (2, 3)
    np.testing.assert_allclose(ours, np.broadcast_to(ours[:, :, :1, :1], ours.shape), atol=1e-4)
    turned = metrics.preprocess(flat.transpose(0, 2, 1, 3), name)
    assert turned.shape == (2, 3, *ours.shape[:1:-1])


def test_antialiasing_changes_the_frames() -> None:
    noise = RNG.integers(0, 256, (1, 600, 700, 3), dtype=np.uint8)
    for name in ("i2v_dino_frames", "i2v_dreamsim_frames"):
        assert metrics.preprocess(noise, name).std() < 0.8 * metrics.preprocess(noise, f"{name}_no_aa").std()
    assert not np.allclose(metrics.preprocess(noise, "humanvid_fid_299"), metrics.preprocess(noise, "pytorchfid_299"))
    with pytest.raises(ValueError, match="choose one of dino_frames"):
        metrics.preprocess(noise, "dino")


def test_kendall_is_that_of_torchmetrics(golden: Mapping[str, np.ndarray]) -> None:
    import torch
    from torchmetrics.functional import kendall_rank_corrcoef

    tau = metrics.kendall_tau_b(golden["stats.kendall_x"], golden["stats.kendall_y"])
    assert tau == pytest.approx(golden["stats.kendall_tau_b"], rel=1e-9)
    for seed in range(50):
        x, y = np.random.default_rng(seed).integers(0, 5, (2, 12))
        theirs = kendall_rank_corrcoef(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))
        assert metrics.kendall_tau_b(x, y) == pytest.approx(float(theirs), abs=1e-6)
    x, y = [1, 2, math.nan, 4], [2, 3, 1, 9]
    assert metrics.kendall_tau_b(x, y) == pytest.approx(1) and math.isnan(metrics.kendall_tau_b([1, 1], [1, 2]))


def test_strengths_of_published_votes(golden: Mapping[str, np.ndarray]) -> None:
    ours = metrics.bradley_terry(golden["stats.bt_wins"], golden["stats.bt_ties"])
    np.testing.assert_allclose(ours, golden["stats.bt_log_strength"], atol=1e-4)
    assert metrics.good_same_bad(*golden["stats.gsb_counts"]) == pytest.approx(golden["stats.gsb"])
    assert math.isnan(metrics.good_same_bad(0, 0, 0))


def test_strengths_have_the_likelihoods_gradient_zero() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        wins, ties = rng.integers(1, 9, (2, 4, 4)).astype(float)
        theta = metrics.bradley_terry(wins, ties)
        votes = wins + (np.triu(ties, 1) + np.triu(ties, 1).T) / 2
        gradient = [
            sum(
                votes[i, j] - (votes[i, j] + votes[j, i]) / (1 + math.exp(theta[j] - theta[i]))
                for j in range(4)
                if j != i
            )
            for i in range(4)
        ]
        np.testing.assert_allclose(gradient, 0, atol=1e-8)
        assert theta.sum() == pytest.approx(0, abs=1e-9)


def test_a_prior_only_where_no_strength_is_finite(caplog: pytest.LogCaptureFixture) -> None:
    ties = np.zeros((2, 2))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(metrics.bradley_terry(np.array([[0, 3], [1, 0]]), ties)[0], math.log(3) / 2)
        assert not caplog.records
        never_lost = metrics.bradley_terry(np.array([[0, 4], [0, 0]]), ties)
    np.testing.assert_allclose(never_lost, [math.log(9) / 2, -math.log(9) / 2])
    assert "half a vote" in caplog.text
    tied = metrics.bradley_terry(np.zeros((2, 2)), np.array([[0, 5], [0, 0]]))
    np.testing.assert_allclose(tied, 0)
    with pytest.raises(ValueError, match="Expected two tables"):
        metrics.bradley_terry(np.zeros((2, 3)), ties)
