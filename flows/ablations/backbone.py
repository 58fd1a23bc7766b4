"""The columns of the paper's Table 3 on a small backbone: ToyDance's image encoder, which is named in the columns.

Its features are those of the formulas of `models.metrics`; they are other metrics than those of the paper, whose
networks (DINO, DreamSim, I3D) are not part of the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...datasets.arrays import Floats64, Frames
from ...models.encoders import encode_image
from ...models.metrics import consistency, frechet_distance, image_to_video

NAME = "toydance-tower"
GREY = 128
NUM_DIMENSIONS = 8  # of a clip's features: a set has a few dozen clips
_PROJECTION_SEED = 0


def features(encoder: Any, frames: Frames) -> Floats64:
    """Return the mean over an image encoder's tokens of each frame [F, D]."""
    with torch.no_grad():
        return np.stack([encode_image(encoder, frame).mean(0).double().numpy() for frame in frames])


def subject_and_background(
    encoder: Any, frames: Frames, image: Frames, covered: np.ndarray
) -> tuple[dict[str, float], Floats64]:
    """Measure IS, IB and SC of a clip, and return the features of its frames [F, D].

    Args:
        encoder: the image encoder.
        frames: the render [F, H, W, 3].
        image: the reference picture [H, W, 3].
        covered: bool [H, W], what a dancer covers in any frame: grey in all pictures of IB.
    """
    seen, reference = features(encoder, frames), features(encoder, image[None])[0]
    hidden = np.concatenate([image[None], frames])
    hidden = np.where(covered[None, :, :, None], np.uint8(GREY), hidden)
    behind = features(encoder, hidden)
    return {
        f"i2v_subject[{NAME}]": image_to_video(seen, reference),
        f"i2v_background[{NAME}]": image_to_video(behind[1:], behind[0]),
        f"subject_consistency[{NAME}]": consistency(seen),
    }, seen


def clip_features(frames: Floats64) -> Floats64:
    """Return the features of a clip [8]: means and mean absolute changes of its frames' [F, D], projected."""
    change = np.abs(np.diff(frames, axis=0)).mean(0)
    both = np.concatenate([frames.mean(0), change])
    matrix = np.random.default_rng(_PROJECTION_SEED).normal(0, len(both) ** -0.5, (len(both), NUM_DIMENSIONS))
    return np.asarray(both @ matrix, np.float64)


def video_distance(renders: Floats64, truths: Floats64) -> float:
    """Return the Fréchet distance of the clips' features [N, 8]: FVD on this backbone. NaN for fewer than two clips."""
    return frechet_distance(renders, truths)
