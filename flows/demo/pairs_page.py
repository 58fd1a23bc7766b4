"""The part of the report about the miniature X-Dance: results, goals, and all pairs playing in step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...datasets.skeleton import draw
from ...datasets.supplied_poses import load_supplied_pose
from ...datasets.video import encode
from ...pipelines.pages.layout import Section
from .dancers import PairSet
from .measure import read_frames
from .results import MEANINGS, judgements
from .toydance import NUM_THREADS, RENDERS, rendered_videos

SKELETON_SIDE_PX = 192
FPS = 16

RESULTS_TEXT = (
    "Means over pairs of dancers that training never saw, with the 95 % interval over pairs, measured on the coded "
    "videos of this run."
)
PAIRS_TEXT = (
    "Every pair: the reference picture, the dancer who drives it, the driving pose aligned to the picture, the render, "
    "its truth, the render with another dancer's pose, and the render of the control. All players have one clock. "
    "Space plays and pauses, the arrow keys step by a frame. Pictures are enlarged without smoothing."
)


def result_sections(summary: dict[str, Any]) -> list[Section]:
    """Build the tables of results, goals and further difficulties."""
    results = {**summary["metrics"], **summary["more_metrics"]}
    rows = [
        [name, result["mean"], result["low"], result["high"], result["num_clips"], MEANINGS[name]]
        for name, result in {**results, **summary["stages"]}.items()
    ]
    words = {True: "met", False: "missed", None: "not measured"}
    goals = [[goal, measured, words[met]] for goal, measured, met in judgements(*_both(summary))]
    sections = [
        Section("Results", RESULTS_TEXT, head=["metric", "mean", "low", "high", "clips", "meaning"], rows=rows),
        Section("Goals", head=["goal", "measured", ""], rows=goals),
    ]
    if summary["difficulties"]:
        columns = {"easy": results, **summary["difficulties"]}
        rows = [[name, *(column[name]["mean"] for column in columns.values())] for name in results]
        sections.append(Section("Difficulties", "Means.", head=["metric", *columns], rows=rows))
    return sections


def pairs_section(folder: Path, out: Path, pairs: PairSet) -> Section:
    """Copy the media of all pairs below `folder/media`, and build the section in which they play in step."""
    (folder / "media").mkdir(parents=True, exist_ok=True)
    rendered = {kind: rendered_videos(out / below / "renders") for kind, below in RENDERS.items()}
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        rows = threads.map(lambda name: _row(folder, name, pairs, rendered), pairs.ids())
        return Section("Pairs", PAIRS_TEXT, players=list(rows))


def _both(summary: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return summary["metrics"], summary["more_metrics"]


def _row(
    folder: Path, name: str, pairs: PairSet, rendered: Mapping[str, Mapping[str, Path]]
) -> list[tuple[str, str | None]]:
    sources: dict[str, Path | None] = {
        f"{name}: reference": pairs.image(name),
        "driving": pairs.video("driving", name),
        "pose": _skeleton(folder / "media" / f"{name}-pose.mp4", pairs.video("truth", name)),
        "render": rendered["render"].get(name),
        "truth": pairs.video("truth", name),
        "render, another pose": rendered["wrong_render"].get(name),
        "render, control": rendered["control"].get(name),
    }
    return [(caption, _copied(folder, name, caption, source)) for caption, source in sources.items()]


def _copied(folder: Path, name: str, caption: str, source: Path | None) -> str | None:
    if source is None:
        return None
    word = caption.removeprefix(f"{name}: ").replace(", ", "-").replace(" ", "-")
    place = f"media/{name}-{word}{source.suffix}"
    if caption.startswith("render"):
        write_playable(source, folder / place)
    elif source != folder / place:
        shutil.copyfile(source, folder / place)
    return place


def write_playable(source: Path, path: Path) -> None:
    """Write a render so that all browsers play it: twice as large in 4:2:0, which then keeps the colour of a pixel."""
    encode(read_frames(source).repeat(2, axis=1).repeat(2, axis=2), path, FPS, crf=12)


def _skeleton(path: Path, truth: Path) -> Path | None:
    """Draw the driving pose aligned to the reference, which is the pose of the truth."""
    supplied = load_supplied_pose(truth)
    if supplied is None:
        return None
    encode(draw(supplied[0][0], SKELETON_SIDE_PX, SKELETON_SIDE_PX), path, FPS)
    return path
