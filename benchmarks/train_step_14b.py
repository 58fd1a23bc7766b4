"""One optimizer step with random weights at the released shapes, on one clip of 81 frames of 640 × 640.

Stage 1 (LoRA) uses all 40 blocks. Stage 2 (all parameters, ZeRO-3, Eq. 6 with its teacher) uses 8 blocks, because 40
blocks with their optimizer do not fit on one GPU; its TFLOP/s carry over. Steps use the engine and objectives of
training, with activation checkpointing. Prints one JSON line per variant: seconds (median of the rounds), TFLOP/s
executed and needed as counted by `flops`, peak memory and the estimate of `footprint`, and the losses, which are equal
for all variants of a stage. Needs an accelerator with 80 GB, and prints nulls without one. `--tiny` tests the script on
a CPU.
"""

import argparse
import gc
import json
import statistics
import time
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from steadydancer.models.conditions import Conditions, NullConditions, with_frame_mask
from steadydancer.models.lora.adapters import add_lora
from steadydancer.models.objectives import (
    Objective,
    TrainingBatch,
    action_supervision,
    condition_decoupled_distillation,
    wan_velocity,
)
from steadydancer.models.preflight.networks import empty_network, fill_randomly
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.train import flops
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.engine import ProcessGroup, open_engine, process_group
from steadydancer.pipelines.train.memory_optimizations import checkpoint_blocks
from steadydancer.pipelines.train.networks import engine_velocity
from steadydancer.pipelines.train.preflight import footprint

WAN = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}  # the rest are the classes' defaults
TINY = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "text_dim": 16, "freq_dim": 16,
        "image_dim": 8, "added_kv_proj_dim": 48, "in_channels": 36}  # fmt: skip
# Variant → (number of blocks at full size, settings).
WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    "stage 1, LoRA": (40, {"stage": 1}),
    "stage 1, LoRA, attention kept": (40, {"stage": 1, "keep_attention_outputs": True}),
    "stage 1, LoRA, activations on the host": (40, {"stage": 1, "offload_activations": True}),
    "stage 2, all parameters, 8 of 40 blocks": (8, {"stage": 2}),
    "stage 2, 8 of 40 blocks, activations on the host": (8, {"stage": 2, "offload_activations": True}),
}


def random_network(cls: Any, sizes: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """Build a network with small random weights directly on the device."""
    return fill_randomly(empty_network(lambda: cls(**sizes), dtype, device, keep_float32=False))


def random_batch(config: Any, bucket: tuple[int, int, int], device: torch.device) -> TrainingBatch:
    """Build one clip of random values; `bucket` is (pixel frames, height, width)."""
    grid = ((bucket[0] - 1) // 4 + 1, bucket[1] // 8, bucket[2] // 8)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, device=device)

    conditions = Conditions(
        image_latents=with_frame_mask(normal(16, *grid)),
        pose_latents=normal(16, *grid),
        image_embeds=normal(257, config.image_dim),
        pose_image_embeds=normal(257, config.image_dim),
        prompt_embeds=normal(512, config.text_dim),
    )
    null = NullConditions(normal(16, *grid), normal(257, config.image_dim), normal(1, config.text_dim))
    return TrainingBatch(normal(16, *grid), conditions, null, normal(16, *grid), torch.tensor([0.5], device=device))


def student_and_objective(
    config: TrainConfig, sizes: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> tuple[Any, Objective]:
    """Build student and objective of a stage."""
    student = random_network(SteadyDancerTransformer3DModel, sizes, dtype, device)
    student.enable_gradient_checkpointing(checkpoint_blocks(config))
    if config.stage == 1:
        add_lora(student, config.lora_rank, config.lora_alpha, config.lora_targets)
        return student.train(), action_supervision()
    teacher = random_network(WanTransformer3DModel, sizes, dtype, device).requires_grad_(False)
    return student.train(), condition_decoupled_distillation(wan_velocity(teacher))


def measure(
    config: TrainConfig, sizes: dict[str, Any], bucket: Any, rounds: int, group: ProcessGroup
) -> dict[str, Any]:
    """Measure a step: median seconds after one warm-up step, losses, and peak GB on a GPU."""
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    student, objective = student_and_objective(config, sizes, dtype, group.device)
    batch = random_batch(student.config, bucket, group.device)
    engine = open_engine(student, config)
    seconds, losses = [], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        terms = objective(engine_velocity(engine, config), batch)
        engine.backward(terms["loss"])
        engine.step()
        losses.append(terms["loss"].item())  # waits for the GPU
        if config.use_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    engine.destroy()
    peak = torch.cuda.max_memory_allocated() / 1e9 if config.use_gpu else None
    return {"seconds": round(statistics.median(seconds[1:]), 4), "losses": losses, "peak_gb": peak and round(peak, 2)}


def report(way: str, rounds: int, tiny: bool) -> dict[str, Any]:
    """Measure one variant and return its line."""
    num_layers, settings = WAYS[way]
    sizes = {**(TINY if tiny else WAN), "num_layers": 2 if tiny else num_layers}
    bucket = (9, 64, 64) if tiny else (81, 640, 640)
    changes = {"use_gpu": False, "dtype": "float32", "lora_rank": 2, "lora_alpha": 2} if tiny else {}
    config = TrainConfig(num_workers=0, global_batch_size=1, warmup_steps=0, **settings, **changes)
    network = flops.count(config, {name: size for name, size in sizes.items() if name != "in_channels"})
    step = flops.step_flops(config, network, bucket)
    torch.manual_seed(0)
    with process_group(config) as group:
        measured = measure(config, sizes, bucket, rounds, group)
    counted = footprint.gpu_memory(config, network, bucket)["total"] / 1e9
    return {
        **measured,
        "tokens": flops.num_tokens(network, bucket),
        "tflop": round(step.hardware / 1e12, 6),
        "tflop_per_s": round(step.hardware / measured["seconds"] / 1e12, 4),
        "needed_tflop_per_s": round(step.model / measured["seconds"] / 1e12, 4),
        "counted_gb": round(counted, 2),
    }


def main() -> None:
    """Measure all variants, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="use small sizes on the CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="measure only this variant")
    options = parser.parse_args()
    for way in [options.way] if options.way else WAYS:
        line = {"benchmark": "train_step_14b", "way": way}
        if not options.tiny and not torch.cuda.is_available():
            nothing = dict.fromkeys(("seconds", "tflop_per_s", "peak_gb"))
            print(json.dumps({**line, **nothing, "why": "no accelerator"}))
            continue
        try:
            print(json.dumps({**line, **report(way, options.rounds, options.tiny)}), flush=True)
        except torch.cuda.OutOfMemoryError as error:
            print(json.dumps({**line, "seconds": None, "why": f"out of memory: {str(error).splitlines()[0]}"}))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
