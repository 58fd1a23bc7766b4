"""What of a driving video is rendered: the frames' times, and the sound of the same span."""

from pathlib import Path

import numpy as np

from ...datasets.video import VideoError, frame_times_s
from ...datasets.video_sound import Sound, at_speed, cut_to, read_sound
from .config import RenderConfig

LEAST_FRAMES = 5  # where the driving video says how many
MARGIN_S = 0.5  # a change of speed takes a little more than it gives


def frame_times(native_s: np.ndarray, config: RenderConfig) -> np.ndarray:
    """When the frames that are rendered are shown in a driving video, of the times [n] of its frames.

    Each of its frames, or at `driving_fps` those shown then; at most `num_frames`, or as many as make 4k + 1.
    """
    step = config.driving_fps
    times_s = native_s if step is None else np.arange(0, native_s[-1] + 1e-6, 1 / step)
    return times_s[: config.num_frames or max(LEAST_FRAMES, (len(times_s) - 1) // 4 * 4 + 1)]


def driving_sound(driving: Path, config: RenderConfig) -> tuple[str | None, Sound | None]:
    """(what became of the sound, in words; the sound of the render, where it is to have one).

    It is cut to the rendered span and played as much faster or slower as the picture is, at the same pitch, so that the
    two stay together. What is wrong with it is told and fails nothing.
    """
    if config.sound == "none":
        return None, None
    try:
        times_s = frame_times(frame_times_s(driving), config)
        rendered_s = len(times_s) / config.fps
        speed = float(times_s[-1]) * config.fps / (len(times_s) - 1)
        sound = read_sound(driving, rendered_s * speed + MARGIN_S)
    except VideoError as error:
        return f"not kept: {error.detail}", None
    if sound is None:
        return "not kept: the driving video has none in the rendered span", None
    changed = at_speed(sound, speed)
    words = "kept" if changed is sound else f"kept, {speed:.3g} times as fast, as the picture is"
    return words, cut_to(changed, rendered_s)
