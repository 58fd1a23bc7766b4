"""SSIM in the four definitions that papers use. Their values differ by up to 0.05: name the one you print."""

from typing import Literal, get_args

import cv2
import numpy as np

from ...datasets.arrays import Floats64, Frames
from .pixels import require_same_shape

SsimVariant = Literal["zero-gauss11", "reflect-gauss11", "interior-gauss11", "gray-uniform7"]
_MIN_SIDE = {"zero-gauss11": 1, "reflect-gauss11": 6, "interior-gauss11": 11, "gray-uniform7": 7}


def ssim(frames: Frames, truth: Frames, variant: SsimVariant = "reflect-gauss11") -> float:
    """Return the mean over frames of `ssim_per_frame`, at most 1."""
    values = ssim_per_frame(frames, truth, variant)
    return float(values.mean()) if len(values) else np.nan


def ssim_per_frame(frames: Frames, truth: Frames, variant: SsimVariant = "reflect-gauss11") -> Floats64:
    """Return the structural similarity of each frame [F], at most 1: the mean over pixels and channels.

    Args:
        frames: uint8 RGB [F, H, W, 3].
        truth: same shape as `frames`.
        variant: definition of the windows.
            `zero-gauss11`: Gaussian 11 × 11, σ 1.5, black around the picture (HumanVid, FastVideo).
            `reflect-gauss11`: the same, the picture mirrored at its edges (torchmetrics).
            `interior-gauss11`: the same, only windows inside the picture (scikit-image, common_metrics).
            `gray-uniform7`: uniform 7 × 7 inside the picture, on 8-bit grey, with the sample covariance (DisCo).

    Raises:
        ValueError: the clips differ in shape or are too small for the variant, or there is no such variant.
    """
    require_same_shape(frames, truth)
    if variant not in get_args(SsimVariant):
        raise ValueError(f"There is no SSIM variant {variant!r}: choose one of {', '.join(get_args(SsimVariant))}.")
    if min(frames.shape[1:3]) < _MIN_SIDE[variant]:
        size = f"{frames.shape[1]} × {frames.shape[2]}"
        raise ValueError(f"Frames of {size} are too small for {variant}: sides of {_MIN_SIDE[variant]} are needed.")
    return np.array([_similarity(a, b, variant) for a, b in zip(frames, truth, strict=True)])


def _similarity(frame: Frames, truth: Frames, variant: SsimVariant) -> float:
    """Return the mean of (2 μ_x μ_y + C₁)(2 σ_xy + C₂) / ((μ_x² + μ_y² + C₁)(σ_x² + σ_y² + C₂)) over windows."""
    if variant == "gray-uniform7":
        frame, truth = (np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8) for image in (frame, truth))
    x, y = frame.astype(np.float64) / 255, truth.astype(np.float64) / 255
    mean_x, mean_y, xx, yy, xy = (_window_mean(image, variant) for image in (x, y, x * x, y * y, x * y))
    sample = 49 / 48 if variant == "gray-uniform7" else 1.0
    var_x, var_y, cov = sample * (xx - mean_x**2), sample * (yy - mean_y**2), sample * (xy - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * cov + c2) / (var_x + var_y + c2)).mean())


def _window_mean(image: Floats64, variant: SsimVariant) -> Floats64:
    if variant == "gray-uniform7":
        return np.asarray(cv2.boxFilter(image, -1, (7, 7)), np.float64)[3:-3, 3:-3]
    border = cv2.BORDER_CONSTANT if variant == "zero-gauss11" else cv2.BORDER_REFLECT_101
    kernel = cv2.getGaussianKernel(11, 1.5, cv2.CV_64F)
    mean = np.asarray(cv2.sepFilter2D(image, -1, kernel, kernel, borderType=border), np.float64)
    return mean[5:-5, 5:-5] if variant == "interior-gauss11" else mean
