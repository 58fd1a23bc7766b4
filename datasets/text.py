"""Text that people wrote, out of bytes of which nobody said the encoding: captions, tables, presets, decisions.

UTF-8, UTF-16 and UTF-32 can be told from the bytes, with a byte order mark or without. Older encodings (Windows-1252,
GBK, Shift-JIS, …) cannot: the same bytes are sound text in several of them, and a caption is too short to guess by its
language. They are refused with the byte at which it shows, and nothing is ever replaced.
"""

import codecs
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .. import SteadyDancerError
from .sidecars import CAPTION, sidecar
from .storage import Location, ObjectPath, local_copy, location

if TYPE_CHECKING:
    import pyarrow as pa

# Longest first: the mark of UTF-32 begins as that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What an eye does not see at the ends of a text, beside white space: byte order marks, joiners, spaces of no width.
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
_HEAD_BYTES = 4096
_ISO_2022 = re.compile(r"\x1b(\$[@AB]|\$?\([BCDIJ])")
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1f]")


class TextError(SteadyDancerError, ValueError):
    """Bytes that are no text in an encoding that can be told. `detail` is the message without the file's name."""

    def __init__(self, name: str, detail: str) -> None:
        """Say of which file."""
        super().__init__(f"{name} cannot be read: {detail}")
        self.name, self.detail = name, detail


def decode_text(data: bytes, name: object) -> str:
    """The text of a file's bytes, without its byte order mark; line ends stay as they are.

    Args:
        data: the whole file.
        name: of the file, for the message.

    Raises:
        TextError: the encoding cannot be told, or the bytes are damaged.
    """
    encoding, start = _encoding(data)
    try:
        text = data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        at = start + error.start
        if encoding != "utf-8":
            raise TextError(
                str(name), f"byte {at} is no {encoding.upper()}, as which the file begins: save it as UTF-8"
            ) from None
        raise TextError(
            str(name),
            f"byte {at} (0x{data[at]:02x}) is no UTF-8, and an older encoding cannot be told by its bytes: save the "
            "file as UTF-8 (iconv -f ENCODING -t UTF-8; ENCODING is CP1252 for many files of Windows, GBK for Chinese)",
        ) from None
    if "\x00" in text.rstrip("\x00"):
        raise TextError(str(name), f"byte {data.index(0)} is zero, so it is no text: save it as UTF-8")
    # Sound as UTF-8, too: Japanese by escapes (ISO-2022), and a Cyrillic or Greek word in UTF-16 without a mark.
    if _ISO_2022.search(text) or 4 * len(_CONTROL.findall(text)) > len(text):
        raise TextError(str(name), "its control characters show that it is no UTF-8: save it as UTF-8")
    return text.rstrip("\x00")


def read_text(place: str | os.PathLike[str] | ObjectPath) -> str:
    r"""The text of a file here or on a store; every line ends in `\n`.

    Raises:
        TextError: as `decode_text`.
    """
    place = location(place)
    return io.StringIO(decode_text(place.read_bytes(), place), newline=None).read()


def read_caption(path: Path) -> str | None:
    """The caption that lies beside a video or image; None where there is none, or it may be another file's.

    Raises:
        TextError: as `decode_text`.
    """
    beside = sidecar(path, CAPTION)
    return strip_text(read_text(beside)) if beside else None


@contextmanager
def open_text(place: Location) -> Iterator[IO[str]]:
    """Open a table of any size: characters one after the other, line ends as they are.

    Raises:
        TextError: as `decode_text`, also while the file is read.
    """
    with local_copy(place) as file:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
        if 0 in head or _encoding(head)[0] != "utf-8":
            yield io.StringIO(decode_text(file.read_bytes(), place), newline="")
            return
        with file.open(encoding="utf-8-sig", newline="") as text:
            try:
                yield text
            except UnicodeDecodeError:
                decode_text(file.read_bytes(), place)  # says at which byte of the file
                raise


def strip_text(text: str | None) -> str | None:
    """A text without what is blank or invisible at its ends; None if nothing is left."""
    if text is None:
        return None
    while (shorter := text.strip().strip(_INVISIBLE)) != text:
        text = shorter
    return text or None


def strip_column(texts: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """A column of texts as `strip_text` leaves each, an empty one where nothing is left."""
    import pyarrow.compute as pc

    bare = pc.utf8_trim(pc.utf8_trim_whitespace(texts), _INVISIBLE)
    return pc.utf8_trim_whitespace(bare)


def _encoding(data: bytes) -> tuple[str, int]:
    """An encoding that the bytes show, and where the text begins."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    return ("utf-8" if 0 not in data else _by_zeros(data)), 0


def _by_zeros(data: bytes) -> str:
    """UTF-16 or UTF-32 without a mark, if most units are those of Latin letters, all whose bytes but one are zero."""
    for width in (4, 2):
        for order, letter in (("le", 0), ("be", width - 1)):
            units = len(data) // width
            zeros = [data[k::width].count(0) for k in range(width)]
            if zeros.pop(letter) == 0 and 2 * min(zeros) > units:
                return f"utf-{8 * width}-{order}"
    return "utf-8"
