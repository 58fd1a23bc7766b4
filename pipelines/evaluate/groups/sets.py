"""Features of render and truth for the distances between sets, which are computed when all videos are measured."""

from typing import Any

from ....datasets.arrays import Frames
from ....models.metrics.variants import FID_VARIANTS, FVD_VARIANTS, PACKAGED_FID, variant_of
from ..catalogue import fvd_group
from ..judges import Judges
from ..scores import Features, Outcome, Score
from ..video import Video

SIDES = ("render", "truth")


def feature_name(variant: str, side: str) -> str:
    """Return the name under which a variant's features of `render` or `truth` are stored."""
    return f"features[{variant}]:{side}"


def measure_inception(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Compute Inception's features in each variant of the protocol."""
    pair, inception = video.compared, judges["inception"]
    out: dict[str, Outcome] = {}
    for name, preprocessing in FID_VARIANTS.items():
        if (variant := variant_of(name)) in video.protocol.fid:
            for side, frames in zip(SIDES, pair[:2], strict=True):
                rows = inception.features(frames, preprocessing=preprocessing)
                out[feature_name(variant, side)] = Features(rows, pair.detail)
    return out


def measure_efficientnet(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Compute EfficientNet-Lite0's features, for a Fréchet distance under its name."""
    pair, network = video.compared, judges["efficientnet"]
    return {
        feature_name(variant_of(PACKAGED_FID), side): Features(network.features(frames), pair.detail)
        for side, frames in zip(SIDES, pair[:2], strict=True)
    }


def measure_i3d(video: Video, judges: Judges, group: str) -> dict[str, Outcome]:
    """Compute I3D's logits in each variant of the protocol that is in the group."""
    pair = video.compared
    return {
        feature_name(variant, side): _logits(judges[group], frames, name)
        for name in FVD_VARIANTS
        if fvd_group(name) == group and (variant := variant_of(name)) in video.protocol.fvd
        for side, frames in zip(SIDES, pair[:2], strict=True)
    }


def _logits(i3d: Any, frames: Frames, name: str) -> Outcome:
    """Return the logits [1, 400] of the frames that count, or [K, 400] of K prefixes."""
    variant = FVD_VARIANTS[name]
    try:
        clip = variant.clip(frames)
        if variant.is_paired:
            return Features(i3d.prefix_logits(clip, variant.prefixes, preprocessing=variant.preprocessing))
        return Features(i3d.logits([clip], preprocessing=variant.preprocessing))
    except ValueError as error:  # fewer frames than the variant or the network needs
        return Score(None, "too_short", str(error))
