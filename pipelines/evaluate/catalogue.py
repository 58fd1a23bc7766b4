"""Catalogue of metrics: name, unit, direction, meaning, and what each one needs.

A group is a set of metrics that are measured together, from the same networks. The variant of a metric stands in
brackets: values of two variants are different metrics.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ... import SteadyDancerError
from ...models.metrics.variants import FID_VARIANTS, FVD_VARIANTS, LPIPS_VARIANTS, PACKAGED_FID, variant_of
from .protocols import Protocol

Better = Literal["higher", "lower", ""]
Need = Literal["truth", "driving", "reference", "autoencoder"]


@dataclass(frozen=True)
class Group:
    """Metrics that are measured together.

    Args:
        name: name in `--metrics`, and of the folder of its measurements.
        title: heading of its table.
        weights: rows of `models.weights` that it needs; of each entry any one row, the first that is here.
        estimator: whether it needs a pose estimator, of which several serve.
        version: raised with every change of its values.
    """

    name: str
    title: str
    weights: tuple[tuple[str, ...], ...] = ()
    estimator: bool = False
    version: int = 1


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: name, with the variant in brackets.
        group: name of its group.
        unit: unit or range.
        better: which direction is better; empty for a description or a ceiling.
        meaning: definition, in a phrase.
        needs: what it needs besides the video.
        level: `set`: one value for all videos of a method, from stored features.
        variant: field of the protocol that selects variants, and the variant; None: every protocol has it.
        ceiling_of: the metric whose limit it measures.
        tables: further tables in which it stands.
        is_motion: null for clips in which the estimator cannot measure motion.
        weighted: what a mean over videos is weighted by where the protocol says so: `frames`, or `steps` between them.
    """

    name: str
    group: str
    unit: str
    better: Better
    meaning: str
    needs: tuple[Need, ...] = ()
    level: Literal["video", "set"] = "video"
    variant: tuple[str, str] | None = None
    ceiling_of: str | None = None
    tables: tuple[str, ...] = ()
    is_motion: bool = False
    weighted: Literal["frames", "steps", ""] = ""


FACE, PERSON_CROP = "dlib-face", "efficientnet-lite0,person-crop"  # judges of identity
I3D_WEIGHTS = FVD_VARIANTS["fvd[humanvid-pair]"].weights


def fvd_group(name: str) -> str:
    """Return the group of an FVD: variants on the same weights share it."""
    return "i3d" if FVD_VARIANTS[name].weights == I3D_WEIGHTS else "i3d-videogpt"


_GROUPS = (
    Group("first_frame", "First frame"),
    Group("truth", "Against the ground truth"),
    Group("pixels", "Change from frame to frame"),
    Group("pose", "Pose following", estimator=True),
    Group("dino", "VBench: DINO", (("dino",),)),
    Group("clip", "VBench: CLIP", (("clip-vit-b-32",),)),
    Group("aesthetic", "VBench: aesthetic quality", (("clip-vit-l-14",), ("vbench-aesthetic-head",))),
    Group("musiq", "VBench: imaging quality", (("musiq",),)),
    Group("dreamsim", "VBench: DreamSim", (("dreamsim",),)),
    Group("amt", "VBench: motion smoothness", (("amt",),)),
    Group("raft", "VBench: dynamic degree", (("raft",),)),
    Group("efficientnet", "ImageNet backbone from a package", (("efficientnet-lite0",),)),
    Group("lpips-vgg", "LPIPS, VGG16", (("lpips-vgg",),)),
    Group("lpips-alex", "LPIPS, AlexNet", (("lpips-alex",),)),
    Group("inception", "Inception", (("inception-fid",),)),
    Group("i3d", "I3D", (I3D_WEIGHTS,)),
    Group("i3d-videogpt", "I3D, VideoGPT's file", (("i3d-videogpt",),)),
    Group("face", "Identity over time, by the face", (("dlib-face",),)),
    Group(
        "person-crop", "Identity over time, by the whole person", (("efficientnet-lite0",), ("selfie-segmentation",))
    ),
    Group("background", "Background", (("selfie-segmentation",),)),
)
GROUPS: Mapping[str, Group] = {group.name: group for group in _GROUPS}
# Tables that hold metrics of several groups.
TABLES = {
    "basic": "Without networks",
    "vbench": "VBench-I2V (print motion_ratio or dynamic_degree beside it: six of the eight reward stillness)",
    "sets": "Distances between sets",
}


def _first_frame() -> list[Metric]:
    one = Metric("", "first_frame", "dB", "higher", "", ("reference",), tables=("basic",))
    return [
        replace(one, name="first_frame_psnr", meaning="frame 0 against the reference image"),
        replace(
            one,
            name="autoencoder_ceiling_psnr",
            better="",
            needs=("reference", "autoencoder"),
            meaning="the reference image after the autoencoder's round trip, for comparison",
        ),
        replace(
            one,
            name="first_frame_psnr[ceiling]",
            better="",
            ceiling_of="first_frame_psnr",
            needs=("reference", "autoencoder"),
            meaning="the reference image after the autoencoder's round trip and the codec of the render",
        ),
        replace(
            one,
            name="first_frame_gap",
            needs=("reference", "autoencoder"),
            meaning="first_frame_psnr − its ceiling; at most 0 if the ceiling holds",
        ),
        replace(
            one,
            name="first_frame_explained",
            unit="ratio",
            needs=("reference", "autoencoder"),
            meaning="share of the error of frame 0 that autoencoder and codec explain",
        ),
    ]


def _truth() -> list[Metric]:
    one = Metric("", "truth", "0..1", "higher", "", ("truth",), tables=("basic",), weighted="frames")
    windows = {
        "zero-gauss11": "Gaussian 11 × 11, black around the picture (HumanVid, FastVideo)",
        "reflect-gauss11": "Gaussian 11 × 11, the picture mirrored (torchmetrics)",
        "interior-gauss11": "Gaussian 11 × 11 inside the picture (scikit-image)",
        "gray-uniform7": "uniform 7 × 7 on grey (DisCo, One-to-All)",
    }
    return [
        replace(
            one,
            name="psnr",
            unit="dB",
            meaning="against the ground truth, mean over the frames compared; equal frames count as 100",
        ),
        replace(
            one,
            name="psnr[mean-mse]",
            unit="dB",
            meaning="of the mean squared error of the whole clip; 1 to 3 dB below psnr",
        ),
        replace(
            one,
            name="ssim",
            unit="",
            meaning="against the ground truth, mean over frames; the variant reflect-gauss11",
        ),
        *(
            replace(one, name=f"ssim[{name}]", variant=("ssim", name), meaning=f"against the ground truth; {words}")
            for name, words in windows.items()
        ),
        replace(
            one,
            name="start_gap_jump_excess",
            unit="ratio",
            better="lower",
            weighted="",
            meaning="start_gap_jump of the render over that of the truth",
        ),
    ]


def _pixels() -> list[Metric]:
    one = Metric("", "pixels", "0..1", "higher", "", tables=("basic",))
    return [
        replace(
            one,
            name="temporal_flickering",
            tables=("basic", "vbench"),
            meaning="(255 − mean change between frames) / 255, as in VBench",
        ),
        replace(
            one,
            name="start_gap_jump",
            unit="ratio",
            better="lower",
            meaning="largest change among the first frames, relative to the median change after them",
        ),
    ]


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
    "extra_rate": ("share", "lower", "joints that are shown though nobody drives them", False),
    "oks": ("0..1", "higher", "object keypoint similarity, mean over frames", False),
    "oks_ap": ("0..1", "higher", "share of frames above OKS .50 … .95, mean", False),
    "motion_ratio": ("ratio", "", "amount of motion, render over driven; 1 is right", True),
    "velocity_correlation": ("-1..1", "higher", "correlation of the joints' steps", True),
    "lag": ("frames", "", "delay of the render; 0 is right", True),
    "lag_correlation": ("-1..1", "higher", "velocity correlation at the lag", True),
    "jerk_ratio": ("ratio", "", "third differences, render over driven; 1 is right", True),
    "mirror_correlation": ("-1..1", "lower", "velocity correlation after mirroring the render", True),
    "mirrored": ("share", "lower", "1 if the mirrored render follows better", True),
    "jump": ("ratio", "", "largest of the first eight speeds over the median of the later ones", True),
    "jump_driven": ("ratio", "", "the same of the driven motion", True),
    "jump_excess": ("ratio", "lower", "jump over jump_driven; 1 is right", True),
    "start_gap": ("torso", "", "distance of the reference pose from the first driven one", False),
    "start_gap_resolved": ("share", "higher", "1 if start_gap ≥ 0.5 and jump_excess ≤ 1.3", True),
    "torso_px": ("px", "", "length of the driven torso", False),
    "people_driven": ("persons", "", "persons in the driven motion", False),
    "people_extra": ("persons", "lower", "rendered persons that nobody drives", False),
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


def _pose() -> list[Metric]:
    metrics = []
    for name, (unit, better, meaning, is_motion) in _POSE.items():
        needs: tuple[Need, ...] = ("driving", "reference") if name.startswith("start_gap") else ("driving",)
        tables = ("vbench",) if name == "motion_ratio" else ()
        metrics.append(Metric(name, "pose", unit, better, meaning, needs, tables=tables, is_motion=is_motion))
        if name in CEILINGS:
            words = f"{name} of the driving clip against its own coded copy: the estimator's limit"
            metrics.append(Metric(f"{name}[ceiling]", "pose", unit, "", words, ("driving",), ceiling_of=name))
    return metrics


def _vbench() -> list[Metric]:
    one = Metric("", "", "0..1", "higher", "", tables=("vbench",))
    steady = "similarity of a frame to the one before and to frame 0"
    image = "similarity to the reference image, and of neighbouring frames"
    return [
        replace(one, name="subject_consistency", group="dino", weighted="steps", meaning=f"{steady} (DINO ViT-B/16)"),
        replace(
            one, name="background_consistency", group="clip", weighted="steps", meaning=f"{steady} (CLIP ViT-B/32)"
        ),
        replace(one, name="motion_smoothness", group="amt", meaning="how well AMT-S interpolates every other frame"),
        replace(one, name="aesthetic_quality", group="aesthetic", meaning="LAION's linear head on CLIP ViT-L/14"),
        replace(
            one,
            name="imaging_quality",
            group="musiq",
            unit="0..100",
            meaning="MUSIQ-SPAQ, mean over frames; VBench prints it / 100",
        ),
        replace(one, name="i2v_subject", group="dino", needs=("reference",), meaning=f"{image} (DINO ViT-B/16)"),
        replace(one, name="i2v_background", group="dreamsim", needs=("reference",), meaning=f"{image} (DreamSim)"),
        replace(
            one,
            name="dynamic_degree",
            group="raft",
            unit="share",
            better="",
            meaning="1 if the clip moves, by RAFT's flow",
        ),
    ]


def _efficientnet() -> list[Metric]:
    one = Metric("", "efficientnet", "0..1", "higher", "")
    words = "with an ImageNet backbone from a package: not VBench's value"
    return [
        replace(
            one,
            name="subject_consistency[efficientnet-lite0]",
            weighted="steps",
            meaning=f"over time, {words}",
        ),
        replace(
            one,
            name="i2v_subject[efficientnet-lite0]",
            needs=("reference",),
            meaning=f"similarity to the reference, {words}",
        ),
    ]


def _lpips() -> list[Metric]:
    return [
        Metric(
            name,
            f"lpips-{network}",
            "distance",
            "lower",
            f"LPIPS v0.1, {network}, "
            + ("given [0, 1] where it expects [−1, 1] (HumanVid, DisCo)" if odd else "as published"),
            ("truth",),
            variant=("lpips", variant_of(name)),
            weighted="frames",
        )
        for name, (network, odd) in LPIPS_VARIANTS.items()
    ]


def _sets() -> list[Metric]:
    one = Metric("", "", "distance", "lower", "", ("truth",), "set", tables=("sets",))
    return [
        *(metric for name in (*FID_VARIANTS, PACKAGED_FID) for metric in _fid(one, variant_of(name))),
        *(metric for name in FVD_VARIANTS for metric in _fvd(one, name)),
    ]


def _fid(one: Metric, variant: str) -> list[Metric]:
    group = "efficientnet" if variant == variant_of(PACKAGED_FID) else "inception"
    one = replace(one, group=group, variant=("fid", variant))
    return [
        replace(one, name=f"fid[{variant}]", meaning="Fréchet distance of the frames' features; falls with N"),
        replace(one, name=f"fid_infinity[{variant}]", meaning="the same, extrapolated to infinitely many frames"),
        replace(one, name=f"kid[{variant}]", meaning="unbiased kernel distance of the same features"),
    ]


_FVD_FRAMES = {
    "fvd[i3d-torchscript,16f]": "16 frames, stretched (StyleGAN-V)",
    "fvd[cd-fvd,16f]": "16 frames, stretched, VideoGPT's file of I3D",
    "fvd[common-metrics]": "all frames, cut to the centre",
    "fvd[scail,81f]": "81 frames, cut to the centre",
}


def _fvd(one: Metric, name: str) -> list[Metric]:
    variant = variant_of(name)
    one = replace(one, group=fvd_group(name), variant=("fvd", variant))
    if FVD_VARIANTS[name].is_paired:
        words = "what HumanVid prints as FVD: pair by pair, never comparable with a set's"
        return [replace(one, name=name, meaning=words)]
    return [
        replace(one, name=name, meaning=f"Fréchet distance of the videos' features: {_FVD_FRAMES[name]}"),
        replace(one, name=f"kvd[{variant}]", meaning="unbiased kernel distance of the same features"),
    ]


_IDENTITY: dict[str, tuple[str, Better, str]] = {
    "identity": ("", "higher", "mean over the frames in which it is found"),
    "identity_min": ("", "higher", "the smallest"),
    "identity_p5": ("", "higher", "5th percentile"),
    "identity_slope": ("1/s", "higher", "change per second"),
    "identity_last_quarter": ("", "higher", "mean of the last quarter"),
    "identity_found": ("share", "", "frames in which it is found"),
}


def _identity(group: str, judge: str, unit: str, what: str) -> list[Metric]:
    """Return the metrics of one judge; two judges are two variants, which are never mixed."""
    one = Metric("", group, unit, "higher", "", ("reference",))
    return [
        *(
            replace(one, name=f"{name}[{judge}]", unit=own or unit, better=better, meaning=f"{what}: {words}")
            for name, (own, better, words) in _IDENTITY.items()
        ),
        replace(
            one,
            name=f"identity[{judge},ceiling]",
            better="",
            ceiling_of=f"identity[{judge}]",
            needs=("driving",),
            meaning="different frames of the driving video against each other",
        ),
        replace(
            one,
            name=f"identity[{judge},floor]",
            better="",
            level="set",
            tables=("sets",),
            meaning="the reference images of different people against each other",
        ),
    ]


def _background() -> list[Metric]:
    one = Metric("background_drift", "background", "0..1", "lower", "", ("driving",))
    return [
        replace(
            one, meaning="mean change of the background against frame 0; only where the driving camera stands still"
        ),
        replace(one, name="background_drift[driving]", better="", meaning="the same of the driving video itself"),
        replace(one, name="camera_travel", unit="diagonals", better="", meaning="way of the driving camera"),
    ]


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *_first_frame(),
        *_truth(),
        *_pixels(),
        *_pose(),
        *_vbench(),
        *_lpips(),
        *_efficientnet(),
        *_identity("face", FACE, "1 − distance", "likeness of the face to that of the reference"),
        *_identity("person-crop", PERSON_CROP, "cosine", "likeness of the person's crop to that of the reference"),
        *_background(),
        *_sets(),
    )
}


def metrics_of(protocol: Protocol) -> list[str]:
    """List the metrics of a protocol: all but the variants that it leaves out."""
    return [
        name
        for name, metric in METRICS.items()
        if metric.variant is None or metric.variant[1] in getattr(protocol, metric.variant[0])
    ]


def select_metrics(words: Iterable[str] | None, protocol: Protocol) -> list[str]:
    """Return the metrics that are asked for, in the order of the catalogue.

    Args:
        words: names of metrics, of groups or tables (`vbench`, `pose`), or without the brackets for all variants;
            several may stand in one word with commas between them. None: all of the protocol.
        protocol: leaves variants out.

    Raises:
        SteadyDancerError: a word is none of these.
    """
    offered = metrics_of(protocol)
    if words is None:
        return offered
    asked: set[str] = set()
    for word in (each.strip() for text in words for each in re.split(r",(?![^\[]*\])", text)):
        found = _named(word)
        if not found:
            near = difflib.get_close_matches(word, [*METRICS, *GROUPS, *TABLES], 4)
            hint = f"; similar: {', '.join(near)}" if near else ""
            raise SteadyDancerError(f"{word!r} is no metric, group or table{hint}; see `steadydancer evaluate --list`")
        if not found & set(offered):
            raise SteadyDancerError(f"{word!r} is a variant that the protocol {protocol.name} leaves out")
        asked |= found
    return [name for name in offered if name in asked]


def _named(word: str) -> set[str]:
    if word in METRICS:
        return {word}
    return {
        name
        for name, metric in METRICS.items()
        if word in (metric.group, *metric.tables) or name.partition("[")[0] == word
    }


def groups_of(names: Iterable[str]) -> list[Group]:
    """Return the groups that measure these metrics, in the order of the catalogue."""
    wanted = {METRICS[name].group for name in names}
    return [group for group in GROUPS.values() if group.name in wanted]
