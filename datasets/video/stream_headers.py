"""Parse headers of H.264 and HEVC: NAL units and sequence parameter sets."""

from __future__ import annotations

import re
from collections.abc import Iterator

_START_CODE = re.compile(b"\x00\x00\x01(?=.)", re.DOTALL)
_PROFILES_WITH_CHROMA = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)


def num_length_bytes(codec: str, header: bytes) -> int:
    """Return the size of a unit's length field in bytes (ISO/IEC 14496-15); 0: units follow start codes."""
    length_at = 4 if codec == "h264" else 21
    return (header[length_at] & 3) + 1 if len(header) > length_at and header[0] == 1 else 0


def nal_units(data: bytes, num_length_bytes: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet of H.264 or HEVC."""
    if num_length_bytes == 0:
        starts = _START_CODE.finditer(data)
        current = next(starts, None)
        while current is not None:
            following = next(starts, None)
            yield data[current.end() : following.start() if following else len(data)]
            current = following
        return
    start = 0
    while start + num_length_bytes < len(data):
        length = int.from_bytes(data[start : start + num_length_bytes], "big")
        yield data[start + num_length_bytes :][:length]
        start += num_length_bytes + length


def sets_parameters(codec: str, unit: bytes) -> bool:
    """Check whether a unit is a sequence parameter set, which has size, pixel aspect and interlacing."""
    return (unit[0] & 31 == 7) if codec == "h264" else (unit[0] >> 1 & 63 == 33)


def h264_fields_possible(header: bytes) -> bool:
    """Check whether a header of H.264 allows interlacing, or cannot be read."""
    if header[:1] != b"\x01":
        return any(_fields_possible(unit) for unit in nal_units(header, 0) if sets_parameters("h264", unit))
    start = 6
    for _ in range(header[5] & 31 if len(header) > 5 else 0):
        length = int.from_bytes(header[start : start + 2], "big")
        if _fields_possible(header[start + 2 :][:length]):
            return True
        start += 2 + length
    return False


def _fields_possible(unit: bytes) -> bool:
    """Read the negation of frame_mbs_only_flag from a sequence parameter set (ISO/IEC 14496-10, 7.3.2.1.1)."""
    bits = _Bits(unit[1:].replace(b"\x00\x00\x03", b"\x00\x00"))
    profile = bits.take(8)
    bits.take(16)  # constraints, level
    bits.number()  # id
    if profile in _PROFILES_WITH_CHROMA:
        num_lists = 8
        if bits.number() == 3:
            bits.take(1)
            num_lists = 12
        bits.numbers(2)  # bit depths
        bits.take(1)
        if bits.take(1):
            for k in range(num_lists):
                bits.skip_scaling_list(16 if k < 6 else 64)
    bits.number()
    order_kind = bits.number()
    if order_kind == 0:
        bits.number()
    elif order_kind == 1:
        bits.take(1)
        bits.numbers(2)
        bits.numbers(min(255, bits.number()))
    bits.number()  # reference frames
    bits.take(1)
    bits.numbers(2)  # width, height
    return bits.take(1) == 0


class _Bits:
    """Bit reader, most significant bit first. It returns zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._left = 8 * len(data) + 64
        self._value = int.from_bytes(data, "big") << 64

    def take(self, count: int) -> int:
        """Read the next `count` bits."""
        self._left = max(0, self._left - count)
        return self._value >> self._left & ((1 << count) - 1)

    def number(self) -> int:
        """Read an Exp-Golomb code."""
        zeros = 0
        while self._left and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def numbers(self, count: int) -> None:
        """Skip `count` Exp-Golomb codes."""
        for _ in range(count):
            self.number()

    def skip_scaling_list(self, size: int) -> None:
        """Skip a scaling list, if there is one (7.3.2.1.1.1)."""
        last = following = 8
        for _ in range(size if self.take(1) else 0):
            if following:
                code = self.number()
                following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
            last = following or last
