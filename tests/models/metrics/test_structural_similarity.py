"""SSIM by its formula, window by window, and against torchmetrics."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from steadydancer.models import metrics
from steadydancer.models.metrics import structural_similarity

RNG = np.random.default_rng(0)
RAMP = np.linspace(0, 1, 24)[:, None, None] * (180, 60, 110) + np.linspace(0, 60, 20)[None, :, None]
SHAPE = (4, 24, 20, 3)
CLIP = np.clip(RAMP + 3 * np.arange(4)[:, None, None, None] + RNG.normal(0, 6, SHAPE), 0, 255).astype(np.uint8)
NEAR = np.clip(CLIP + RNG.normal(0, 3 * np.arange(2, 6)[:, None, None, None], SHAPE), 0, 255).astype(np.uint8)
NAMES: dict[str, metrics.SsimVariant] = {
    "zero_padded_gauss11": "zero-gauss11",
    "reflect_padded_gauss11": "reflect-gauss11",
    "interior_gauss11": "interior-gauss11",
    "gray_uniform7": "gray-uniform7",
}


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    dark, light = np.full((2, 24, 24, 3), 51, np.uint8), np.full((2, 24, 24, 3), 102, np.uint8)
    c1 = 0.01**2
    assert metrics.ssim(dark, light) == pytest.approx((2 * 0.2 * 0.4 + c1) / (0.2**2 + 0.4**2 + c1), abs=1e-12)


@pytest.mark.parametrize(
    ("variant", "pad"), [("reflect-gauss11", "reflect"), ("zero-gauss11", "constant"), ("interior-gauss11", None)]
)
def test_ssim_is_wangs_formula_in_every_frame_and_channel(variant: metrics.SsimVariant, pad: Any) -> None:
    """Gaussian windows of 11 × 11 with σ 1.5 about every pixel, or every pixel with a whole window."""
    tap = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(tap, tap)[:, :, None] / tap.sum() ** 2
    values = []
    for frame, truth in zip(CLIP, NEAR, strict=True):
        x, y = (
            np.pad(one / 255.0, ((5, 5), (5, 5), (0, 0)), mode=pad) if pad else one / 255.0 for one in (frame, truth)
        )
        for row, column in np.ndindex(x.shape[0] - 10, x.shape[1] - 10):
            a, b = (one[row : row + 11, column : column + 11] for one in (x, y))
            mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
            var_a, var_b = ((window * one**2).sum((0, 1)) - mean**2 for one, mean in ((a, mean_a), (b, mean_b)))
            both = (window * a * b).sum((0, 1)) - mean_a * mean_b
            luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            values.append(luminance * (2 * both + 0.03**2) / (var_a + var_b + 0.03**2))
    assert metrics.ssim(CLIP, NEAR, variant) == pytest.approx(np.mean(values), abs=1e-10) and np.mean(values) < 0.95
    assert metrics.ssim(CLIP, CLIP, variant) == pytest.approx(1, abs=1e-12)


def test_grey_ssim_has_the_sample_covariance() -> None:
    values = []
    for frame, truth in zip(CLIP, NEAR, strict=True):
        x, y = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) / 255.0 for one in (frame, truth))
        for row, column in np.ndindex(18, 14):
            a, b = (one[row : row + 7, column : column + 7].ravel() for one in (x, y))
            cov = np.cov(a, b)
            luminance = (2 * a.mean() * b.mean() + 0.01**2) / (a.mean() ** 2 + b.mean() ** 2 + 0.01**2)
            values.append(luminance * (2 * cov[0, 1] + 0.03**2) / (cov[0, 0] + cov[1, 1] + 0.03**2))
    assert metrics.ssim(CLIP, NEAR, "gray-uniform7") == pytest.approx(np.mean(values), abs=1e-10)


def test_the_default_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    pair = [torch.from_numpy(clip / 255.0).permute(0, 3, 1, 2) for clip in (CLIP, NEAR)]
    for height, width in ((24, 20), (6, 20), (9, 7)):
        small = [one[..., :height, :width] for one in pair]
        theirs = structural_similarity_index_measure(
            *small, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none"
        )
        ours = metrics.ssim_per_frame(CLIP[:, :height, :width], NEAR[:, :height, :width])
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_published_values(golden: Mapping[str, np.ndarray], name: str) -> None:
    values = metrics.ssim_per_frame(golden["frames.render"], golden["frames.truth"], NAMES[name])
    tolerance = {"zero_padded_gauss11": 1e-5, "gray_uniform7": 1e-4}.get(name, 1e-9)
    np.testing.assert_allclose(values, golden[f"ssim.{name}"], atol=tolerance)
    np.testing.assert_array_equal(
        [cv2.cvtColor(golden[f"frames.{one}"][1], cv2.COLOR_RGB2GRAY) for one in ("render", "truth")],
        golden["ssim.gray_frames"],
    )


def test_what_has_no_window_is_refused() -> None:
    for variant in NAMES.values():
        size = {"zero-gauss11": 1, "reflect-gauss11": 6, "gray-uniform7": 7}.get(variant, 11)
        assert metrics.ssim(CLIP[:, :size], NEAR[:, :size], variant) < 1
        with pytest.raises(ValueError, match="too small"):
            metrics.ssim(CLIP[:, : size - 1], NEAR[:, : size - 1], variant)
    wrong: Any = "gauss"
    with pytest.raises(ValueError, match="zero-gauss11, reflect-gauss11"):
        metrics.ssim(CLIP, NEAR, wrong)


def test_the_strips_that_it_is_computed_in_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for variant in NAMES.values():
        monkeypatch.setattr(structural_similarity, "_STRIP", 64)
        whole = metrics.ssim_per_frame(CLIP, NEAR, variant)
        monkeypatch.setattr(structural_similarity, "_STRIP", 5)
        np.testing.assert_allclose(metrics.ssim_per_frame(CLIP, NEAR, variant), whole, atol=1e-13)
