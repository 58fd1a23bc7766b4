"""The sound of a driving video over the span that is rendered."""

from pathlib import Path

from ...datasets.driving_poses import driving_times_s
from ...datasets.video import VideoError, frame_times_s
from ...datasets.video.sound import Sound, change_speed, fit_to_duration, read_sound
from .config import RenderConfig

MARGIN_S = 0.5  # a change of speed takes a little more than it gives


def driving_sound(driving: Path, config: RenderConfig) -> tuple[str | None, Sound | None]:
    """(what became of the sound, in words; the sound of the render, where it is to have one).

    It is cut to the rendered span and played as much faster or slower as the picture is, at the same pitch, so that the
    two stay together. What is wrong with it is told and fails nothing.
    """
    if config.sound == "none":
        return None, None
    try:
        times_s = driving_times_s(frame_times_s(driving), config.num_frames, config.driving_fps)
        rendered_s = len(times_s) / config.fps
        speed = float(times_s[-1]) * config.fps / (len(times_s) - 1)
        sound = read_sound(driving, rendered_s * speed + MARGIN_S)
    except VideoError as error:
        return f"not kept: {error.detail}", None
    if sound is None:
        return "not kept: the driving video has none in the rendered span", None
    changed = change_speed(sound, speed)
    words = "kept" if changed is sound else f"kept, {speed:.3g} times as fast, as the picture is"
    return words, fit_to_duration(changed, rendered_s)
