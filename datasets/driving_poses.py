"""Align the people of a driving video to a reference image.

The alignment measures the main person: the position of the neck and the lengths of `PARTS`. It measures both in the
first frame that shows all of them, and copies the pose of that frame to the frames before it, because the network
compares all poses with frame 0 (Eq. 4). Parts that the video does not show are not required: no legs of a dancer filmed
down to the hips, no face of one filmed from behind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np

from .. import SteadyDancerError
from .skeleton import PARTS, PoseSequence, in_heights, lengths, place_people, with_hands
from .video import decode, probe

POSE_SIDE_PX = 768  # longer side: larger frames are scaled down before pose estimation
MIN_FRAMES = 5  # if the driving video determines the number of frames
NECK = 1
MIN_LENGTH = 1e-3  # picture heights, half a pixel of 512: shorter parts give no scale
MIN_SEEN_SHARE = 0.5  # of the frames that show the person: a part seen in fewer does not count as part of the video

SIDES = [(part, side) for part, sides in PARTS.items() for side in sides]
IN_FACE = np.array([part.startswith("face") for part, _ in SIDES])


class NoStartError(SteadyDancerError, ValueError):
    """No frame shows enough of a person for the alignment; the message states what is missing."""


@dataclass(frozen=True)
class DrivingPoses:
    """Poses that drive a render.

    Attributes:
        people: poses, the main person first.
        start_frame: the frame that the alignment measures; the frames before it repeat the main person's pose of it.
            None if no frame shows enough of a person, in which case there was no alignment.
        aligned: whether the poses have the limb lengths and the position of a reference.
        guessed: parts that the driving video shows and the reference does not; their lengths in the reference are the
            estimator's guesses.
    """

    people: list[PoseSequence]
    start_frame: int | None
    aligned: bool
    guessed: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Return the fields for the record of a render."""
        return {
            "num_people": len(self.people),
            "aligned": self.aligned,
            "pose_start_frame": self.start_frame,
            "supposed_lengths": list(self.guessed),
        }

    def notes(self) -> list[str]:
        """Describe deviations from the driving video that a viewer of the render may not expect."""
        notes = []
        if not self.aligned:
            notes.append("no pose found in the image: the driving pose is used without alignment")
        if self.start_frame:
            where = "the last frame" if self.start_frame == len(self.people[0]) - 1 else f"frame {self.start_frame}"
            notes.append(
                f"the driving video does not fully show the person before {where}: earlier frames copy the pose "
                "of that frame"
            )
        return notes


def driving_times_s(native_s: np.ndarray, num_frames: int | None, fps: float | None = None) -> np.ndarray:
    """Select the times of the frames that drive a render, from the times [n] of a video's frames.

    Takes every frame, or samples at `fps`; at most `num_frames`, or else the largest number of the form 4k + 1.
    """
    times_s = native_s if fps is None else np.arange(0, native_s[-1] + 1e-6, 1 / fps)
    return times_s[: num_frames or max(MIN_FRAMES, (len(times_s) - 1) // 4 * 4 + 1)]


def decode_driving(path: str | PathLike[str], times_s: np.ndarray) -> np.ndarray:
    """Decode frames of a driving video for pose estimation: uint8 [F, H, W, 3], sides of at most `POSE_SIDE_PX`."""
    info = probe(path)
    scale = min(1.0, POSE_SIDE_PX / max(info.height, info.width))
    height, width = (round(side * scale / 2) * 2 for side in (info.height, info.width))
    return decode(path, times_s, height, width)


def driving_poses(
    people: list[PoseSequence],
    reference: PoseSequence | None,
    driving_aspect: float,
    reference_aspect: float,
    main_person_only: bool = False,
) -> DrivingPoses:
    """Align the motion of `people` to the limb lengths and position of `reference`.

    The main person is the first one who is sufficiently visible in some frame. The others get the same alignment and
    may appear earlier or later. If frame 0 shows everything, this equals `align_people_to_reference`.

    Args:
        people: F frames each, most important person first.
        reference: the person of the image; only frame 0 is used. Without one, or if its neck is not visible, poses are
            not aligned.
        driving_aspect: width / height of the driving video.
        reference_aspect: width / height of the image.
        main_person_only: whether to drop all other people.

    Raises:
        NoStartError: there is a reference, but no frame shows a person's neck and a part to measure.
    """
    people = [_without_nan(person) for person in people]
    starts = [start_frame(person, driving_aspect) for person in people]
    lead = next((index for index, start in enumerate(starts) if start is not None), 0)
    people = [people[lead], *people[:lead], *people[lead + 1 :]][: 1 if main_person_only else None]
    start = starts[lead]
    factors = None if reference is None else _reference_lengths(_without_nan(reference), reference_aspect)
    if start is None:
        if factors is not None:
            raise NoStartError(
                f"none of its {len(people[0])} frames shows a neck and a limb, which alignment requires: choose a "
                "video that shows one person in full, or use more of its frames"
            )
        return DrivingPoses(people, None, False)
    extended = [people[0][np.maximum(np.arange(len(people[0])), start)], *people[1:]]
    if reference is None or factors is None:
        return DrivingPoses(extended, start, False)
    neck, in_reference = factors
    scale = _scales(in_reference, _measured(people[0], driving_aspect, start))
    shift = neck - in_heights(people[0][start : start + 1], driving_aspect)[0][0, NECK]
    aligned = place_people(extended, scale, shift, driving_aspect, reference_aspect)
    return DrivingPoses(aligned, start, True, _guessed(people, reference))


def start_frame(pose: PoseSequence, aspect: float) -> int | None:
    """Find the first frame that shows everything the alignment measures; None if no frame shows the person.

    It needs the neck and each side of `PARTS` that is visible in at least half of the frames with the person. One side
    of the face is enough, because heads turn. If no frame shows all of these (for example one arm, later the other),
    the first frame that shows most of them is taken. A part of zero length counts as not visible.
    """
    seen = _seen(pose, aspect)
    is_present = pose.body_visible[:, NECK] & seen.any(axis=1)
    if not is_present.any():
        return None
    measured = np.concatenate([seen[:, ~IN_FACE], seen[:, IN_FACE].any(axis=1, keepdims=True)], axis=1)
    required = measured[is_present].mean(axis=0) >= MIN_SEEN_SHARE
    return int(np.where(is_present, measured[:, required].sum(axis=1), -1).argmax())


def _seen(pose: PoseSequence, aspect: float) -> np.ndarray:
    """Return [F, sides] bool: whether all joints of that side of a part are visible and it has a length."""
    joints = np.stack([pose.body_visible[:, list(side)].all(axis=1) for _, side in SIDES], axis=1)
    return np.asarray(joints & (_lengths(pose, aspect) > MIN_LENGTH))


def _lengths(pose: PoseSequence, aspect: float) -> np.ndarray:
    """Return lengths [F, sides] in picture heights."""
    body, _, _ = in_heights(pose, aspect)
    return np.concatenate([lengths(body, part) for part in PARTS], axis=1)


def _measured(pose: PoseSequence, aspect: float, start: int) -> np.ndarray:
    """Measure lengths [sides] in picture heights, each in its visible frame nearest to `start`; NaN if none."""
    seen, all_lengths = _seen(pose, aspect), _lengths(pose, aspect)
    away = np.abs(np.arange(len(pose)) - start)[:, None]
    nearest = np.where(seen, away, len(pose)).argmin(axis=0)
    return np.where(seen.any(axis=0), all_lengths[nearest, np.arange(len(SIDES))], np.nan)


def _reference_lengths(reference: PoseSequence, aspect: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Measure the neck [2] and the lengths [sides] of frame 0, in picture heights; None if alignment is impossible.

    A length that cannot be measured is NaN. An invisible joint counts at the estimator's guess, as in the release,
    unless that is (−1, −1), because there is only one frame.
    """
    body, _, _ = in_heights(reference[:1], aspect)
    found = _lengths(reference[:1], aspect)[0]
    nowhere = np.array([(reference.body[0, list(side)] == -1).all(axis=-1).any() for _, side in SIDES])
    found[nowhere | ~(found > MIN_LENGTH)] = np.nan
    if not reference.body_visible[0, NECK] or np.isnan(found).all():
        return None
    return body[0, NECK], found


def _scales(reference: np.ndarray, driving: np.ndarray) -> dict[str, float]:
    """Compute reference length / driving length of each part, averaged over the sides that are measured in both.

    A part without measured sides gets the median scale of the measured parts.
    """
    ratios = reference / driving
    known = [ratios[[part == name for part, _ in SIDES] & np.isfinite(ratios)] for name in PARTS]
    measured = {name: float(some.mean()) for name, some in zip(PARTS, known, strict=True) if len(some)}
    middle = float(np.median(list(measured.values()))) if measured else 1.0
    return with_hands({name: measured.get(name, middle) for name in PARTS})


def _guessed(people: list[PoseSequence], reference: PoseSequence) -> tuple[str, ...]:
    """List the parts that are visible in the driving video but not in the reference."""

    def visible_parts(pose: PoseSequence) -> set[str]:
        return {part for part, side in SIDES if pose.body_visible[:, list(side)].all(axis=1).any()}

    missing = set().union(*map(visible_parts, people)) - visible_parts(reference[:1])
    return tuple(part for part in PARTS if part in missing)


def _without_nan(pose: PoseSequence) -> PoseSequence:
    """Mark non-finite points as not visible."""
    known = np.isfinite(pose.body).all(axis=-1)
    return replace(
        pose,
        body=np.where(known[..., None], pose.body, -1.0),
        body_visible=pose.body_visible & known,
        hands=np.where(np.isfinite(pose.hands).all(axis=-1, keepdims=True), pose.hands, -1.0),
    )
