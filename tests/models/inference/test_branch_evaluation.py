from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.hooks import apply_first_block_cache, apply_group_offloading
from diffusers.hooks.group_offloading import ModuleGroup
from torch import Tensor, nn

from steadydancer.models.conditions import Conditions, with_frame_mask
from steadydancer.models.guidance import Branch, branch_conditions, branch_velocity, evaluate
from steadydancer.models.inference.branch_evaluation import BranchEvaluation
from steadydancer.models.inference.step_memory import park_context_projections
from steadydancer.models.sampling import denoise
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

BRANCHES: tuple[Branch, ...] = ("conditional", "negative_text", "negative_pose")
STEPS = 6  # of which the pose guides two
LAYERS = 3
GRID = (2, 4, 6)  # latent frames, height, width
NETWORKS: dict[str, dict[str, Any]] = {
    "released": {},
    "adapter": {"pose_fusion": "adapter"},
    "without references": {"condition_augmentation": False},
    "as printed": {"image_feature_fusion": "concatenation", "reference_embedding": "shared"},
    "latents added": {"pose_fusion": "latent_addition", "pose_modulation_modules": ()},
}


def tiny_model(**changes: Any) -> SteadyDancerTransformer3DModel:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32,
             "num_layers": LAYERS, "image_dim": 8}  # fmt: skip
    model = SteadyDancerTransformer3DModel(**{**sizes, **changes}).eval()
    for name, parameter in model.named_parameters():
        if "pose_adapter" in name:  # an adapter begins at zero
            nn.init.normal_(parameter, std=0.2)
    return model


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch_size: int = 1) -> dict[Branch, Conditions]:
    conditions = Conditions(
        image_latents=with_frame_mask(normal(1, batch_size, 16, *GRID)),
        pose_latents=normal(2, batch_size, 16, *GRID),
        image_embeds=normal(3, batch_size, 257, 8),
        pose_image_embeds=normal(4, batch_size, 257, 8),
        prompt_embeds=normal(5, batch_size, 5, 16),
    )
    return branch_conditions(conditions, normal(6, batch_size, 9, 16), normal(7, batch_size, 16, *GRID))


def video(model: Any, way: BranchEvaluation, remember: bool = True, **options: Any) -> Tensor:
    velocity = branch_velocity(model, inputs(), remember, way)
    return denoise(velocity, normal(8, 1, 16, *GRID), num_inference_steps=STEPS, **options)


@torch.no_grad()
def velocities(model: Any, way: BranchEvaluation, batch_size: int = 1) -> dict[Branch, Tensor]:
    velocity = branch_velocity(model, inputs(batch_size), branch_evaluation=way)
    time = torch.full((batch_size,), 500.0)
    return evaluate(velocity, normal(8, batch_size, 16, *GRID), time, BRANCHES)


@pytest.mark.parametrize("remember", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_ways_give_the_same_video(network: str, remember: bool) -> None:
    model = tiny_model(**NETWORKS[network])
    expected = video(model, "sequential", remember)
    assert torch.equal(video(model, "interleaved", remember), expected)
    torch.testing.assert_close(video(model, "batched", remember), expected, atol=1e-5, rtol=0)


def test_interleaving_changes_no_bit_in_bfloat16() -> None:
    model = tiny_model().to(torch.bfloat16)
    assert torch.equal(video(model, "interleaved"), video(model, "sequential"))


@pytest.mark.parametrize("guidance", [{"guidance_scale": 1.0}, {"pose_guidance_scale": 0.0}])
def test_two_branches_are_combined_like_three(guidance: dict[str, float]) -> None:
    model = tiny_model()
    expected = video(model, "sequential", **guidance)
    assert torch.equal(video(model, "interleaved", **guidance), expected)
    torch.testing.assert_close(video(model, "batched", **guidance), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", ["interleaved", "batched"])
def test_samples_of_a_batch_and_branches_are_not_mixed(way: BranchEvaluation) -> None:
    model = tiny_model()
    expected, found = velocities(model, "sequential", 2), velocities(model, way, 2)
    assert [*found] == [*BRANCHES]
    for branch in BRANCHES:
        torch.testing.assert_close(found[branch], expected[branch], atol=1e-5, rtol=0)
        assert (found[branch][0] - found[branch][1]).abs().max() > 0.01
    assert (found["conditional"] - found["negative_text"]).abs().max() > 1e-3
    assert (found["conditional"] - found["negative_pose"]).abs().max() > 1e-3


def test_what_branches_share_is_computed_once() -> None:
    """The negative text differs from the positive branch from the first cross-attention on, the pose from the start."""
    model = tiny_model()
    calls: Counter[str] = Counter()
    for name, module in {
        "alignment": model.pose_modulation.alignment,
        "patches": model.patch_embedding_fuse,
        "time": model.condition_embedder.time_embedder,
        "first self-attention": model.blocks[0].attn1.to_q,
        "second self-attention": model.blocks[1].attn1.to_q,
        "first cross-attention": model.blocks[0].attn2.to_q,
        "keys": model.blocks[0].attn2.to_k,
    }.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    video(model, "interleaved")
    # Two poses in two of the steps, one after another, as they share nothing. The first step embeds the time with each
    # of the two texts, which it keeps.
    assert calls == {
        "alignment": STEPS + 2, "patches": STEPS + 2, "first self-attention": STEPS + 2, "time": STEPS + 1 + 2,
        "second self-attention": 2 * STEPS + 2, "first cross-attention": 2 * STEPS + 2, "keys": 2,
    }  # fmt: skip


@pytest.mark.parametrize("way", ["sequential", "interleaved", "batched"])
def test_a_first_self_attention_is_computed_for_two_of_three_branches(way: BranchEvaluation) -> None:
    model = tiny_model()
    samples: list[int] = []
    model.blocks[0].attn1.to_q.register_forward_hook(lambda module, given, out: samples.append(len(given[0])))
    velocities(model, way)
    assert sum(samples) == {"sequential": 3}.get(way, 2)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a group's weights are brought to the device that computes."""
    counts: Counter[str] = Counter()
    bring = ModuleGroup.onload_

    def count(group: ModuleGroup) -> None:
        counts.update(type(module).__name__ for module in group.modules)
        bring(group)

    monkeypatch.setattr(ModuleGroup, "onload_", count)
    return counts


@pytest.mark.parametrize("blocks_per_group", [1, 2])
def test_offloaded_blocks_are_brought_once_for_all_branches(loaded: Counter[str], blocks_per_group: int) -> None:
    model = tiny_model()
    expected = velocities(model, "sequential")
    apply_group_offloading(model, torch.device("cpu"), torch.device("cpu"), "block_level", blocks_per_group)
    found = velocities(model, "sequential")
    assert loaded["BranchBlock"] == 3 * LAYERS
    loaded.clear()
    together = velocities(model, "interleaved")
    assert loaded["BranchBlock"] == LAYERS
    assert all(torch.equal(found[branch], expected[branch]) for branch in BRANCHES)
    assert all(torch.equal(together[branch], expected[branch]) for branch in BRANCHES)


def offload_layers(model: nn.Module) -> None:
    apply_group_offloading(model, torch.device("cpu"), torch.device("cpu"), "leaf_level")


def offload_by_accelerate(model: nn.Module) -> None:
    cpu_offload(model, execution_device="cpu")


def park(model: nn.Module) -> None:
    park_context_projections(model, "cpu")


@pytest.mark.parametrize("prepare", [offload_layers, offload_by_accelerate, park])
@pytest.mark.parametrize("way", ["interleaved", "batched"])
def test_weights_that_wait_elsewhere_give_the_same_video(
    way: BranchEvaluation, prepare: Callable[[nn.Module], None]
) -> None:
    model = tiny_model()
    expected = video(model, way)
    prepare(model)
    assert torch.equal(video(model, way), expected)


@pytest.mark.parametrize("way", ["interleaved", "batched"])
def test_context_projections_can_be_given_up_after_the_first_step_with_pose_guidance(way: BranchEvaluation) -> None:
    model = tiny_model()
    expected = video(model, way)

    def after_step(step: int, timestep: Tensor, latents: Tensor) -> None:
        if step == 0:
            park_context_projections(model, "meta")

    # The negative pose shares the positive text: its keys are known although it was not asked yet.
    assert torch.equal(video(model, way, callback=after_step), expected)


clock = {"timestep": 0.0}
CACHES: dict[str, Callable[[], Any]] = {
    "first block": lambda: FirstBlockCacheConfig(threshold=0.2),
    "taylor": lambda: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1),
    "broadcast": lambda: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 990),
        current_timestep_callback=lambda: clock["timestep"],
    ),
}


def keep_time(step: int, timestep: Tensor, latents: Tensor) -> None:
    clock["timestep"] = timestep.item()


@pytest.mark.parametrize("cache", CACHES)
def test_with_a_step_cache_the_branches_follow_one_another(cache: str) -> None:
    model = tiny_model()
    exact = video(model, "sequential")
    model.enable_cache(CACHES[cache]())
    expected = video(model, "sequential", callback=keep_time)
    assert not torch.equal(expected, exact), "the cache skips nothing"
    assert torch.equal(video(model, "interleaved", callback=keep_time), expected)


def test_a_batch_and_a_step_cache_are_refused_also_when_the_cache_comes_later() -> None:
    model = tiny_model()
    velocity = branch_velocity(model, inputs(), branch_evaluation="batched")
    apply_first_block_cache(model, FirstBlockCacheConfig(threshold=0.2))
    with pytest.raises(ValueError, match="'batched' cannot be used with a step cache"):
        branch_velocity(model, inputs(), branch_evaluation="batched")
    with pytest.raises(ValueError, match="'batched' cannot be used with a step cache"):
        denoise(velocity, normal(8, 1, 16, *GRID), num_inference_steps=1)


def test_an_unknown_way_is_refused() -> None:
    way: Any = "parallel"
    with pytest.raises(ValueError, match="sequential, interleaved, batched, not 'parallel'"):
        branch_velocity(tiny_model(), inputs(), branch_evaluation=way)


def test_traced_blocks_give_the_same_velocities() -> None:
    """Dynamo without a code generator: what it captures of the blocks, with contexts and shared tables, is the same."""
    model = tiny_model(num_layers=2)
    expected = velocities(model, "interleaved")
    model.compile_repeated_blocks(backend="eager")
    velocity = branch_velocity(model, inputs())
    for _ in range(2):  # the second call finds keys and values
        with torch.no_grad():
            found = evaluate(velocity, normal(8, 1, 16, *GRID), torch.tensor([500.0]), BRANCHES)
        assert all(torch.equal(found[branch], expected[branch]) for branch in BRANCHES)
    torch._dynamo.reset()
