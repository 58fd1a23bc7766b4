"""Identity and background on real clips: does a planted fault show, and does a clean clip stay clean?

Reads a few frames of each video in a folder, and prints JSON lines:

- faces: AUC of the similarity of two faces of one clip over that of two clips, and the medians of the distances;
- crops, frames: the same for EfficientNet-Lite0 on crops of people, and on whole frames (which clip is it?);
- swapped halfway: the second half of a clip is another clip's; AUC of the last quarter and of the slope, swapped
  against clean, by faces and by crops;
- background: how far the camera goes, and the drift of the clip itself and of a clip whose background fades by 10 %.

Clips without a face, with the faces of several people, or with a face in fewer than half of the frames are excluded
from the faces' numbers and named. Each file counts as a person of its own: leave out copies with --skip.

The clips are supplied by the user; none are part of the project.
"""

import argparse
import json
import time
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steadydancer.datasets.video import VideoError, decode, probe
from steadydancer.models.metrics.background import measure_background
from steadydancer.models.metrics.identity import IdentityJudge, cosine_similarity, identity
from steadydancer.models.metrics.judges.efficientnet import EfficientNetLite0
from steadydancer.models.metrics.judges.face import Faces
from steadydancer.models.metrics.judges.person_crops import PersonCrops
from steadydancer.models.metrics.judges.person_mask import PersonMask
from steadydancer.models.weights import lookup

CAMERA_FPS, SMALL_SIDE = 8.0, 480
FADE = 0.1


class Judges(NamedTuple):
    faces: Faces
    network: EfficientNetLite0
    masks: PersonMask
    crops: PersonCrops


class Clip(NamedTuple):
    """Embeddings of a clip, and why its faces do not count."""

    name: str
    fps: float
    faces: np.ndarray
    crops: np.ndarray
    frames: np.ndarray
    excluded: str | None


def auc(higher: np.ndarray, lower: np.ndarray) -> float | None:
    """Return the share of pairs in which `higher` is above `lower`, ties half."""
    if not len(higher) or not len(lower):
        return None
    differences = higher[:, None] - lower
    return round(float((differences > 0).mean() + (differences == 0).mean() / 2), 4)


def load_judges() -> Judges | str:
    """Load the judges; return what is missing if one is not on this machine."""
    folders = {}
    for name in ("dlib-face", "efficientnet-lite0", "selfie-segmentation"):
        row = lookup.weight(name)
        folder = lookup.find(row)
        if folder is None:
            return f"{name} is not in {row.search_locations}: {row.remedy}"
        folders[name] = folder
    network, masks = EfficientNetLite0(folders["efficientnet-lite0"]), PersonMask(folders["selfie-segmentation"])
    return Judges(Faces(folders["dlib-face"]), network, masks, PersonCrops(network, masks))


def read_clip(path: Path, judges: Judges, num_frames: int, seconds: float) -> Clip:
    """Embed frames spread over the first seconds of a clip."""
    times_s = np.linspace(0, min(seconds, probe(path).duration_s) * 0.97, num_frames)
    frames = decode(path, times_s)
    faces = judges.faces.embed(frames)
    excluded = None
    if np.isnan(faces).any(axis=1).mean() > 0.5:
        excluded = f"a face in {int((~np.isnan(faces).any(axis=1)).sum())} of {num_frames} frames"
    elif np.mean([len(judges.faces.candidates(frame)) > 1 for frame in frames[::4]]) >= 0.5:
        excluded = "faces of several people"
    fps = (num_frames - 1) / times_s[-1]
    return Clip(path.name, fps, faces, judges.crops.embed(frames), judges.network.features(frames), excluded)


def pairs(judge: Any, embedded: list[np.ndarray]) -> dict[str, Any]:
    """Compare frames of one clip with each other, and with those of other clips."""
    found = [one[~np.isnan(one).any(axis=1)] for one in embedded]
    same = [judge(one, one)[np.triu_indices(len(one), 1)] for one in found]
    other = [judge(one, two).ravel() for one, two in combinations(found, 2)]
    if not same or not other:
        return {"clips": len(found), "auc": None}
    alike, unlike = np.concatenate(same), np.concatenate(other)
    medians = {"median_same": round(float(np.median(alike)), 3), "median_other": round(float(np.median(unlike)), 3)}
    return {"clips": len(found), "pairs": len(alike) + len(unlike), "auc": auc(alike, unlike), **medians}


def swapped_halfway(judge: IdentityJudge, clips: list[tuple[float, np.ndarray]]) -> dict[str, Any]:
    """Compare clean clips with those whose second half is another's; the reference is the first frame with a person."""
    clean, swapped = [], []
    for (index, (fps, one)), (other, (_, two)) in product(enumerate(clips), repeat=2):
        half = len(one) // 2
        joined = one if index == other else np.concatenate([one[:half], two[half:]])
        seen = np.flatnonzero(~np.isnan(one).any(axis=1))
        scores = identity(judge, joined, one[seen[0]], fps).over_time
        (clean if index == other else swapped).append((scores.last_quarter, scores.slope_per_s))
    values = [np.array(rows, float).reshape(-1, 2) for rows in (clean, swapped)]
    statistics = {}
    for column, name in enumerate(("last_quarter", "slope_per_s")):
        clean_values, swapped_values = (rows[~np.isnan(rows[:, column]), column] for rows in values)
        statistics[name] = {
            "auc": auc(clean_values, swapped_values),
            "worst_clean": round(float(clean_values.min()), 3) if len(clean_values) else None,
            "best_swapped": round(float(swapped_values.max()), 3) if len(swapped_values) else None,
        }
    return {"clean": len(clean), "swapped": len(swapped), **statistics}


def background(path: Path, masks: PersonMask, seconds: float) -> dict[str, Any]:
    """Measure the background of a clip against itself, and of a copy that fades."""
    info = probe(path)
    scale = min(1.0, SMALL_SIDE / max(info.height, info.width))
    times_s = np.arange(0, min(seconds, info.duration_s), 1 / CAMERA_FPS)
    frames = decode(path, times_s, round(info.height * scale), round(info.width * scale))
    people = masks.masks(frames)
    own = measure_background(frames, people, frames, people, CAMERA_FPS)
    fade = 1 - np.linspace(0, FADE, len(frames))[:, None, None, None]
    faded = np.where(people[..., None], frames, (frames * fade).round()).astype(np.uint8)
    fault = measure_background(faded, people, frames, people, CAMERA_FPS)
    numbers = {"camera_travel": own.camera_travel, "drift": own.mean, "driving": own.driving, "faded": fault.mean}
    return {**{k: None if np.isnan(v) else round(float(v), 4) for k, v in numbers.items()}, "reason": own.reason}


def main() -> None:
    """Read, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[2] / "shared" / "corpus"
    parser.add_argument("--clips", type=Path, default=here / "clips")
    parser.add_argument("--skip", nargs="*", default=["d_*", "*_noisy.*"], help="patterns of files to leave out")
    parser.add_argument("--num-frames", type=int, default=12, help="read of each clip")
    parser.add_argument("--seconds", type=float, default=5.0, help="from each clip's start")
    options = parser.parse_args()
    judges = load_judges() if options.clips.is_dir() else f"{options.clips} does not exist; give --clips"
    if isinstance(judges, str):
        print(json.dumps({"skipped": judges}))
        return
    start, clips = time.process_time(), []
    for path in sorted(options.clips.iterdir()):
        if any(path.match(pattern) for pattern in options.skip):
            continue
        try:
            clips.append(read_clip(path, judges, options.num_frames, options.seconds))
        except VideoError as error:
            print(json.dumps({"unreadable": path.name, "detail": str(error)}))
    for clip in clips:
        if clip.excluded:
            print(json.dumps({"excluded": clip.name, "reason": clip.excluded}))
    with_face = [clip for clip in clips if clip.excluded is None]
    by_face = [(clip.fps, clip.faces) for clip in with_face]
    by_crop = [(clip.fps, clip.crops) for clip in with_face]
    lines: list[dict[str, Any]] = [
        {"faces": [clip.name for clip in with_face]},
        {"faces": judges.faces.name, **pairs(judges.faces.similarity, [clip.faces for clip in with_face])},
        {"crops": judges.crops.name, **pairs(judges.crops.similarity, [clip.crops for clip in with_face])},
        {"frames": judges.network.name, **pairs(cosine_similarity, [clip.frames for clip in with_face])},
        {"frames": "of all clips", **pairs(cosine_similarity, [clip.frames for clip in clips])},
        {"swapped_halfway": judges.faces.name, **swapped_halfway(judges.faces, by_face)},
        {"swapped_halfway": judges.crops.name, **swapped_halfway(judges.crops, by_crop)},
        *(
            {"background": clip.name, **background(options.clips / clip.name, judges.masks, options.seconds)}
            for clip in with_face
        ),
        {"cpu_s": round(time.process_time() - start, 1)},
    ]
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
