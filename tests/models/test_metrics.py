"""Scores by their formulas, written out in NumPy on frames of which no two, and no two channels, are alike."""

import math

import numpy as np
import pytest
import torch

from steadydancer.models import metrics as judges
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
    assert judges.psnr(grey, black) == pytest.approx(np.mean(expected), abs=1e-4)
    assert judges.psnr(NOISE, NOISE) == math.inf


def test_psnr_is_a_mean_over_frames_however_many() -> None:
    """Not the PSNR of the mean error, which the worst frames decide; the last of ten frames counts as the others."""
    expected = np.mean([db(*pair) for pair in zip(CLIP, NEAR, strict=True)])
    assert judges.psnr(CLIP, NEAR) == pytest.approx(expected, abs=1e-4)
    assert abs(expected - db(CLIP, NEAR)) > 1


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    dark, light = np.full((2, 24, 24, 3), 51, np.uint8), np.full((2, 24, 24, 3), 102, np.uint8)
    c1 = 0.01**2
    assert judges.ssim(dark, light) == pytest.approx((2 * 0.2 * 0.4 + c1) / (0.2**2 + 0.4**2 + c1), abs=1e-4)


def test_ssim_is_wangs_formula_in_every_frame_and_channel() -> None:
    """Gaussian windows of 11 × 11 with σ 1.5 about every pixel, the picture mirrored at its edges."""
    tap = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(tap, tap)[:, :, None] / tap.sum() ** 2
    values = []
    for frame, truth in zip(CLIP, NEAR, strict=True):
        x, y = (np.pad(one / 255.0, ((5, 5), (5, 5), (0, 0)), mode="reflect") for one in (frame, truth))
        for row, column in np.ndindex(24, 20):
            a, b = (one[row : row + 11, column : column + 11] for one in (x, y))
            mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
            var_a, var_b = ((window * one**2).sum((0, 1)) - mean**2 for one, mean in ((a, mean_a), (b, mean_b)))
            both = (window * a * b).sum((0, 1)) - mean_a * mean_b
            luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            values.append(luminance * (2 * both + 0.03**2) / (var_a + var_b + 0.03**2))
    assert judges.ssim(CLIP, NEAR) == pytest.approx(np.mean(values), abs=1e-4) and np.mean(values) < 0.95
    assert judges.ssim(CLIP, CLIP) == pytest.approx(1, abs=1e-5)


def test_first_frame_alone_counts_against_the_reference() -> None:
    assert judges.first_frame_psnr(CLIP, NEAR[0]) == pytest.approx(db(CLIP[0], NEAR[0]), abs=1e-4)
    assert judges.first_frame_psnr(np.concatenate([NEAR[:1], NOISE]), NEAR[0]) == math.inf


def test_the_ceiling_is_the_autoencoders_own_error() -> None:
    """By diffusers' calls alone: what encoding does to the latents' statistics, decoding undoes."""
    vae = tiny_components()["vae"]
    reference = np.clip(RAMP[:16, :16] + RNG.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
    pixels = torch.from_numpy(reference.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None, :, None]
    with torch.no_grad():
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0, :, 0].permute(1, 2, 0).clamp(-1, 1)
    levels = ((back.numpy() + 1) * 127.5).round()
    assert judges.autoencoder_ceiling(vae, reference) == pytest.approx(db(levels, reference), abs=0.02)


def test_flickering_of_known_steps() -> None:
    frames = np.array([0, 10, 0, 40], np.uint8)[:, None, None, None] + np.zeros((4, 6, 6, 3), np.uint8)
    assert judges.temporal_flickering(frames) == pytest.approx((255 - (10 + 10 + 40) / 3) / 255)
    steps = np.abs(np.diff(NOISE.astype(float), axis=0))
    assert judges.temporal_flickering(NOISE) == pytest.approx(1 - steps.mean() / 255, abs=1e-6)
    assert judges.temporal_flickering(frames[:1]) is None
    assert judges.temporal_flickering(np.repeat(frames[1:2], 3, axis=0)) == 1


def test_a_jump_at_the_start_is_seen_and_one_later_is_not() -> None:
    def clip(jump_at: int) -> np.ndarray:
        levels = 2 * np.arange(20) + np.where(np.arange(20) > jump_at, 30, 0)
        return levels.astype(np.uint8)[:, None, None, None] + np.zeros((20, 4, 4, 3), np.uint8)

    assert judges.start_gap_jump(clip(0)) == pytest.approx(16)
    assert judges.start_gap_jump(clip(7)) == pytest.approx(16)
    assert judges.start_gap_jump(clip(8)) == pytest.approx(1)
    assert judges.start_gap_jump(clip(0)[:9]) is None
    assert judges.start_gap_jump(clip(0)[:10]) == pytest.approx(16)
    assert judges.start_gap_jump(np.repeat(NOISE[:1], 12, axis=0)) is None


def test_a_jump_is_measured_by_the_length_of_steps_and_their_median() -> None:
    """Steps that touch a part of the picture differ in length and mean; one wild later step moves no median."""
    frames = np.zeros((14, 4, 4, 3), np.int64)
    steps = [(16, 2), (4, 40), *[(16, 3)] * 6, (16, 5), (16, 6), (1, 90), (8, 9), (16, 4)]
    for index, (area, step) in enumerate(steps):
        frames[index + 1] = frames[index]
        frames[index + 1].reshape(16, 3)[:area, 0] += step
    lengths = np.sqrt((np.diff(frames.astype(float), axis=0) ** 2).mean((1, 2, 3)))
    expected = max(lengths[:8]) / sorted(lengths[8:])[2]
    assert judges.start_gap_jump(frames.astype(np.uint8)) == pytest.approx(expected, rel=1e-5)
    assert lengths.argmax() in (1, 10) and max(lengths[:8]) == lengths[1]


def test_clips_of_different_shape_are_not_compared() -> None:
    for compare in (judges.psnr, judges.ssim):
        for other in (NOISE[:5], NOISE[:, :20], NOISE[..., :1]):
            with pytest.raises(ValueError, match="cannot be compared"):
                compare(NOISE, other)
