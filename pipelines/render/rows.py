"""Rows of a rendering job: one per pair and seed, those that are refused at once, and the order of the work."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ...datasets.driving_poses import driving_times_s
from ...datasets.images import ImageError
from ...datasets.local_copies import local_copy
from ...datasets.pairs import SEEDS
from ...datasets.schema import Row
from ...datasets.video import VideoError, frame_times_s, size_for_area
from .config import RenderConfig

NO_CONSENT = "no_consent"


def rows_of(pairs: Sequence[Row], config: RenderConfig) -> dict[str, Row]:
    """Return the rows by key, which names their videos: `ID`, or with several seeds `ID-0`, `ID-1` and so on.

    Seed k of a pair is its own seed, or the configuration's, plus k. A pair without consent is rejected here.
    """
    rows: dict[str, Row] = {}
    for pair in pairs:
        for index in range(config.num_seeds):
            several = config.num_seeds > 1
            key = f"{pair['id']}-{index}" if several else pair["id"]
            seed = (pair.get("seed", config.seed) + index) % SEEDS
            rows[key] = {**pair, "key": key, "seed": seed, "seed_index": index if several else None}
            if pair.get("consent") == "no":
                rows[key] |= {
                    "verdict": "rejected",
                    "reason": NO_CONSENT,
                    "detail": "the table says that the people of this pair do not consent",
                }
    return rows


def consent_counts(pairs: Sequence[Row]) -> dict[str, int]:
    """Count the pairs whose people consent, do not consent, and of whom the table does not say it."""
    said = [pair.get("consent") for pair in pairs]
    return {"given": said.count("yes"), "refused": said.count("no"), "not_stated": said.count(None)}


def sizes_of(pairs: Sequence[Row], config: RenderConfig) -> dict[str, int]:
    """Return the size of each pair's video in pixels, over all frames, by id; 0 if a file cannot be read."""
    return {pair["id"]: _size(pair, config) for pair in pairs}


def _size(pair: Row, config: RenderConfig) -> int:
    try:
        with local_copy(pair["image"]) as file, Image.open(file) as image:
            width, height = image.size
        num_frames = config.num_frames or _driving_frames(pair["driving"], config)
    except (OSError, ValueError, ImageError, VideoError, Image.DecompressionBombError):
        return 0  # its own stage says what is wrong
    height, width = size_for_area(height, width, config.max_area_px)
    return height * width * num_frames


def _driving_frames(place: str, config: RenderConfig) -> int:
    with local_copy(place) as file:
        return len(driving_times_s(frame_times_s(Path(file)), None, config.driving_fps))


def largest_first(keys: Sequence[tuple[str, ...]], rows: Mapping[str, Row], sizes: Mapping[str, int]) -> list[int]:
    """Return the order of packets, each given by the keys of its rows: the largest videos first.

    Videos of one size follow one another, so that what a GPU has compiled and reserved for a size is used again; and
    no long video begins when the others are nearly finished.
    """
    return sorted(range(len(keys)), key=lambda k: (-max(sizes.get(rows[key]["id"], 0) for key in keys[k]), k))
