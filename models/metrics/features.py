"""VBench's I2V dimensions, as formulas on the features of frozen networks.

Features are [F, D], one row per frame, as the network gives them. Cosines are clamped at 0 before any average.
`preprocessing` prepares the pictures; the networks themselves are not here.
"""

from collections.abc import Mapping

import numpy as np

from ...datasets.arrays import Floats, Floats64

# VBench-I2V's board: dimension → (lowest value in practice, highest), by which it is scaled.
_RANGES = {
    "Video-Text Camera Motion": (0.0, 1.0),
    "Video-Image Subject Consistency": (0.1462, 1.0),
    "Video-Image Background Consistency": (0.2615, 1.0),
    "Subject Consistency": (0.1462, 1.0),
    "Background Consistency": (0.2615, 1.0),
    "Motion Smoothness": (0.706, 0.9975),
    "Dynamic Degree": (0.0, 1.0),
    "Aesthetic Quality": (0.0, 1.0),
    "Imaging Quality": (0.0, 1.0),
}
_CAMERA, _SUBJECT, _BACKGROUND, *_QUALITY = _RANGES
_DYNAMIC_WEIGHT, _CAMERA_WEIGHT = 0.5, 0.1


def consistency(features: Floats) -> float:
    """Return the mean over frames i ≥ 1 of the similarities to the frame before and to frame 0, in [0, 1].

    With DINO's class token it is VBench's subject_consistency, with CLIP's image embedding background_consistency. A
    clip that repeats one frame has 1: print the amount of motion beside it. NaN for one frame.
    """
    units = _units(features)
    if len(units) < 2:
        return np.nan
    return float((_cosines(units[1:], units[:-1]) + _cosines(units[1:], units[:1])).mean() / 2)


def image_to_video(features: Floats, image_features: Floats, centred: bool = False) -> float:
    """Return 0.4 max s(e_i, e_img) + 0.3 mean s(e_i, e_{i−1}) + 0.3 min s(e_i, e_{i−1}), the latter two over i ≥ 1.

    Args:
        features: [F, D].
        image_features: [D], of the reference image.
        centred: subtract from each row its own mean, as DreamSim does: i2v_background. Without it and with DINO's
            class token, the value is i2v_subject.

    Returns:
        NaN for one frame.
    """
    frames, image = _units(features, centred), _units(np.atleast_2d(image_features), centred)
    if len(frames) < 2:
        return np.nan
    steps = _cosines(frames[1:], frames[:-1])
    return float(0.4 * _cosines(frames, image).max() + 0.3 * steps.mean() + 0.3 * steps.min())


def frame_weighted_mean(values: Floats, num_frames: Floats) -> float:
    """Return the mean of `consistency` over videos weighted by their frames i ≥ 1, as one process of VBench gives it.

    On several processes, VBench gives the plain mean for subject_consistency. For equal lengths the two agree.
    """
    weights = np.asarray(num_frames, np.float64) - 1
    return float((np.asarray(values, np.float64) * weights).sum() / weights.sum())


def aesthetic_quality(embeddings: Floats, weight: Floats, bias: Floats) -> float:
    """Return the mean over frames of (w · e / ‖e‖ + b) / 10, about 0…1.

    Args:
        embeddings: [F, 768], image embeddings of CLIP ViT-L/14.
        weight: [1, 768] of the linear LAION head.
        bias: [1].
    """
    values = _units(embeddings) @ np.asarray(weight, np.float64).ravel() + float(np.ravel(bias)[0])
    return float(values.mean()) / 10 if len(values) else np.nan


def imaging_quality(scores: Floats) -> float:
    """Return the mean of MUSIQ's scores of the frames, 0…100. VBench prints the mean over videos divided by 100."""
    return float(np.mean(np.asarray(scores, np.float64))) if len(scores) else np.nan


def leaderboard_scores(dimensions: Mapping[str, float]) -> tuple[float, float, float]:
    """Return VBench-I2V's quality score, I2V score and total, from the nine dimensions by the names of its board.

    Raises:
        ValueError: a dimension is missing.
    """
    if absent := [name for name in _RANGES if name not in dimensions]:
        raise ValueError(f"The total needs all nine dimensions; missing: {', '.join(absent)}.")
    scaled = {name: (dimensions[name] - low) / (high - low) for name, (low, high) in _RANGES.items()}
    i2v = (_CAMERA_WEIGHT * scaled[_CAMERA] + scaled[_SUBJECT] + scaled[_BACKGROUND]) / (_CAMERA_WEIGHT + 2)
    weights = {name: _DYNAMIC_WEIGHT if name == "Dynamic Degree" else 1.0 for name in _QUALITY}
    quality = sum(weights[name] * scaled[name] for name in _QUALITY) / sum(weights.values())
    return quality, i2v, (quality + i2v) / 2


def _units(features: Floats, centred: bool = False) -> Floats64:
    """Return rows of length 1 in float64."""
    rows = np.asarray(features, np.float64)
    rows = rows - rows.mean(-1, keepdims=True) if centred else rows
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _cosines(ones: Floats64, others: Floats64) -> Floats64:
    return np.maximum((ones * others).sum(-1), 0)
