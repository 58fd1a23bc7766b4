"""Make pairs to render from curated clips: a first frame, driven by the same clip (with ground truth) or another."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np

from ... import SteadyDancerError
from ...datasets.clips import Clips
from ...datasets.local_copies import local_copy
from ...datasets.schema import Row
from ...datasets.sidecars import KEYPOINTS, sidecar
from ...datasets.skeleton import PoseSequence
from ...datasets.supplied_poses import save_supplied_pose
from ...datasets.video import decode, encode, size_for_area
from ...pipelines.common.older_rules import require_same_pictures, uses_older_pictures
from ...pipelines.runtime.local_files import reading_video, require_unchanged
from ...pipelines.runtime.stage import BadClip

MAX_AREA_PX = 384 * 384

_log = logging.getLogger(__name__)


def pairs_of_clips(out: Path, num_pairs: int) -> Path:
    """Write images, driving clips with keypoints, ground truths and `pairs.jsonl` to `out/pairs`; return the last path.

    Clips are driven alternately by themselves and by the next clip. A clip driven by itself is its own ground truth.
    """
    folder, clips = out / "pairs", Clips(out)
    record = clips.record
    rows = [row for row in clips.read().to_pylist() if row["verdict"] == "ok"]
    num_pairs = min(num_pairs, len(rows))
    wanted = [rows[i * len(rows) // num_pairs] for i in range(num_pairs)]
    poses = clips.poses(wanted)
    written: dict[str, Path] = {}
    for row in wanted:
        try:
            if uses_older_pictures(record):
                require_same_pictures(row, record["config"], None)
            written[row["clip_id"]] = _write_clip({**row, "pose": poses[row["clip_id"]]}, folder / "clips", record)
        except BadClip as bad:
            _log.warning("skipping clip %s of %s for pairs: %s", row["clip_id"], row["source_path"], bad)
    chosen = [row for row in wanted if row["clip_id"] in written]
    if not chosen:
        raise SteadyDancerError(
            f"cannot make pairs: the sources of all {len(wanted)} chosen clips of {clips.artifact.path} are missing or "
            "have changed since curation; restore the files or curate again"
        )
    pairs = []
    for i, row in enumerate(chosen):
        driver = row if i % 2 == 0 else chosen[(i + 1) % len(chosen)]
        image, driving = written[row["clip_id"]], written[driver["clip_id"]]
        name = f"{row['clip_id']}-{driver['clip_id']}"
        if driver is row:
            truth = folder / "truth" / f"{name}.mp4"
            truth.parent.mkdir(parents=True, exist_ok=True)
            truth.write_bytes(driving.read_bytes())
        pairs.append({"id": name, "image": str(image.with_suffix(".png").relative_to(folder)),
                      "driving": str(driving.relative_to(folder)), "prompt": row["prompt"] or ""})  # fmt: skip
    manifest = folder / "pairs.jsonl"
    manifest.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return manifest


def _write_clip(row: Row, folder: Path, record: Row) -> Path:
    """Write a clip as mp4 and its first frame as png, each with its keypoints in a sidecar; return the video's path.

    Raises:
        BadClip: the source cannot be read, or has changed since curation.
    """
    fps = record["config"]["fps"]
    video = folder / f"{row['clip_id']}.mp4"
    image = video.with_suffix(".png")
    if not all(sidecar(file, KEYPOINTS) and file.is_file() for file in (video, image)):
        folder.mkdir(parents=True, exist_ok=True)
        height, width = size_for_area(row["height"], row["width"], MAX_AREA_PX)
        times_s = row["start_s"] + np.arange(row["num_frames"]) / fps
        with local_copy(row["source_path"]) as source, require_unchanged(source, row["source_id"]), reading_video():
            frames = decode(source, times_s, height, width)
        pose = PoseSequence.from_bytes(row["pose"])
        cv2.imwrite(str(image), frames[0, ..., ::-1])
        save_supplied_pose(image, [pose[:1]], fps, by_full_name=True)
        save_supplied_pose(video, [pose], fps, by_full_name=True)
        encode(frames, video, fps)
    return video
