"""VBench's I2V dimensions, each on its own network, and two of them on an ImageNet backbone under another name."""

from typing import Any

from ....models.metrics import (
    aesthetic_quality,
    consistency,
    dynamic_degree,
    flow_stride,
    image_to_video,
    imaging_quality,
    motion_smoothness,
)
from ..judges import Judges
from ..scores import NotMeasured, Outcome, Score, score
from ..video import Video

_ONE_FRAME = ("one_frame", "a single frame has no change")


def measure_dino(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure subject_consistency and i2v_subject with DINO."""
    dino = judges["dino"]
    out: dict[str, Outcome] = {"subject_consistency": score(consistency(dino.frames(video.frames)), *_ONE_FRAME)}
    try:
        image = dino.i2v_image(video.image)
    except NotMeasured as missing:
        return out | missing.scores(["i2v_subject"])
    features = dino.i2v_frames(video.frames, **_resizing(video))
    return {**out, "i2v_subject": score(image_to_video(features, image), *_ONE_FRAME)}


def measure_clip(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure background_consistency with CLIP ViT-B/32."""
    value = consistency(judges["clip"].embed(video.frames))
    return {"background_consistency": score(value, *_ONE_FRAME)}


def measure_aesthetic(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure aesthetic_quality with CLIP ViT-L/14 and LAION's linear head."""
    return {
        "aesthetic_quality": Score(aesthetic_quality(judges["clip-l"].embed(video.frames), *judges.aesthetic_head()))
    }


def measure_musiq(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure imaging_quality with MUSIQ."""
    return {"imaging_quality": Score(imaging_quality(judges["musiq"].scores(video.frames)))}


def measure_dreamsim(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure i2v_background with DreamSim's ensemble."""
    dreamsim, image = judges["dreamsim"], video.image
    features = dreamsim.frames(video.frames, **_resizing(video))
    value = image_to_video(features, dreamsim.image(image), centred=True)
    return {"i2v_background": score(value, *_ONE_FRAME)}


def measure_smoothness(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure motion_smoothness with AMT-S."""
    if len(video.frames) < 3:
        return {"motion_smoothness": Score(None, "too_short", f"{len(video.frames)} frames, but 3 are needed")}
    value = motion_smoothness(video.frames, judges["amt"].middles(video.frames))
    return {"motion_smoothness": Score(value)}


def measure_dynamics(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure dynamic_degree with RAFT, on frames at about 8 per second as VBench samples them."""
    raft = judges["raft"]
    video.require_side(raft.min_side)
    frames = video.frames[:: flow_stride(video.fps)]
    return {"dynamic_degree": score(dynamic_degree(raft.largest_flows(frames), *video.size), *_ONE_FRAME)}


def measure_efficientnet(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure consistency and likeness to the reference with EfficientNet-Lite0, under its name."""
    network = judges["efficientnet"]
    features = network.features(video.frames)
    name = "subject_consistency[efficientnet-lite0]"
    out: dict[str, Outcome] = {name: score(consistency(features), *_ONE_FRAME)}
    try:
        image = network.features(video.image[None])[0]
    except NotMeasured as missing:
        return out | missing.scores(["i2v_subject[efficientnet-lite0]"])
    return {**out, "i2v_subject[efficientnet-lite0]": score(image_to_video(features, image), *_ONE_FRAME)}


def _resizing(video: Video) -> dict[str, Any]:
    """Return the argument of the judges that resize as torchvision did before 0.17; none for today's way."""
    return {} if video.protocol.antialias else {"antialias": False}
