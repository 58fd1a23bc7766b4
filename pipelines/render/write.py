"""The stage `write`: decode the latents of a pair, and write the video and its record."""

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...datasets.arrays import Frames
from ...datasets.provenance import write_video
from ...datasets.schema import Row
from ...datasets.storage import location
from ...datasets.storage.atomic import ordered_write
from ...models.encoders import decode_chunks, to_frames
from ...models.pipeline import WAN_NEGATIVE_PROMPT, SteadyDancerPipeline
from ...models.render_record import video_record
from ..runtime.local_files import on_local_copies
from .config import WORKERS
from .denoise import SAMPLING_ARGUMENTS
from .motion import read_motion
from .results import tensors_of
from .sound import driving_sound
from .task import Components, RenderTask

# Configuration fields that are recorded as the arguments of the call that would make the same video.
PIPELINE_ARGUMENTS = (
    *("max_area_px", "drawing_area_px", "num_frames", "window_frames", "window_overlap"),
    "window_opening",
    *("negative_pose_shift", "negative_prompt", *SAMPLING_ARGUMENTS),
)


@on_local_copies("driving")
def write_pair(row: Row, task: RenderTask, components: Components) -> Row:
    """Write `NAME.mp4` with `NAME.json` next to it."""
    config, place = task.config, task.checkpoints[row["checkpoint"]]
    sound_note, sound = driving_sound(Path(row["driving"]), config)
    people, motion = read_motion(task.store, row["motion"])
    record = record_of(row, task, people, motion, sound_note, sound is not None)
    latents = tensors_of(task.store.require(row["latents"]))["latents"]
    name = f"{row['key']}.mp4"

    def frames() -> Iterator[Frames]:
        yield from (to_frames(pixels) for pixels in decode_chunks(components.get(place, "vae"), latents[0]))

    def write(video: Path) -> dict[str, Any]:
        return write_video(frames(), video, record, config.fps, sound, crf=config.crf, chroma=config.chroma)

    written = _write_whole(place.out, name, write)
    notes = [
        *motion["notes"],
        *([f"sound {sound_note}"] if sound_note and sound is None else []),
        *json.loads(row["notes"]),
    ]
    return {
        **row,
        "video": name,
        **{side: written["video"][side] for side in ("height", "width", "num_frames")},
        "verdict": "ok",
        "sound": sound_note,
        "detail": "; ".join(notes) or None,
    }


def record_of(
    row: Row, task: RenderTask, people: Any, motion: dict[str, Any], sound_note: str | None, has_sound: bool
) -> dict[str, Any]:
    """Make the record of a pair's video, that of a call which renders it at once."""
    config, place = task.config, task.checkpoints[row["checkpoint"]]
    call = inspect.signature(SteadyDancerPipeline.__call__).bind(None, None, people, row["prompt"] or "")
    call.apply_defaults()
    given = {name: getattr(config, name) for name in PIPELINE_ARGUMENTS}
    arguments = {name: value for name, value in call.arguments.items() if name != "self"} | given
    terms = {name: row[name] for name in ("licence", "consent") if row.get(name) is not None}
    return video_record(
        arguments,
        seed=row["seed"],
        fps=config.fps,
        has_sound=has_sound,
        negative_prompt=WAN_NEGATIVE_PROMPT,
        flow_shift=config.flow_shift,
        dtype=task.dtype,
        model=place.digests,
        inputs={name: row[f"{name}_digest"] for name in ("image", "driving")},
        more_settings={
            "pose_model": row["pose_model"],
            "main_person_only": config.main_person_only,
            "on_missing_reference": config.on_missing_reference,
            **motion["record"],
            "sound": sound_note,
            "image_changes": json.loads(row["changes"]),
            **terms,
            "mode": config.rendering_mode.to_record(),
            "config": config.model_dump(mode="json", exclude=set(WORKERS)),
        },
    )


def _write_whole(out: str, name: str, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Call `write` in a temporary folder and move the video and then its record to `out`, each atomically."""
    record_name = Path(name).with_suffix(".json").name
    with ordered_write(location(out), (name, record_name)) as folder:
        return write(folder / name)
