"""The numbers of the miniature X-Dance: means over pairs with their intervals, and the goals beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...models.metrics import Interval, bootstrap_mean, bootstrap_ratio
from .appearance import nearest

Pair = Mapping[str, Any]
Result = dict[str, float | int | None]

MEANS = (
    "right_minus_wrong_pose_psnr_db",
    "right_minus_wrong_ceiling_db",
    "pck_0_1",
    "pck_0_1_limbs",
    "pck_0_1_limbs_wrong_pose",
    "first_frame_psnr_db",
    "autoencoder_first_frame_psnr_db",
    "autoencoder_psnr_db",
)
MORE_MEANS = (
    "right_pose_psnr_db",
    "wrong_pose_psnr_db",
    "wrong_pose_own_truth_psnr_db",
    "right_pose_ceiling_psnr_db",
    "pck_0_1_wrong_pose",
    "pck_0_1_frozen",
    "pck_0_1_limbs_frozen",
    "pck_0_1_ceiling",
    "pck_0_1_limbs_ceiling",
    "autoencoder_person_psnr_db",
    "psnr_db",
)

MEANINGS: dict[str, str] = {
    "right_minus_wrong_pose_psnr_db": "PSNR against the right truth inside both silhouettes, frames ≥ 1: render with "
    "the right pose minus render with another dancer's",
    "right_minus_wrong_ceiling_db": "the same of both truths through the autoencoder and the codec",
    "pck_0_1": "share of the first 14 joints that the pose estimator finds within 0.1 × the person's size",
    "pck_0_1_limbs": "the same for elbows and wrists",
    "pck_0_1_limbs_wrong_pose": "the same renders against another dancer's pose",
    "first_frame_psnr_db": "first frame of the render against the reference picture",
    "autoencoder_first_frame_psnr_db": "the reference picture through the autoencoder and the codec",
    "autoencoder_psnr_db": "truths through the autoencoder and the codec",
    "start_gap_jump_stage2": "jump at the start over that of the truths through autoencoder and codec: stage 2 trained "
    "on for as long as stage 3",
    "start_gap_jump_stage3": "the same for stage 3",
    "right_pose_psnr_db": "PSNR inside both silhouettes with the right pose",
    "wrong_pose_psnr_db": "the same of the render with another dancer's pose",
    "wrong_pose_own_truth_psnr_db": "render with another dancer's pose against its own truth",
    "right_pose_ceiling_psnr_db": "truth through autoencoder and codec, inside both silhouettes",
    "pck_0_1_wrong_pose": "14 joints of the same renders against another dancer's pose",
    "pck_0_1_frozen": "14 joints, if the first frame were repeated",
    "pck_0_1_limbs_frozen": "elbows and wrists, if the first frame were repeated",
    "pck_0_1_ceiling": "14 joints of the truths through autoencoder and codec",
    "pck_0_1_limbs_ceiling": "elbows and wrists of the truths through autoencoder and codec",
    "autoencoder_person_psnr_db": "truths through autoencoder and codec, inside the silhouette",
    "psnr_db": "render against the truth, whole picture",
    "identity_retrieval": "share of renders whose colours of body parts are nearest to those of their own reference",
    "identity_retrieval_ceiling": "the same of the truths through autoencoder and codec",
    "start_gap_jump_stage3_over_stage2": "jump of stage 3 over that of the control, on the same pairs",
    "stage2_minus_stage1_psnr_db": "PSNR inside both silhouettes, frames ≥ 1, right pose: stage 2 minus stage 1",
    "unconditional_distance_stage2_over_stage1": "mean squared distance of the velocity without pose to the base's: "
    "stage 2 over stage 1",
}


def judged_metrics(pairs: Sequence[Pair]) -> dict[str, Result]:
    """Return the judged metrics of the pairs, each as mean, low and high of its 95 % interval, and num_clips."""
    metrics = {name: result_of(bootstrap_mean(_column(pairs, name))) for name in MEANS}
    ceiling = _column(pairs, "jump_ceiling")
    for stage in (2, 3):
        jumps = bootstrap_ratio(_column(pairs, f"jump_stage{stage}"), ceiling)
        metrics[f"start_gap_jump_stage{stage}"] = result_of(jumps)
    return metrics


def more_metrics(pairs: Sequence[Pair]) -> dict[str, Result]:
    """Return what is printed beside the judged metrics, in the same form."""
    metrics = {name: result_of(bootstrap_mean(_column(pairs, name))) for name in MORE_MEANS}
    metrics["start_gap_jump_stage3_over_stage2"] = result_of(
        bootstrap_ratio(_column(pairs, "jump_stage3"), _column(pairs, "jump_stage2"))
    )
    gallery = [np.asarray(pair["appearance_reference"], np.float64) for pair in pairs]
    for name, query in (("identity_retrieval", "appearance"), ("identity_retrieval_ceiling", "appearance_ceiling")):
        hits = [nearest(np.asarray(pair[query], np.float64), gallery) == k for k, pair in enumerate(pairs)]
        metrics[name] = result_of(bootstrap_mean(np.array(hits, np.float64)))
    return metrics


def judgements(metrics: Mapping[str, Result], more: Mapping[str, Result]) -> list[tuple[str, str, bool | None]]:
    """Compare results with the goals: (goal, what was measured, whether it is met; None if it was not measured)."""
    value = {name: result["mean"] for name, result in {**metrics, **more}.items()}

    def judge(goal: str, name: str, met: Any) -> tuple[str, str, bool | None]:
        mean = value.get(name)
        return goal, f"{name} {_text(mean)}", None if mean is None else bool(met(mean))

    first, ceiling = value["first_frame_psnr_db"], value["autoencoder_first_frame_psnr_db"]
    known = first is not None and ceiling is not None
    gap = ceiling - first if first is not None and ceiling is not None else math.nan
    ratio = more["start_gap_jump_stage3_over_stage2"]
    return [
        judge("autoencoder at least 30 dB", "autoencoder_psnr_db", lambda v: v >= 30),
        ("first frame within 1 dB of the autoencoder's", f"{gap:.2f} dB below" if known else "not measured",
         gap <= 1 if known else None),
        judge("right minus wrong pose at least 6 dB", "right_minus_wrong_pose_psnr_db", lambda v: v >= 6),
        judge("elbows and wrists at least 0.8", "pck_0_1_limbs", lambda v: v >= 0.8),
        judge("the same against another dancer's pose at most 0.5", "pck_0_1_limbs_wrong_pose", lambda v: v <= 0.5),
        judge("identities kept, at least 0.95", "identity_retrieval", lambda v: v >= 0.95),
        ("jump of stage 3 below that of the control: interval below 1",
         f"{_text(ratio['mean'])} ({_text(ratio['low'])} to {_text(ratio['high'])})",
         None if ratio["high"] is None else bool(ratio["high"] < 1)),
        judge("jump of stage 3 at most 0.5 of the control's", "start_gap_jump_stage3_over_stage2", lambda v: v <= 0.5),
    ]  # fmt: skip


def _column(pairs: Sequence[Pair], name: str) -> np.ndarray:
    return np.array([np.nan if pair[name] is None else pair[name] for pair in pairs], np.float64)


def result_of(interval: Interval) -> Result:
    """Return {mean, low, high, num_clips} of an interval, with None for what was not measured: JSON has no NaN."""
    mean, low, high, n = interval
    numbers = {"mean": mean, "low": low, "high": high}
    return {**{name: float(v) if math.isfinite(v) else None for name, v in numbers.items()}, "num_clips": n}


def _text(value: float | int | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
