"""Distil a few-step LoRA for ToyDance from its own renders, for `fast:distilled` in `render_modes.py`.

    python benchmarks/few_step_lora.py --out few_step_lora --num-pairs 64 --train-steps 600
    python benchmarks/render_modes.py --distilled-lora few_step_lora ...

The teacher samples each pair of dancers in many steps. The student, the same network with adapters in its blocks,
learns the straight line between the teacher's noise and latents (Liu et al. 2022, rectified flow on its own couplings)
at the timesteps of 4 steps, so that 4 steps arrive where many do. Pairs have seeds that no other set has; the last
eighth is held out. Prints JSON lines: the loss during training, then on the held-out pairs the PSNR in dB of latents
against the teacher's after 4 steps, without and with the LoRA.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadydancer.models.conditions import Conditions
from steadydancer.models.guidance import branch_conditions, branch_velocity
from steadydancer.models.lora.adapters import add_lora
from steadydancer.models.objectives import steadydancer_velocity
from steadydancer.models.sampling import denoise, released_scheduler

PAIR_SEEDS = 70_000_000  # disjoint from those of training clips, of the demo's pairs and of other benchmarks
STEPS = 4  # of `fast:distilled`
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
UNGUIDED: dict[str, float] = {"guidance_scale": 1.0, "pose_guidance_scale": 0.0}

Sample = tuple[Conditions, Tensor, Tensor]


def main() -> None:
    """Make the teacher's latents, train, compare and save."""
    options = parsed()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pipeline, config = load(options)
    with torch.no_grad():
        samples = [teach(pipeline, config, index, options.teacher_steps) for index in range(options.num_pairs)]
    held_out = max(1, len(samples) // 8)
    transformer = pipeline.transformer
    before = distance(transformer, samples[-held_out:], config.flow_shift)
    add_lora(transformer, options.rank, options.rank, TARGETS)
    for name in transformer.pose_module_names:  # a LoRA for Wan has adapters in the blocks alone
        transformer.get_submodule(name).requires_grad_(False)
    train(transformer, samples[:-held_out], options, config.flow_shift)
    after = distance(transformer, samples[-held_out:], config.flow_shift)
    print(json.dumps({"held_out": held_out, "steps": STEPS, "teacher_steps": options.teacher_steps,
                      "latent_psnr_db_without_lora": before, "latent_psnr_db_with_lora": after}))  # fmt: skip
    transformer.save_lora_adapter(options.out)


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped stage 3 of ToyDance")
    parser.add_argument("--components", type=Path, help="VAE and encoders; default: the shipped ones")
    parser.add_argument("--num-pairs", type=int, default=2, help="clips of the teacher; 64 for a LoRA that is used")
    parser.add_argument("--teacher-steps", type=int, default=20)
    parser.add_argument("--train-steps", type=int, default=4, help="optimizer steps; 600 for a LoRA that is used")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, help="folder of the adapter; default: a temporary one")
    options = parser.parse_args()
    options.out = options.out or Path(tempfile.mkdtemp())
    return options


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    """Load the pipeline, and the configuration of rendering ToyDance."""
    from steadydancer.flows import presets
    from steadydancer.models.components import load_components
    from steadydancer.models.pipeline import SteadyDancerPipeline
    from steadydancer.models.toydance import components_folder
    from steadydancer.pipelines.render.config import FROZEN

    shipped = components_folder()
    parts = load_components(options.checkpoint or shipped / "stage3", ("transformer",), torch.float32,
                            kind="steadydancer")  # fmt: skip
    parts |= load_components(options.components or shipped, FROZEN, torch.float32)
    pipeline = SteadyDancerPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, presets.toydance().render


def teach(pipeline: Any, config: Any, index: int, num_steps: int) -> Sample:
    """Render a pair with the teacher; return its conditions, the noise and the latents."""
    from steadydancer.datasets.toydance.captions import caption_of
    from steadydancer.datasets.toydance.pairs import make_pair
    from steadydancer.datasets.toydance.render import render

    pair = make_pair(PAIR_SEEDS + index, "easy", config.num_frames)
    side = round(config.max_area_px**0.5)
    image, truth = render(pair.reference, side, side).frames[0], render(pair.truth, side, side)
    encoded = pipeline.encode_inputs(
        image, truth.poses[0], caption_of(pair.truth), num_frames=config.num_frames, height=side, width=side,
        drawing_area_px=config.drawing_area_px, pose_guidance_scale=0.0,
    )  # fmt: skip
    (conditions,) = encoded.conditions()
    grid = conditions.pose_latents.shape[2:]
    noise = torch.randn(1, 16, *grid, generator=torch.Generator().manual_seed(index))
    return conditions, noise, sample(pipeline.transformer, conditions, noise, num_steps, config.flow_shift)


def sample(transformer: Any, conditions: Conditions, noise: Tensor, num_steps: int, flow_shift: float) -> Tensor:
    """Sample without guidance."""
    branches = branch_conditions(conditions, conditions.prompt_embeds, conditions.pose_latents)
    velocity = branch_velocity(transformer, branches)
    return denoise(velocity, noise, num_inference_steps=num_steps, flow_shift=flow_shift, **UNGUIDED)


def train(transformer: Any, samples: list[Sample], options: argparse.Namespace, flow_shift: float) -> None:
    """Fit the adapters to the straight lines, at the timesteps of the few steps."""
    scheduler = released_scheduler(STEPS, flow_shift)
    weights = [weight for weight in transformer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, options.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.train_steps)
    velocity, draw = steadydancer_velocity(transformer), torch.Generator().manual_seed(1)
    losses: list[float] = []
    for step in range(options.train_steps):
        conditions, noise, latents = samples[int(torch.randint(len(samples), (1,), generator=draw))]
        at = int(torch.randint(STEPS, (1,), generator=draw))
        sigma, timestep = scheduler.sigmas[at], scheduler.timesteps[at : at + 1]
        mixed = (1 - sigma) * latents + sigma * noise
        loss = (velocity(mixed, timestep, conditions) - (noise - latents)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) == 50 or step == options.train_steps - 1:
            print(json.dumps({"step": step + 1, "loss": round(sum(losses) / len(losses), 5)}), flush=True)
            losses.clear()


@torch.no_grad()
def distance(transformer: Any, samples: list[Sample], flow_shift: float) -> float:
    """Return the PSNR in dB of latents after the few steps against the teacher's, whose range is taken as the peak."""
    found = []
    for conditions, noise, latents in samples:
        error = (sample(transformer, conditions, noise, STEPS, flow_shift) - latents).square().mean()
        found.append(20 * torch.log10(latents.max() - latents.min()) - 10 * torch.log10(error))
    return round(float(torch.stack(found).mean()), 2)


if __name__ == "__main__":
    main()
