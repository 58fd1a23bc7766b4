"""The step of an evaluation: one rendered video → rows of (video, metric, value)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from ...datasets.schema import Row
from ...datasets.video import VideoError, decode, frame_times_s, probe
from ...models.components import load_components
from ...models.encoders import resize_image
from ...models.judges import autoencoder_ceiling, first_frame_psnr, psnr, ssim, start_gap_jump, temporal_flickering
from ..fetched import fetched
from ..stage import BadClip, Stage
from .config import EvaluateConfig

Frames = np.ndarray

_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("id", "video", "metric")),
    ("value", pa.float64()),
    *((name, pa.string()) for name in ("image", "truth", "protocol", "verdict", "reason", "detail")),
]
SCHEMA = pa.schema(_FIELDS)

# A frame that equals its truth has infinite PSNR, which JSON does not hold and which makes every mean infinite. At
# 100 dB one 8-bit sample in 150,000 is one level off.
MAX_PSNR_DB = 100.0

# metric → (unit, which way is better, what it says)
METRICS: dict[str, tuple[str, str, str]] = {
    "first_frame_psnr": ("dB", "higher", "frame 0 against the reference image"),
    "autoencoder_ceiling_psnr": (
        "dB",
        "",
        "the autoencoder's round trip of the reference image, for comparison",
    ),
    "psnr": ("dB", "higher", "against the true video, mean over frames; equal frames count as 100"),
    "ssim": ("", "higher", "against the true video, mean over frames"),
    "temporal_flickering": ("0..1", "higher", "(255 − mean change between frames) / 255, as in VBench"),
    "start_gap_jump": ("ratio", "lower", "largest change among the first frames over the median change after"),
}


@dataclass(frozen=True)
class EvaluateTask:
    """What a worker is told."""

    config: EvaluateConfig
    components: str


def load_vae(task: EvaluateTask) -> Any:
    """The autoencoder of the renders: their first frame cannot be better than its round trip."""
    return load_components(task.components, ("vae",))["vae"]


@fetched("video", "image", "truth")
def score_video(row: Row, task: EvaluateTask, vae: Any) -> list[Row]:
    """One row a metric; a metric that needs a truth which is not there has no value and says so."""
    frames = _limited(read_all(Path(row["video"])), task.config)
    reference = cv2.imread(row["image"], cv2.IMREAD_COLOR)
    if reference is None:
        raise BadClip("unreadable_image", f"{row['image']} cannot be read")
    reference = resize_image(np.ascontiguousarray(reference[..., ::-1]), *frames.shape[1:3])
    values: dict[str, float | None] = {
        "first_frame_psnr": min(first_frame_psnr(frames, reference), MAX_PSNR_DB),
        "autoencoder_ceiling_psnr": min(autoencoder_ceiling(vae, reference), MAX_PSNR_DB),
        "psnr": None,
        "ssim": None,
        "temporal_flickering": temporal_flickering(frames),
        "start_gap_jump": start_gap_jump(frames),
    }
    if row["truth"]:
        truth = _limited(read_all(Path(row["truth"]), *frames.shape[1:3]), task.config)
        shared = min(len(frames), len(truth))
        values["psnr"] = _mean_psnr(frames[:shared], truth[:shared])
        values["ssim"] = ssim(frames[:shared], truth[:shared])
    return [
        {
            **row,
            "metric": name,
            "value": value,
            "verdict": "ok",
            "detail": "no truth was given" if value is None and not row["truth"] else None,
        }
        for name, value in values.items()
    ]


def _mean_psnr(frames: Frames, truth: Frames) -> float:
    """PSNR in dB, mean over frames; equal frames count as `MAX_PSNR_DB`."""
    each = [psnr(frames[i : i + 1], truth[i : i + 1]) for i in range(len(frames))]
    return float(np.mean(np.minimum(each, MAX_PSNR_DB)))


def read_all(path: Path, height: int | None = None, width: int | None = None) -> Frames:
    """Every frame of a video: uint8 [F, H, W, 3]."""
    try:
        probe(path)
        return decode(path, frame_times_s(path), height, width)
    except VideoError as error:
        raise BadClip(error.reason, f"{path}: {error.detail}") from error


def _limited(frames: Frames, config: EvaluateConfig) -> Frames:
    return frames[:81] if config.protocol == "first-81" else frames


STAGES = [Stage("score", score_video, ("video", "image", "truth"), ("metric", "value"), load=load_vae)]
