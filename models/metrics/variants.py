"""The variants of FID, FVD and LPIPS in use, by the names under which results are printed. Two names never compare.

A set distance of few samples is mostly bias: `small_set_remark` says so, and `kernel_distance` of the same features
(KID, KVD) has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ...datasets.arrays import Frames

MIN_SET_VIDEOS = 256  # below it, a Fréchet distance of videos says more about N than about the videos
FID_VARIANTS = {
    # name → preprocessing of `Inception.features`
    "fid[pytorch-fid]": "pytorchfid_299",
    "fid[torch-fidelity]": "torchfidelity_299",
    "fid[clean-fid]": "cleanfid_299",
    "fid[humanvid]": "humanvid_fid_299",
}
PACKAGED_FID = "fid[efficientnet-lite0]"  # of `EfficientNetLite0.features`, whose weights need no hub
LPIPS_VARIANTS = {
    # name → network and `zero_to_one` of `Lpips.distances`
    "lpips[vgg]": ("vgg", False),
    "lpips[vgg,0-1]": ("vgg", True),  # HumanVid, DisCo
    "lpips[alex]": ("alex", False),
}


@dataclass(frozen=True)
class FvdVariant:
    """How one FVD is computed from clips.

    Attributes:
        weights: rows of the catalogue, any one of which suffices.
        preprocessing: of `I3D.logits`.
        num_frames: frames from the start of each video; None: all of them.
        prefixes: lengths of the prefixes of a video whose logits are compared with those of its own truth
            (`humanvid_fvd`); empty: a distance of two sets (`frechet_distance`).
    """

    weights: tuple[str, ...]
    preprocessing: str
    num_frames: int | None = None
    prefixes: tuple[int, ...] = ()

    @property
    def is_paired(self) -> bool:
        """Whether it compares each video with its own truth, not two sets."""
        return bool(self.prefixes)

    def clip(self, frames: Frames) -> Frames:
        """Return the frames [T, H, W, 3] that count.

        Raises:
            ValueError: the video has too few.
        """
        needed = max(self.prefixes, default=self.num_frames or 0)
        if len(frames) < needed:
            raise ValueError(f"The video has {len(frames)} frames, and the variant needs {needed}.")
        return frames[:needed] if needed else frames


_TENSORFLOW = ("i3d", "i3d-kinetics-400")  # the same parameters, from the hub or from a Python package
FVD_VARIANTS = {
    "fvd[humanvid-pair]": FvdVariant(_TENSORFLOW, "fvd_humanvid_224", prefixes=tuple(range(10, 25))),
    "fvd[i3d-torchscript,16f]": FvdVariant(_TENSORFLOW, "fvd_cdfvd_224", 16),  # StyleGAN-V
    "fvd[cd-fvd,16f]": FvdVariant(("i3d-videogpt",), "fvd_cdfvd_224", 16),
    "fvd[common-metrics]": FvdVariant(_TENSORFLOW, "fvd_humanvid_224"),
    "fvd[scail,81f]": FvdVariant(_TENSORFLOW, "fvd_scail_224", 81),
}


def variant_of(name: str) -> str:
    """Return what stands in the brackets of a metric's name: `fid[humanvid]` → `humanvid`."""
    return name.partition("[")[2].removesuffix("]")


def small_set_remark(set_sizes: Sequence[int]) -> str | None:
    """Return the remark that a Fréchet distance of these sets must carry; None if both are large enough.

    Args:
        set_sizes: number of renders and of truths.
    """
    smallest = min(set_sizes)
    if smallest >= MIN_SET_VIDEOS:
        return None
    return (
        f"a set distance of {smallest} videos is mostly bias (≥ {MIN_SET_VIDEOS} are needed): compare only with equal "
        "N, and read the kernel distance beside it"
    )
