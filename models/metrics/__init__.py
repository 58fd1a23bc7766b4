"""Metrics of renders, as formulas on arrays: frames uint8 RGB [F, H, W, 3], joints in pixels, features [N, D].

Sums are in float64. NaN means not measured. No network is loaded here: where a metric needs one, it takes the network's
features, and `preprocess` makes the network's input.
"""

from typing import TYPE_CHECKING

from ... import lazy_names

if TYPE_CHECKING:
    from .distances import fid_infinity, frechet_distance, humanvid_fvd, kernel_distance
    from .features import (
        aesthetic_quality,
        consistency,
        frame_weighted_mean,
        image_to_video,
        imaging_quality,
        leaderboard_scores,
    )
    from .optical_flow import dynamic_degree, flow_stride, largest_flow
    from .perceptual import IdentityOverTime, identity_over_time, lpips_distance
    from .pixels import (
        MAX_PSNR_DB,
        START_STEPS,
        autoencoder_ceiling,
        background_drift,
        first_frame_gap,
        first_frame_psnr,
        masked_psnr,
        motion_smoothness,
        pixel_jump,
        pixel_steps,
        psnr,
        psnr_of_mean_error,
        psnr_per_frame,
        temporal_flickering,
    )
    from .pose_accuracy import box_pck
    from .pose_following import hand_metrics, match_people, people_metrics, pose_metrics, resolved_share, start_gap
    from .pose_points import BODY_14, LIMBS, torso_length
    from .preferences import bradley_terry, good_same_bad, kendall_tau_b
    from .preprocessing import PREPROCESSING, preprocess, resize_truth
    from .statistics import (
        Interval,
        PairedDifference,
        bootstrap_mean,
        bootstrap_ratio,
        crossed_interval,
        holm,
        paired_bootstrap,
        small_n_remark,
    )
    from .structural_similarity import SsimVariant, ssim, ssim_per_frame
    from .variants import FID_VARIANTS, FVD_VARIANTS, LPIPS_VARIANTS, FvdVariant, small_set_remark

__all__ = [
    "BODY_14",
    "FID_VARIANTS",
    "FVD_VARIANTS",
    "LIMBS",
    "LPIPS_VARIANTS",
    "MAX_PSNR_DB",
    "PREPROCESSING",
    "START_STEPS",
    "FvdVariant",
    "IdentityOverTime",
    "Interval",
    "PairedDifference",
    "SsimVariant",
    "aesthetic_quality",
    "autoencoder_ceiling",
    "background_drift",
    "bootstrap_mean",
    "bootstrap_ratio",
    "box_pck",
    "bradley_terry",
    "consistency",
    "crossed_interval",
    "dynamic_degree",
    "fid_infinity",
    "first_frame_gap",
    "first_frame_psnr",
    "flow_stride",
    "frame_weighted_mean",
    "frechet_distance",
    "good_same_bad",
    "hand_metrics",
    "holm",
    "humanvid_fvd",
    "identity_over_time",
    "image_to_video",
    "imaging_quality",
    "kendall_tau_b",
    "kernel_distance",
    "largest_flow",
    "leaderboard_scores",
    "lpips_distance",
    "masked_psnr",
    "match_people",
    "motion_smoothness",
    "paired_bootstrap",
    "people_metrics",
    "pixel_jump",
    "pixel_steps",
    "pose_metrics",
    "preprocess",
    "psnr",
    "psnr_of_mean_error",
    "psnr_per_frame",
    "resize_truth",
    "resolved_share",
    "small_n_remark",
    "small_set_remark",
    "ssim",
    "ssim_per_frame",
    "start_gap",
    "temporal_flickering",
    "torso_length",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("fid_infinity", "frechet_distance", "humanvid_fvd", "kernel_distance"), "distances"),
        **dict.fromkeys(
            (
                "aesthetic_quality",
                "consistency",
                "crossed_interval",
                "frame_weighted_mean",
                "image_to_video",
                "imaging_quality",
                "leaderboard_scores",
            ),
            "features",
        ),
        **dict.fromkeys(("dynamic_degree", "flow_stride", "largest_flow"), "optical_flow"),
        **dict.fromkeys(("IdentityOverTime", "identity_over_time", "lpips_distance"), "perceptual"),
        **dict.fromkeys(
            (
                "MAX_PSNR_DB",
                "START_STEPS",
                "autoencoder_ceiling",
                "background_drift",
                "first_frame_gap",
                "first_frame_psnr",
                "masked_psnr",
                "motion_smoothness",
                "pixel_jump",
                "pixel_steps",
                "psnr",
                "psnr_of_mean_error",
                "psnr_per_frame",
                "temporal_flickering",
            ),
            "pixels",
        ),
        "box_pck": "pose_accuracy",
        **dict.fromkeys(
            ("hand_metrics", "match_people", "people_metrics", "pose_metrics", "resolved_share", "start_gap"),
            "pose_following",
        ),
        **dict.fromkeys(("BODY_14", "LIMBS", "torso_length"), "pose_points"),
        **dict.fromkeys(("bradley_terry", "good_same_bad", "kendall_tau_b"), "preferences"),
        **dict.fromkeys(("PREPROCESSING", "preprocess", "resize_truth"), "preprocessing"),
        **dict.fromkeys(
            (
                "Interval",
                "PairedDifference",
                "bootstrap_mean",
                "bootstrap_ratio",
                "crossed_interval",
                "holm",
                "paired_bootstrap",
                "small_n_remark",
            ),
            "statistics",
        ),
        **dict.fromkeys(("SsimVariant", "ssim", "ssim_per_frame"), "structural_similarity"),
        **dict.fromkeys(
            ("FID_VARIANTS", "FVD_VARIANTS", "LPIPS_VARIANTS", "FvdVariant", "small_set_remark"), "variants"
        ),
    },
)
