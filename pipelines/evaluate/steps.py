"""The row stage of an evaluation: one rendered video → rows of (video, metric, value); a null has its own reason."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ...datasets.arrays import Frames
from ...datasets.images import ImageError, read_image
from ...datasets.schema import Row
from ...datasets.video import decode, frame_times_s, probe
from ...models.components import load_components
from ...models.encoders import resize_image
from ...models.metrics import (
    MAX_PSNR_DB,
    START_STEPS,
    autoencoder_ceiling,
    first_frame_psnr,
    pixel_jump,
    psnr,
    ssim,
    temporal_flickering,
)
from ..runtime.local_files import on_local_copies, reading_video
from ..runtime.stage import Stage
from .comparison import Clock, NotComparable, truth_frames
from .config import EvaluateConfig

_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("id", "video", "metric")),
    ("value", pa.float64()),
    ("frames_compared", pa.int32()),  # number compared with the truth; null for metrics without a truth
    *((name, pa.string()) for name in ("image", "driving", "truth", "protocol", "verdict", "reason", "detail")),
]
SCHEMA = pa.schema(_FIELDS)

# metric → (unit, which direction is better, meaning)
METRICS: dict[str, tuple[str, str, str]] = {
    "first_frame_psnr": ("dB", "higher", "frame 0 against the reference image"),
    "autoencoder_ceiling_psnr": (
        "dB",
        "",
        "the reference image after the autoencoder's round trip, for comparison",
    ),
    "psnr": ("dB", "higher", "against the ground truth, mean over the frames compared; equal frames count as 100"),
    "ssim": ("", "higher", "against the ground truth, mean over the frames compared"),
    "temporal_flickering": ("0..1", "higher", "(255 − mean change between frames) / 255, as in VBench"),
    "start_gap_jump": (
        "ratio",
        "lower",
        "largest change among the first frames, relative to the median change after them",
    ),
}


@dataclass(frozen=True)
class EvaluateTask:
    """Input of a worker: the configuration, the path of the autoencoder, and the rate of the driving videos."""

    config: EvaluateConfig
    components: str
    driving_fps: float | None = None


class Score(NamedTuple):
    """A metric of one video, or the reason why it has no value; `detail` of a value is a remark on it."""

    value: float | None
    reason: str | None = None
    detail: str | None = None
    frames_compared: int | None = None


def load_vae(task: EvaluateTask) -> Any:
    """Load the renders' autoencoder, whose round trip is an upper bound for their first frame."""
    return load_components(task.components, ("vae",))["vae"]


@on_local_copies("video", "image", "truth")
def score_video(row: Row, task: EvaluateTask, vae: Any) -> list[Row]:
    """Score a video, one row per metric. Input's `reason` and `detail` explain why ground truth is missing."""
    frames, times_s = read_render(Path(row["video"]), task.config)
    reference, image_size, unread = read_reference(row["image"], *frames.shape[1:3])
    scores = {
        **_against_reference(frames, reference, unread, vae),
        **_against_truth(row, frames, Clock(times_s, row["driving"], task.driving_fps), image_size),
        "temporal_flickering": _flickering(frames),
        "start_gap_jump": _start_gap(frames),
    }
    return [{**row, "metric": name, "verdict": "ok", **scores[name]._asdict()} for name in METRICS]


def read_render(path: Path, config: EvaluateConfig) -> tuple[Frames, np.ndarray]:
    """Read the protocol's frames, uint8 [F, H, W, 3], and their times in seconds.

    Raises:
        BadClip: the video cannot be read.
    """
    with reading_video(path):
        probe(path)
        times_s = frame_times_s(path)
        times_s = times_s[:81] if config.protocol == "first-81" else times_s
        return decode(path, times_s), times_s


def read_reference(file: str | None, height: int, width: int) -> tuple[Frames | None, tuple[int, int] | None, str]:
    """Return the reference image at the render's size, its own (height, width), and the error if it is unreadable."""
    if not file:
        return None, None, "the reference image cannot be read"
    try:
        rgb = read_image(Path(file)).pixels
    except ImageError as error:
        return None, None, f"the reference image cannot be read: {error}"
    return resize_image(rgb, height, width), rgb.shape[:2], ""


def _against_reference(frames: Frames, reference: Frames | None, unread: str, vae: Any) -> dict[str, Score]:
    if reference is None:
        missing = Score(None, "unreadable_image", unread)
        return {"first_frame_psnr": missing, "autoencoder_ceiling_psnr": missing}
    return {
        "first_frame_psnr": _capped_psnr(first_frame_psnr(frames, reference), "frame 0 equals the reference"),
        "autoencoder_ceiling_psnr": _capped_psnr(autoencoder_ceiling(vae, reference), "the round trip is lossless"),
    }


def _capped_psnr(value: float, equal: str) -> Score:
    """Return the PSNR of one frame, limited to `MAX_PSNR_DB`."""
    detail = f"{equal}: counted as {MAX_PSNR_DB:g} dB" if math.isinf(value) else None
    return Score(min(value, MAX_PSNR_DB), detail=detail)


def _against_truth(row: Row, frames: Frames, clock: Clock, image_size: tuple[int, int] | None) -> dict[str, Score]:
    if not row["truth"]:
        missing = Score(None, row["reason"], row["detail"])
        return {"psnr": missing, "ssim": missing}
    try:
        truth, detail = truth_frames(Path(row["truth"]), clock, frames.shape[1:3], image_size)
    except NotComparable as error:
        missing = Score(None, error.reason, error.detail)
        return {"psnr": missing, "ssim": missing}
    count = len(truth)
    equal = sum(map(np.array_equal, frames[:count], truth))
    notes = [f"{equal} of {count} frames equal the ground truth and count as {MAX_PSNR_DB:g} dB"] if equal else []
    return {
        "psnr": Score(
            psnr(frames[:count], truth), None, "; ".join([*([detail] if detail else []), *notes]) or None, count
        ),
        "ssim": Score(ssim(frames[:count], truth, "reflect-gauss11"), None, detail, count),
    }


def _flickering(frames: Frames) -> Score:
    value = temporal_flickering(frames)
    return Score(None, "one_frame", "a single frame has no change") if math.isnan(value) else Score(value)


def _start_gap(frames: Frames) -> Score:
    value = pixel_jump(frames)
    if not math.isnan(value):
        return Score(value)
    if len(frames) <= START_STEPS + 1:
        return Score(None, "too_short", f"{len(frames)} frames, but at least {START_STEPS + 2} are needed")
    return Score(None, "no_motion", f"nothing moves after frame {START_STEPS}")


STAGES = [Stage("score", score_video, ("video", "image", "truth"), ("metric", "value"), load=load_vae)]
