"""Metrics of pose following, and the estimator's limit beside them."""

from .entry import Better, Metric, Need

# name → (unit, direction, meaning, whether it is about motion)
_POSE: dict[str, tuple[str, Better, str, bool]] = {
    "pck_10": ("share", "higher", "driven joints within 0.1 torso lengths; a lost joint is wrong", False),
    "pck_20": ("share", "higher", "within 0.2 torso lengths", False),
    "pck_50": ("share", "higher", "within 0.5 torso lengths", False),
    "pck_detected_10": ("share", "higher", "as pck_10, of the joints that are found only", False),
    "pck_detected_20": ("share", "higher", "as pck_20, of the joints that are found only", False),
    "pck_detected_50": ("share", "higher", "as pck_50, of the joints that are found only", False),
    "akd_px": ("px", "lower", "mean distance of the joints that both show", False),
    "akd_l1_px": ("px", "lower", "mean of (|dx| + |dy|) / 2, as FOMM's AKD", False),
    "akd_torso": ("torso", "lower", "akd_px in torso lengths", False),
    "mkr": ("share", "lower", "driven joints that are lost, mean over frames (FOMM)", False),
    "missing_rate": ("share", "lower", "driven joints that are lost, pooled", False),
    "extra_rate": ("share", "lower", "joints that are shown but not driven", False),
    "oks": ("0..1", "higher", "object keypoint similarity, mean over frames", False),
    "oks_ap": ("0..1", "higher", "share of frames above OKS .50 … .95, mean", False),
    "motion_ratio": ("ratio", "", "amount of motion, render over driven; 1 is right", True),
    "velocity_correlation": ("-1..1", "higher", "correlation of the joints' steps", True),
    "lag": ("frames", "", "delay of the render; 0 is right", True),
    "lag_correlation": ("-1..1", "higher", "velocity correlation at the lag", True),
    "jerk_ratio": ("ratio", "", "third differences, render over driven; 1 is right", True),
    "mirror_correlation": ("-1..1", "", "velocity_correlation after mirroring the render; above it: mirrored", True),
    "mirrored": ("share", "lower", "1 if the mirrored render follows better", True),
    "jump": ("ratio", "", "largest of the first eight speeds over the median of the later ones", True),
    "jump_driven": ("ratio", "", "the same of the driven motion", True),
    "jump_excess": ("ratio", "", "jump over jump_driven; 1 is right", True),
    "start_gap": ("torso", "", "distance of the reference pose from the first driven one", False),
    "start_gap_resolved": ("share", "higher", "1 if start_gap ≥ 0.5 and jump_excess ≤ 1.3", True),
    "torso_px": ("px", "", "length of the driven torso", False),
    "people_driven": ("persons", "", "persons in the driven motion", False),
    "people_extra": ("persons", "lower", "rendered persons without a driven one", False),
    "people_pck_10": ("share", "higher", "pck_10, mean over all driven persons; a lost person is wrong", False),
    "people_oks": ("0..1", "higher", "oks, mean over all driven persons that are found", False),
    "hands_pck_20": (
        "share",
        "higher",
        "points of the hands within 0.2 hand lengths, mean over hands",
        False,
    ),
    "hands_akd": ("hand", "lower", "mean distance of the hands' points in hand lengths", False),
    "hands_missing_rate": ("share", "lower", "driven points of the hands that are lost", False),
}
# Of the driving clip against its own coded copy: the estimator's limit.
CEILINGS = ("pck_10", "akd_torso", "oks", "motion_ratio", "velocity_correlation", "jerk_ratio", "jump_excess")


def pose() -> list[Metric]:
    """Return the metrics of pose following, with their ceilings."""
    metrics = []
    for name, (unit, better, meaning, is_motion) in _POSE.items():
        needs: tuple[Need, ...] = ("driving", "reference") if name.startswith("start_gap") else ("driving",)
        tables = ("vbench",) if name == "motion_ratio" else ()
        metrics.append(Metric(name, "pose", unit, better, meaning, needs, tables=tables, is_motion=is_motion))
        if name in CEILINGS:
            words = f"{name} of the driving clip against its own coded copy: the estimator's limit"
            metrics.append(Metric(f"{name}[ceiling]", "pose", unit, "", words, ("driving",), ceiling_of=name))
    return metrics
