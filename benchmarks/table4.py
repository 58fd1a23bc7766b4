"""The paper's Table 4: minutes and memory for 81 frames on one and two GPUs, for each mode.

Every row measures a few steps of the sampler and the autoencoder with random weights, and projects 40 steps: 91
evaluations of the network, as the released guidance needs (two branches a step, three within the pose interval).
`eager` is diffusers' Wan, which computes everything in every evaluation, in the same run. Prints one JSON line per row,
and with --out writes them as a record with the machine. What was not measured is null; the paper's numbers and the
forecast of the memory stand beside it. Text and image encoders, pose estimation and H.264 are not in the minutes.

    python benchmarks/table4.py --tiny                      here, on the CPU, at small sizes
    python benchmarks/table4.py --out table4.json           on a GPU: the sizes of the paper, at most ten minutes
    torchrun --nproc-per-node 2 benchmarks/table4.py ...    the column of two GPUs
"""

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, distributed

from steadydancer.models.conditions import Conditions, with_frame_mask
from steadydancer.models.encoders import decode_chunks
from steadydancer.models.guidance import branch_conditions, branch_velocity, in_pose_guidance_interval
from steadydancer.models.inference.step_memory import park_context_projections
from steadydancer.models.objectives import wan_velocity
from steadydancer.models.preflight.networks import empty_network, make_wan
from steadydancer.models.preflight.rendering import Savings, rendering_memory
from steadydancer.models.preflight.sizes import Clip, Sizes
from steadydancer.models.sampling import denoise
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

STEPS, INTERVAL = 40, (0.1, 0.4)
# Of this project's model: minutes and GB on one and on two GPUs, and with FP16, LightX2V's LoRA and offload.
PAPER = {"exact": {1: (17.2, 43.0), 2: (10.2, 41.0)}, "low_memory": {1: (3.7, 9.2)}}
TINY = Sizes(
    transformer={"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2, "text_dim": 16,
                 "freq_dim": 16, "image_dim": 8},
    vae={"base_dim": 8, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1},
)  # fmt: skip
DEADLINE_S = 540  # no new row is begun after this: the script is to end within ten minutes


@dataclass(frozen=True)
class Row:
    """A row of the table: what is changed before sampling, and what the forecast is told of it."""

    mode: str
    savings: Savings
    prepare: Callable[[Any], None] | None = None
    steps: int = STEPS
    guided: bool = True


ONLY = ("transformer",)
ROWS = (
    Row("eager", Savings(resident=ONLY)),
    Row("exact", Savings(resident=ONLY)),
    Row(
        "exact, parked projections",
        Savings(parked_projections=True, resident=ONLY),
        lambda transformer: park_context_projections(transformer, "cpu"),
    ),
)


def num_evaluations(steps: int, guided: bool) -> int:
    """Return the evaluations of the network in a video: 91 at 40 steps with the released guidance."""
    if not guided:
        return steps
    return sum(2 + in_pose_guidance_interval(step / steps, INTERVAL) for step in range(steps))


def with_random_weights(network: Any) -> Any:
    """Fill a network in place with small random weights."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            is_norm = name.endswith("weight") and weight.ndim == 1
            weight.fill_(1) if is_norm else weight.normal_(std=0.02)
        config = network.config
        if hasattr(network, "rope"):  # its tables were built without values
            rope = type(network.rope)(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
            network.rope = rope.to(next(network.parameters()).device)
    return network


def random_conditions(config: Any, clip: Clip, dtype: torch.dtype, device: str) -> Any:
    """Build the three branches' conditions from one seed, the same in every process."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, its: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(1, *shape, generator=generator, device=device, dtype=its)

    grid = (16, *clip.latent_grid)
    conditions = Conditions(
        with_frame_mask(normal(*grid)), normal(*grid), normal(257, config.image_dim), normal(257, config.image_dim),
        normal(120, config.text_dim, its=dtype),
    )  # fmt: skip
    return branch_conditions(conditions, normal(126, config.text_dim, its=dtype), normal(*grid)), normal(*grid)


def measure(row: Row, sizes: Sizes, clip: Clip, num_steps: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Measure a row: seconds of the first step, of a later evaluation and of decoding, and peak memory."""
    arguments = json.loads(sizes.transformer_json)
    if row.mode == "eager":
        make: Callable[[], Any] = lambda: make_wan({**arguments, "in_channels": 36})  # noqa: E731
    else:
        make = lambda: SteadyDancerTransformer3DModel(**arguments)  # noqa: E731
    network = with_random_weights(empty_network(make, dtype, device))
    if row.prepare is not None:
        row.prepare(network)
    branches, noise = random_conditions(network.config, clip, dtype, device)
    velocity = eager_velocity(network, branches) if row.mode == "eager" else branch_velocity(network, branches)
    _reset_peak(device)
    begun = _now(device)
    marks: list[float] = []
    latents = denoise(
        velocity,
        noise,
        num_inference_steps=num_steps,
        pose_guidance_scale=0,  # two evaluations in every step
        callback=lambda *_: marks.append(_now(device)),
    )
    peak = _peak_gb(device)
    del network, velocity, branches
    gc.collect()
    vae = with_random_weights(empty_network(lambda: AutoencoderKLWan(**sizes.vae), torch.float32, device))
    _reset_peak(device)
    start = _now(device)
    for _ in decode_chunks(vae, latents[0]):
        pass
    decoding = _now(device) - start
    steps = [after - before for before, after in zip([begun, *marks], marks, strict=False)]
    evaluation = statistics.median(steps[1:]) / 2
    first = steps[0]
    seconds = first + (num_evaluations(row.steps, row.guided) - 2) * evaluation + decoding
    peaks = [value for value in (peak, _peak_gb(device)) if value is not None]
    return {
        "minutes": round(seconds / 60, 4),
        "memory_gb": round(max(peaks), 2) if peaks else None,
        "first_step_s": round(first, 4),
        "evaluation_s": round(evaluation, 4),
        "decoding_s": round(decoding, 4),
        "measured_steps": len(steps),
    }


def eager_velocity(network: Any, branches: Any) -> Any:
    """Wrap diffusers' network, with two more frames in the place of the reference frames: the same number of tokens."""
    velocity_of = wan_velocity(network)

    def velocity(latents: Tensor, timestep: Tensor, branch: Any) -> Tensor:
        longer = torch.cat([latents, latents[:, :, :2]], dim=2)
        return velocity_of(longer, timestep, with_two_more_frames(branches[branch]))[:, :, : latents.shape[2]]

    return velocity


def with_two_more_frames(conditions: Conditions) -> Conditions:
    """Extend the image latents by two frames."""
    image = conditions.image_latents
    return conditions.replace(image_latents=torch.cat([image, image[:, :, :2]], dim=2))


def line(row: Row, gpus: int, clip: Clip, sizes: Sizes, dtype: torch.dtype, measured: dict[str, Any]) -> dict[str, Any]:
    """Put a row together: measured values or nulls, the paper's, and the forecast of the memory."""
    has_papers_size = sizes is not TINY
    minutes, memory = PAPER.get(row.mode, {}).get(gpus, (None, None)) if has_papers_size else (None, None)
    forecast = rendering_memory(sizes, clip, dtype, row.savings) if row.mode != "eager" and gpus == 1 else {}
    counted = [forecast[phase] for phase in ("denoise", "decode_video") if phase in forecast]
    return {
        "benchmark": "table4", "mode": row.mode, "gpus": gpus, "frames": clip.num_frames,
        "size": [clip.height, clip.width], "steps": row.steps,
        "evaluations": num_evaluations(row.steps, row.guided), "minutes": None, "memory_gb": None, **measured,
        "forecast_gb": round(max(counted) / 1e9, 2) if counted else None,
        "paper_minutes": minutes, "paper_gb": memory,
    }  # fmt: skip


@contextmanager
def processes(device: str) -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started: (rank, number); (0, 1) without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield 0, 1
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield distributed.get_rank(), size
    finally:
        distributed.destroy_process_group()


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gb(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None


def main() -> None:
    """Measure all rows that this machine can run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="use small sizes on the CPU")
    parser.add_argument("--measured-steps", type=int, default=4, help="steps that are measured, at least 3")
    parser.add_argument("--out", type=Path, help="write the rows and the machine to this file")
    options = parser.parse_args()
    device, start = "cpu" if options.tiny else "cuda", time.perf_counter()
    clip, sizes = (Clip(9, 64, 48), TINY) if options.tiny else (Clip(), Sizes())
    dtype = torch.float32 if options.tiny else torch.bfloat16
    missing = None if device == "cpu" or torch.cuda.is_available() else "no accelerator"
    lines = []
    with processes(device if missing is None else "cpu") as (rank, gpus):
        for row in ROWS:
            why = missing
            if why is None and time.perf_counter() - start > DEADLINE_S:
                why = "no time left"
            if why is None and gpus > 1:
                why = "not run on several processes"
            measured: dict[str, Any] = {"why": why} if why else {}
            if why is None:
                try:
                    measured = measure(row, sizes, clip, max(options.measured_steps, 3), dtype, device)
                except torch.cuda.OutOfMemoryError as error:
                    measured = {"why": f"out of memory: {str(error).splitlines()[0]}"}
                gc.collect()
            lines.append(line(row, gpus, clip, sizes, dtype, measured))
            if rank == 0:
                print(json.dumps(lines[-1]), flush=True)
    if options.out and rank == 0:
        options.out.write_text(json.dumps({"machine": machine(device), "rows": lines}, indent=2) + "\n")


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and the libraries."""
    has_gpu = device == "cuda" and torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name(0) if has_gpu else None,
        "cpu": platform.processor() or platform.machine(),
        "libraries": {name: version(name) for name in ("torch", "diffusers")},
    }


if __name__ == "__main__":
    main()
