"""The first frame against the reference image, beside its ceiling: the autoencoder, and the codec of the render."""

import math
from typing import Any

import numpy as np

from ....datasets.arrays import Frames
from ....models.encoders import decode_latents, encode_video
from ....models.metrics import MAX_PSNR_DB, first_frame_gap, first_frame_psnr
from ..judges import Judges
from ..protocols import Codec
from ..scores import NotMeasured, Outcome, Score, score
from ..video import Video, through_codec

CEILING = ("autoencoder_ceiling_psnr", "first_frame_psnr[ceiling]", "first_frame_gap", "first_frame_explained")


def measure(video: Video, judges: Judges, autoencoder: Any) -> dict[str, Outcome]:
    """Measure frame 0 of a video.

    Args:
        video: the video.
        judges: not used.
        autoencoder: the renders' VAE; None: unknown.

    Raises:
        NotMeasured: there is no reference image.
    """
    frame, reference = video.frames[0], video.reference
    own: Outcome = _capped_psnr(first_frame_psnr(frame[None], reference), "frame 0 equals the reference")
    values: dict[str, Outcome] = {"first_frame_psnr": own}
    if autoencoder is None:
        why = "the renders' autoencoder is not known: pass --preset with evaluate.components"
        return values | NotMeasured("no_autoencoder", why).scores(CEILING)
    decoded = decode_latents(autoencoder, encode_video(autoencoder, reference[None]))
    if decoded.shape[1:] != reference.shape:
        why = f"the autoencoder makes {decoded.shape[2]}×{decoded.shape[1]} px of {video.size[1]}×{video.size[0]}"
        return values | NotMeasured("odd_size", why).scores(CEILING)
    codec = Codec(crf=video.rendered.crf, chroma=video.rendered.chroma)
    coded = through_codec(decoded, video.fps, codec)
    _, ceiling, gap, explained = first_frame_gap(_error(frame, reference), _error(coded[0], reference))
    assumed = "" if video.rendered.has_record else ", assumed, as the videos have no record"
    words = f"h264, crf {codec.crf}, {codec.chroma}{assumed}"
    return values | {
        "autoencoder_ceiling_psnr": _capped_psnr(first_frame_psnr(decoded, reference), "the round trip is lossless"),
        "first_frame_psnr[ceiling]": Score(min(ceiling, MAX_PSNR_DB), detail=words),
        "first_frame_gap": score(gap, "equal", "frame 0 or its ceiling equals the reference", words),
        "first_frame_explained": score(explained, "equal", "frame 0 equals the reference", words),
    }


def _error(frame: Frames, reference: Frames) -> float:
    """Return the mean squared error in [0, 1]."""
    return float((((frame.astype(np.float64) - reference) / 255) ** 2).mean())


def _capped_psnr(value: float, equal: str) -> Score:
    """Return the PSNR of one frame, limited to `MAX_PSNR_DB`."""
    detail = f"{equal}: counted as {MAX_PSNR_DB:g} dB" if math.isinf(value) else None
    return Score(min(value, MAX_PSNR_DB), detail=detail)
