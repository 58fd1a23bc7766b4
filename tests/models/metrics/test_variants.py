"""The variants of FID, FVD and LPIPS name what exists, and the frames that count."""

from typing import get_args

import numpy as np
import pytest

from steadydancer.models import metrics
from steadydancer.models.metrics.judges.lpips import Network
from steadydancer.models.weights.lookup import weight

FRAMES = np.arange(90, dtype=np.uint8).reshape(90, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)


def test_variants_name_what_exists() -> None:
    used = {variant.preprocessing for variant in metrics.FVD_VARIANTS.values()} | set(metrics.FID_VARIANTS.values())
    assert used <= set(metrics.PREPROCESSING) and len(set(metrics.FID_VARIANTS.values())) == 4
    for variant in metrics.FVD_VARIANTS.values():
        assert all(weight(name).presets == ("evaluate",) for name in variant.weights)
    assert {network for network, _ in metrics.LPIPS_VARIANTS.values()} == set(get_args(Network))


def test_which_frames_of_a_video_count() -> None:
    pair, styleganv = metrics.FVD_VARIANTS["fvd[humanvid-pair]"], metrics.FVD_VARIANTS["fvd[i3d-torchscript,16f]"]
    assert pair.is_paired and pair.prefixes == tuple(range(10, 25)) and not styleganv.is_paired
    np.testing.assert_array_equal(pair.clip(FRAMES), FRAMES[:24])
    np.testing.assert_array_equal(styleganv.clip(FRAMES), FRAMES[:16])
    np.testing.assert_array_equal(metrics.FVD_VARIANTS["fvd[scail,81f]"].clip(FRAMES), FRAMES[:81])
    np.testing.assert_array_equal(metrics.FVD_VARIANTS["fvd[common-metrics]"].clip(FRAMES), FRAMES)
    with pytest.raises(ValueError, match="has 23 frames, and the variant needs 24"):
        pair.clip(FRAMES[:23])


def test_small_sets_are_remarked_on() -> None:
    assert metrics.small_set_remark([256, 300]) is None
    assert "distance of 12 videos is mostly bias" in str(metrics.small_set_remark([300, 12]))


def test_fvd_pictures_are_cut_where_the_code_cuts_them() -> None:
    """HumanVid rounds the crop down, SCAIL to the even pixel; their longer sides are rounded up and down."""
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 100, 0) * np.ones(3, np.uint8)
    tall, wide = ramp.transpose(1, 0, 2), ramp
    for image, axis in ((wide, 2), (tall, 1)):
        humanvid, scail = (
            metrics.preprocess(image[None], name)[0, 0] for name in ("fvd_humanvid_224", "fvd_scail_224")
        )
        assert humanvid.shape == scail.shape == (224, 224)
        np.testing.assert_allclose(np.diff(humanvid, axis=axis - 1).mean(), 2 / 255 / 2.24, rtol=1e-3)
    # 1080 × 1923: 398.84… is 399 or 398 pixels wide, and 175 or 174 too wide: 87 (not 88) or 87 are cut at the left.
    wide = np.repeat(np.linspace(0, 255, 1923).astype(np.uint8)[None, :, None], 1080, 0) * np.ones(3, np.uint8)
    humanvid, scail = (
        metrics.preprocess(wide[None], name)[0, 0, 0, 0] for name in ("fvd_humanvid_224", "fvd_scail_224")
    )
    for value, size in ((humanvid, 399), (scail, 398)):
        at = (87 + 0.5) * 1923 / size - 0.5
        expected = np.interp(at, np.arange(1923), wide[0, :, 0].astype(float)) / 127.5 - 1
        assert value == pytest.approx(expected, abs=1e-4)
