"""Find packets at which decoding can start, and changes of the parameters within a stream."""

from __future__ import annotations

from typing import Any

from .stream_headers import nal_units, num_length_bytes, sets_parameters


class KeyPackets:
    """Examines the key packets of a stream, in order.

    In H.264 and HEVC, frames after a key frame may refer to frames before it (open GOPs), so only the unit types of
    instantaneous refresh (IDR) qualify. Other codecs than those named below are always decoded from the start.

    Attributes:
        change_parameters: whether a packet had other parameters than the header of the stream, e.g. another size or
            aspect.
    """

    def __init__(self, context: Any) -> None:
        self._codec = context.codec.canonical_name
        self._header = context.extradata or b""
        self._num_length_bytes = num_length_bytes(self._codec, self._header)
        self.change_parameters = False

    def refreshes(self, packet: Any) -> bool:
        """Check whether decoding from this packet gives the same frames as decoding from the start."""
        if packet.has_sidedata("new_extradata"):
            self.change_parameters = True
        if self._codec in ("vp8", "vp9", "av1"):
            return True
        if self._codec not in ("h264", "hevc"):
            return False
        for unit in nal_units(bytes(packet), self._num_length_bytes):
            if not unit:
                continue
            if sets_parameters(self._codec, unit) and unit.rstrip(b"\x00") not in self._header:
                self.change_parameters = True
            kind = unit[0] & 31 if self._codec == "h264" else unit[0] >> 1 & 63
            if (1 <= kind <= 5) if self._codec == "h264" else kind <= 31:  # the first unit of a picture
                return kind == 5 if self._codec == "h264" else kind in (19, 20)
        return False
