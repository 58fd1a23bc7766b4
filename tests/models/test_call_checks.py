"""What Python's callers give as a picture is taken as viewers show it."""

import io

import numpy as np
import pytest
from PIL import Image

from steadydancer.models.call_checks import InputError, as_frame, as_reference


def quarters() -> np.ndarray:
    picture = np.zeros((40, 64, 3), np.uint8)
    picture[:20, :32], picture[:20, 32:], picture[20:, :32] = (200, 30, 40), (30, 180, 60), (40, 60, 200)
    return picture


def opened(image: Image.Image, **options) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return Image.open(data)


def test_an_image_that_was_opened_is_upright_and_opaque():
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright: a quarter turn clockwise
    turned = np.rot90(quarters(), -1)
    np.testing.assert_array_equal(as_reference(opened(Image.fromarray(quarters()), exif=exif)), turned)
    clear = Image.fromarray(np.dstack([quarters(), np.where(quarters()[..., :1] > 100, 255, 0).astype(np.uint8)]))
    shown = np.where(quarters()[..., :1] > 100, quarters(), 255)
    np.testing.assert_array_equal(as_frame(opened(clear)), shown)
    np.testing.assert_array_equal(as_frame(opened(clear, exif=exif)), np.rot90(shown, -1))


def test_images_and_arrays_that_are_as_they_should_be_stay_so():
    array = quarters()
    assert as_frame(array) is array
    np.testing.assert_array_equal(as_frame(Image.fromarray(array)), array)
    deep = Image.fromarray(array[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(as_frame(deep), np.repeat(array[..., :1], 3, axis=2))


def test_what_is_no_picture_of_eight_bits_is_refused():
    for image in (quarters().astype(np.float32), quarters()[..., 0], np.dstack([quarters()] * 2), "me.png", None):
        with pytest.raises(InputError, match="the pose must be a PIL image or uint8 RGB"):
            as_frame(image, "the pose")
    with pytest.raises(InputError, match="the pose holds floating-point numbers"):
        as_frame(Image.fromarray(np.zeros((40, 40), np.float32)), "the pose")
    with pytest.raises(InputError, match="31×40 px, 32×32 is the least"):
        as_reference(quarters()[:, :31])
