"""The frames of a clip, decoded once, for all that look at them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...datasets.arrays import Floats64, Frames
from ...datasets.schema import Row
from ...datasets.video import decode
from ..common.crop import content_shares, crop_frames
from ..runtime.local_files import reading_video

if TYPE_CHECKING:
    from torch import Tensor

    from ..common.device_frames import DeviceReader

SHORT_SIDE_PX = 512


class ClipFrames:
    """The frames of a clip inside its borders, uint8 [F, H, W, 3]: in memory, and on the device of the networks.

    The file is decoded when they are first asked for. Their shorter side has at most `SHORT_SIDE_PX` before the borders
    are cut off.

    Args:
        row: row of the clip.
        times_s: times of the frames, from the source's first frame.
        reader: decodes on its device; None: PyAV or decord decode on the CPU.
    """

    def __init__(self, row: Row, times_s: Floats64, reader: DeviceReader | None = None) -> None:
        self._row, self._times_s, self._reader = row, times_s, reader

    @property
    def were_read(self) -> bool:
        """Whether the file was decoded."""
        return "_decoded" in vars(self)

    @cached_property
    def _decoded(self) -> Frames | Tensor:
        row = self._row
        scale = min(1.0, SHORT_SIDE_PX / min(row["height"], row["width"]))
        height, width = (max(2, round(row[side] * scale / 2) * 2) for side in ("height", "width"))
        path, shares = row["source_path"], content_shares(row)
        with reading_video():
            if self._reader is None:
                return crop_frames(decode(path, self._times_s, height, width), shares)
            return crop_frames(self._reader.read(path, self._times_s, height, width), shares)

    @cached_property
    def in_memory(self) -> Frames:
        """The frames as an array."""
        decoded = self._decoded
        return decoded if isinstance(decoded, np.ndarray) else decoded.cpu().numpy()

    @property
    def on_device(self) -> Tensor | None:
        """The frames on the reader's device; None without a reader."""
        decoded = self._decoded
        return None if isinstance(decoded, np.ndarray) else decoded

    def tensor(self, device: str) -> Tensor:
        """Return the frames as a tensor, moved to `device` unless they are on the reader's."""
        if self.on_device is not None:
            return self.on_device
        import torch

        return torch.from_numpy(np.require(self.in_memory, requirements="W")).to(device)
