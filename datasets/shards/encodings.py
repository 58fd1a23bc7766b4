"""What the numbers in a cache mean: a version of the code behind each member, and one digest of all that made them.

The versions are raised by hand. A digest of source files would change with every comment and every neighbouring
function, and would not change with a library; `tests/pipelines/cache/test_job.py` holds numbers of each member instead,
and whoever changes what an encoder gives is told there to raise its version.
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
    "pose": 1,  # keypoints are shares of the picture inside borders
    "caption": 1,  # frames shown to a captioner, and what it is asked
}


def fingerprint(settings: Mapping[str, Any], weights: Mapping[str, str]) -> str:
    """Names what a cached number depends on besides its clip, in 16 hexadecimal digits.

    Args:
        settings: sizes and types, as the record's `config` has them.
        weights: sha256 by network, as the record's `components.digests` has them.
    """
    return json_digest({"config": dict(settings), "weights": dict(weights), "encodings": ENCODINGS})[:16]
