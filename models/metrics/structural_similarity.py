"""SSIM in the four definitions that papers use. Their values differ by up to 0.05: name the one you print."""

from typing import Literal, get_args

import cv2
import numpy as np
from cv2.typing import MatLike

from ...datasets.arrays import Floats64, Frames
from .pixels import require_same_shape

SsimVariant = Literal["zero-gauss11", "reflect-gauss11", "interior-gauss11", "gray-uniform7"]
_KERNEL = cv2.getGaussianKernel(11, 1.5, cv2.CV_64F)
_BORDERS = {"zero-gauss11": cv2.BORDER_CONSTANT, "reflect-gauss11": cv2.BORDER_REFLECT_101}
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_STRIP = 64  # rows at once, so that their arrays stay in the processor's cache
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
    """Return the mean over windows and channels of two frames [H, W, 3]."""
    if variant == "gray-uniform7":
        frame, truth = (np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8) for image in (frame, truth))
    radius = 3 if variant == "gray-uniform7" else 5
    total, count = 0.0, 0
    for x, y in zip(cv2.split(frame), cv2.split(truth), strict=True):
        if variant in _BORDERS:
            x, y = (cv2.copyMakeBorder(one, *(radius,) * 4, _BORDERS[variant]) for one in (x, y))
        for top in range(0, len(x) - 2 * radius, _STRIP):
            rows = slice(top, top + _STRIP + 2 * radius)
            ratios = _ratios(np.asarray(x[rows]), np.asarray(y[rows]), variant)
            total, count = total + cv2.sumElems(ratios)[0], count + ratios.size
    return total / count


def _ratios(x: Frames, y: Frames, variant: SsimVariant) -> Floats64:
    """Return (2 μ_x μ_y + C₁)(2 σ_xy + C₂) / ((μ_x² + μ_y² + C₁)(σ_x² + σ_y² + C₂)) of all windows of one channel.

    It is computed from p = x + y and q = x − y, which need four means instead of five: μ_p² ∓ μ_q² is twice 2 μ_x μ_y
    and μ_x² + μ_y², and likewise σ. OpenCV's functions read each array once.
    """
    p, q = (cv2.add(x, y, dtype=cv2.CV_64F), cv2.subtract(x, y, dtype=cv2.CV_64F))
    mean_p, mean_q = _window_mean(p, variant), _window_mean(q, variant)
    square_p, square_q = _window_mean(cv2.multiply(p, p), variant), _window_mean(cv2.multiply(q, q), variant)
    mean_p, mean_q = cv2.multiply(mean_p, mean_p), cv2.multiply(mean_q, mean_q)
    sample = 49 / 48 if variant == "gray-uniform7" else 1.0
    var_p, var_q = cv2.subtract(square_p, mean_p), cv2.subtract(square_q, mean_q)
    above = cv2.addWeighted(mean_p, 1, mean_q, -1, 2 * _C1)
    below = cv2.addWeighted(mean_p, 1, mean_q, 1, 2 * _C1)
    above = cv2.multiply(above, cv2.addWeighted(var_p, sample, var_q, -sample, 2 * _C2))
    below = cv2.multiply(below, cv2.addWeighted(var_p, sample, var_q, sample, 2 * _C2))
    return np.asarray(cv2.divide(above, below), np.float64)


def _window_mean(image: MatLike, variant: SsimVariant) -> MatLike:
    """Return the mean over the windows that lie inside the picture."""
    if variant == "gray-uniform7":
        return cv2.boxFilter(image, -1, (7, 7))[3:-3, 3:-3]
    return cv2.sepFilter2D(image, -1, _KERNEL, _KERNEL)[5:-5, 5:-5]
