"""Draw the pictures of docs/toydance.md into docs/figures: `python infra/docs/toydance_figures.py [runs/demo]`.

With the folder of a finished demo, the figure of its renders is drawn too.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
from figures import Drawing
from PIL import Image

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.skeleton import draw
from steadydancer.datasets.toydance import toy_clip
from steadydancer.datasets.toydance.difficulties import DIFFICULTIES
from steadydancer.datasets.toydance.pairs import make_pair
from steadydancer.datasets.toydance.render import Rendered, render
from steadydancer.datasets.toydance.zero_shot import ZERO_SHOT_SEEDS, make_zero_shot
from steadydancer.datasets.video import decode
from steadydancer.models.toydance import CHECKPOINTS, components_folder

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


def curves() -> None:
    """Draw the loss of each fit and stage over its steps, on a logarithmic scale."""
    fits = ("autoencoder", "decoder", "encoders", "detector", "keypoints", "base")
    width, height, parts = 190, 120, (*fits, *CHECKPOINTS)
    drawing = Drawing(5 * (width + 20) + 10, 2 * (height + 50) + 10, "Loss of each part over its steps")
    for k, name in enumerate(parts):
        left, top = 20 + k % 5 * (width + 20), 30 + k // 5 * (height + 50)
        lines = (components_folder() / "curves" / f"{name}.jsonl").read_text().splitlines()
        points = [(row["step"], math.log(row["loss"])) for row in map(json.loads, lines)]
        steps, (low, high) = points[-1][0], (min(loss for _, loss in points), max(loss for _, loss in points))
        span = high - low or 1.0
        drawing.line([(left, top), (left, top + height), (left + width, top + height)])
        drawing.line([(left + width * x / steps, top + height * (high - y) / span) for x, y in points], "#1f6fb4")
        drawing.text(left, top - 8, f"{name}: {math.exp(high):.3g} to {math.exp(points[-1][1]):.3g}")
        drawing.text(left, top + height + 14, f"{steps} steps")
    drawing.write("toydance-curves.svg")


def renders(demo: Path, num_pairs: int = 6) -> None:
    """Draw reference picture, render and truth of the first pairs of a finished demo."""
    videos = {row["id"]: row["video"] for row in Artifact(demo / "renders").read(["id", "video"]).to_pylist()}
    rows = []
    for name in sorted(videos)[:num_pairs]:
        render_, truth = (
            _shrink(decode(path, np.array([0, 8, 16, 24]) / 16 + 1e-3))
            for path in (demo / "renders" / videos[name], demo / "dancers" / "truth" / f"{name}.mp4")
        )
        reference = np.asarray(Image.open(demo / "dancers" / "images" / f"{name}.png").convert("RGB"))
        rows.append(_row([_shrink(reference[None]), render_, truth]))
    _save(np.vstack([_titles([("reference", 1), ("render", 4), ("truth", 4)]), *rows]), "toydance-renders.png")


def _shrink(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames])


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
    curves()
    if len(sys.argv) > 1:
        renders(Path(sys.argv[1]))
