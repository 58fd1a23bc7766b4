"""Video files: probe, decode by time, encode. No other package of the project uses a codec.

Names are imported at their first use, so that the modules of this package can import each other.
"""

from typing import TYPE_CHECKING

from ... import lazy_names

if TYPE_CHECKING:
    from .api import (
        MAX_DURATION_S,
        MAX_PIXELS,
        VideoError,
        VideoIndex,
        VideoInfo,
        decode,
        decode_key_frames,
        decode_low_resolution,
        decode_sparse,
        decoding_counts,
        decoding_seconds,
        frame_times_s,
        low_resolution_pieces,
        probe,
        read_metadata,
        size_for_area,
        video_index,
    )
    from .writer import encode

__all__ = [
    "MAX_DURATION_S",
    "MAX_PIXELS",
    "VideoError",
    "VideoIndex",
    "VideoInfo",
    "decode",
    "decode_key_frames",
    "decode_low_resolution",
    "decode_sparse",
    "decoding_counts",
    "decoding_seconds",
    "encode",
    "frame_times_s",
    "low_resolution_pieces",
    "probe",
    "read_metadata",
    "size_for_area",
    "video_index",
]

__getattr__, __dir__ = lazy_names(__name__, {**dict.fromkeys(__all__, "api"), "encode": "writer"})
