"""Image files → the picture that viewers show: 8-bit RGB, upright, opaque, in sRGB. The one place that reads images.

What becomes of an image: the first picture of several; turned and mirrored as its orientation says; 16 bits scaled to
8; transparency laid on white; colours of an embedded profile converted to sRGB. Each is named in `Picture.changes`.
"""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import SteadyDancerError

if TYPE_CHECKING:
    from PIL import Image

BACKGROUND = (255, 255, 255)
"""What is seen through transparent places of images and videos, RGB: the white page of browsers and viewers."""

MAX_PIXELS = 1 << 28
"""Above what a phone takes (200 megapixels); 16 bits of it are 1.6 GB."""

_PROFILE_IS_SRGB = 2
"""Largest difference in levels at which a profile says nothing but sRGB, over a grid of colours."""

# Tag and values of Exif 2.3, and what each asks for by PIL's numbers.
_ORIENTATION = 0x0112
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}

# Many who write their fourth byte leave it 0, and viewers then pass over it: all of the image would be unseen.
_OFTEN_WITH_EMPTY_ALPHA = ("BMP", "DIB", "TGA", "ICO")

_FORMATS_THAT_ARE_NOT_READ = {b"ftypheic": "HEIC", b"ftypheix": "HEIC", b"ftypmif1": "HEIF", b"ftypmsf1": "HEIF"}


class ImageError(SteadyDancerError):
    """An image that cannot be used; the message says what was found."""


class Picture(NamedTuple):
    """Pixels uint8 RGB [H, W, 3], and what had to be done to show them as viewers do, in words."""

    pixels: np.ndarray
    changes: tuple[str, ...]


def read_image(path: Path) -> Picture:
    """The picture in an image file.

    Raises:
        ImageError: it cannot be read, or its numbers have no known white (32 bits, floating point).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Picture:
    """The picture in the bytes of an image file; `name` is what an error calls it. Raises `ImageError`."""
    from PIL import Image, UnidentifiedImageError

    # PIL's limit is half of what phones take. It is raised here, never lowered.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if _has_more_than_8_bits(image, data):
                # Of TIFF OpenCV turns the pixels itself.
                return _show(_scaled_to_8_bits(data, name), image, ("16 bits scaled to 8",), image.format == "TIFF")
            return show_image(image, name)
    except UnidentifiedImageError:
        return _read_by_opencv(data, name, "")
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return _read_by_opencv(data, name, f": {error}")
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels: {error}") from error


def show_image(image: Image.Image, name: str = "the image") -> Picture:
    """An image that is open, as viewers show it. Raises `ImageError`."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):  # or 16 bits in a wider box
        return _show(_sixteen_to_eight(np.asarray(image)), image, ("16 bits scaled to 8",))
    if mode in ("F", "I"):
        kind = "floating-point numbers" if mode == "F" else "32-bit numbers"
        raise ImageError(f"{name} holds {kind}, whose white is not known: save it with 8 or 16 bits")
    return _show(image, image, ())


def on_background(rgba: np.ndarray) -> np.ndarray:
    """Straight RGBA uint8 [H, W, 4] laid on `BACKGROUND`: RGB [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.uint16)
    behind = np.array(BACKGROUND, np.uint16)
    laid = (rgba[..., :3] * alpha + behind * (255 - alpha) + 127) // 255
    return np.ascontiguousarray(laid.astype(np.uint8))


def _show(
    pixels: Image.Image | np.ndarray, image: Image.Image, changes: tuple[str, ...], upright: bool = False
) -> Picture:
    """`pixels` of 8 bits, with what `image` says of them: their profile, transparency and, if not done, orientation."""
    from PIL import Image

    done = list(changes)
    eight = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    alpha = None
    if eight.has_transparency_data:
        eight = eight.convert("RGBA")
        alpha = eight.getchannel("A")
        if image.format in _OFTEN_WITH_EMPTY_ALPHA and not np.asarray(alpha).any():
            alpha = None
        eight = eight.convert("RGB")
    rgb, converted = _in_srgb(eight, image.info.get("icc_profile"))
    if converted:
        done.append(f"colours converted from {converted} to sRGB")
    if alpha is not None and np.asarray(alpha).min() < 255:
        rgb = Image.fromarray(on_background(np.dstack([np.asarray(rgb), np.asarray(alpha)])))
        done.append("transparency laid on white")
    orientation = _orientation(image)
    if orientation in _UPRIGHT and not upright:
        rgb = rgb.transpose(Image.Transpose(_UPRIGHT[orientation]))
        done.append(f"turned by its orientation ({orientation})")
    return Picture(np.ascontiguousarray(rgb), tuple(done))


def _has_more_than_8_bits(image: Image.Image, data: bytes) -> bool:
    """Whether PIL would cut samples of 16 bits down to their upper halves."""
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "TIFF":
        bits: Any = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        return image.mode not in ("F", "I") and max(bits if isinstance(bits, tuple) else (bits,)) > 8
    return False


def _scaled_to_8_bits(data: bytes, name: str) -> np.ndarray:
    """Pixels [H, W], [H, W, 3] or [H, W, 4] of an image of 16 bits."""
    return _in_8_bits(_by_opencv(data), name, "")


def _read_by_opencv(data: bytes, name: str, found: str) -> Picture:
    """What PIL does not read: some layouts of TIFF, damage beside the pixels. `found` is what PIL said."""
    from PIL import Image

    stored = _by_opencv(data)
    pixels = _in_8_bits(stored, name, found or _kind_that_is_not_read(data))
    if pixels.ndim == 3 and pixels.shape[2] == 3 and stored is not None and stored.dtype == np.uint8:
        pixels = _in_8_bits(_by_opencv(data, upright=True), name, found)
    image = Image.fromarray(pixels)
    return _show(image, image, ())


def _by_opencv(data: bytes, upright: bool = False) -> np.ndarray | None:
    """BGR or BGRA as stored, or 8-bit BGR turned by its orientation; None: it cannot be read."""
    import cv2

    how = cv2.IMREAD_COLOR if upright else cv2.IMREAD_UNCHANGED
    return cv2.imdecode(np.frombuffer(data, np.uint8), how) if data else None


def _in_8_bits(stored: np.ndarray | None, name: str, found: str) -> np.ndarray:
    if stored is None:
        raise ImageError(f"{name} is {found if found.startswith('HE') else f'no image that can be read{found}'}")
    if stored.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name} holds {stored.dtype} numbers, whose white is not known: save it with 8 or 16 bits")
    eight = _sixteen_to_eight(stored) if stored.dtype == np.uint16 else stored
    return eight if eight.ndim == 2 else np.ascontiguousarray(eight[..., [2, 1, 0, *range(3, eight.shape[2])]])


def _kind_that_is_not_read(data: bytes) -> str:
    kind = _FORMATS_THAT_ARE_NOT_READ.get(data[4:12])
    return f"{kind}, which is not read here: save it as PNG or JPEG" if kind else ""


def _orientation(image: Image.Image) -> int:
    """By Exif or XMP; 1 where these are broken, as viewers have it."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, EOFError, struct.error):
        return 1


def _sixteen_to_eight(samples: np.ndarray) -> np.ndarray:
    """65535 becomes 255, and what lies between the nearest level."""
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _in_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """(RGB, the name of the profile that it was converted from or "")."""
    from PIL import ImageCms

    mode = {"CMYK": "CMYK", "L": "L", "1": "L", "LAB": "LAB"}.get(image.mode, "RGB")
    stored = image if image.mode == mode else image.convert(mode)
    # A profile that is broken, or is for another kind of colours, is passed over as viewers do.
    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
        if mode == "LAB":
            given = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif profile:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return stored.convert("RGB"), ""
        convert = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode in ("LAB", "CMYK") or not _keeps_colours(convert, mode):
            shown: Any = ImageCms.applyTransform(stored, convert)
            return shown, ImageCms.getProfileDescription(given).strip() or "its profile"
    return stored.convert("RGB"), ""


def _keeps_colours(convert: Any, mode: str) -> bool:
    """Whether a transform leaves a grid of colours, or of greys, as they are."""
    from PIL import Image, ImageCms

    levels = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    stored = Image.fromarray(grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    shown: Any = ImageCms.applyTransform(stored, convert)
    difference = np.subtract(np.asarray(shown), np.asarray(stored.convert("RGB")), dtype=np.int16)
    return int(np.abs(difference).max()) <= _PROFILE_IS_SRGB
