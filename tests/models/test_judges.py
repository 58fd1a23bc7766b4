import math

import numpy as np
import pytest

from steadydancer.models import judges
from steadydancer.models.components import tiny_components

NOISE = np.random.default_rng(0).integers(0, 256, (10, 24, 20, 3), dtype=np.uint8)


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((3, 8, 8, 3), np.uint8)
    grey = black + np.array([1, 2, 4], np.uint8)[:, None, None, None]
    expected = [20 * math.log10(255 / level) for level in (1, 2, 4)]
    assert judges.psnr(grey, black) == pytest.approx(np.mean(expected), abs=1e-4)
    assert judges.psnr(NOISE, NOISE) == math.inf


def test_psnr_is_a_mean_over_frames_however_many() -> None:
    black = np.zeros_like(NOISE)
    single = [judges.psnr(NOISE[index : index + 1], black[:1]) for index in range(len(NOISE))]
    assert judges.psnr(NOISE, black) == pytest.approx(np.mean(single), abs=1e-4)


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    dark, light = np.full((2, 24, 24, 3), 51, np.uint8), np.full((2, 24, 24, 3), 102, np.uint8)
    c1 = 0.01**2
    assert judges.ssim(dark, light) == pytest.approx((2 * 0.2 * 0.4 + c1) / (0.2**2 + 0.4**2 + c1), abs=1e-4)
    assert judges.ssim(NOISE, NOISE) == pytest.approx(1, abs=1e-5)
    assert abs(judges.ssim(NOISE, NOISE[::-1].copy())) < 0.2


def test_first_frame_alone_counts_against_the_reference() -> None:
    frames = np.concatenate([NOISE[:1] // 2, NOISE[5:]])
    assert judges.first_frame_psnr(frames, NOISE[0] // 2) == math.inf
    assert judges.first_frame_psnr(frames, NOISE[0]) == judges.psnr(NOISE[:1] // 2, NOISE[:1])


def test_the_ceiling_is_the_autoencoders_own_error() -> None:
    vae = tiny_components()["vae"]
    reference = np.full((16, 16, 3), 128, np.uint8)
    from steadydancer.models.encoders import decode_latents, encode_video

    error = decode_latents(vae, encode_video(vae, reference[None])).astype(float) / 255 - reference / 255
    assert judges.autoencoder_ceiling(vae, reference) == pytest.approx(-10 * math.log10((error**2).mean()), abs=1e-3)


def test_flickering_of_known_steps() -> None:
    frames = np.array([0, 10, 0, 40], np.uint8)[:, None, None, None] + np.zeros((4, 6, 6, 3), np.uint8)
    assert judges.temporal_flickering(frames) == pytest.approx((255 - (10 + 10 + 40) / 3) / 255)
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
    assert judges.start_gap_jump(np.repeat(NOISE[:1], 12, axis=0)) is None


def test_clips_of_different_shape_are_not_compared() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        judges.psnr(NOISE, NOISE[:5])
