"""A frame model: the mean colour of each frame, as the columns `colours_rgb` and `colours_brightest_s` of each clip.

An installed package registers it in its pyproject.toml. Then a preset with `frame_models=("colours",)` runs it:

    [project.entry-points."steadydancer.frame_models"]
    colours = "mean_colours:MeanColours"
"""

from typing import Any

import pyarrow as pa
from torch import Tensor


class MeanColours:
    """Computes where a real one would run a captioner or an image tower on all frames of a clip at once."""

    version = "1"
    columns = pa.schema(
        [
            pa.field("rgb", pa.list_(pa.float32(), 3), metadata={"unit": "0..1", "meaning": "mean colour"}),
            pa.field("brightest_s", pa.float64(), metadata={"unit": "s", "meaning": "time of the brightest frame"}),
        ]
    )

    def __init__(self, device: str) -> None:
        """Load the network on `device`; this one has none."""
        self.device = device

    def annotate(self, frames: Tensor, fps: float) -> dict[str, Any]:
        """Return the values of a clip with frames uint8 [F, H, W, 3] on the device."""
        colours = frames.float().mean(dim=(1, 2)) / 255
        return {"rgb": colours.mean(dim=0).tolist(), "brightest_s": colours.sum(dim=1).argmax().item() / fps}
