"""The negative pose of the pose guidance (v_p of Eq. 8): the motion, perturbed at random in every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..datasets.arrays import Floats64, Frames
from ..datasets.skeleton import perturb
from .pipeline_inputs import Motion

SCALE_RANGE, ASPECT_RANGE, SHIFT_RANGE = (0.7, 1.3), (0.6, 1.4), (-0.2, 0.2)


@dataclass(frozen=True)
class Perturbation:
    """Random numbers of the negative pose for each frame: x is stretched by aspect · scale, and y by scale.

    `scale` and `aspect` [F]. `shift` [F, 2], as a share of the picture's width and height, also moves the pose; None,
    as released, does not.
    """

    scale: Floats64
    aspect: Floats64
    shift: Floats64 | None = None

    def __getitem__(self, frames: Sequence[int]) -> Perturbation:
        """Select frames."""
        shift = None if self.shift is None else self.shift[frames]
        return Perturbation(self.scale[frames], self.aspect[frames], shift)

    @classmethod
    def draw(cls, num_frames: int, generator: torch.Generator | None, has_shift: bool = False) -> Perturbation:
        """Draw independent numbers for every frame: scale from U(0.7, 1.3), aspect from U(0.6, 1.4), as released.

        `has_shift` also draws a shift from U(−0.2, 0.2) in x and y, as printed (the release draws one without using
        it). It is drawn last, so the same generator gives the same scale and aspect with and without it.
        """

        def uniform(*ranges: tuple[float, float]) -> Floats64:
            device = generator.device if generator is not None else "cpu"
            drawn = torch.rand(num_frames, len(ranges), generator=generator, device=device, dtype=torch.float64)
            low, high = np.transpose(ranges)
            return low + (high - low) * drawn.cpu().numpy()

        scale, aspect = uniform(SCALE_RANGE, ASPECT_RANGE).T
        return cls(scale, aspect, uniform(SHIFT_RANGE, SHIFT_RANGE) if has_shift else None)


def negative_motion(motion: Motion, perturbation: Perturbation) -> Motion:
    """Perturb each person's keypoints about that person's own neck, or stretch a drawn clip."""
    if isinstance(motion, np.ndarray):
        return stretch_drawing(motion, perturbation)
    return [perturb(person, perturbation.scale, perturbation.aspect, perturbation.shift) for person in motion]


def stretch_drawing(frames: Frames, perturbation: Perturbation) -> Frames:
    """Perturb drawn frames: stretch each about the middle of its drawing, if there are no keypoints to perturb.

    The strokes are stretched too, unlike with keypoints. A black frame stays black.
    """
    stretched = np.zeros_like(frames)
    shifts = np.zeros((len(frames), 2)) if perturbation.shift is None else perturbation.shift
    shifts = shifts * frames.shape[2:0:-1]  # widths and heights in pixels
    draws = zip(frames, perturbation.scale, perturbation.aspect, shifts, strict=True)
    for index, (frame, scale, aspect, shift) in enumerate(draws):
        drawn = np.argwhere(frame.any(axis=-1))
        if len(drawn):
            middle = (drawn.min(axis=0) + drawn.max(axis=0))[::-1] / 2
            stretch = np.diag([aspect * scale, scale])
            matrix = np.concatenate([stretch, (middle + shift - stretch @ middle)[:, None]], axis=1)
            stretched[index] = cv2.warpAffine(frame, matrix, frame.shape[1::-1], flags=cv2.INTER_LINEAR)
    return stretched
