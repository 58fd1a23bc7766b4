"""Distances between the set of renders and the set of truths, by variant."""

from dataclasses import replace

from ....models.metrics.variants import FID_VARIANTS, FVD_VARIANTS, PACKAGED_FID, variant_of
from .entry import Metric

I3D_WEIGHTS = FVD_VARIANTS["fvd[humanvid-pair]"].weights


def fvd_group(name: str) -> str:
    """Return the group of an FVD: variants on the same weights share it."""
    return "i3d" if FVD_VARIANTS[name].weights == I3D_WEIGHTS else "i3d-videogpt"


def sets() -> list[Metric]:
    """Return the distances between sets, by variant."""
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
