"""The guidance branches of a step evaluated in each way, compared with one after another: time and bits.

Random weights, 10 steps with full guidance (22 evaluations); `--steps 40` has the released 91. In one process and one
thread, the ways alternate and CPU time is compared, which other programs on the machine change little. `nothing kept`
computes in every evaluation what does not depend on the step; of the parameters, `parameters_given_up` are idle
otherwise. With `--processes`, process groups follow: their wall time, which says something on an idle machine only.
Prints one JSON line per way. `--weight-moves` counts how often a block's weights are brought when blocks are offloaded
one by one.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from diffusers.hooks import apply_group_offloading
from diffusers.hooks.group_offloading import ModuleGroup
from torch import Tensor

from steadydancer.models.components import load_network, tiny_components
from steadydancer.models.guidance import branch_velocity
from steadydancer.models.inference.branch_evaluation import BranchEvaluation
from steadydancer.models.inference.step_memory import CONTEXT_PROJECTIONS
from steadydancer.models.parallel.group import ParallelGroup
from steadydancer.models.parallel.processes import Parallel
from steadydancer.models.preflight.inputs import branch_inputs
from steadydancer.models.sampling import denoise
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

GROUPS: tuple[tuple[Parallel, int], ...] = (("guidance", 2), ("guidance", 3), ("context", 2))


def sampler(model: Any, side: int, num_frames: int, num_steps: int) -> Callable[[Any], Tensor]:
    """Return a function that samples latents of num_frames × side × side with a maker of velocities."""
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    grid, config = (num_frames, side, side), model.config
    branches = branch_inputs(normal, grid, config.image_dim, config.text_dim, num_tokens=(20, 40))
    noise = normal(1, 16, *grid)
    return lambda make: denoise(make(model, branches), noise, num_inference_steps=num_steps)


def report(way: str, video: Tensor, expected: Tensor, **more: Any) -> None:
    """Print the line of one way."""
    difference = (video - expected).abs().max().item()
    bits = {"bit_equal": torch.equal(video, expected), "largest_difference": float(f"{difference:.2g}")}
    print(json.dumps({"benchmark": "branch_evaluation", "way": way, **bits, **more}), flush=True)


def compare_ways(model: Any, sample: Callable[[Any], Tensor], rounds: int) -> Tensor:
    """Measure the three ways in this process, and "sequential" without a memory; return the video of "sequential"."""
    ways = {way: partial(branch_velocity, branch_evaluation=way) for way in get_args(BranchEvaluation)}
    ways["nothing kept"] = partial(branch_velocity, branch_evaluation="sequential", use_step_memory=False)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    videos: dict[str, Tensor] = {}
    for round_ in range(rounds + 1):
        for way, make in ways.items():
            start = time.process_time()
            videos[way] = sample(make)
            if round_:  # the first one warms up
                seconds[way].append(time.process_time() - start)
    for way in ways:
        ratios = {
            "ratio_of_fastest": round(min(seconds[way]) / min(seconds["sequential"]), 3),
            "ratio_of_medians": round(median(seconds[way]) / median(seconds["sequential"]), 3),
        }
        more = {"parameters_given_up": idle_share(model)} if way == "nothing kept" else {}
        cpu_s = round(min(seconds[way]), 3)
        report(way, videos[way], videos["sequential"], rounds=rounds, cpu_s=cpu_s, **ratios, **more)
    return videos["sequential"]


def idle_share(model: Any) -> float:
    """Return the share of parameters that are not used once every context has its keys and values."""
    projections = (getattr(block.attn2, name, None) for block in model.blocks for name in CONTEXT_PROJECTIONS)
    idle = sum(weight.numel() for each in projections if each is not None for weight in each.parameters())
    return round(idle / sum(weight.numel() for weight in model.parameters()), 3)


def compare_groups(model: Any, sample: Callable[[Any], Tensor], expected: Tensor, num_steps: int) -> None:
    """Measure process groups on the CPU against this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "transformer")
        for parallel, num_processes in GROUPS:
            alone = load_network(folder, None, "cpu")
            with ParallelGroup(parallel, num_processes, partial(load_network, folder, None)) as group:
                make = partial(group.branch_velocity, branch_evaluation="interleaved")
                run = sampler(alone, expected.shape[-1], expected.shape[2], num_steps)
                run(make)
                start = time.perf_counter()
                video = run(make)
                middle = time.perf_counter()
            sample(branch_velocity)
            ratio = (middle - start) / (time.perf_counter() - middle)
            report(f"{parallel} parallel", video, expected, processes=num_processes, wall_ratio=round(ratio, 2))


def count_moves(model: Any, sample: Callable[[Any], Tensor], expected: Tensor) -> None:
    """Count how often a block is brought when blocks are offloaded one by one."""
    moved: Counter[str] = Counter()
    bring = ModuleGroup.onload_

    def count(group: ModuleGroup) -> None:
        moved.update(type(module).__name__ for module in group.modules)
        bring(group)

    ModuleGroup.onload_ = count
    apply_group_offloading(model, torch.device("cpu"), torch.device("cpu"), "block_level", num_blocks_per_group=1)
    for way in get_args(BranchEvaluation):
        moved.clear()
        video = sample(partial(branch_velocity, branch_evaluation=way))
        report(f"{way}, offloaded", video, expected, moves_of_a_block=moved["BranchBlock"] // len(model.blocks))


def main() -> None:
    """Measure the ways, then what was asked for besides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8, help="height and width of the latents")
    parser.add_argument("--frames", type=int, default=6, help="latent frames")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of the sampler")
    parser.add_argument("--processes", action="store_true", help="also groups of two and three processes")
    parser.add_argument("--weight-moves", action="store_true", help="also blocks that are offloaded")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = SteadyDancerTransformer3DModel.from_wan(tiny_components(seed=0)["transformer"]).eval()
    sample = sampler(model, options.side, options.frames, options.steps)
    expected = compare_ways(model, sample, options.rounds)
    if options.processes:
        compare_groups(model, sample, expected, options.steps)
    if options.weight_moves:
        count_moves(model, sample, expected)


if __name__ == "__main__":
    main()
