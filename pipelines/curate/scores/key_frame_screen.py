"""Key-frame screen: reject sources by a few key frames, at a tenth of the cost of decoding all frames."""

from pathlib import Path

import numpy as np

from ....datasets.arrays import Frames
from ....datasets.schema import Row
from ....datasets.storage.digests import json_digest
from ....datasets.video import VideoError, decode_key_frames
from ..config import CurateConfig
from ..gates import is_beyond
from .borders import find_content
from .frame_scores import blur, technical_scores

LEAST_PIXELS = 100_000_000  # in all frames: below, a full pass costs little more than reopening the file

# Gate → score of a still picture, and the stricter threshold that every key frame must fail.
MARGINS = {
    "min_brightness": ("brightness", lambda bound: bound / 2),
    "min_contrast": ("contrast", lambda bound: bound / 2),
    "min_sharpness": ("sharpness", lambda bound: bound / 2),
    "max_blur": ("blur", lambda bound: bound + 0.1),
}


def screen_key_frames(row: Row, config: CurateConfig) -> Row | None:
    """Return one row for a source if its key frames show that a gate rejects all of its clips; else None.

    Key frames are at most half a clip apart, so that each clip contains one or two; all must fail the same gate by a
    wide margin. Sources with fewer key frames or with borders are measured in full. The row spans the source and has
    the scores of its key frames; other scores are null, and `select` gives the verdict.
    """
    path, gap_s = Path(row["source_path"]), (config.num_frames - 1) / config.fps / 2
    try:
        _, first = decode_key_frames(path, gap_s, LEAST_PIXELS, count=1)
        if len(first) == 0 or not _failed(first[0], config):
            return None
        _, frames = decode_key_frames(path, gap_s, LEAST_PIXELS)
    except VideoError:
        return None  # the full pass reports the error
    if not set.intersection(*(_failed(frame, config) for frame in frames)) or find_content(frames).area < 1:
        return None
    times_s = np.arange(0.0, row["duration_s"] - 1e-6, 1 / config.fps)
    span = {"start_s": 0.0, "end_s": float(times_s[-1]), "num_frames": len(times_s)}
    clip_id = json_digest([row["source_id"], *span.values(), config.fps])[:16]
    return {**row, **span, "clip_id": clip_id, "border_ratio": 0.0, **technical_scores(frames), "blur": blur(frames)}


def was_screened_out(row: Row) -> bool:
    """Check whether a row was made by `screen_key_frames`: it has picture scores before the stage `score`."""
    return row.get("blur") is not None


def _failed(frame: np.ndarray, config: CurateConfig) -> set[str]:
    frames: Frames = frame[None]
    scores = {**technical_scores(frames), "blur": blur(frames)}
    bounds = _loosest(config)
    failed = set()
    for gate, (column, limit) in MARGINS.items():
        bound = bounds.get(gate)
        if bound is not None and is_beyond(scores[column], gate[:3], limit(bound)):
            failed.add(gate)
    return failed


def _loosest(config: CurateConfig) -> dict[str, float]:
    """Return gate → its loosest threshold over all shapes; gates that are off for any shape are omitted."""
    every = [config.gates, *map(config.gates_for, config.gates_by_shape)]
    out = {}
    for gate in MARGINS:
        bounds = [getattr(gates, gate) for gates in every]
        if None not in bounds:
            out[gate] = min(bounds) if gate.startswith("min") else max(bounds)
    return out
