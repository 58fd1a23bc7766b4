"""Fit the person detector and the keypoint network, and write them as the two files of DWPose."""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..components import load_components
from .autoencoder import round_trip
from .clips import TRAINING_SEED, UNSEEN_SEED
from .fitting import fit
from .pose_data import MEAN, STD, LabelledFrame, crop_example, detection_example, labelled_frames
from .pose_networks import (
    CROP_HEIGHT,
    CROP_WIDTH,
    DETECTOR_SIDE,
    KeypointNetwork,
    PersonDetector,
    detector_loss,
    keypoint_loss,
)

BATCH_SIZE = 32
DETECTOR_FILE, KEYPOINT_FILE = "yolox_l.onnx", "dw-ll_ucoco_384.onnx"
"""The names that `DWPose` looks for."""


def fit_pose(
    folder: Path, components: Path, *, steps: int, learning_rate: float, minutes: float, num_clips: int = 4000
) -> bool:
    """Fit both networks in `folder` and write `folder/onnx`; return False if time ran out.

    `components` has the autoencoder through which some of the frames are seen.
    """
    frames, unseen = _draw(TRAINING_SEED, num_clips, components), _draw(UNSEEN_SEED, 64, components)
    torch.manual_seed(0)
    detector, network = PersonDetector(), KeypointNetwork()

    def detection_batch(rng: np.random.Generator, pool: list[LabelledFrame], size: int) -> tuple[Tensor, list[Tensor]]:
        chosen = [detection_example(pool[index], pool, rng) for index in rng.integers(len(pool), size=size)]
        pictures = torch.from_numpy(np.stack([picture for picture, _ in chosen])).permute(0, 3, 1, 2).float()
        return pictures, [torch.from_numpy(boxes) for _, boxes in chosen]

    def crop_batch(rng: np.random.Generator, pool: list[LabelledFrame], size: int) -> tuple[Tensor, Tensor, Tensor]:
        chosen = [crop_example(pool[index], rng) for index in rng.integers(len(pool), size=size)]
        crops, points, visible = (np.stack(parts) for parts in zip(*chosen, strict=True))
        # As released: RTMPose's RGB means on pictures in BGR order.
        normalised = ((crops[..., ::-1] - np.array(MEAN)) / np.array(STD)).astype(np.float32)
        return (
            torch.from_numpy(normalised).permute(0, 3, 1, 2),
            torch.from_numpy(points.astype(np.float32)),
            torch.from_numpy(visible),
        )

    def keypoint_errors(_: nn.Module) -> dict[str, float]:
        crops, points, visible = crop_batch(np.random.default_rng(0), unseen, 128)
        x, y = network(crops)
        found = torch.stack([x.argmax(-1), y.argmax(-1)], dim=-1) / 2
        errors = (found - points).norm(dim=-1)
        body = visible.clone()
        body[:, 17:] = False
        right = (torch.minimum(x.amax(-1), y.amax(-1)) > 0.35) == visible
        return {
            "unseen_body_error_px": errors[body].mean().item(),
            "unseen_error_px": errors[visible].mean().item(),
            "unseen_body_within_4_px": (errors[body] < 4).float().mean().item(),
            "unseen_visibility_accuracy": right[:, :17].float().mean().item(),
        }

    def detector_errors(_: nn.Module) -> dict[str, float]:
        pictures, boxes = detection_batch(np.random.default_rng(0), unseen, 128)
        return {f"unseen_{name}": term.item() for name, term in detector_loss(detector, pictures, boxes).items()}

    options: dict[str, Any] = {"learning_rate": learning_rate, "minutes": minutes / 2}
    finished = [
        fit(detector, lambda _, rng: detector_loss(detector, *detection_batch(rng, frames, BATCH_SIZE)),
            folder / "detector", steps=2 * steps // 5, evaluate=detector_errors, **options),
        fit(network, lambda _, rng: keypoint_loss(network, *crop_batch(rng, frames, BATCH_SIZE)),
            folder / "keypoints", steps=steps, evaluate=keypoint_errors, **options),
    ]  # fmt: skip
    if not all(finished):
        return False
    onnx = folder / "onnx"
    onnx.mkdir(exist_ok=True)
    export(detector, torch.zeros(2, 3, DETECTOR_SIDE, DETECTOR_SIDE), onnx / DETECTOR_FILE, ["output"])
    export(network, torch.zeros(2, 3, CROP_HEIGHT, CROP_WIDTH), onnx / KEYPOINT_FILE, ["simcc_x", "simcc_y"])
    return True


def export(network: nn.Module, example: Tensor, path: Path, outputs: list[str]) -> None:
    """Write a network as ONNX whose first dimension is free. Needs the packages `onnx` and `onnxscript`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (example,),
            path,
            input_names=["input"],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def _draw(first_seed: int, num_clips: int, components: Path) -> list[LabelledFrame]:
    with ProcessPoolExecutor() as workers:
        draw = partial(_labelled, components=components)
        drawn = workers.map(draw, range(first_seed, first_seed + num_clips), chunksize=32)
        return [frame for frames in drawn for frame in frames]


@torch.no_grad()
def _labelled(seed: int, components: Path) -> list[LabelledFrame]:
    return labelled_frames(seed, partial(round_trip, _autoencoder(components)))


@cache
def _autoencoder(components: Path) -> Any:
    """Load the autoencoder once in each process, on one thread: workers are as many as cores."""
    torch.set_num_threads(1)
    return load_components(str(components), ("vae",))["vae"]
