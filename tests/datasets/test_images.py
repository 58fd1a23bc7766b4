"""An image is what viewers show of it, whatever its format and however PIL and OpenCV would read it."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from steadydancer.datasets.images import BACKGROUND, ImageError, convert_image, decode_image, on_background, read_image

HEIGHT, WIDTH = 40, 56


def photo() -> np.ndarray:
    """Smooth, with all three channels and all sides different."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    shades = [20 + 4 * columns, 230 - 5 * rows, 128 + 90 * np.sin(columns / 9 + rows / 5)]
    return np.rint(np.stack(shades, axis=-1)).clip(0, 255).astype(np.uint8)


def coded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    data = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(data, kind, **options)
    return data.getvalue()


def by_opencv(array: np.ndarray, suffix: str) -> bytes:
    """RGB(A) or grey of any depth."""
    if array.ndim == 3:
        array = array[..., [2, 1, 0, *range(3, array.shape[2])]]
    return cv2.imencode(suffix, array)[1].tobytes()


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
"""Exif's orientation → what is shown of the stored rows and columns (Exif 2.3, 4.6.4)."""


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_in_every_format_that_carries_one(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    options |= {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind != "PNG" else {}
    shown = decode_image(coded(photo(), kind, **options), "it").pixels
    expected = UPRIGHT[orientation](photo())
    assert shown.shape == expected.shape and shown.dtype == np.uint8 and shown.flags.c_contiguous
    assert np.abs(shown.astype(int) - expected).max() <= (0 if kind in ("PNG", "WEBP", "TIFF") else 24)
    assert np.abs(shown.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_orientation_of_sixteen_bits(kind):
    grey = photo()[..., 0].astype(np.uint16) * 257
    for orientation, upright in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
        shown = decode_image(coded(grey, kind, **options), "it").pixels
        np.testing.assert_array_equal(shown, upright(np.repeat(photo()[..., :1], 3, axis=2)))


def test_ordinary_images_are_what_opencv_reads_to_the_last_bit():
    noise = np.random.default_rng(0).normal(0, 15, (HEIGHT, WIDTH, 3))
    picture = (photo() + noise).clip(0, 255).astype(np.uint8)
    for kind, options in (
        ("JPEG", {"quality": 92}),
        ("JPEG", {"quality": 75, "subsampling": 2}),
        ("JPEG", {"quality": 60, "progressive": True, "subsampling": 1}),
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"quality": 80}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ):
        data = coded(picture, kind, **options)
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        read = decode_image(data, "it")
        np.testing.assert_array_equal(read.pixels, theirs)
        assert read.changes == ()


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_rounded_to_eight(suffix):
    levels = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    colours = np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1)
    read = decode_image(by_opencv(colours, suffix), "it")
    np.testing.assert_array_equal(read.pixels, np.rint(colours / 257).astype(np.uint8))
    assert read.changes == ("16 bits scaled to 8",)
    assert read.pixels.max() == 255 and read.pixels.min() == 0
    grey = decode_image(by_opencv(levels, suffix), "it").pixels
    np.testing.assert_array_equal(grey, np.rint(levels / 257).astype(np.uint8)[..., None].repeat(3, axis=2))
    clear = np.dstack([colours, np.full_like(levels, 65535)])
    clear[:8, ..., 3] = 0
    read = decode_image(by_opencv(clear, suffix), "it")
    assert (read.pixels[:8] == 255).all()
    np.testing.assert_array_equal(read.pixels[8:], np.rint(colours / 257).astype(np.uint8)[8:])


def test_sixteen_bits_of_other_boxes():
    grey = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    expected = np.rint(grey / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(decode_image(by_opencv(grey, ".pgm"), "it").pixels, expected)
    for image in (Image.fromarray(grey), Image.open(io.BytesIO(coded(grey, "PNG")))):  # as Python's callers have them
        np.testing.assert_array_equal(convert_image(image).pixels, expected)


def test_grey_bits_and_palettes():
    picture = Image.fromarray(photo())
    grey, bits, palette = picture.convert("L"), picture.convert("1"), picture.quantize(32)
    for image, kind in (
        (grey, "PNG"),
        (grey, "JPEG"),
        (bits, "PNG"),
        (bits, "TIFF"),
        (palette, "PNG"),
        (palette, "GIF"),
    ):
        read = decode_image(coded(image, kind), "it")
        assert np.abs(read.pixels.astype(int) - np.asarray(image.convert("RGB"))).max() <= (kind == "JPEG") * 9
        assert read.changes == ()


def test_transparency_is_laid_on_white_in_every_form():
    assert BACKGROUND == (255, 255, 255)
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    alpha[:, 20:], alpha[:, 40:] = 100, 255
    rgba = np.dstack([photo(), alpha])
    expected = np.rint(photo() * (alpha / 255) + 255 * (1 - alpha / 255)).astype(np.uint8)
    np.testing.assert_array_equal(on_background(rgba), expected)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        read = decode_image(coded(rgba, kind, **options), "it")
        np.testing.assert_array_equal(read.pixels, expected)
        assert read.changes == ("transparency composited on white",)
    opaque = decode_image(coded(np.dstack([photo(), np.full_like(alpha, 255)]), "PNG"), "it")
    np.testing.assert_array_equal(opaque.pixels, photo())
    assert opaque.changes == ()
    grey = Image.fromarray(photo()).convert("L")
    grey.putalpha(Image.fromarray(alpha[..., 0]))
    shown = decode_image(coded(grey, "PNG"), "it").pixels
    level = np.asarray(grey)[..., :1]
    np.testing.assert_array_equal(shown, np.rint(level * (alpha / 255) + 255 * (1 - alpha / 255)).repeat(3, axis=2))
    # one colour, or one place of a palette, that is not there
    flat = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    flat[:, :20] = (10, 20, 30)
    hole = flat.copy()
    hole[:, :20] = 255
    palette = Image.fromarray(flat).quantize(4)
    there = int(np.asarray(palette)[0, 0])
    for image, kind, options in (
        (Image.fromarray(flat), "PNG", {"transparency": (10, 20, 30)}),
        (palette, "PNG", {"transparency": there}),
        (palette, "GIF", {"transparency": there}),
    ):
        np.testing.assert_array_equal(decode_image(coded(image, kind, **options), "it").pixels, hole)


@pytest.mark.parametrize(("fourth", "shown"), [(0, (10, 200, 30)), (128, (132, 227, 142))])
def test_a_fourth_byte_that_nobody_wrote_hides_nothing(fourth, shown):
    """A BMP of 32 bits whose header names an alpha channel; most programs leave it 0."""
    samples = bytes([30, 200, 10, fourth]) * 64 * 64
    header = struct.pack("<IiiHHIIiiII", 124, 64, 64, 1, 32, 3, len(samples), 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    data = struct.pack("<2sIII", b"BM", 14 + 124 + len(samples), 0, 14 + 124) + header.ljust(124, b"\x00") + samples
    picture = decode_image(data, "a.bmp")
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to(np.uint8(shown), (64, 64, 3)))
    assert picture.changes == (() if fourth == 0 else ("transparency composited on white",))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_pictures_the_first(kind):
    pictures = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), k, np.uint8)) for k in (40, 90, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = coded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)
    assert (decode_image(data, "it").pixels == 40).all()


def test_colours_for_print():
    ink = Image.fromarray(photo()).convert("CMYK")
    for kind, most in (("JPEG", 12), ("TIFF", 0)):
        shown = decode_image(coded(ink, kind, **({"quality": 95} if kind == "JPEG" else {})), "it").pixels
        assert np.abs(shown.astype(int) - photo()).max() <= most


def profile(primaries, gamma: float = 2.2) -> bytes:
    """An ICC profile of these primaries (xy of red, green, blue), white D65."""
    from struct import pack

    def xyz(x, y):
        return np.array([x / y, 1, (1 - x - y) / y])

    white = xyz(0.3127, 0.3290)
    columns = np.stack([xyz(*one) for one in primaries], axis=1)
    columns *= np.linalg.solve(columns, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
    columns = adapt @ columns

    def fixed(*values):
        return b"".join(pack(">i", round(value * 65536)) for value in values)

    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*d50), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    words = b"wide\0"
    tags[b"desc"] = b"desc\0\0\0\0" + pack(">I", len(words)) + words + bytes(78 + 7)
    for k, name in enumerate((b"r", b"g", b"b")):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*columns[:, k])
        tags[name + b"TRC"] = b"curv\0\0\0\0" + pack(">IHH", 1, round(gamma * 256), 0)
    place, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        index += name + pack(">II", place + len(body), len(data))
        body += data
    head = bytes(4) + bytes(4) + pack(">I", 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += fixed(*d50) + bytes(48)
    data = head + pack(">I", len(tags)) + index + body
    return pack(">I", len(data)) + data[4:]


P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


def p3_to_srgb(rgb: np.ndarray) -> np.ndarray:
    """By the primaries, both with a gamma of 2.2 in and sRGB's curve out."""

    def to_xyz(primaries):
        columns = np.stack([[x / y, 1, (1 - x - y) / y] for x, y in primaries], axis=1)
        return columns * np.linalg.solve(columns, [0.3127 / 0.3290, 1, 0.3583 / 0.3290])

    linear = (rgb / 255) ** 2.2 @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(P3)).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_wide_colours_are_converted_as_their_profile_says(kind):
    soft = (100 + photo() / 4).astype(np.uint8)  # inside both gamuts
    options = {"quality": 97, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    read = decode_image(coded(soft, kind, icc_profile=profile(P3), **options), "it")
    assert np.abs(read.pixels - p3_to_srgb(soft)).max() < (6 if kind == "JPEG" else 2.5)
    assert np.abs(p3_to_srgb(soft) - soft).max() > 8
    assert len(read.changes) == 1 and read.changes[0].startswith("colours converted from wide")


def test_a_profile_that_says_srgb_or_nothing_changes_no_bit():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for data in (srgb, b"no profile at all", grey):
        read = decode_image(coded(photo(), "PNG", icc_profile=data), "it")
        np.testing.assert_array_equal(read.pixels, photo())
        assert read.changes == ()


def test_profile_transparency_and_orientation_together():
    exif = Image.Exif()
    exif[0x0112] = 6
    soft = (100 + photo() / 4).astype(np.uint8)
    rgba = np.dstack([soft, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    read = decode_image(coded(rgba, "PNG", exif=exif, icc_profile=profile(P3)), "it")
    expected = p3_to_srgb(soft)
    expected[:10] = 255
    assert np.abs(read.pixels - UPRIGHT[6](expected)).max() < 2.5
    assert [words.split()[0] for words in read.changes] == ["colours", "transparency", "orientation"]


def test_numbers_without_a_white_are_refused():
    for array, suffix in ((photo().astype(np.float32) / 255, ".tiff"), (photo()[..., 0].astype(np.float32), ".tiff")):
        with pytest.raises(
            ImageError, match="it contains float.* (numbers|values), whose white level is unknown: save it with 8 or 16"
        ):
            decode_image(by_opencv(array, suffix), "it")
    with pytest.raises(ImageError, match="32-bit integers"):
        decode_image(coded(photo()[..., 0].astype(np.int32), "TIFF"), "it")
    with pytest.raises(ImageError, match="floating-point"):
        convert_image(Image.fromarray(np.zeros((4, 4), np.float32)))


def test_what_is_no_image_is_said(tmp_path: Path):
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes(coded(photo(), "JPEG")[:-200])
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic")
    for name, words in (
        ("text.png", "not a readable image"),
        ("empty.png", "not a readable image"),
        ("cut.jpg", "truncated"),
        ("phone.jpg", "HEIC, which is not supported: save it as PNG or JPEG"),
        ("gone.png", "No such file"),
        ("", "Is a directory"),
    ):
        with pytest.raises(ImageError, match=words) as refused:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(refused.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damage_beside_the_pixels_is_passed_over_as_viewers_do():
    for exif in (b"Exif\0\0no such thing", b"Exif\0\0MM\0*\0\0\0\x08\0\x7f", b"Exif\0\0"):
        for kind in ("JPEG", "PNG", "WEBP"):
            data = coded(photo(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
            theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            np.testing.assert_array_equal(decode_image(data, "it").pixels, theirs)
    words = PngInfo()
    words.add_text("Comment", "anything at all")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(coded(photo(), "PNG", pnginfo=words, exif=exif))
    data[data.find(b"anything")] ^= 1  # its checksum is wrong now
    np.testing.assert_array_equal(decode_image(bytes(data), "it").pixels, UPRIGHT[6](photo()))


def test_a_picture_of_a_phones_size_is_read(monkeypatch):
    """PIL refuses above 179 megapixels; phones take 200."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(coded(photo(), "PNG"), "it").pixels.shape == (HEIGHT, WIDTH, 3)


def test_metadata_of_a_png_is_no_orientation():
    words = PngInfo()
    words.add_text("Comment", "6")
    np.testing.assert_array_equal(decode_image(coded(photo(), "PNG", pnginfo=words), "it").pixels, photo())
