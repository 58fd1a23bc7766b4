"""Features of render and truth for the distances between sets, which are computed when all videos are measured."""

from ....datasets.arrays import Frames
from ..judges import Judges
from ..scores import Features, NotMeasured, Outcome
from ..video import Video

PREPROCESSING = {
    "pytorchfid": "pytorchfid_299",
    "torchfidelity": "torchfidelity_299",
    "cleanfid": "cleanfid_299",
    "humanvid": "humanvid_fid_299",
}
PREFIXES = range(10, 25)  # lengths of the beginnings that HumanVid's FVD compares
SET_FRAMES = 16
SIDES = ("render", "truth")


def feature_name(variant: str, side: str) -> str:
    """Return the name under which a variant's features of `render` or `truth` are stored."""
    return f"features[{variant}]:{side}"


def measure_inception(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Compute Inception's features in each variant of the protocol."""
    pair, inception = video.compared, judges["inception"]
    out: dict[str, Outcome] = {}
    for variant in video.protocol.fid:
        if variant in PREPROCESSING:
            for side, frames in zip(SIDES, pair[:2], strict=True):
                rows = inception.features(frames, preprocessing=PREPROCESSING[variant])
                out[feature_name(variant, side)] = Features(rows, pair.detail)
    return out


def measure_efficientnet(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Compute EfficientNet-Lite0's features, for a Fréchet distance under its name."""
    pair, network = video.compared, judges["efficientnet"]
    return {
        feature_name("efficientnet-lite0", side): Features(network.features(frames), pair.detail)
        for side, frames in zip(SIDES, pair[:2], strict=True)
    }


def measure_i3d(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Compute I3D's logits: of HumanVid's beginnings of the clip, and of its first 16 frames."""
    pair, i3d = video.compared, judges["i3d"]
    out: dict[str, Outcome] = {}
    for side, frames in zip(SIDES, pair[:2], strict=True):
        if "humanvid-pair" in video.protocol.fvd:
            out[feature_name("humanvid-pair", side)] = _logits(
                i3d, frames, [frames[:length] for length in PREFIXES], PREFIXES[-1], "fvd_humanvid_224"
            )
        if "i3d-torchscript,16f" in video.protocol.fvd:
            clips = [frames[:SET_FRAMES]]
            out[feature_name("i3d-torchscript,16f", side)] = _logits(i3d, frames, clips, SET_FRAMES, "fvd_cdfvd_224")
    return out


def _logits(i3d: object, frames: Frames, clips: list[Frames], needed: int, preprocessing: str) -> Outcome:
    if len(frames) < needed:
        missing = NotMeasured("too_short", f"{len(frames)} frames were compared, but {needed} are needed")
        return missing.scores(["features"])["features"]
    return Features(i3d.logits(clips, preprocessing=preprocessing))  # type: ignore[attr-defined]
