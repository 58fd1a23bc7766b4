"""Composition of a curation's clips: shapes, frame rates, licences, origins, duplicates, leaks and models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.arrays import Floats64, Mask
from ..config import SQUARE_RATIO
from ..selection.gating import SIZE_COLUMNS, content_sizes, numbers
from .funnel import verdict_is

# Score → the network that computes it; where all values are null, the network was not available.
NETWORKS = {
    "transition_score": "TransNetV2: transitions inside clips",
    "text_ratio": "PP-OCRv4: text",
    "num_detected_persons": "BlazePose's detector: people",
    "aesthetic_score": "CLIP ViT-L/14 and LAION's head: aesthetics",
    "extreme_action": "CLIP ViT-L/14: action type",
    "motion_smoothness": "AMT-S: smoothness",
}
COMPOSITION_COLUMNS = ["source_path", "source_id", "origin", "licence", "prompt", "codec", *SIZE_COLUMNS, "fps",
                       "duration_s", "start_s", "end_s", "pose_model", "duplicate_group", "leak_score", "leak_of",
                       *NETWORKS]  # fmt: skip
MAX_KINDS, MAX_CHARACTERS = 12, 80  # of a table and of a label: manifests hold free text

Kinds = list[tuple[str, int, int]]  # label, accepted clips, all clips


def hours_of(table: pa.Table, mask: Mask) -> float:
    """Sum the duration of the clips of `mask`, hours."""
    spans = numbers(pc.subtract(table["end_s"], table["start_s"]))
    return float(np.nansum(spans[mask])) / 3600


def format_hours(hours: float) -> str:
    """Format a duration in hours, minutes or seconds."""
    unit, name = next((one for one in ((1.0, "hours"), (1 / 60, "minutes")) if hours >= one[0]), (1 / 3600, "seconds"))
    return f"{hours / unit:.3g} {name}"


def num_sources(table: pa.Table, mask: Mask) -> int:
    """Count the sources of the rows of `mask` by content; unreadable ones count by path."""
    names = pc.coalesce(table["source_id"], table["source_path"]).filter(pa.array(mask))
    return int(pc.count_distinct(names).as_py())


def composition(table: pa.Table) -> dict[str, Kinds]:
    """Return property → [(label, accepted clips, all clips)]; a missing licence or origin is "unknown"."""
    accepted = verdict_is(table, "ok")
    height, width = content_sizes(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        aspect, side = width / height, np.fmin(width, height)
    tables = {
        "shape": _ranges(aspect, (1 / SQUARE_RATIO, SQUARE_RATIO), ("vertical", "square", "horizontal"), accepted),
        "shorter side": _ranges(side, (360, 480, 720, 1080), ("below 360 px", "360 to 479 px", "480 to 719 px",
                                                              "720 to 1079 px", "1080 px and more"), accepted),
        "frame rate": _ranges(numbers(table["fps"]), (20, 27, 33, 55), ("below 20 fps", "20 to 27 fps",
                              "27 to 33 fps", "33 to 55 fps", "55 fps and more"), accepted),
        "duration of the source": _ranges(numbers(table["duration_s"]), (10, 30, 60, 600), ("below 10 s",
                              "10 to 30 s", "30 to 60 s", "1 to 10 minutes", "10 minutes and more"), accepted),
    }  # fmt: skip
    return tables | {
        name: _kinds(table[column], accepted)
        for name, column in (("codec", "codec"), ("licence", "licence"), ("origin", "origin"))
    }


def _ranges(values: Floats64, bounds: Sequence[float], labels: Sequence[str], accepted: Mask) -> Kinds:
    places = np.where(np.isnan(values), len(labels), np.searchsorted(bounds, values, side="right"))
    counted = np.bincount(places, minlength=len(labels) + 1)
    good = np.bincount(places[accepted], minlength=len(labels) + 1)
    return [(label, int(good[k]), int(counted[k])) for k, label in enumerate([*labels, "unknown"]) if counted[k]]


def _kinds(column: pa.ChunkedArray, accepted: Mask) -> Kinds:
    """Count the most frequent values of a text column; the rest become one line."""
    known = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column).fill_null("unknown")
    good = {row["values"]: row["counts"] for row in known.filter(pa.array(accepted)).value_counts().to_pylist()}
    counted = [(row["values"], good.get(row["values"], 0), row["counts"]) for row in known.value_counts().to_pylist()]
    counted.sort(key=lambda kind: (-kind[1], -kind[2], kind[0]))
    kinds = [(shorten(label), kept, number) for label, kept, number in counted[:MAX_KINDS]]
    if rest := counted[MAX_KINDS:]:
        kinds.append((f"{len(rest)} others", sum(kind[1] for kind in rest), sum(kind[2] for kind in rest)))
    return kinds


def shorten(text: str) -> str:
    """Return text on one line, cut to `MAX_CHARACTERS`."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"


def count_by_model(table: pa.Table) -> list[tuple[str, int]]:
    """Return (model, clips): first the sources of keypoints, then the networks, recognised by their scores."""
    poses = table["pose_model"].drop_null().value_counts().to_pylist()
    found = [(f"{row['values']}: keypoints", row["counts"]) for row in sorted(poses, key=lambda row: -row["counts"])]
    return found + [(name, len(table) - table[column].null_count) for column, name in NETWORKS.items()]


def copies(table: pa.Table) -> dict[str, int]:
    """Count the groups of duplicates, their rows, and the files of the largest group."""
    grouped = table.group_by("duplicate_group").aggregate([("source_path", "count_distinct"), ([], "count_all")])
    several = pc.and_(pc.greater(grouped["source_path_count_distinct"], 1), pc.is_valid(grouped["duplicate_group"]))
    grouped = grouped.filter(several)
    return {
        "groups": len(grouped),
        "rows": pc.sum(grouped["count_all"]).as_py() or 0,
        "largest": pc.max(grouped["source_path_count_distinct"]).as_py() or 0,
    }


def leaks(table: pa.Table) -> list[tuple[str, int]] | None:
    """Return (excluded video, clips rejected as similar to it), most first; None if the check was off."""
    if table["leak_score"].null_count == len(table):
        return None
    rejected = table.filter(pc.equal(table["reason"], "max_leak_score"))
    counted = rejected["leak_of"].fill_null("unknown").value_counts().to_pylist()
    counted.sort(key=lambda row: -row["counts"])
    return [(shorten(row["values"]), row["counts"]) for row in counted[:MAX_KINDS]]


def stage_seconds(record: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of each stage, summed over workers; empty if an earlier run did all packets."""
    return {name: seconds for name, seconds in record["seconds"].items() if name in ("probe", "shots", "score", "pose")}


def decode_share(record: dict[str, Any]) -> float | None:
    """Return the share of the workers' time spent on decoding, which faster scores cannot reduce."""
    spent = sum(stage_seconds(record).values())
    decode = record["seconds"].get("decode")
    return float(decode) / spent if decode is not None and spent else None
