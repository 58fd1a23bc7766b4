"""From the people of a driving video to poses aligned to an image: who leads, from which frame on, measured where.

The alignment measures the main person: the place of the neck, and the lengths of `PARTS`. It takes both in the first
frame in which all of that is seen, and the pose of that frame stands in the frames before it, for frame 0 is what the
network compares all poses with (Eq. 4). A video need not show everything: of a dancer filmed to the hips no legs are
asked, of one who is filmed from behind no face.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np

from .. import SteadyDancerError
from .skeleton import PARTS, PoseSequence, in_heights, lengths, place_people, with_hands
from .video import decode, probe

POSE_SIDE_PX = 768  # of the longer side: larger frames are scaled down before an estimator looks at them
MIN_FRAMES = 5  # where a driving video says how many
NECK = 1
MIN_LENGTH = 1e-3  # picture heights, half a pixel of 512: what is shorter has no length to be scaled by
ORDINARY_SHARE = 0.5  # of the frames in which the person is seen: a limb seen in fewer is none that the video shows

SIDES = [(part, side) for part, sides in PARTS.items() for side in sides]
IN_FACE = np.array([part.startswith("face") for part, _ in SIDES])


class NoStartError(SteadyDancerError, ValueError):
    """In no frame is enough of a person seen to align by; the message says what is missing."""


@dataclass(frozen=True)
class DrivingPoses:
    """Poses that drive a render.

    Attributes:
        people: who moves, the main person first.
        start_frame: the frame that the alignment is measured in; the frames before it hold its pose of the main person.
            None where nobody was aligned and in no frame enough of a person is seen.
        aligned: whether they have the limb lengths and the place of a reference.
        guessed: parts that the driving video shows and the reference does not: their lengths in the reference are
            where the estimator supposes them.
    """

    people: list[PoseSequence]
    start_frame: int | None
    aligned: bool
    guessed: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """For the record of a render: how the driving video was followed."""
        return {
            "num_people": len(self.people),
            "aligned": self.aligned,
            "pose_start_frame": self.start_frame,
            "supposed_lengths": list(self.guessed),
        }

    def notes(self) -> list[str]:
        """What is not as somebody who looks at the render would suppose, in words."""
        notes = []
        if not self.aligned:
            notes.append("no pose found in the image: the driving pose is used as it is")
        if self.start_frame:
            where = "the last frame" if self.start_frame == len(self.people[0]) - 1 else f"frame {self.start_frame}"
            notes.append(
                f"the person of the driving video is not seen whole before {where}: the frames before it hold that pose"
            )
        return notes


def driving_times_s(native_s: np.ndarray, num_frames: int | None, fps: float | None = None) -> np.ndarray:
    """When the frames that drive a render are shown, of the times [n] of a video's frames.

    Each of its frames, or at `fps` those shown then; at most `num_frames`, or as many as make 4k + 1.
    """
    times_s = native_s if fps is None else np.arange(0, native_s[-1] + 1e-6, 1 / fps)
    return times_s[: num_frames or max(MIN_FRAMES, (len(times_s) - 1) // 4 * 4 + 1)]


def decode_driving(path: str | PathLike[str], times_s: np.ndarray) -> np.ndarray:
    """Frames of a driving video as pose estimators see them: uint8 [F, H, W, 3], at most `POSE_SIDE_PX` a side."""
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
    """The motion of `people` with the main person's limb lengths and place taken from `reference`.

    The main person is the first one of whom enough is seen in some frame; the others follow the same alignment and
    may come later, or be there earlier. Where all is seen in frame 0, this is `align_people_to_reference`.

    Args:
        people: F frames of each, in the order of how much they matter.
        reference: the person of the image (frame 0 counts). None, or one whose neck is not seen: nobody is aligned.
        driving_aspect: width / height of the driving video.
        reference_aspect: the same of the image.
        main_person_only: leave the others out.

    Raises:
        NoStartError: there is a reference, and in no frame is the neck of anybody seen, and a length to measure.
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
                f"in none of its {len(people[0])} frames are a neck and a limb seen, which the alignment measures: "
                "choose one with one person in full view, or more of its frames"
            )
        return DrivingPoses(people, None, False)
    held = [people[0][np.maximum(np.arange(len(people[0])), start)], *people[1:]]
    if reference is None or factors is None:
        return DrivingPoses(held, start, False)
    neck, in_reference = factors
    scale = _scales(in_reference, _measured(people[0], driving_aspect, start))
    shift = neck - in_heights(people[0][start : start + 1], driving_aspect)[0][0, NECK]
    aligned = place_people(held, scale, shift, driving_aspect, reference_aspect)
    return DrivingPoses(aligned, start, True, _guessed(people, reference))


def start_frame(pose: PoseSequence, aspect: float) -> int | None:
    """The first frame in which all is seen of a person that the alignment measures; None: there is no such frame.

    That is the neck, and each side of `PARTS` that the video shows: that is seen in half of the frames in which the
    person is. One side of the face is enough: heads turn. Where these are never seen at once (one arm is, then the
    other), it is the first frame that shows most of them. A length of nothing is not seen.
    """
    seen = _seen(pose, aspect)
    there = pose.body_visible[:, NECK] & seen.any(axis=1)
    if not there.any():
        return None
    asked = np.concatenate([seen[:, ~IN_FACE], seen[:, IN_FACE].any(axis=1, keepdims=True)], axis=1)
    shown = asked[there].mean(axis=0) >= ORDINARY_SHARE
    return int(np.where(there, asked[:, shown].sum(axis=1), -1).argmax())


def _seen(pose: PoseSequence, aspect: float) -> np.ndarray:
    """[F, sides]: whether all joints of a side of a body part are seen, and it has a length."""
    joints = np.stack([pose.body_visible[:, list(side)].all(axis=1) for _, side in SIDES], axis=1)
    return np.asarray(joints & (_lengths(pose, aspect) > MIN_LENGTH))


def _lengths(pose: PoseSequence, aspect: float) -> np.ndarray:
    """[F, sides] in picture heights."""
    body, _, _ = in_heights(pose, aspect)
    return np.concatenate([lengths(body, part) for part in PARTS], axis=1)


def _measured(pose: PoseSequence, aspect: float, start: int) -> np.ndarray:
    """[sides] in picture heights: each where it is seen next to the start; NaN where it never is."""
    seen, all_lengths = _seen(pose, aspect), _lengths(pose, aspect)
    away = np.abs(np.arange(len(pose)) - start)[:, None]
    nearest = np.where(seen, away, len(pose)).argmin(axis=0)
    return np.where(seen.any(axis=0), all_lengths[nearest, np.arange(len(SIDES))], np.nan)


def _reference_lengths(reference: PoseSequence, aspect: float) -> tuple[np.ndarray, np.ndarray] | None:
    """(the neck [2], [sides]) of frame 0 in picture heights; NaN: no length. None: nothing to align to.

    There is one frame only, so a joint that is not seen counts where the estimator supposes it, as in the release,
    unless that is nowhere (−1).
    """
    body, _, _ = in_heights(reference[:1], aspect)
    found = _lengths(reference[:1], aspect)[0]
    nowhere = np.array([(reference.body[0, list(side)] == -1).all(axis=-1).any() for _, side in SIDES])
    found[nowhere | ~(found > MIN_LENGTH)] = np.nan
    if not reference.body_visible[0, NECK] or np.isnan(found).all():
        return None
    return body[0, NECK], found


def _scales(reference: np.ndarray, driving: np.ndarray) -> dict[str, float]:
    """Reference length / driving length of each part, the mean of its sides that are measured in both.

    A part that is not measured takes the median of those that are: nothing else is known of it.
    """
    ratios = reference / driving
    known = [ratios[[part == name for part, _ in SIDES] & np.isfinite(ratios)] for name in PARTS]
    measured = {name: float(some.mean()) for name, some in zip(PARTS, known, strict=True) if len(some)}
    middle = float(np.median(list(measured.values()))) if measured else 1.0
    return with_hands({name: measured.get(name, middle) for name in PARTS})


def _guessed(people: list[PoseSequence], reference: PoseSequence) -> tuple[str, ...]:
    """Parts that somebody shows in some frame and the reference does not."""

    def shown(pose: PoseSequence) -> set[str]:
        return {part for part, side in SIDES if pose.body_visible[:, list(side)].all(axis=1).any()}

    missing = set().union(*map(shown, people)) - shown(reference[:1])
    return tuple(part for part in PARTS if part in missing)


def _without_nan(pose: PoseSequence) -> PoseSequence:
    """Points that are no numbers are not seen."""
    known = np.isfinite(pose.body).all(axis=-1)
    return replace(
        pose,
        body=np.where(known[..., None], pose.body, -1.0),
        body_visible=pose.body_visible & known,
        hands=np.where(np.isfinite(pose.hands).all(axis=-1, keepdims=True), pose.hands, -1.0),
    )
