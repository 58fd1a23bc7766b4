"""Render an mp4 from an image, a driving video and a checkpoint.

    python examples/render.py CHECKPOINT IMAGE DRIVING OUT.mp4 ["PROMPT"]

`CHECKPOINT` is a folder written by `steadydancer convert` or `steadydancer train`, or a hub id.
Poses are estimated with DWPose: run `steadydancer weights fetch yolox` and `steadydancer weights fetch dwpose` first.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from steadydancer.datasets.video import decode, frame_times_s
from steadydancer.models import SteadyDancerPipeline
from steadydancer.models.pose.estimator import PoseEstimator, open_pose_estimator


def render(
    checkpoint: str, image: str, driving: str, out: str, prompt: str = "",
    pose_estimator: PoseEstimator | None = None, num_frames: int = 81, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Render `num_frames` frames to `out`, and return the record that is stored in the mp4."""
    on_gpu = torch.cuda.is_available()
    pipeline = SteadyDancerPipeline.from_pretrained(checkpoint, torch_dtype=torch.bfloat16 if on_gpu else torch.float32)
    if on_gpu:
        pipeline.enable_model_cpu_offload()  # transformer (33 GB) and text encoder (11 GB) are on the GPU in turn
    times_s = frame_times_s(driving)[:num_frames]  # every frame, like the released code
    return pipeline.render_to(
        Path(out),
        Image.open(image),
        prompt=prompt,
        driving_video=decode(driving, times_s),
        pose_estimator=pose_estimator or open_pose_estimator("dwpose", device="cuda" if on_gpu else "cpu"),
        num_frames=num_frames,
        seed=0,
        **settings,
    )


if __name__ == "__main__":
    render(*sys.argv[1:])
