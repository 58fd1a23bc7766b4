"""One forward pass with random weights at the released shapes (81 frames of 1024 × 576), compared with diffusers' Wan.

Both networks have the same blocks and the same 52,992 tokens (23 latent frames for diffusers, 21 and two reference
frames for ours). Prints one JSON line per network: seconds (median of the rounds), TFLOP/s by `forward_flops`, and peak
memory. Needs an accelerator with 45 GB, and prints nulls without one. `--tiny` tests the script on a CPU.
"""

import argparse
import gc
import json
import statistics
import time
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from steadydancer.models.inference.step_memory import StepMemory
from steadydancer.models.preflight.networks import empty_network, fill_randomly
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

CONTEXT_TOKENS = 257 + 512
FULL = {"added_kv_proj_dim": 5120, "image_dim": 1280, "in_channels": 36}  # the rest are the classes' defaults
TINY = {"added_kv_proj_dim": 48, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2,
        "text_dim": 16, "freq_dim": 16, "image_dim": 8, "in_channels": 36}  # fmt: skip


def forward_flops(config: Any, num_tokens: int) -> float:
    """Count multiplications and additions of the blocks' matrix products: 3.6e15 at full size."""
    width = config.num_attention_heads * config.attention_head_dim
    projections = 2 * num_tokens * width**2 * (4 + 2) + 2 * CONTEXT_TOKENS * width**2 * 2
    attention = 4 * num_tokens * width * (num_tokens + CONTEXT_TOKENS)
    feed_forward = 4 * num_tokens * width * config.ffn_dim
    return config.num_layers * (projections + attention + feed_forward)


def random_network(cls: Any, sizes: dict[str, Any], device: str) -> Any:
    """Build a bfloat16 network directly on the device; modules that the class keeps in float32 stay float32."""
    return fill_randomly(empty_network(lambda: cls(**sizes), torch.bfloat16, device))


def conditions(config: Any, grid: tuple[int, int, int], device: str) -> dict[str, Tensor]:
    """Build random bfloat16 inputs for a clip of `grid` latent frames, height and width."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, device=device, dtype=torch.bfloat16)

    return {
        "encoder_hidden_states": normal(512, config.text_dim),
        "encoder_hidden_states_image": normal(257, config.image_dim),
        "encoder_hidden_states_pose_image": normal(257, config.image_dim),
        "image_latents": normal(20, *grid),
        "pose_latents": normal(16, *grid),
    }


def measure(call: Any, rounds: int, device: str) -> tuple[float, float | None]:
    """Measure (median seconds, peak GB) of a call, after one warm-up call."""
    cuda = device == "cuda"
    seconds = []
    with torch.no_grad():
        call()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(rounds):
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() / 1e9 if cuda else None


def main() -> None:
    """Measure both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="use small sizes on the CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attention", help="attention backend, as diffusers names it, such as _native_cudnn")
    options = parser.parse_args()
    device = "cpu" if options.tiny else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print(json.dumps({"benchmark": "forward_14b", "seconds": None, "why": "no accelerator"}))
        return
    grid = (3, 4, 6) if options.tiny else (21, 128, 72)
    sizes = TINY if options.tiny else FULL
    num_tokens = (grid[0] + 2) * grid[1] * grid[2] // 4
    noise = torch.randn(1, 16, *grid, device=device)
    timestep = torch.tensor([500], device=device)

    def report(network: str, model: Any, call: Any) -> None:
        if options.attention:
            model.set_attention_backend(options.attention)
        seconds, peak_gb = measure(call, options.rounds, device)
        tflops = forward_flops(model.config, num_tokens) / seconds / 1e12
        print(json.dumps({"benchmark": "forward_14b", "network": network, "tokens": num_tokens,
                          "attention": options.attention or "native", "seconds": round(seconds, 4),
                          "tflop_per_s": round(tflops, 3), "peak_gb": peak_gb and round(peak_gb, 2)}))  # fmt: skip

    def eager_diffusers() -> None:
        model = random_network(WanTransformer3DModel, sizes, device)
        given = conditions(model.config, (grid[0] + 2, *grid[1:]), device)
        latents = torch.cat([given["image_latents"], given["pose_latents"]], dim=1)
        embeds = [given["encoder_hidden_states"], given["encoder_hidden_states_image"]]
        report("diffusers Wan 2.1 I2V", model, lambda: model(latents, timestep, *embeds, return_dict=False))

    def ours() -> None:
        model = random_network(SteadyDancerTransformer3DModel, sizes, device)
        inputs = conditions(model.config, grid, device)
        report("SteadyDancer", model, lambda: model(noise, timestep, **inputs, return_dict=False))
        memory = {"step_memory": StepMemory()}
        call = partial(model, noise, timestep, **inputs, **memory, return_dict=False)
        report("SteadyDancer, step memory", model, call)

    for network in (eager_diffusers, ours):
        network()
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
