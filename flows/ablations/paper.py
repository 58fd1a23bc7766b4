"""What the paper reports of its ablations: the numbers of Table 3, and the claims of its figures and appendix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .backbone import NAME
from .measure import FVD

COLUMNS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "IS": (f"i2v_subject[{NAME}]", "higher"),
        "IB": (f"i2v_background[{NAME}]", "higher"),
        "SC": (f"subject_consistency[{NAME}]", "higher"),
        "TF": ("temporal_flickering", "higher"),
        "FVD": (FVD, "lower"),
    }
)
"""Column of Table 3 -> the metric that stands for it here, and which direction is better."""
DATASETS: Mapping[str, str] = MappingProxyType({"RealisDance-Val": "clean", "X-Dance": "misaligned"})
"""Data set of Table 3 -> the subset of pairs that stands for it here."""

_REALISDANCE: Mapping[str, tuple[float, ...]] = {
    "stage1": (94.49, 95.09, 93.24, 97.00, 330.47),
    "without_ssae": (94.48, 95.09, 93.17, 96.34, 349.98),
    "without_faau": (94.36, 95.08, 93.21, 96.06, 339.55),
    "without_tmcm": (94.37, 95.01, 93.24, 96.19, 333.52),
    "stage2": (94.66, 95.28, 93.31, 97.56, 329.55),
    "normal_distillation_one": (79.13, 81.10, 88.98, 97.12, 723.91),
    "stage3": (94.68, 95.38, 93.48, 97.99, 326.49),
}
_XDANCE: Mapping[str, tuple[float, ...]] = {
    "stage1": (93.22, 93.70, 87.74, 96.46),
    "without_ssae": (92.69, 94.65, 87.41, 96.35),
    "without_faau": (92.44, 93.91, 87.74, 96.41),
    "without_tmcm": (92.25, 93.41, 87.82, 96.43),
    "stage2": (93.44, 94.11, 87.74, 96.51),
    "stage3": (96.17, 96.92, 91.61, 97.10),
}
TABLE_3: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        dataset: {row: dict(zip(COLUMNS, numbers, strict=False)) for row, numbers in rows.items()}
        for dataset, rows in (("RealisDance-Val", _REALISDANCE), ("X-Dance", _XDANCE))
    }
)
"""Data set -> row -> column -> the printed number."""


@dataclass(frozen=True)
class Claim:
    """One claim as a comparison of two rows.

    Args:
        place: where it stands in the paper.
        words: what it says.
        better: the row that it says is better.
        worse: the row that it says is worse.
        metric: what shows it here.
        subset: the pairs on which it must show.
        direction: "higher" or "lower" values of the metric are better.
    """

    place: str
    words: str
    better: str
    worse: str
    metric: str
    subset: str = "all"
    direction: str = "higher"


_PERSON, _JUMP = "person_psnr_db", "start_gap_jump_excess"
_IS = f"i2v_subject[{NAME}]"

CLAIMS = (
    Claim("Figure 12, row 1", "Concatenating the conditions (Eq. 3) keeps the identity better than adding latents "
          "(Eq. 2)", "stage1", "latent_addition", _IS),
    Claim("Figure 12, row 1", "the same, by the pixels of the person", "stage1", "latent_addition", _PERSON),
    Claim("Figure 12, row 2", "Concatenation keeps the identity better than an adapter", "stage1", "adapter", _IS),
    Claim("Figure 12, row 2", "the same, by the pixels of the person", "stage1", "adapter", _PERSON),
    Claim("Figure 12, row 3", "Condition augmentation (Eq. 4) keeps the appearance", "stage1", "without_augmentation",
          "psnr_db"),
    Claim("Figure 12, row 3", "the same, in frame 0", "stage1", "without_augmentation", "first_frame_psnr_db"),
    Claim("Figure 13, row 1", "SSAE handles noisy poses", "stage1", "without_ssae", _PERSON, "noisy"),
    Claim("Figure 13, row 2", "FAAU handles large structural disparity", "stage1", "without_faau", _PERSON,
          "disparity"),
    Claim("Figure 13, row 3", "TMCM handles missing or contradictory poses", "stage1", "without_tmcm", _PERSON,
          "missing"),
    Claim("Figure 14", "Condition-decoupled distillation improves the quality of stage 1", "stage2", "stage1",
          "psnr_db"),
    Claim("Figure 14", "Normal distillation makes the network deaf to the pose, λ = 0.1", "stage2",
          "normal_distillation_tenth", "right_minus_wrong_db"),
    Claim("Figure 14", "the same, λ = 1", "stage2", "normal_distillation_one", "right_minus_wrong_db"),
    Claim("Figure 14", "the same, λ = 10", "stage2", "normal_distillation_ten", "right_minus_wrong_db"),
    Claim("Figure 15", "Pose simulation lowers the jump at a start gap", "stage3", "stage2_longer", _JUMP,
          "start_gap", "lower"),
    Claim("Figure 15", "the same against stage 3 without it", "stage3", "stage3_without", _JUMP, "start_gap", "lower"),
    Claim("B.1", "the same at large gaps", "stage3", "stage3_without", _JUMP, "large_gap", "lower"),
    *(
        Claim("B.1, Figure 17", f"Pose simulation is better than {name}", "stage3", row, _JUMP, "start_gap", "lower")
        for name, row in (("pose warping", "pose_warping"), ("a pose generator", "pose_generator"),
                          ("feature mapping", "feature_mapping"))
    ),
    Claim("B.3", "DC-CFG follows the pose better", "guidance", "guidance_off", "right_minus_wrong_db"),
)  # fmt: skip

# Choices that the paper prints otherwise than its release has them: (released, printed, metric).
CHOICES = (
    ("stage1", "faau_spatial", _PERSON),
    ("stage1", "tmcm_pointwise", _PERSON),
    ("stage1", "clip_concatenated", _PERSON),
    ("stage1", "references_shared", _PERSON),
    ("guidance", "guidance_timesteps", "right_minus_wrong_db"),
    ("guidance", "guidance_shift", "right_minus_wrong_db"),
    ("stage3", "stage3_latent", _JUMP),
)
RESOLVED_CLAIM = 0.8  # "over 80 %" of extreme jumps
