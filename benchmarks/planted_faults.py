"""Faults planted into real clips: do the pose metrics find them, and do they spare clean copies?

The first 81 frames at 16 per second of each video in a folder are the driving clip. Renders are made from its pictures,
coded with crf 23, and given to the pose estimator as any render is:

- clean: the clip itself; every fault is compared with it by AUC;
- frozen: frame 0 repeated: `velocity_correlation` is lower;
- late, early: by two frames: |`lag`| is larger, 0 where there is no lag; `exact` is the share of clips with ±2;
- mirrored: left and right exchanged: `mirror_correlation` − `velocity_correlation` is higher;
- jump: the first four frames are moved by half a torso to the side: `jump_excess` is higher.

A clip counts if it reaches a velocity correlation of .5 against its own copy with crf 18 (the ceiling of `evaluate`);
the others are named with the reason. Poses are kept in --cache: a second run takes seconds. Prints JSON lines,
of each clip and of each fault, and fails where an AUC is below 0.95.

The clips are supplied by the user; none are part of the project.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from steadydancer.datasets.arrays import Floats64, Frames
from steadydancer.datasets.video import VideoError, decode, probe
from steadydancer.models.metrics import pose_metrics, torso_length
from steadydancer.models.metrics.pose_motion import hides_start
from steadydancer.models.pose.estimator import PoseEstimator
from steadydancer.pipelines.common.poses import load_pose_estimator
from steadydancer.pipelines.evaluate.protocols import Codec
from steadydancer.pipelines.evaluate.video import through_codec

FPS, SIDE_PX, NUM_FRAMES, MIN_FRAMES = 16.0, 640, 81, 16
CEILING_CRF, RENDER_CRF = 18, 23
MIN_CEILING, REQUIRED_AUC = 0.5, 0.95
LAG = 2  # frames
JUMP_FRAMES, JUMP_TORSOS = 4, 0.5
FAULTS = {
    # fault → what is compared, and whether a fault raises it
    "frozen": ("velocity_correlation", False),
    "late": ("lag", True),
    "early": ("lag", True),
    "mirrored": ("mirrored", True),
    "jump": ("jump_excess", True),
}
RENDERS = ("clean", *FAULTS)


class Track(NamedTuple):
    """The main person: body [F, 18, 2] in pixels and where it is visible [F, 18]."""

    body: Floats64
    visible: np.ndarray


class Clip(NamedTuple):
    """Tracks of the driving clip, its coded copy (`ceiling`) and, if that can be measured, the renders; and size."""

    tracks: dict[str, Track]
    height: int
    width: int


def read(path: Path) -> Frames:
    """Read the frames that count, at most 640 pixels high or wide."""
    info = probe(path)
    scale = min(1.0, SIDE_PX / max(info.height, info.width))
    times_s = np.arange(NUM_FRAMES) / FPS
    times_s = times_s[times_s < info.duration_s]
    return decode(path, times_s, *(round(side * scale / 2) * 2 for side in (info.height, info.width)))


def plant(fault: str, frames: Frames, driven: Track) -> Frames:
    """Return the frames with a fault."""
    index = np.arange(len(frames))
    if fault == "frozen":
        return frames[0 * index]
    if fault == "late":
        return frames[np.maximum(index - LAG, 0)]
    if fault == "early":
        return frames[np.minimum(index + LAG, len(frames) - 1)]
    if fault == "mirrored":
        return np.ascontiguousarray(frames[:, :, ::-1])
    if fault == "jump":
        return jumping(frames, driven)
    return frames


def jumping(frames: Frames, driven: Track) -> Frames:
    """Move the first frames to the side, towards the middle; without a torso by a tenth of the width."""
    height, width = frames.shape[1:3]
    torso_px, _ = torso_length(driven.body, driven.visible)
    shift = width / 10 if np.isnan(torso_px) else JUMP_TORSOS * torso_px
    seen = driven.body[:JUMP_FRAMES][driven.visible[:JUMP_FRAMES]]
    towards = -1 if len(seen) and seen[:, 0].mean() > width / 2 else 1
    move = np.array([[1, 0, towards * shift], [0, 1, 0]], np.float64)
    out = frames.copy()
    for frame in out[:JUMP_FRAMES]:
        frame[:] = cv2.warpAffine(frame.copy(), move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return out


def estimate(estimator: PoseEstimator, frames: Frames) -> Track:
    """Find the main person; if none is found, return one without a visible joint."""
    tracks = estimator.estimate(frames)
    if not tracks:
        return Track(np.zeros((len(frames), 18, 2)), np.zeros((len(frames), 18), bool))
    pose = tracks[0].pose
    return Track(pose.body * np.array([frames.shape[2], frames.shape[1]], np.float64), pose.body_visible)


class Poses:
    """Tracks of a file's pictures, each kept in a file of its own, so that a killed run continues.

    Args:
        path: the video.
        estimator: finds the tracks.
        cache: folder of the tracks.
    """

    def __init__(self, path: Path, estimator: PoseEstimator, cache: Path) -> None:
        settings = [estimator.name, FPS, SIDE_PX, NUM_FRAMES, CEILING_CRF, RENDER_CRF, LAG, JUMP_FRAMES, JUMP_TORSOS]
        digest = hashlib.sha256(path.read_bytes() + json.dumps(settings).encode()).hexdigest()[:16]
        self.path, self._estimator, self._folder = path, estimator, cache / f"{path.stem}-{digest}"
        self._frames: Frames | None = None

    def frames(self) -> Frames:
        """Return the frames that count."""
        if self._frames is None:
            self._frames = read(self.path)
        return self._frames

    def track(self, name: str, make: Callable[[Frames], Frames]) -> tuple[Track, tuple[int, int]]:
        """Return a track in the pictures that `make` makes of the frames, and the pictures' height and width."""
        file = self._folder / f"{name}.npz"
        if not file.is_file():
            track, size = estimate(self._estimator, make(self.frames())), self.frames().shape[1:3]
            self._folder.mkdir(parents=True, exist_ok=True)
            np.savez(file.with_name(f"{name}.part.npz"), size=size, **track._asdict())
            file.with_name(f"{name}.part.npz").replace(file)
        with np.load(file) as stored:
            height, width = map(int, stored["size"])
            return Track(stored["body"], stored["visible"]), (height, width)


def clip_of(poses: Poses) -> Clip | str:
    """Return the tracks of a clip, those of renders only if its motion can be measured; or why there are none."""
    try:
        driven, size = poses.track("driven", lambda frames: frames)
    except VideoError as error:
        return f"unreadable: {error}"
    if len(driven.body) < MIN_FRAMES:
        return f"{len(driven.body)} frames at {FPS:g} per second, {MIN_FRAMES} are needed"
    ceiling, _ = poses.track("ceiling", lambda frames: through_codec(frames, FPS, Codec(crf=CEILING_CRF)))
    clip, codec = Clip({"driven": driven, "ceiling": ceiling}, *size), Codec(crf=RENDER_CRF)
    for fault in RENDERS if is_measurable(clip) else ():
        clip.tracks[fault], _ = poses.track(
            fault, lambda frames, fault=fault: through_codec(plant(fault, frames, driven), FPS, codec)
        )
    return clip


def is_measurable(clip: Clip) -> bool:
    """Return whether the estimator sees the clip's motion."""
    return compare(clip, "ceiling")["velocity_correlation"] >= MIN_CEILING


def compare(clip: Clip, render: str) -> dict[str, float]:
    """Return the values by which faults are found: NaN where not measured, but |lag| is then 0."""
    values = pose_metrics(*clip.tracks["driven"], *clip.tracks[render], clip.width, clip.height)
    return {
        "velocity_correlation": values["velocity_correlation"],
        "lag": abs(float(np.nan_to_num(values["lag"]))),
        "signed_lag": values["lag"],
        "mirrored": values["mirror_correlation"] - values["velocity_correlation"],
        "jump_excess": np.nan if hides_start(values) else values["jump_excess"],  # as in `evaluate`
        "motion_ratio": values["motion_ratio"],
    }


def auc(higher: Floats64, lower: Floats64) -> float | None:
    """Return the share of pairs in which `higher` is above `lower`, ties half."""
    if not len(higher) or not len(lower):
        return None
    differences = higher[:, None] - lower
    return round(float((differences > 0).mean() + (differences == 0).mean() / 2), 4)


def found(fault: str, clips: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Compare a fault with the clean renders, over the clips that measure both."""
    name, raises = FAULTS[fault]
    pairs = {key: (values["clean"][name], values[fault][name]) for key, values in clips.items()}
    measured = np.array([pair for pair in pairs.values() if not np.isnan(pair).any()], np.float64).reshape(-1, 2)
    clean, faulty = measured.T
    worst, nearest = (np.max, np.min) if raises else (np.min, np.max)
    line = {"fault": fault, "by": name, "clips": len(measured),
            "auc": auc(faulty, clean) if raises else auc(clean, faulty),
            "worst_clean": rounded(worst(clean)) if len(clean) else None,
            "nearest_fault": rounded(nearest(faulty)) if len(faulty) else None,
            "not_measured": [key for key, pair in pairs.items() if np.isnan(pair).any()]}  # fmt: skip
    if name == "lag":
        expected = LAG if fault == "late" else -LAG
        line["exact"] = rounded(np.mean([values[fault]["signed_lag"] == expected for values in clips.values()]))
    return line


def rounded(value: Any) -> float | None:
    """Return a number for JSON; NaN is null."""
    return None if np.isnan(value) else round(float(value), 3)


def main() -> None:
    """Read, plant, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--clips", type=Path, default=root.parent / "shared" / "corpus" / "clips")
    parser.add_argument("--skip", nargs="*", default=["d_*", "*_noisy.*"], help="patterns of files to leave out")
    parser.add_argument("--cache", type=Path, default=root / "build" / "planted_faults", help="folder of the poses")
    parser.add_argument("--pose-model", default="auto", help="name of the estimator")
    options = parser.parse_args()
    estimator = load_pose_estimator(options.pose_model) if options.clips.is_dir() else None
    if estimator is None:
        why = "no pose estimator is here" if options.clips.is_dir() else f"{options.clips} does not exist; give --clips"
        print(json.dumps({"skipped": why}))
        return
    start, clips, excluded = time.process_time(), {}, {}
    for path in sorted(options.clips.iterdir()):
        if any(path.match(pattern) for pattern in options.skip):
            continue
        clip = clip_of(Poses(path, estimator, options.cache))
        if isinstance(clip, str):
            excluded[path.name] = clip
            continue
        ceiling = compare(clip, "ceiling")["velocity_correlation"]
        if not is_measurable(clip):
            seen = "no joint is found" if np.isnan(ceiling) else f"velocity correlation {ceiling:.2f}"
            excluded[path.name] = f"against its own copy: {seen}"
            continue
        clips[path.name] = {render: compare(clip, render) for render in RENDERS}
        values = {
            render: {name: rounded(value) for name, value in one.items()} for render, one in clips[path.name].items()
        }
        print(json.dumps({"clip": path.name, "ceiling": rounded(ceiling), **values}), flush=True)
    for name, reason in excluded.items():
        print(json.dumps({"excluded": name, "reason": reason}))
    lines = [found(fault, clips) for fault in FAULTS]
    for line in lines:
        print(json.dumps(line))
    print(json.dumps({"estimator": estimator.name, "clips": len(clips), "excluded": len(excluded),
                      "cpu_s": round(time.process_time() - start, 1)}))  # fmt: skip
    failed = [line["fault"] for line in lines if line["auc"] is None or line["auc"] < REQUIRED_AUC]
    if failed:
        sys.exit(f"an AUC is below {REQUIRED_AUC}: {failed}")


if __name__ == "__main__":
    main()
