"""Trace a training step with fake CUDA tensors: forward, loss, backward and optimizer update of a stage on one GPU.

The networks, the objective and the dtypes are those of training. DeepSpeed's engine cannot be traced: its collectives,
its buckets and the sharding over workers are replaced by what they leave on a GPU of its own, weights and gradients in
the compute dtype, and float32 weights and moments that AdamW updates. See `models.preflight.fake_gpu` for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....datasets.shards import Bucket
from ....models.conditions import Conditions, NullConditions, with_frame_mask
from ....models.lora.adapters import add_lora
from ....models.objectives import (
    Objective,
    TrainingBatch,
    action_supervision,
    condition_decoupled_distillation,
    wan_velocity,
)
from ....models.preflight.fake_backward import backward
from ....models.preflight.fake_gpu import CUDA, FakeGpu, fake_gpu
from ....models.preflight.networks import make_wan
from ....models.transformer import SteadyDancerTransformer3DModel
from ..config import TrainConfig
from ..flops import Network
from ..memory_optimizations import checkpoint_blocks
from ..networks import engine_velocity, torch_dtype
from .footprint import SUB_GROUP, torch_linear


@dataclass(frozen=True)
class StepTrace:
    """Peak bytes of a traced step.

    Attributes:
        forward_backward: of the forward and backward pass, with the optimizer state of earlier steps.
        update: of the optimizer update, with the gradients.
    """

    forward_backward: int
    update: int

    @property
    def peak(self) -> int:
        """Peak of the step."""
        return max(self.forward_backward, self.update)


def trace_step(config: TrainConfig, network: Network, bucket: Bucket) -> StepTrace:
    """Run the second step of a stage on one fake GPU; the first leaves the optimizer's moments.

    Args:
        config: the stage. It is traced with one worker; `offload_optimizer` leaves the update on the host.
        network: its network, from `flops.count`.
        bucket: pixel frames, height and width of a clip.
    """
    dtype = torch_dtype(config)
    with torch_linear(), fake_gpu() as gpu:
        student, objective = _student(gpu, config, network, dtype), _objective(gpu, config, network, dtype)
        master = None if config.offload_optimizer else _Master(student, config)
        batch = _batch(gpu, config, network, bucket)
        velocity = engine_velocity(student, config, [0] * config.micro_batch_size)
        backward(objective(velocity, batch)["loss"])
        passes = gpu.peak_bytes
        if master is not None:
            master.step()
        update = gpu.peak_bytes
    return StepTrace(passes, update)


def _student(gpu: FakeGpu, config: TrainConfig, network: Network, dtype: torch.dtype) -> Any:
    def make() -> nn.Module:
        model = SteadyDancerTransformer3DModel(**network.arguments)
        if config.trains_lora:
            add_lora(model, config.lora_rank, config.lora_alpha, config.lora_targets)
        return model

    # DeepSpeed casts the whole network, those modules too that diffusers keeps in float32.
    student = gpu.network(make, dtype, keep_float32=False)
    if config.gradient_checkpointing:
        student.enable_gradient_checkpointing(checkpoint_blocks(config))
    return student.train()


def _objective(gpu: FakeGpu, config: TrainConfig, network: Network, dtype: torch.dtype) -> Objective:
    if config.stage != 2:
        return action_supervision()
    teacher = gpu.network(lambda: make_wan(network.arguments), dtype).requires_grad_(False)
    return condition_decoupled_distillation(
        wan_velocity(teacher),
        config.distillation_weight,
        unconditional_text=config.uncond_text,
        decoupled=config.distillation == "condition_decoupled",
    )


def _batch(gpu: FakeGpu, config: TrainConfig, network: Network, bucket: Bucket) -> TrainingBatch:
    num_frames, height, width = bucket
    size, arguments = config.micro_batch_size, network.arguments
    grid = (16, (num_frames - 1) // 4 + 1, height // 8, width // 8)
    image = (257, arguments["image_dim"])
    conditions = Conditions(
        image_latents=with_frame_mask(gpu.normal(size, *grid)),
        pose_latents=gpu.normal(size, *grid),
        image_embeds=gpu.normal(size, *image),
        pose_image_embeds=gpu.normal(size, *image),
        prompt_embeds=gpu.normal(size, 512, arguments["text_dim"]),
    )
    null = NullConditions(gpu.normal(size, *grid), gpu.normal(size, *image), gpu.normal(size, 1, arguments["text_dim"]))
    return TrainingBatch(
        gpu.normal(size, *grid), conditions, null, gpu.normal(size, *grid), torch.empty(size, device=CUDA)
    )


class _Master:
    """The float32 weights of ZeRO on one worker, in groups as it updates them, with AdamW's moments."""

    def __init__(self, student: nn.Module, config: TrainConfig) -> None:
        trained = [weight for weight in student.parameters() if weight.requires_grad]
        largest = SUB_GROUP if config.zero_stage == 3 else sum(weight.numel() for weight in trained)
        self._groups: list[tuple[list[nn.Parameter], nn.Parameter]] = []
        for weights in _groups_of(trained, largest):
            flat = torch.empty(sum(weight.numel() for weight in weights), device=CUDA)
            self._groups.append((weights, nn.Parameter(flat)))
        # torch takes this form on a GPU by itself.
        self._optimizer = torch.optim.AdamW([flat for _, flat in self._groups], lr=1e-4, foreach=True)
        for _, flat in self._groups:
            moments = {name: torch.empty_like(flat, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            self._optimizer.state[flat] = {"step": torch.tensor(1.0), **moments}

    def step(self) -> None:
        """Update group by group: its gradients are joined and cast, then AdamW runs, then the weights are cast."""
        for weights, flat in self._groups:
            joined = torch.cat([_gradient(weight).flatten() for weight in weights])
            flat.grad = joined.float()
            for weight in weights:
                weight.grad = None
            del joined
            others = [other for _, other in self._groups if other is not flat]
            assert all(other.grad is None for other in others)
            self._optimizer.step()
            flat.grad = None
            with torch.no_grad():
                for weight, part in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
                    weight.copy_(part.view_as(weight))


def _groups_of(weights: list[nn.Parameter], largest: int) -> list[list[nn.Parameter]]:
    groups: list[list[nn.Parameter]] = [[]]
    for weight in weights:
        if sum(other.numel() for other in groups[-1]) >= largest:
            groups.append([])
        groups[-1].append(weight)
    return groups


def _gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
