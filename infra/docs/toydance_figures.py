"""Draw the pictures of docs/toydance.md into docs/figures: `python infra/docs/toydance_figures.py`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from steadydancer.datasets.skeleton import draw
from steadydancer.datasets.toydance import toy_clip
from steadydancer.datasets.toydance.difficulties import DIFFICULTIES
from steadydancer.datasets.toydance.pairs import make_pair
from steadydancer.datasets.toydance.render import Rendered, render
from steadydancer.datasets.toydance.zero_shot import ZERO_SHOT_SEEDS, make_zero_shot

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
SIDE, CHOSEN = 128, (0, 8, 16, 24, 32)


def contact_sheet(difficulty: str, num_rows: int = 6, first_seed: int = 80_000_000) -> None:
    """Draw dancers of a difficulty, one a row on either side, five frames each."""
    rows = []
    for k in range(num_rows):
        clips = [toy_clip(first_seed + 2 * k + side, difficulty, 33, SIDE).frames[list(CHOSEN)] for side in (0, 1)]
        rows.append(_row(clips))
    _save(np.vstack(rows), f"toydance-{difficulty}.png")


def pairs(num_pairs: int = 4) -> None:
    """Draw reference picture, driving video, pose, truth and the truth of a wrong pose."""
    rows = []
    for k in range(num_pairs):
        pair = make_pair(80_000_010 + k)
        shown = [render(scene, SIDE, SIDE).frames[[0, 12, 24]] for scene in (pair.driving, pair.truth, pair.wrong)]
        pose = draw(pair.truth.main.figure.pose[np.array([0, 12, 24])], 2 * SIDE, 2 * SIDE)
        skeletons = np.stack([cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in pose])
        reference = render(pair.reference, SIDE, SIDE).frames[:1]
        rows.append(_row([reference, shown[0], skeletons, shown[1], shown[2]]))
    titles = [("reference", 1), ("driving video", 3), ("aligned pose", 3), ("truth", 3), ("wrong pose", 3)]
    _save(np.vstack([_titles(titles), *rows]), "toydance-pairs.png")


def zero_shot() -> None:
    """Draw pairs of two people and of animals."""
    rows = []
    for kind, seeds in (("two people", (2, 4)), ("quadruped", (0, 4))):
        for seed in seeds:
            image, driving, truth, _ = make_zero_shot(kind, ZERO_SHOT_SEEDS + seed, 33, (SIDE, SIDE))
            rows.append(_row([image.frames[:1], *(_chosen(one) for one in (driving, truth))]))
    titles = [("reference", 1), ("driving video", 4), ("truth", 4)]
    _save(np.vstack([_titles(titles), *rows]), "toydance-zero-shot.png")


def _chosen(rendered: Rendered) -> np.ndarray:
    return rendered.frames[[0, 8, 16, 24]]


def _row(groups: list[np.ndarray]) -> np.ndarray:
    gap = np.full((SIDE, 10, 3), 255, np.uint8)
    parts = [
        np.hstack([np.pad(frame, ((0, 2), (0, 2), (0, 0)), constant_values=255)[:SIDE] for frame in group])
        for group in groups
    ]
    joined = [part for one in parts for part in (one, gap)][:-1]
    return np.pad(np.hstack(joined), ((0, 4), (0, 0), (0, 0)), constant_values=255)


def _titles(titles: list[tuple[str, int]]) -> np.ndarray:
    bands = []
    for k, (text, number) in enumerate(titles):
        band = np.full((24, number * (SIDE + 2) + (10 if k + 1 < len(titles) else 0), 3), 255, np.uint8)
        cv2.putText(band, text, (2, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
        bands.append(band)
    return np.hstack(bands)


def _save(picture: np.ndarray, name: str) -> None:
    Image.fromarray(picture).quantize(256).save(FIGURES / name, optimize=True)


if __name__ == "__main__":
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name in DIFFICULTIES:
        contact_sheet(name)
    pairs()
    zero_shot()
