"""Metrics of the frames alone: the change from one to the next."""

import math

from ....models.metrics import START_STEPS, pixel_jump, temporal_flickering
from ..judges import Judges
from ..scores import Outcome, Score, score
from ..video import Video


def measure(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure flickering and the jump at the start."""
    frames = video.frames
    flickering = score(temporal_flickering(frames), "one_frame", "a single frame has no change")
    return {"temporal_flickering": flickering, "start_gap_jump": _jump(video)}


def _jump(video: Video) -> Score:
    value, num_frames = pixel_jump(video.frames), len(video.frames)
    if not math.isnan(value):
        return Score(value)
    if num_frames <= START_STEPS + 1:
        return Score(None, "too_short", f"{num_frames} frames, but at least {START_STEPS + 2} are needed")
    return Score(None, "no_motion", f"nothing moves after frame {START_STEPS}")
