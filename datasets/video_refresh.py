"""At which packets decoding may begin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any


def refresh_test(context: Any) -> Callable[[Any], bool]:
    """A test of key packets: does the decoder, beginning with this one, give what it gives from the start?

    H.264 and HEVC call other pictures key frames too, whose followers look back past them (open groups): only the
    unit types of instantaneous refresh will do. Codecs that are not named here are read from the start.
    """
    codec = context.codec.canonical_name
    if codec in ("vp8", "vp9", "av1"):
        return lambda packet: True
    if codec not in ("h264", "hevc"):
        return lambda packet: False
    header = context.extradata or b""
    length_at = 4 if codec == "h264" else 21
    # Bytes of a unit's length (ISO/IEC 14496-15); 0: units follow start codes.
    num_length_bytes = (header[length_at] & 3) + 1 if len(header) > length_at and header[0] == 1 else 0

    def refreshes(packet: Any) -> bool:
        for first_byte in _unit_headers(bytes(packet), num_length_bytes):
            kind = first_byte & 31 if codec == "h264" else first_byte >> 1 & 63
            if (1 <= kind <= 5) if codec == "h264" else kind <= 31:  # the first unit with a picture in it
                return kind == 5 if codec == "h264" else kind in (19, 20)
        return False

    return refreshes


def _unit_headers(data: bytes, num_length_bytes: int) -> Iterator[int]:
    """The first byte of every unit in a packet of H.264 or HEVC."""
    if num_length_bytes == 0:
        yield from (data[match.end()] for match in re.finditer(b"\x00\x00\x01(?=.)", data, re.DOTALL))
        return
    start = 0
    while start + num_length_bytes < len(data):
        yield data[start + num_length_bytes]
        start += num_length_bytes + int.from_bytes(data[start : start + num_length_bytes], "big")
