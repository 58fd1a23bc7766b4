"""Pixel metrics by their formulas, written out on frames of which no two, and no two channels, are alike."""

import math
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from steadydancer.models import metrics
from steadydancer.models.components import tiny_components

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (10, 24, 20, 3), dtype=np.uint8)
# Pictures that are alike but not equal: a ramp a channel, each frame further along and with other noise.
RAMP = np.linspace(0, 1, 24)[:, None, None] * (180, 60, 110) + np.linspace(0, 60, 20)[None, :, None]
CLIP = np.clip(RAMP + 3 * np.arange(10)[:, None, None, None] + RNG.normal(0, 6, NOISE.shape), 0, 255).astype(np.uint8)
NEAR = np.clip(CLIP + RNG.normal(0, np.arange(2, 12)[:, None, None, None], NOISE.shape), 0, 255).astype(np.uint8)


def db(one: np.ndarray, other: np.ndarray) -> float:
    return -10 * math.log10(float(np.mean((one.astype(float) / 255 - other.astype(float) / 255) ** 2)))


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((3, 8, 8, 3), np.uint8)
    grey = black + np.array([1, 2, 4], np.uint8)[:, None, None, None]
    expected = [20 * math.log10(255 / level) for level in (1, 2, 4)]
    assert metrics.psnr(grey, black) == pytest.approx(np.mean(expected), abs=1e-4)


def test_equal_frames_count_as_the_cap() -> None:
    """Each frame is capped, then averaged: one equal frame does not make the mean infinite."""
    assert metrics.psnr(NOISE, NOISE) == 100 and metrics.psnr(NOISE, NOISE, cap_db=60) == 60
    half = np.concatenate([CLIP[:5], NEAR[5:]])
    assert np.isinf(metrics.psnr_per_frame(half, CLIP)).tolist() == [True] * 5 + [False] * 5
    rest = metrics.psnr(half[5:], CLIP[5:])
    assert metrics.psnr(half, CLIP) == pytest.approx((100 + rest) / 2)
    assert metrics.psnr(half, CLIP, cap_db=math.inf) == math.inf


def test_psnr_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    theirs = peak_signal_noise_ratio(
        *(torch.from_numpy(clip / 255.0) for clip in (CLIP, NEAR)), 1.0, reduction="none", dim=(1, 2, 3)
    )
    np.testing.assert_allclose(metrics.psnr_per_frame(CLIP, NEAR), theirs, rtol=1e-6)


def test_psnr_is_a_mean_over_frames_however_many() -> None:
    """Not the PSNR of the mean error, which the worst frames decide; the last of ten frames counts as the others."""
    expected = np.mean([db(*pair) for pair in zip(CLIP, NEAR, strict=True)])
    assert metrics.psnr(CLIP, NEAR) == pytest.approx(expected, abs=1e-9)
    assert metrics.psnr_of_mean_error(CLIP, NEAR) == pytest.approx(db(CLIP, NEAR), abs=1e-9)
    assert abs(expected - db(CLIP, NEAR)) > 1


def test_first_frame_alone_counts_against_the_reference() -> None:
    assert metrics.first_frame_psnr(CLIP, NEAR[0]) == pytest.approx(db(CLIP[0], NEAR[0]), abs=1e-4)
    assert metrics.first_frame_psnr(np.concatenate([NEAR[:1], NOISE]), NEAR[0]) == math.inf


def test_the_ceiling_is_the_autoencoders_own_error() -> None:
    """By diffusers' calls alone: what encoding does to the latents' statistics, decoding undoes."""
    vae = tiny_components()["vae"]
    reference = np.clip(RAMP[:16, :16] + RNG.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
    pixels = torch.from_numpy(reference.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None, :, None]
    with torch.no_grad():
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0, :, 0].permute(1, 2, 0).clamp(-1, 1)
    levels = ((back.numpy() + 1) * 127.5).round()
    assert metrics.autoencoder_ceiling(vae, reference) == pytest.approx(db(levels, reference), abs=0.02)


def test_flickering_of_known_steps() -> None:
    frames = np.array([0, 10, 0, 40], np.uint8)[:, None, None, None] + np.zeros((4, 6, 6, 3), np.uint8)
    assert metrics.temporal_flickering(frames) == pytest.approx((255 - (10 + 10 + 40) / 3) / 255)
    steps = np.abs(np.diff(NOISE.astype(float), axis=0))
    assert metrics.temporal_flickering(NOISE) == pytest.approx(1 - steps.mean() / 255, abs=1e-6)
    assert math.isnan(metrics.temporal_flickering(frames[:1]))
    assert metrics.temporal_flickering(np.repeat(frames[1:2], 3, axis=0)) == 1


def test_a_jump_at_the_start_is_seen_and_one_later_is_not() -> None:
    def clip(jump_at: int) -> np.ndarray:
        levels = 2 * np.arange(20) + np.where(np.arange(20) > jump_at, 30, 0)
        return levels.astype(np.uint8)[:, None, None, None] + np.zeros((20, 4, 4, 3), np.uint8)

    assert metrics.pixel_jump(clip(0)) == pytest.approx(16)
    assert metrics.pixel_jump(clip(7)) == pytest.approx(16)
    assert metrics.pixel_jump(clip(8)) == pytest.approx(1)
    assert math.isnan(metrics.pixel_jump(clip(0)[:9]))
    assert metrics.pixel_jump(clip(0)[:10]) == pytest.approx(16)
    assert math.isnan(metrics.pixel_jump(np.repeat(NOISE[:1], 12, axis=0)))
    assert metrics.pixel_jump(clip(2), num_start_steps=3) == pytest.approx(16)
    assert metrics.pixel_jump(clip(3), num_start_steps=3) == pytest.approx(1)


def test_a_jump_is_measured_by_the_length_of_steps_and_their_median() -> None:
    """Steps that touch a part of the picture differ in length and mean; one wild later step moves no median."""
    frames = np.zeros((14, 4, 4, 3), np.int64)
    steps = [(16, 2), (4, 40), *[(16, 3)] * 6, (16, 5), (16, 6), (1, 90), (8, 9), (16, 4)]
    for index, (area, step) in enumerate(steps):
        frames[index + 1] = frames[index]
        frames[index + 1].reshape(16, 3)[:area, 0] += step
    lengths = np.sqrt((np.diff(frames.astype(float), axis=0) ** 2).mean((1, 2, 3)))
    expected = max(lengths[:8]) / sorted(lengths[8:])[2]
    assert metrics.pixel_jump(frames.astype(np.uint8)) == pytest.approx(expected, rel=1e-5)
    assert lengths.argmax() in (1, 10) and max(lengths[:8]) == lengths[1]


def test_clips_of_different_shape_are_not_compared() -> None:
    for compare in (metrics.psnr, metrics.ssim, metrics.psnr_of_mean_error):
        for other in (NOISE[:5], NOISE[:, :20], NOISE[..., :1]):
            with pytest.raises(ValueError, match="cannot be compared"):
                compare(NOISE, other)


def test_masked_psnr_counts_masked_pixels_of_later_frames_alone() -> None:
    masks = RNG.random(NOISE.shape[:3]) < np.linspace(0, 0.5, 10)[:, None, None]
    errors = [
        (float(CLIP[t, y, x, c]) - float(NEAR[t, y, x, c])) ** 2 / 255**2
        for t, y, x in np.argwhere(masks)
        if t >= 1
        for c in range(3)
    ]
    assert metrics.masked_psnr(NEAR, CLIP, masks) == pytest.approx(-10 * math.log10(np.mean(errors)), abs=1e-9)
    assert metrics.masked_psnr(NEAR, CLIP, np.ones_like(masks)) == pytest.approx(db(NEAR[1:], CLIP[1:]), abs=1e-9)
    elsewhere = np.where(masks[..., None], CLIP, NOISE)
    elsewhere[0] = NOISE[0]
    assert metrics.masked_psnr(elsewhere, CLIP, masks) == 100
    assert metrics.masked_psnr(elsewhere, CLIP, masks, cap_db=80) == 80
    everywhere = np.ones_like(masks)
    assert metrics.masked_psnr(NEAR, CLIP, everywhere, first_frame=0) == pytest.approx(db(NEAR, CLIP), abs=1e-9)


def test_masked_psnr_of_nothing_is_not_measured() -> None:
    nothing = np.zeros(NOISE.shape[:3], bool)
    only_first = nothing.copy()
    only_first[0] = True
    assert math.isnan(metrics.masked_psnr(NEAR, CLIP, nothing))
    assert math.isnan(metrics.masked_psnr(NEAR, CLIP, only_first))
    assert math.isnan(metrics.masked_psnr(NEAR[:1], CLIP[:1], only_first[:1]))
    with pytest.raises(ValueError, match="do not fit"):
        metrics.masked_psnr(NEAR, CLIP, nothing[:5])


def test_drift_of_a_background_that_darkens() -> None:
    frames = np.full((3, 20, 20, 3), 200, np.uint8)
    frames[1:, :] -= np.array([10, 30], np.uint8)[:, None, None, None]
    frames[:, :5] = NOISE[:3, :5, :20]  # people
    masks = np.zeros((3, 20, 20), bool)
    masks[:, :5] = True
    np.testing.assert_allclose(metrics.background_drift(frames, masks), [10 / 255, 30 / 255])
    masks[1, 5:19] = True  # 5 % of the picture remains
    assert np.isnan(metrics.background_drift(frames, masks)).tolist() == [True, False]
    assert metrics.background_drift(frames[:1], masks[:1]).shape == (0,)


def test_smoothness_compares_every_other_frame_with_truncated_predictions() -> None:
    frames = np.arange(0, 80, 10, dtype=np.uint8)[:, None, None, None] + np.zeros((8, 4, 6, 3), np.uint8)
    exact = np.stack([frames[1], frames[3], frames[5]]).transpose(0, 3, 1, 2) / 255
    assert metrics.motion_smoothness(frames, exact + 1e-6) == 1
    assert metrics.motion_smoothness(frames[:7], exact + 0.9 / 255) == 1
    assert metrics.motion_smoothness(frames[:7], exact - 1e-6) == pytest.approx(1 - 1 / 255)
    assert metrics.motion_smoothness(frames[:7], exact * 0 - 3) == pytest.approx(1 - 30 / 255)
    assert math.isnan(metrics.motion_smoothness(frames[:2], exact[:0]))
    with pytest.raises(ValueError, match="cannot be compared"):
        metrics.motion_smoothness(frames[:5], exact)


def test_published_values(golden: Mapping[str, np.ndarray]) -> None:
    truth, render = golden["frames.truth"], golden["frames.render"]
    np.testing.assert_allclose(metrics.psnr_per_frame(render, truth), golden["psnr.per_frame"], rtol=1e-9)
    assert metrics.psnr(render, truth) == pytest.approx(golden["psnr.mean_cap100"], rel=1e-9)
    assert metrics.psnr_of_mean_error(render, truth) == pytest.approx(golden["psnr.from_mean_mse"], rel=1e-9)
    for name, clip in (("truth", truth), ("render", render)):
        assert metrics.temporal_flickering(clip) == pytest.approx(golden[f"flicker.{name}"], abs=1e-8)
    for name, count in (("odd", 7), ("even", 8)):
        value = metrics.motion_smoothness(render[:count], golden[f"smooth.{name}_interpolated"])
        assert value == pytest.approx(golden[f"smooth.{name}"], abs=1e-9)
    np.testing.assert_allclose(metrics.pixel_steps(render), golden["pixel_jump.steps"], rtol=1e-9)
    assert metrics.pixel_jump(render, 3) == pytest.approx(golden["pixel_jump.start3"], rel=1e-9)
    drift = metrics.background_drift(render, golden["background.masks"])
    np.testing.assert_allclose(drift, golden["background.drift"], rtol=1e-9)
    gap = metrics.first_frame_gap(*golden["first_frame.mse_render_mse_ceiling"])
    np.testing.assert_allclose(gap, golden["first_frame.psnr_ceiling_gap_share"], rtol=1e-9)


def test_importing_the_metrics_loads_no_torch() -> None:
    code = "import sys, steadydancer.models.metrics; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
