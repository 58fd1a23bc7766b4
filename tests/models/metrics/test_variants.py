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
    """HumanVid rounds the longer side up and the crop down, SCAIL the side down and the crop to the even pixel.

    200 · (224 / 100) is 448.00000000000006, which HumanVid rounds up to 449. 1923 of 1080 gives 399 or 398 pixels, of
    which 175 or 174 are too many: 87 (not 88) or 87 are cut before the picture.
    """
    for height, width, sizes, cuts in ((100, 200, (449, 448), (112, 112)), (1080, 1923, (399, 398), (87, 87))):
        ramp = np.linspace(0, 255, width).astype(np.uint8)
        wide = np.repeat(ramp[None, :, None], height, 0) * np.ones(3, np.uint8)
        for name, size, cut in zip(("fvd_humanvid_224", "fvd_scail_224"), sizes, cuts, strict=True):
            at = (cut + np.arange(224) + 0.5) * width / size - 0.5
            expected = np.interp(at, np.arange(width), ramp.astype(float)) / 127.5 - 1
            for image in (wide, wide.transpose(1, 0, 2)):
                picture = metrics.preprocess(image[None], name)[0]
                assert picture.shape == (3, 224, 224)
                line = picture[1, 7] if image is wide else picture[1, :, 7]
                np.testing.assert_allclose(line, expected, atol=1e-4)
