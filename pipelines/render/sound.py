"""The sound of a driving video over the rendered span."""

from pathlib import Path

from ...datasets.driving_poses import driving_times_s
from ...datasets.video import VideoError, frame_times_s
from ...datasets.video.sound import Sound, change_speed, fit_to_duration, read_sound
from .config import RenderConfig

MARGIN_S = 0.5  # a change of speed consumes slightly more input than it outputs


def driving_sound(driving: Path, config: RenderConfig) -> tuple[str | None, Sound | None]:
    """Return (a note on the sound, the sound of the render or None).

    The sound is cut to the rendered span and changed in speed like the picture, at the same pitch, so that both stay in
    sync. A sound that cannot be read does not fail the pair; the note gives the reason.
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
        return "not kept: the driving video has no sound in the rendered span", None
    changed = change_speed(sound, speed)
    words = "kept" if changed is sound else f"kept, at {speed:.3g} times its speed, like the picture"
    return words, fit_to_duration(changed, rendered_s)
