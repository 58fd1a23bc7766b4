"""Metrics against the ground truth: PSNR, SSIM in all definitions, and the jumps of both at the start."""

from typing import get_args

import numpy as np

from ....models.metrics import MAX_PSNR_DB, SsimVariant, pixel_jump, psnr, psnr_of_mean_error, ssim
from ..judges import Judges
from ..scores import Outcome, Score, score
from ..video import Pair, Video


def measure(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure a video against its truth.

    Raises:
        NotMeasured: there is no truth, or it cannot be compared.
    """
    pair = video.compared
    variants = {name: _ssim(pair, name) for name in get_args(SsimVariant)}
    return {
        **_psnr(pair),
        "ssim": variants["reflect-gauss11"],
        **{f"ssim[{name}]": value for name, value in variants.items()},
        "start_gap_jump_excess": _jump_excess(video),
    }


def _psnr(pair: Pair) -> dict[str, Score]:
    render, truth, detail, _ = pair
    count = len(truth)
    equal = sum(map(np.array_equal, render, truth))
    notes = [f"{equal} of {count} frames equal the ground truth and count as {MAX_PSNR_DB:g} dB"] if equal else []
    words = "; ".join([*([detail] if detail else []), *notes]) or None
    pooled = min(psnr_of_mean_error(render, truth), MAX_PSNR_DB)
    return {
        "psnr": Score(psnr(render, truth), None, words, count),
        "psnr[mean-mse]": Score(pooled, None, detail, count),
    }


def _ssim(pair: Pair, variant: SsimVariant) -> Score:
    try:
        return Score(ssim(pair.render, pair.truth, variant), None, pair.detail, len(pair.truth))
    except ValueError as error:  # a picture smaller than the window
        return Score(None, "too_small", str(error))


def _jump_excess(video: Video) -> Score:
    render, truth, detail, _ = video.pair
    own, other = pixel_jump(render), pixel_jump(truth)
    why = "one of them is too short or still, so that it has no jump"
    return score(own / other if other > 0 else np.nan, "no_motion", why, detail, len(truth))
