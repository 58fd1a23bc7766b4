"""Begin a method's clip at its reference image: a generated transition, then the clip (the paper's Fig. 11).

A reference-to-video method does not start at the image. A first-last-frame model generates the transition from the
image to the method's first frame; both are stitched without showing the shared frame twice, and can then be scored as a
video that starts at the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import SteadyDancerError
from ...datasets.arrays import Frames
from ...datasets.local_copies import local_copy
from ...datasets.sidecars import VIDEO_SUFFIXES
from ...datasets.storage import Location
from ...datasets.storage.atomic import begin_folder, ordered_write, write_json
from ...datasets.storage.digests import content_digest
from ...datasets.storage.files import files_in
from ...datasets.video import VideoError, decode, encode, frame_times_s, probe
from ...models.metrics import MAX_PSNR_DB, psnr
from ..runtime.runner import progress

CRF = 10  # a clip is coded a second time, and must not be scored for that
SAME_FPS = 0.01
LOW_SHARED_PSNR_DB = 20.0
_AT_A_TIME = 32


@dataclass(frozen=True)
class Stitched:
    """What became of one clip: `ok` with its numbers, or a reason and detail."""

    id: str
    verdict: str
    reason: str | None = None
    detail: str | None = None
    fps: float | None = None
    transition_frames: int | None = None
    clip_frames: int | None = None
    shared_frame_psnr_db: float | None = None


class NotStitched(Exception):
    """A clip that cannot be stitched: `reason` and `detail`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def stitch(transition: Path, clip: Path, out: Path, crf: int = CRF) -> dict[str, Any]:
    """Write the transition without its last frame, then the clip; return the facts for the record.

    Args:
        transition: video from the reference image to the clip's first frame; at least 2 frames.
        clip: the method's video.
        out: mp4 to write.
        crf: H.264's constant rate factor; fewer is better.

    Returns:
        `fps`, `transition_frames` (as shown, without the shared one), `clip_frames`, and `shared_frame_psnr_db`, of the
        transition's last frame against the clip's first.

    Raises:
        NotStitched: a video cannot be read, the transition has one frame, or sizes or frame rates differ.
    """
    (first_s, first_fps, size), (second_s, second_fps, other) = _measured(transition), _measured(clip)
    if size != other:
        raise NotStitched("other_size", f"the transition is {size[1]}×{size[0]}, the clip {other[1]}×{other[0]}")
    if len(first_s) < 2:
        raise NotStitched("too_short", "the transition has one frame, but needs the image and the clip's first frame")
    rate = first_fps if len(second_s) < 2 else second_fps
    if abs(first_fps / rate - 1) > SAME_FPS:
        raise NotStitched("other_fps", f"the transition has {first_fps:.4g} frames per second, the clip {rate:.4g}")
    if size[0] % 2 or size[1] % 2:
        raise NotStitched("odd_size", f"videos must have even sides, not {size[1]}×{size[0]}")
    try:
        shared = psnr(decode(transition, first_s[-1:]), decode(clip, second_s[:1]), MAX_PSNR_DB)
        encode(_frames([(transition, first_s[:-1]), (clip, second_s)]), out, _nominal(rate), crf=crf)
    except VideoError as error:
        raise NotStitched(error.reason, error.detail) from error
    return {"fps": _nominal(rate), "transition_frames": len(first_s) - 1, "clip_frames": len(second_s),
            "shared_frame_psnr_db": shared}  # fmt: skip


def stitch_folder(transitions: Location, clips: Location, out: Location, crf: int = CRF) -> list[Stitched]:
    """Stitch each `ID.mp4` of `clips` with the one of `transitions` into `out/ID.mp4`, with `ID.json` beside it.

    A finished video of the same inputs is kept, so that a repeated call goes on where it stopped. A clip that cannot be
    stitched gets a verdict, and the others are still made.

    Raises:
        SteadyDancerError: a folder has no videos, or `out` is one of the inputs.
    """
    found = {place: _videos(place) for place in (transitions, clips)}
    if out.absolute() in (transitions.absolute(), clips.absolute()):
        raise SteadyDancerError(f"{out} is an input: choose another --out")
    begin_folder(out)
    names = sorted(found[clips])
    results = [
        _stitch_one(name, found[transitions].get(name), found[clips][name], out, crf)
        for name in progress(names, "stitch", "clips", len(names))
    ]
    unused = sorted(found[transitions].keys() - found[clips].keys())
    return results + [Stitched(name, "rejected", "no_clip", f"no clip is called {name}") for name in unused]


def plan(transitions: Location, clips: Location, out: Location) -> dict[str, Any]:
    """Describe what `stitch_folder` would do.

    Raises:
        SteadyDancerError: a folder has no videos.
    """
    first, second = _videos(transitions), _videos(clips)
    return {
        "clips": len(second),
        "with_transition": len(first.keys() & second.keys()),
        "without_transition": sorted(second.keys() - first.keys()),
        "transitions_without_clip": sorted(first.keys() - second.keys()),
        "present": sum((out / f"{name}.mp4").is_file() for name in second),
    }


def _stitch_one(name: str, transition: Location | None, clip: Location, out: Location, crf: int) -> Stitched:
    if transition is None:
        return Stitched(name, "rejected", "no_transition", f"no transition is called {name}")
    video, record = f"{name}.mp4", f"{name}.json"
    inputs = {"transition": content_digest(transition), "clip": content_digest(clip), "crf": crf}
    known = _known(out / record, inputs) if (out / video).is_file() else None
    if known is not None:
        return known
    try:
        with (
            local_copy(transition) as first,
            local_copy(clip) as second,
            ordered_write(out, [video, record]) as folder,
        ):
            facts = stitch(first, second, folder / video, crf)
            low = facts["shared_frame_psnr_db"] < LOW_SHARED_PSNR_DB
            note = "the transition does not end at the clip's first frame" if low else None
            result = Stitched(name, "ok", None, note, **facts)
            write_json(folder / record, {"kind": "stitched", "inputs": inputs, **asdict(result)})
    except NotStitched as error:
        return Stitched(name, "quarantined", error.reason, error.detail)
    return result


def _known(record: Location, inputs: dict[str, Any]) -> Stitched | None:
    """Return the result of an earlier call with the same inputs."""
    if not record.is_file():
        return None
    try:
        content = json.loads(record.read_text())
        same = content.pop("inputs") == inputs and content.pop("kind") == "stitched"
        return Stitched(**content) if same else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _videos(folder: Location) -> dict[str, Location]:
    """Return stem → video.

    Raises:
        SteadyDancerError: there are none, or two of one name.
    """
    videos: dict[str, Location] = {}
    for file in sorted(files_in(folder), key=lambda one: one.name):
        if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith("."):
            if file.stem in videos:
                raise SteadyDancerError(
                    f"{folder}: {videos[file.stem].name} and {file.name} are both called {file.stem}"
                )
            videos[file.stem] = file
    if not videos:
        raise SteadyDancerError(f"{folder} contains no videos: expected ID.mp4")
    return videos


def _measured(path: Path) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Return times, frames per second and (height, width); the rate of a single frame is infinite."""
    try:
        info, times_s = probe(path), frame_times_s(path)
    except VideoError as error:
        raise NotStitched(error.reason, f"{path.name}: {error.detail}") from error
    span_s = float(times_s[-1])
    return times_s, (len(times_s) - 1) / span_s if span_s else np.inf, (info.height, info.width)


def _nominal(fps: float) -> float:
    """Return the whole rate that a container's rounded times stand for, else the rate itself."""
    return float(round(fps)) if abs(fps - round(fps)) < SAME_FPS * fps / 2 and abs(fps - round(fps)) < 0.02 else fps


def _frames(parts: list[tuple[Path, np.ndarray]]) -> Iterator[Frames]:
    for path, times_s in parts:
        for start in range(0, len(times_s), _AT_A_TIME):
            yield decode(path, times_s[start : start + _AT_A_TIME])
