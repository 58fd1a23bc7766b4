"""Read image files as viewers display them: 8-bit RGB, upright, opaque, in sRGB. All images are read here.

Of a file with several pictures the first is read. Orientation is applied, 16 bits are scaled to 8, transparency is
composited on white, and colours are converted from an embedded profile to sRGB; `Picture.changes` lists these changes.
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
"""RGB background of transparent images and videos: white, as in browsers and viewers."""

MAX_PIXELS = 1 << 28
"""More than a phone's camera takes (200 megapixels); at 16 bits they are 1.6 GB."""

_PROFILE_IS_SRGB = 2
"""Largest difference from sRGB, in levels over a grid of colours, at which a profile counts as sRGB."""

# Tag of Exif 2.3, and PIL's transpose method for each of its values.
_ORIENTATION = 0x0112
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}

# Many programs write 0 in the fourth byte of these formats. Viewers then ignore the alpha, and so do we: otherwise the
# whole image would be transparent.
_OFTEN_WITH_EMPTY_ALPHA = ("BMP", "DIB", "TGA", "ICO")

_FORMATS_THAT_ARE_NOT_READ = {b"ftypheic": "HEIC", b"ftypheix": "HEIC", b"ftypmif1": "HEIF", b"ftypmsf1": "HEIF"}


class ImageError(SteadyDancerError):
    """An image cannot be used; the message states what was found."""


class Picture(NamedTuple):
    """Pixels uint8 RGB [H, W, 3], and descriptions of the changes needed to display them as viewers do."""

    pixels: np.ndarray
    changes: tuple[str, ...]


def read_image(path: Path) -> Picture:
    """Read the picture in an image file.

    Raises:
        ImageError: the file cannot be read, or its white level is unknown (32 bits, floating point).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Picture:
    """Decode the picture in the bytes of an image file; errors (`ImageError`) call it `name`."""
    from PIL import Image, UnidentifiedImageError

    # PIL's limit is half of what phone cameras take. Raise it, but never lower it.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if _has_more_than_8_bits(image, data):
                # OpenCV applies the orientation of TIFF itself.
                return _show(_scaled_to_8_bits(data, name), image, ("16 bits scaled to 8",), image.format == "TIFF")
            return convert_image(image, name)
    except UnidentifiedImageError:
        return _read_by_opencv(data, name, "")
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return _read_by_opencv(data, name, f": {error}")
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels: {error}") from error


def convert_image(image: Image.Image, name: str = "the image") -> Picture:
    """Convert an open image to what viewers display. Raises `ImageError`."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):  # 16 bits stored in 32
        return _show(_sixteen_to_eight(np.asarray(image)), image, ("16 bits scaled to 8",))
    if mode in ("F", "I"):
        kind = "floating-point numbers" if mode == "F" else "32-bit integers"
        raise ImageError(f"{name} contains {kind}, whose white level is unknown: save it with 8 or 16 bits per channel")
    return _show(image, image, ())


def on_background(rgba: np.ndarray) -> np.ndarray:
    """Combine straight-alpha RGBA uint8 [H, W, 4] with `BACKGROUND`; return RGB [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.uint16)
    background = np.array(BACKGROUND, np.uint16)
    composite = (rgba[..., :3] * alpha + background * (255 - alpha) + 127) // 255
    return np.ascontiguousarray(composite.astype(np.uint8))


def _show(
    pixels: Image.Image | np.ndarray, image: Image.Image, changes: tuple[str, ...], upright: bool = False
) -> Picture:
    """Apply the profile, the transparency and, unless `upright`, the orientation of `image` to its 8-bit pixels."""
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
        done.append("transparency composited on white")
    orientation = _orientation(image)
    if orientation in _UPRIGHT and not upright:
        rgb = rgb.transpose(Image.Transpose(_UPRIGHT[orientation]))
        done.append(f"orientation {orientation} applied")
    return Picture(np.ascontiguousarray(rgb), tuple(done))


def _has_more_than_8_bits(image: Image.Image, data: bytes) -> bool:
    """Check whether PIL would reduce 16-bit samples to their upper bytes."""
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "TIFF":
        bits: Any = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        return image.mode not in ("F", "I") and max(bits if isinstance(bits, tuple) else (bits,)) > 8
    return False


def _scaled_to_8_bits(data: bytes, name: str) -> np.ndarray:
    """Decode a 16-bit image to 8-bit pixels [H, W], [H, W, 3] or [H, W, 4]."""
    return _in_8_bits(_by_opencv(data), name, "")


def _read_by_opencv(data: bytes, name: str, found: str) -> Picture:
    """Read an image that PIL cannot: some TIFF layouts, damage outside the pixels. `found` is PIL's error."""
    from PIL import Image

    stored = _by_opencv(data)
    pixels = _in_8_bits(stored, name, found or _kind_that_is_not_read(data))
    if pixels.ndim == 3 and pixels.shape[2] == 3 and stored is not None and stored.dtype == np.uint8:
        pixels = _in_8_bits(_by_opencv(data, upright=True), name, found)
    image = Image.fromarray(pixels)
    return _show(image, image, ())


def _by_opencv(data: bytes, upright: bool = False) -> np.ndarray | None:
    """Decode to BGR or BGRA as stored, or with `upright` to oriented 8-bit BGR; None if that fails."""
    import cv2

    how = cv2.IMREAD_COLOR if upright else cv2.IMREAD_UNCHANGED
    return cv2.imdecode(np.frombuffer(data, np.uint8), how) if data else None


def _in_8_bits(stored: np.ndarray | None, name: str, found: str) -> np.ndarray:
    if stored is None:
        raise ImageError(f"{name} is {found if found.startswith('HE') else f'not a readable image{found}'}")
    if stored.dtype not in (np.uint8, np.uint16):
        kind = f"{stored.dtype} values"
        raise ImageError(f"{name} contains {kind}, whose white level is unknown: save it with 8 or 16 bits per channel")
    eight = _sixteen_to_eight(stored) if stored.dtype == np.uint16 else stored
    return eight if eight.ndim == 2 else np.ascontiguousarray(eight[..., [2, 1, 0, *range(3, eight.shape[2])]])


def _kind_that_is_not_read(data: bytes) -> str:
    kind = _FORMATS_THAT_ARE_NOT_READ.get(data[4:12])
    return f"{kind}, which is not supported: save it as PNG or JPEG" if kind else ""


def _orientation(image: Image.Image) -> int:
    """Read the orientation from Exif or XMP; 1 if they are corrupt, as in viewers."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, EOFError, struct.error):
        return 1


def _sixteen_to_eight(samples: np.ndarray) -> np.ndarray:
    """Scale 16-bit samples to 8 bits, rounded to the nearest level: 65535 becomes 255."""
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _in_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Convert an image to sRGB; return (RGB image, name of the source profile, or "" if none was converted)."""
    from PIL import ImageCms

    mode = {"CMYK": "CMYK", "L": "L", "1": "L", "LAB": "LAB"}.get(image.mode, "RGB")
    stored = image if image.mode == mode else image.convert(mode)
    # Like viewers, ignore a profile that is corrupt or is for another colour space.
    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
        if mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return stored.convert("RGB"), ""
        convert = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode in ("LAB", "CMYK") or not _keeps_colours(convert, mode):
            converted: Any = ImageCms.applyTransform(stored, convert)
            return converted, ImageCms.getProfileDescription(source).strip() or "its profile"
    return stored.convert("RGB"), ""


def _keeps_colours(convert: Any, mode: str) -> bool:
    """Check whether a transform leaves a grid of colours, or of greys, unchanged."""
    from PIL import Image, ImageCms

    levels = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    stored = Image.fromarray(grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    converted: Any = ImageCms.applyTransform(stored, convert)
    difference = np.subtract(np.asarray(converted), np.asarray(stored.convert("RGB")), dtype=np.int16)
    return int(np.abs(difference).max()) <= _PROFILE_IS_SRGB
