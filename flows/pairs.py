"""Pairs to render out of curated clips: a person's first frame, driven by the same person (truth known) or another."""

import json
from pathlib import Path

import cv2
import numpy as np

from ..datasets.clips import Clips
from ..datasets.skeleton import PoseSequence
from ..datasets.storage import local_copy
from ..datasets.toydance import save_supplied_pose
from ..datasets.video import decode, encode, size_for_area

MAX_AREA_PX = 384 * 384


def pairs_of_clips(out: Path, num_pairs: int) -> Path:
    """Write images, driving clips with their keypoints, truths and `pairs.jsonl` under `out/pairs`; returns the last.

    Pairs take turns: clip i driven by itself, then by the clip after it. The truth of the first kind is the clip.
    """
    folder, clips = out / "pairs", Clips(out)
    record = clips.record
    rows = [row for row in clips.read().to_pylist() if row["verdict"] == "ok"]
    num_pairs = min(num_pairs, len(rows))
    chosen = [rows[i * len(rows) // num_pairs] for i in range(num_pairs)]
    poses = clips.poses(chosen)
    chosen = [{**row, "pose": poses[row["clip_id"]]} for row in chosen]
    pairs = []
    for i, row in enumerate(chosen):
        driver = row if i % 2 == 0 else chosen[(i + 1) % len(chosen)]
        image = _write_clip(row, folder / "clips", record["config"]["fps"])
        driving = _write_clip(driver, folder / "clips", record["config"]["fps"])
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


def _write_clip(row: dict, folder: Path, fps: float) -> Path:
    """The clip as an mp4 of its own, its first frame as a png, and its keypoints beside both."""
    video = folder / f"{row['clip_id']}.mp4"
    if not video.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        height, width = size_for_area(row["height"], row["width"], MAX_AREA_PX)
        times_s = row["start_s"] + np.arange(row["num_frames"]) / fps
        with local_copy(row["source_path"]) as source:
            frames = decode(source, times_s, height, width)
        pose = PoseSequence.from_bytes(row["pose"])
        cv2.imwrite(str(video.with_suffix(".png")), frames[0, ..., ::-1])
        save_supplied_pose(video, [pose], fps)
        encode(frames, video, fps)
    return video
