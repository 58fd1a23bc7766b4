"""Videos written with plain PyAV, without our encoder."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def write_plain(
    path: Path, frames: list[np.ndarray], codec: str = "libx264", setup=None, pixel_format="yuv420p", **options
):
    """Write a video with PyAV; `frames` are RGB or RGBA arrays, or `VideoFrame`s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        first = frames[0]
        stream.height, stream.width = (first.height, first.width) if hasattr(first, "height") else first.shape[:2]
        stream.pix_fmt = pixel_format
        if setup:
            setup(stream)
        for k, pixels in enumerate(frames):
            frame = pixels
            if isinstance(pixels, np.ndarray):
                kind = "rgba" if pixels.shape[2] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    return write_plain
