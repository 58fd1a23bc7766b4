"""Draw the figures of README.md and docs/ into docs/figures: `python infra/docs/figures.py [runs/tutorial]`.

With the folder of a finished tutorial, the figure of its result is drawn too. Frames show procedural dancers. The
diagrams use only generic fonts, so that a browser fetches nothing.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from steadydancer.datasets.skeleton import align_to_reference, draw
from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.datasets.video import decode

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
SIZE = (256, 192)  # height, width of a frame
DANCER, DRIVER, FRAMES, FPS = 900, 901, (0, 12, 24, 36, 48), 16
BLUE, GREEN, ORANGE, GREY, INK = "#dbe9f6", "#dff0d8", "#fde8cf", "#eeeeee", "#222222"


def input_to_output() -> None:
    """Draw a reference image, frames of a driving video, the aligned pose, and the expected video."""
    height, width = SIZE
    aspect = width / height
    driving_pose = toy_pose(DRIVER, FRAMES[-1] + 1, FPS, aspect=aspect)
    wanted_pose = toy_pose(DANCER, FRAMES[-1] + 1, FPS, aspect=aspect, motion_seed=DRIVER)
    aligned = align_to_reference(driving_pose, wanted_pose[:1], aspect, aspect)
    chosen = np.array(FRAMES)
    rows = [
        ("driving video", draw_dancer(driving_pose[chosen], DRIVER, height, width)),
        ("aligned pose", draw(aligned[chosen], height, width)),
        ("video", draw_dancer(wanted_pose[chosen], DANCER, height, width)),
    ]
    image = draw_dancer(wanted_pose[:1], DANCER, height, width)[0]
    blank = np.full((height, width, 3), 255, np.uint8)
    sheet = []
    for k, (label, frames) in enumerate(rows):
        first = image if k == 1 else blank
        label_of_first = "reference image" if k == 1 else ""
        sheet.append(np.hstack([_labelled(first, label_of_first), _gap(height), *_row(frames, label)]))
    picture = np.vstack(sheet)
    small = cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    Image.fromarray(small).quantize(96).save(FIGURES / "input-output.png", optimize=True)


def _row(frames: np.ndarray, label: str) -> list[np.ndarray]:
    texts = [f"{label}, frame {number}" if k == 0 else f"{number}" for k, number in enumerate(FRAMES)]
    return [_labelled(frame, text) for frame, text in zip(frames, texts, strict=True)]


def _labelled(frame: np.ndarray, text: str) -> np.ndarray:
    band = np.full((26, frame.shape[1], 3), 255, np.uint8)
    cv2.putText(band, text, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA)
    return np.pad(np.vstack([band, frame]), ((0, 4), (0, 4), (0, 0)), constant_values=255)


def _gap(height: int) -> np.ndarray:
    return np.full((height + 30, 24, 3), 255, np.uint8)


def tutorial(run: Path) -> None:
    """Draw inputs and outputs of the tutorial's rendering, five frames each."""
    height, width = SIZE
    chosen = np.arange(0, 33, 8)
    files = {"driving video": "driving", "rendered": "renders", "ground truth": "truth"}
    image = np.asarray(Image.open(run / "images" / "pair_0.png").convert("RGB"))
    blank = np.full((height, width, 3), 255, np.uint8)
    sheet = []
    for k, (label, folder) in enumerate(files.items()):
        frames = decode(run / folder / "pair_0.mp4", chosen / FPS)
        large = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_NEAREST) for frame in frames]
        first = _labelled(image, "reference image") if k == 0 else _labelled(blank, "")
        texts = [f"{label}, frame 0", *(str(number) for number in chosen[1:])]
        labelled = [_labelled(frame, text) for frame, text in zip(large, texts, strict=True)]
        sheet.append(np.hstack([first, _gap(height), *labelled]))
    small = cv2.resize(np.vstack(sheet), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    Image.fromarray(small).quantize(96).save(FIGURES / "tutorial-render.png", optimize=True)


class Drawing:
    """An SVG of boxes, texts and arrows. Coordinates are pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="12" fill="{INK}" role="img">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def box(self, x: int, y: int, width: int, height: int, lines: list[str], fill: str = GREY) -> None:
        """Draw a box with centred lines; the first line is bold."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{INK}"/>'
        )
        top = y + height / 2 - 8 * (len(lines) - 1) + 4
        for k, line in enumerate(lines):
            self.text(x + width // 2, round(top + 16 * k), line, bold=k == 0, centred=True)

    def text(self, x: int, y: int, line: str, bold: bool = False, centred: bool = False) -> None:
        """Draw one line of text; `y` is its baseline."""
        weight, anchor = ' font-weight="bold"' if bold else "", ' text-anchor="middle"' if centred else ""
        self._parts.append(f'<text x="{x}" y="{y}"{weight}{anchor}>{escape(line)}</text>')

    def arrow(self, *points: tuple[int, int]) -> None:
        """Draw a line through the points, with an arrow at its end."""
        line = " ".join(f"{x},{y}" for x, y in points)
        self._parts.append(f'<polyline points="{line}" fill="none" stroke="{INK}" marker-end="url(#a)"/>')

    def line(self, points: list[tuple[float, float]], stroke: str = INK) -> None:
        """Draw a line through the points."""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{joined}" fill="none" stroke="{stroke}"/>')

    def write(self, name: str) -> None:
        """Write `docs/figures/name`."""
        (FIGURES / name).write_text("\n".join([*self._parts, "</svg>"]) + "\n")


def data_flow() -> None:
    """Draw the five jobs and the folders that they exchange."""
    svg = Drawing(980, 250, "Data flow: curate, cache, train, render, evaluate")
    steps = [
        ("curate", ["probe, shots", "scores, pose", "select"], "clips/", "verdict, reason, scores"),
        ("cache", ["VAE, CLIP, UMT5", "shards + index"], "latents/", "WebDataset, Parquet"),
        ("train", ["1 LoRA", "2 distillation", "3 LoRA"], "stageN/checkpoint/", "weights, run record"),
        ("render", ["image + driving", "40 steps"], "renders/", "mp4 and record"),
        ("evaluate", ["metrics", "report"], "metrics/", "rows and page"),
    ]
    svg.text(16, 76, "videos", bold=True)
    svg.arrow((64, 72), (92, 72))
    for k, (name, lines, folder, content) in enumerate(steps):
        x = 92 + 178 * k
        svg.box(x, 26, 130, 92, [name, *lines], BLUE)
        svg.box(x - 4, 156, 142, 50, [folder, content], GREEN)
        svg.arrow((x + 65, 118), (x + 65, 156))
        if k + 1 < len(steps):
            svg.arrow((x + 138, 181), (x + 156, 181), (x + 156, 72), (x + 178, 72))
    svg.text(
        92,
        236,
        "run.json is written last in each green folder: with it a job is finished, without it the job resumes.",
    )
    svg.write("data-flow.svg")


def network() -> None:
    """Draw the transformer of the paper, with its equations."""
    svg = Drawing(980, 560, "The SteadyDancer network: conditions, pose modulation, condition reconciliation")
    svg.text(20, 24, "latents (16 channels each)", bold=True)
    svg.box(20, 40, 150, 46, ["z", "noisy video"], BLUE)
    svg.box(20, 98, 150, 46, ["m, z_c", "mask (4), image (16)"], BLUE)
    svg.box(20, 250, 150, 46, ["p", "driving pose"], BLUE)
    svg.box(20, 400, 150, 46, ["z_c0, z_p0", "first image, first pose"], BLUE)
    svg.box(20, 490, 150, 46, ["CLIP, UMT5", "image, pose, prompt"], BLUE)

    svg.text(230, 186, "pose modulation (Eq. 5)", bold=True)
    svg.box(230, 200, 150, 46, ["S: SSAE", "spatial, per frame"], ORANGE)
    svg.box(230, 258, 150, 46, ["T: TMCM", "temporal convolution"], ORANGE)
    svg.box(430, 228, 120, 46, ["p* = p + S + T"], ORANGE)
    svg.box(430, 130, 120, 46, ["p† = FAAU(z, p*)", "cross-attention"], ORANGE)

    svg.box(600, 44, 150, 108, ["Eq. 3: fusion", "concat channels", "z, m, z_c, p*, p†", "16+4+16+16+16 = 68"], GREEN)
    svg.box(600, 200, 150, 46, ["patch embedding", "68 → tokens"], GREY)
    svg.box(600, 370, 150, 92, ["Eq. 4: augmentation", "append 2 frames", "image: 36 channels", "pose: 16"], GREEN)
    svg.box(810, 180, 150, 280, ["Wan 2.1 blocks × 40", "self-attention", "cross-attention", "feed-forward"], GREY)
    svg.box(810, 60, 150, 46, ["velocity", "noise − data, T frames"], BLUE)

    svg.arrow((170, 63), (600, 63))
    svg.arrow((170, 108), (600, 108))
    svg.arrow((170, 266), (200, 266), (200, 223), (230, 223))
    svg.arrow((170, 281), (230, 281))
    svg.arrow((95, 296), (95, 325), (490, 325), (490, 274))
    svg.arrow((380, 223), (405, 223), (405, 243), (430, 243))
    svg.arrow((380, 281), (405, 281), (405, 260), (430, 260))
    svg.arrow((490, 228), (490, 176))
    svg.arrow((300, 63), (300, 150), (430, 150))
    svg.arrow((550, 153), (575, 153), (575, 125), (600, 125))
    svg.arrow((550, 251), (586, 251), (586, 140), (600, 140))
    svg.arrow((675, 152), (675, 200))
    svg.arrow((675, 246), (675, 370))
    svg.arrow((170, 423), (600, 423))
    svg.arrow((750, 416), (810, 416))
    svg.arrow((170, 513), (780, 513), (780, 440), (810, 440))
    svg.arrow((885, 180), (885, 106))
    svg.text(230, 506, "context of the cross-attention: 257 image features (image + first pose), 512 text tokens")
    svg.write("network.svg")


if __name__ == "__main__":
    FIGURES.mkdir(parents=True, exist_ok=True)
    input_to_output()
    data_flow()
    network()
    if len(sys.argv) > 1:
        tutorial(Path(sys.argv[1]))
