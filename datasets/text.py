"""Read text files of unknown encoding: captions, tables, presets, decisions.

UTF-8, UTF-16 and UTF-32 are detected from the bytes, with or without a byte order mark. Older encodings (Windows-1252,
GBK, Shift-JIS, …) cannot be detected: the same bytes are valid in several of them, and a caption is too short to guess
from its language. Such files are refused with the position of the invalid byte; bytes are never replaced.
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
from .local_copies import local_copy
from .sidecars import CAPTION, sidecar
from .storage import Location, ObjectPath, location

if TYPE_CHECKING:
    import pyarrow as pa

# Longest first: the mark of UTF-32 starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Invisible characters besides white space: byte order marks, joiners, zero-width spaces.
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
_HEAD_BYTES = 4096
_ISO_2022 = re.compile(r"\x1b(\$[@AB]|\$?\([BCDIJ])")
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1f]")
# Colours, titles and other sequences that terminals obey, and control characters but tabs and line ends.
_TERMINAL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-_])|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins so


class TextError(SteadyDancerError, ValueError):
    """Bytes are not text in a detectable encoding. `detail` is the message without the file's name."""

    def __init__(self, name: str, detail: str) -> None:
        """Build the message from the file's name and the detail."""
        super().__init__(f"{name} cannot be read: {detail}")
        self.name, self.detail = name, detail


def without_controls(text: str) -> str:
    """Return text as a terminal may be given it: names and captions from outside must not control it."""
    return _TERMINAL.sub("", text)


def spreadsheet_text(text: str) -> str:
    """Return the text of a table's cell as spreadsheets show it: with an apostrophe, if they would compute it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def decode_text(data: bytes, name: object) -> str:
    """Decode a file's bytes to text without the byte order mark; line endings are kept.

    Args:
        data: the whole file.
        name: the file's name, for the error message.

    Raises:
        TextError: the encoding cannot be detected, or the bytes are corrupt.
    """
    encoding, start = _encoding(data)
    try:
        text = data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        at = start + error.start
        if encoding != "utf-8":
            raise TextError(
                str(name),
                f"byte {at} is not valid {encoding.upper()}, which the start of the file indicates: save it as UTF-8",
            ) from None
        raise TextError(
            str(name),
            f"byte {at} (0x{data[at]:02x}) is not UTF-8, and older encodings cannot be detected: save the file as "
            "UTF-8 (iconv -f ENCODING -t UTF-8; ENCODING is CP1252 for many Windows files, GBK for Chinese)",
        ) from None
    if "\x00" in text.rstrip("\x00"):
        raise TextError(str(name), f"byte {data.index(0)} is zero, so the file is not text: save it as UTF-8")
    # Also valid as UTF-8: Japanese with escapes (ISO-2022), and a Cyrillic or Greek word in UTF-16 without a mark.
    if _ISO_2022.search(text) or 4 * len(_CONTROL.findall(text)) > len(text):
        raise TextError(str(name), "its control characters show that it is not UTF-8: save it as UTF-8")
    return text.rstrip("\x00")


def read_text(place: str | os.PathLike[str] | ObjectPath) -> str:
    r"""Read a local file or an object as text; line endings become `\n`.

    Raises:
        TextError: see `decode_text`.
    """
    place = location(place)
    return io.StringIO(decode_text(place.read_bytes(), place), newline=None).read()


def read_caption(path: Path) -> str | None:
    """Read the caption next to a video or image; None if there is none or it may belong to another file.

    Raises:
        TextError: see `decode_text`.
    """
    beside = sidecar(path, CAPTION)
    return strip_text(read_text(beside)) if beside else None


@contextmanager
def open_text(place: Location) -> Iterator[IO[str]]:
    """Open a text file of any size as a stream; line endings are kept.

    Raises:
        TextError: see `decode_text`; also raised while the file is read.
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
                decode_text(file.read_bytes(), place)  # raises with the position in the file
                raise


def strip_text(text: str | None) -> str | None:
    """Strip blank and invisible characters from the ends of a text; None if nothing remains."""
    if text is None:
        return None
    while (shorter := text.strip().strip(_INVISIBLE)) != text:
        text = shorter
    return text or None


def strip_column(texts: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Apply `strip_text` to a column of texts; an empty string where nothing remains."""
    import pyarrow.compute as pc

    bare = pc.utf8_trim(pc.utf8_trim_whitespace(texts), _INVISIBLE)
    return pc.utf8_trim_whitespace(bare)


def _encoding(data: bytes) -> tuple[str, int]:
    """Detect the encoding, and the offset at which the text starts."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    return ("utf-8" if 0 not in data else _by_zeros(data)), 0


def _by_zeros(data: bytes) -> str:
    """Detect UTF-16 or UTF-32 without a mark: most units are Latin letters, with all bytes but one zero."""
    for width in (4, 2):
        for order, letter in (("le", 0), ("be", width - 1)):
            units = len(data) // width
            zeros = [data[k::width].count(0) for k in range(width)]
            if zeros.pop(letter) == 0 and 2 * min(zeros) > units:
                return f"utf-{8 * width}-{order}"
    return "utf-8"
