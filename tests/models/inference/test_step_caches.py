from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from torch import Tensor

from steadydancer.models.conditions import Conditions, with_frame_mask
from steadydancer.models.guidance import Branch, branch_conditions, branch_velocity
from steadydancer.models.sampling import denoise
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

STEPS = 10
LAYERS = 3  # a cache may treat the first and the last one apart
BRANCHES: tuple[Branch, ...] = ("conditional", "negative_text", "negative_pose")
NUM_ASKED = {"conditional": STEPS, "negative_text": STEPS, "negative_pose": 2}  # 0.1 < i / 10 < 0.4


@pytest.fixture
def model() -> SteadyDancerTransformer3DModel:
    torch.manual_seed(0)
    return SteadyDancerTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=LAYERS,
        image_dim=8,
    ).eval()


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def branch_inputs() -> dict[Branch, Conditions]:
    conditions = Conditions(
        image_latents=with_frame_mask(normal(1, 16, 2, 4, 4)),
        pose_latents=normal(2, 16, 2, 4, 4),
        image_embeds=normal(3, 257, 8),
        pose_image_embeds=normal(4, 257, 8),
        prompt_embeds=normal(5, 5, 16),
    )
    return branch_conditions(conditions, normal(6, 3, 16), normal(7, 16, 2, 4, 4))


clock = {"timestep": 0.0}  # what a pipeline would tell a cache that asks for the current timestep


class Watched:
    """A velocity that keeps what each branch was asked and answered."""

    def __init__(self, velocity: Callable[[Tensor, Tensor, Branch], Tensor]) -> None:
        self.velocity = velocity
        self.asked: dict[Branch, list[tuple[Tensor, Tensor, Tensor]]] = {branch: [] for branch in BRANCHES}

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        clock["timestep"] = timestep.item()
        answer = self.velocity(latents, timestep, branch)
        self.asked[branch].append((latents, timestep, answer))
        return answer


def run(model: SteadyDancerTransformer3DModel, remember: bool = True, **options: Any) -> tuple[Tensor, Watched]:
    watched = Watched(branch_velocity(model, branch_inputs(), use_step_memory=remember))
    return denoise(watched, normal(0, 16, 2, 4, 4), num_inference_steps=STEPS, **options), watched


def broadcast(num_steps: int) -> PyramidAttentionBroadcastConfig:
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=num_steps,
        cross_attention_block_skip_range=num_steps,
        spatial_attention_timestep_skip_range=(100, 990),
        cross_attention_timestep_skip_range=(100, 990),
        current_timestep_callback=lambda: clock["timestep"],
    )


def taylor(interval: int, warm_up: int) -> TaylorSeerCacheConfig:
    return TaylorSeerCacheConfig(
        cache_interval=interval, disable_cache_before_step=warm_up, taylor_factors_dtype=torch.float32
    )


def faster(below: float) -> FasterCacheConfig:
    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, below),
        is_guidance_distilled=True,  # its other half wants both text branches in one batch
        tensor_format="BCFHW",
        current_timestep_callback=lambda: clock["timestep"],
        attention_weight_callback=lambda module: 0.5,
    )


NEVER = {
    "first block": lambda: FirstBlockCacheConfig(threshold=0.0),
    "mag": lambda: MagCacheConfig(calibrate=True, num_inference_steps=STEPS),
    "taylor": lambda: taylor(1, STEPS),
    "broadcast": lambda: broadcast(1),
    "faster": lambda: faster(0),
}
OFTEN: dict[str, Callable[[], Any]] = {
    "first block": lambda: FirstBlockCacheConfig(threshold=0.2),
    "mag": lambda: MagCacheConfig(
        mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS, threshold=0.5, retention_ratio=0.1
    ),
    "taylor": lambda: taylor(2, 1),
    "broadcast": lambda: broadcast(2),
    "faster": lambda: faster(900),  # it needs two steps of a branch before it may skip
}


@pytest.mark.parametrize("technique", NEVER)
def test_a_cache_that_never_skips_changes_no_bit(model: SteadyDancerTransformer3DModel, technique: str) -> None:
    expected, _ = run(model)
    model.enable_cache(NEVER[technique]())
    assert torch.equal(run(model)[0], expected)
    model.disable_cache()
    assert torch.equal(run(model)[0], expected)


@pytest.fixture
def attentions(model: SteadyDancerTransformer3DModel) -> Iterator[list[None]]:
    """Grows by one with each attention that is computed."""
    computed: list[None] = []
    for block in model.blocks:
        for attention in (block.attn1, block.attn2):
            attention.to_q.register_forward_hook(lambda *_: computed.append(None))
    yield computed


@pytest.mark.parametrize("technique", OFTEN)
@torch.no_grad()
def test_a_branch_answers_as_if_it_were_alone(
    model: SteadyDancerTransformer3DModel, attentions: list[None], technique: str
) -> None:
    exact, _ = run(model)
    assert len(attentions) == 22 * LAYERS * 2
    attentions.clear()
    model.enable_cache(OFTEN[technique]())
    cached, together = run(model)
    assert 0 < len(attentions) < 0.9 * 22 * LAYERS * 2, "the cache saves nothing"
    assert (cached - exact).abs().max() > 1e-4

    assert {branch: len(asked) for branch, asked in together.asked.items()} == NUM_ASKED
    for branch in BRANCHES:
        alone = Watched(branch_velocity(model, branch_inputs()))
        for latents, timestep, answer in together.asked[branch]:
            assert torch.equal(alone(latents, timestep, branch), answer), branch


@pytest.mark.parametrize("technique", OFTEN)
def test_a_second_loop_starts_afresh_even_after_one_that_ended_early(
    model: SteadyDancerTransformer3DModel, technique: str
) -> None:
    model.enable_cache(OFTEN[technique]())
    expected, _ = run(model)
    assert torch.equal(run(model)[0], expected)

    def stop(step: int, timestep: Tensor, latents: Tensor) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, callback=stop)
    assert torch.equal(run(model)[0], expected)


@pytest.mark.parametrize("technique", OFTEN)
def test_step_caches_and_step_memory_go_together(model: SteadyDancerTransformer3DModel, technique: str) -> None:
    model.enable_cache(OFTEN[technique]())
    assert torch.equal(run(model)[0], run(model, remember=False)[0])


@torch.no_grad()
def test_outside_of_any_context_a_broadcast_has_one_state_of_its_own(model: SteadyDancerTransformer3DModel) -> None:
    model.enable_cache(broadcast(2))
    velocity = Watched(branch_velocity(model, branch_inputs()))
    arguments = branch_inputs()["conditional"].model_arguments()

    def outside(timestep: float) -> Tensor:
        clock["timestep"] = timestep
        return model(normal(0, 16, 2, 4, 4), torch.tensor([timestep]), **arguments).sample

    first, second = outside(900.0), outside(200.0)
    model._reset_stateful_cache()
    velocity(normal(8, 16, 2, 4, 4), torch.tensor([900.0]), "conditional")
    assert torch.equal(outside(900.0), first)
    velocity(normal(8, 16, 2, 4, 4), torch.tensor([900.0]), "conditional")
    assert torch.equal(outside(200.0), second)


def test_taylor_finds_the_attentions_unless_it_is_told_where_to_work(model: SteadyDancerTransformer3DModel) -> None:
    def hooked() -> set[str]:
        return {
            name
            for name, module in model.named_modules()
            if "taylorseer_cache" in getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
        }

    model.enable_cache(taylor(2, 1))
    assert hooked() == {f"blocks.{i}.attn{j}" for i in range(LAYERS) for j in (1, 2)}
    model.disable_cache()
    model.enable_cache(TaylorSeerCacheConfig(cache_identifiers=[r"blocks\.1\.ffn"]))
    assert hooked() == {"blocks.1.ffn"}
    model.disable_cache()
    model.enable_cache(TaylorSeerCacheConfig(use_lite_mode=True))
    assert hooked() == {"proj_out", *(f"blocks.{i}" for i in range(LAYERS))}
