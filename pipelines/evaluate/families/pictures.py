"""Metrics on pictures: frame 0, the ground truth with LPIPS, and change from frame to frame."""

from dataclasses import replace

from ....models.metrics.variants import LPIPS_VARIANTS, variant_of
from .entry import Metric


def first_frame() -> list[Metric]:
    """Return the metrics of frame 0."""
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


def against_truth() -> list[Metric]:
    """Return the metrics against the ground truth that need no network."""
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
            better="",
            weighted="",
            meaning="start_gap_jump of the render over that of the truth; 1 is right",
        ),
    ]


def lpips() -> list[Metric]:
    """Return the variants of LPIPS."""
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


def change() -> list[Metric]:
    """Return the metrics of change from frame to frame."""
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
            better="",  # a dance may begin quickly, and a render that stands still at first has the smallest
            meaning="largest change among the first frames, relative to the median change after them",
        ),
    ]
