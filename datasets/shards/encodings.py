"""Version of the code that computes each cached tensor, and a fingerprint of code, settings and weights.

Raise a version by hand when the output of its encoder changes. A digest of source files would change with every
comment and every neighbouring function, and would not change with a library. `tests/pipelines/cache/test_job.py`
stores expected numbers for each tensor and fails, with a request to raise the version, when they change.
"""

from collections.abc import Mapping
from typing import Any

from ..storage.digests import json_digest

ENCODINGS: dict[str, int] = {
    "latents": 1,
    "image_latents": 1,
    "pose_latents": 1,
    "image_embeds": 1,
    "pose_image_embeds": 1,
    "prompt_embeds": 1,
    "pose": 1,  # keypoints relative to the picture inside borders
    "caption": 1,  # the captioner's frames and its prompt
}


def fingerprint(settings: Mapping[str, Any], weights: Mapping[str, str]) -> str:
    """Hash everything but the clip that cached tensors depend on, to 16 hexadecimal digits.

    Args:
        settings: sizes and types, as in `config` of the record.
        weights: sha256 by network, as in `components.digests` of the record.
    """
    return json_digest({"config": dict(settings), "weights": dict(weights), "encodings": ENCODINGS})[:16]
