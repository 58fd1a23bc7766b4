"""Clips nearest to a threshold, accepted and rejected, with a thumbnail each: for checking the thresholds by eye."""

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

import cv2
import numpy as np
import pyarrow as pa

from ....datasets.arrays import Floats64
from ....datasets.local_copies import local_copy
from ....datasets.schema import CROP_COLUMNS, Row
from ....datasets.source_content import is_unchanged
from ....datasets.storage import StorageError
from ....datasets.video import VideoError, decode_sparse
from ...common.crop import content_shares, crop_frames
from ..selection.gating import Bounds, shapes_of, values_of
from .composition import shorten
from .funnel import bounds_text, reached_gates, rejected_by, verdict_is

NUM_EACH = 12
PER_GATE = 3  # so that one gate does not fill the page
HEIGHT_PX, MAX_WIDTH_PX, QUALITY = 192, 352, 78
CANDIDATES = 4096  # nearest rows, for the choice
# Columns that a row's thumbnail and caption need.
PICTURE_COLUMNS = ("clip_id", "source_path", "source_id", "start_s", "end_s", "width", "height", *CROP_COLUMNS)


@dataclass(frozen=True)
class BorderlineClip:
    """A clip near a threshold: row index, gate index, value, threshold, and margin (1: the usual distance)."""

    index: int
    gate: int
    value: float
    bound: float
    margin: float


def nearest(table: pa.Table, bounds: Bounds, verdict: str) -> list[BorderlineClip]:
    """Return the clips with this verdict that are nearest to the threshold that decides it, nearest first.

    For an accepted clip this is the nearest of all thresholds, for a rejected one that of the gate that rejected it.
    The margin is |value − bound| divided by its median over the accepted clips, so that all units compare.

    Args:
        table: rows with the gates' columns, `verdict`, `reason` and `source_path`.
        bounds: of the gates.
        verdict: "ok" or "rejected".
    """
    wanted, accepted = verdict_is(table, verdict) & reached_gates(table), verdict_is(table, "ok")
    shapes = shapes_of(table)
    best, which = np.full(len(table), np.inf), np.full(len(table), -1)
    for index, gate in enumerate(bounds.gates):
        distance = np.abs(values_of(table, bounds.columns[index]) - bounds.values[index][shapes])
        candidates = wanted & ~np.isnan(distance)
        if verdict == "rejected":
            candidates &= rejected_by(table, gate)
        usual = _usual(distance[accepted]) or _usual(distance[candidates])
        if usual is None:
            continue
        margin = np.where(candidates, distance / usual, np.inf)
        which[margin < best] = index
        best = np.minimum(best, margin)
    order = np.argsort(best, kind="stable")[:CANDIDATES]
    found = [(int(row), int(which[row]), float(best[row])) for row in order if which[row] >= 0]
    return [
        BorderlineClip(row, gate, float(values_of(table.slice(row, 1), bounds.columns[gate])[0]),
             float(bounds.values[gate][shapes[row]]), margin)
        for row, gate, margin in _limit_per_gate_and_source(table, found)
    ]  # fmt: skip


def _usual(distances: Floats64) -> float | None:
    """Return the median distance; None if it is 0 (one person, at most one), where no clip counts as near."""
    known = distances[~np.isnan(distances)]
    return float(np.median(known)) or None if len(known) else None


def _limit_per_gate_and_source(
    table: pa.Table, found: list[tuple[int, int, float]]
) -> Iterator[tuple[int, int, float]]:
    """Yield at most `NUM_EACH` clips, `PER_GATE` per gate and one per source."""
    sources: set[str] = set()
    per_gate: Counter[int] = Counter()
    for row, gate, margin in found:
        source = table["source_path"][row].as_py()
        if per_gate[gate] < PER_GATE and source not in sources and len(sources) < NUM_EACH:
            sources.add(source)
            per_gate[gate] += 1
            yield row, gate, margin


def thumbnail(row: Row) -> str | None:
    """Return the middle frame of a clip as a JPEG data URI; None if the source is missing, unreadable or has changed.

    Args:
        row: with `PICTURE_COLUMNS`.
    """
    middle = (row["start_s"] + row["end_s"]) / 2
    try:
        with local_copy(row["source_path"]) as path:
            if not is_unchanged(path, row["source_id"]):
                return None
            _, frames = decode_sparse(path, middle, middle, 1)
    except (VideoError, StorageError, OSError):
        return None
    frame = crop_frames(frames, content_shares(row))[0]
    scale = min(HEIGHT_PX / frame.shape[0], MAX_WIDTH_PX / frame.shape[1])
    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}" if done else None


def captioned_thumbnails(rows: list[Row], near: list[BorderlineClip], bounds: Bounds) -> list[tuple[str, str | None]]:
    """Return (caption, thumbnail or None) of each clip; `rows` are their rows, in the same order."""
    return [(_caption(row, one, bounds), thumbnail(row)) for row, one in zip(rows, near, strict=True)]


def _caption(row: Row, near: BorderlineClip, bounds: Bounds) -> str:
    bound = bounds_text(bounds.sides[near.gate], [near.bound])
    name = PurePath(row["source_path"]).name
    return f"{bounds.columns[near.gate]} {near.value:.4g}, {bound}\n{row['clip_id']} {shorten(name)}"
