"""Sampling with step-independent values cached, compared with computing them at every step.

Runs in one process and one thread with random weights, 40 steps with full guidance (91 evaluations); the two sides
alternate. Prints one JSON line: the ratios of the fastest runs and of the medians, whether the two videos are bitwise
equal, and the share of parameters that can be freed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from steadydancer.models.components import tiny_components
from steadydancer.models.conditions import Conditions, with_frame_mask
from steadydancer.models.guidance import branch_conditions, branch_velocity
from steadydancer.models.inference.step_memory import CONTEXT_PROJECTIONS
from steadydancer.models.sampling import denoise
from steadydancer.models.transformer import SteadyDancerTransformer3DModel


def video(model: SteadyDancerTransformer3DModel, side: int, num_frames: int, remember: bool) -> Callable[[], Tensor]:
    """Return a function that samples latents of num_frames × side × side from fixed inputs."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    clip = (16, num_frames, side, side)
    config = model.config
    conditions = Conditions(
        image_latents=with_frame_mask(normal(*clip)),
        pose_latents=normal(*clip),
        image_embeds=normal(257, config.image_dim),
        pose_image_embeds=normal(257, config.image_dim),
        prompt_embeds=normal(20, config.text_dim),
    )
    branches = branch_conditions(conditions, normal(40, config.text_dim), normal(*clip))
    noise = normal(*clip)
    return lambda: denoise(branch_velocity(model, branches, use_step_memory=remember), noise, num_inference_steps=40)


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8, help="height and width of the latents")
    parser.add_argument("--frames", type=int, default=5, help="latent frames")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = SteadyDancerTransformer3DModel.from_wan(tiny_components(seed=0)["transformer"]).eval()
    runs = {remember: video(model, options.side, options.frames, remember) for remember in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    videos = {}
    for _ in range(options.rounds):
        for remember, run in runs.items():
            start = time.perf_counter()
            videos[remember] = run()
            seconds[remember].append(time.perf_counter() - start)
    idle = sum(
        parameter.numel()
        for block in model.blocks
        for name in CONTEXT_PROJECTIONS
        if (projection := getattr(block.attn2, name, None)) is not None
        for parameter in projection.parameters()
    )
    print(
        json.dumps(
            {
                "benchmark": "step_memory",
                "latents": [options.frames, options.side, options.side],
                "rounds": options.rounds,
                "ratio_of_fastest": round(min(seconds[True]) / min(seconds[False]), 3),
                "ratio_of_medians": round(statistics.median(seconds[True]) / statistics.median(seconds[False]), 3),
                "fastest_plain_s": round(min(seconds[False]), 3),
                "bit_equal": torch.equal(videos[True], videos[False]),
                "parameters_given_up": round(idle / sum(p.numel() for p in model.parameters()), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
