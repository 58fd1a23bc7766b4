"""The reference image is one picture to rendering and to evaluation: as viewers show it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadydancer.models.encoders import resize_image
from steadydancer.pipelines.evaluate.steps import read_reference
from steadydancer.pipelines.render.steps import read_image
from steadydancer.pipelines.stage import BadClip

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)


@pytest.fixture
def held_upright(tmp_path: Path) -> Path:
    """A phone's photo with a transparent corner, stored lying."""
    exif = Image.Exif()
    exif[0x0112] = 8
    alpha = np.full((40, 64, 1), 255, np.uint8)
    alpha[:10, :10] = 0
    Image.fromarray(np.dstack([PICTURE, alpha])).save(tmp_path / "me.png", exif=exif)
    return tmp_path / "me.png"


def test_both_read_the_same_picture(held_upright: Path) -> None:
    shown = PICTURE.copy()
    shown[:10, :10] = 255
    shown = np.rot90(shown)
    pixels, changes = read_image(held_upright)
    np.testing.assert_array_equal(pixels, shown)
    assert changes == ("transparency laid on white", "turned by its orientation (8)")
    reference, size, unread = read_reference(str(held_upright), 32, 20)
    assert size == (64, 40) and unread == ""
    np.testing.assert_array_equal(reference, resize_image(np.ascontiguousarray(shown), 32, 20))


def test_what_cannot_be_read_is_a_verdict(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is no picture")
    Image.fromarray(PICTURE[:31]).save(tmp_path / "small.png")
    for name, reason in (
        ("text.png", "unreadable_image"),
        ("gone.png", "unreadable_image"),
        ("small.png", "too_small"),
    ):
        with pytest.raises(BadClip) as bad:
            read_image(tmp_path / name)
        assert bad.value.reason == reason
    assert read_reference(str(tmp_path / "text.png"), 32, 20)[2].endswith("is no image that can be read")
    assert read_reference(None, 32, 20) == (None, None, "the reference image cannot be read")
