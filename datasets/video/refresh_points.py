"""At which packets decoding may begin, and whether the parameters change on the way."""

from __future__ import annotations

from typing import Any

from .stream_headers import num_length_bytes, sets_parameters, units_of


class KeyPackets:
    """Looks at the key packets of a stream, one after another.

    H.264 and HEVC call other pictures key frames too, whose followers look back past them (open groups): only the
    unit types of instantaneous refresh will do. Codecs that are not named here are read from the start.

    Attributes:
        change_parameters: a packet has brought other parameters than the stream's header: another size perhaps, or
            another aspect.
    """

    def __init__(self, context: Any) -> None:
        self._codec = context.codec.canonical_name
        self._header = context.extradata or b""
        self._num_length_bytes = num_length_bytes(self._codec, self._header)
        self.change_parameters = False

    def refreshes(self, packet: Any) -> bool:
        """Whether the decoder, beginning with this packet, gives what it gives from the start."""
        if packet.has_sidedata("new_extradata"):
            self.change_parameters = True
        if self._codec in ("vp8", "vp9", "av1"):
            return True
        if self._codec not in ("h264", "hevc"):
            return False
        for unit in units_of(bytes(packet), self._num_length_bytes):
            if not unit:
                continue
            if sets_parameters(self._codec, unit) and unit.rstrip(b"\x00") not in self._header:
                self.change_parameters = True
            kind = unit[0] & 31 if self._codec == "h264" else unit[0] >> 1 & 63
            if (1 <= kind <= 5) if self._codec == "h264" else kind <= 31:  # the first unit with a picture in it
                return kind == 5 if self._codec == "h264" else kind in (19, 20)
        return False
