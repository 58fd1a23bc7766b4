import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig

from steadydancer.models.conditions import Conditions, with_frame_mask
from steadydancer.models.guidance import branch_conditions, branch_velocity
from steadydancer.models.inference.step_memory import StepMemory, park_context_projections
from steadydancer.models.sampling import denoise
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

NUM_STEPS = 6  # of which the pose guides two


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_model(**changes):
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32,
             "num_layers": 2, "image_dim": 8}  # fmt: skip
    torch.manual_seed(0)
    return SteadyDancerTransformer3DModel(**{**sizes, **changes}).eval()


def branches(dtype=torch.float32):
    conditions = Conditions(
        image_latents=with_frame_mask(normal(1, 16, 3, 4, 6, seed=1)),
        pose_latents=normal(1, 16, 3, 4, 6, seed=2),
        image_embeds=normal(1, 257, 8, seed=3),
        pose_image_embeds=normal(1, 257, 8, seed=4),
        prompt_embeds=normal(1, 5, 16, seed=5),
    )
    reported = branch_conditions(conditions, normal(1, 9, 16, seed=6), normal(1, 16, 3, 4, 6, seed=7))
    return {branch: one.to(dtype=dtype) for branch, one in reported.items()} if dtype != torch.float32 else reported


def video(model, reported, remember):
    velocity = branch_velocity(model, reported, use_step_memory=remember)
    return denoise(velocity, normal(1, 16, 3, 4, 6, seed=8), num_inference_steps=NUM_STEPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("axis", ["temporal", "spatial"])
def test_remembering_changes_no_bit(dtype, axis):
    model = tiny_model(alignment_axis=axis).to(dtype)
    reported = branches(dtype)
    plain = video(model, reported, remember=False)
    assert torch.equal(video(model, reported, remember=True), plain)
    assert not torch.equal(plain, video(model, reported | {"negative_text": reported["conditional"]}, remember=True))


def test_two_image_features_side_by_side_are_remembered_as_both():
    model, reported = tiny_model(image_feature_fusion="concatenation"), branches()
    plain = video(model, reported, remember=False)
    assert torch.equal(video(model, reported, remember=True), plain)


def test_each_thing_is_computed_once_for_what_it_depends_on():
    model, reported = tiny_model(), branches()
    calls = dict.fromkeys(["rope", "spatial", "temporal", "alignment", "image_embedder", "to_k", "add_v_proj"], 0)
    words = []

    def count(name):
        def hook(module, given, output):
            calls[name] += 1

        return hook

    for name, module in {
        "rope": model.rope,
        "spatial": model.pose_modulation.spatial,
        "temporal": model.pose_modulation.temporal,
        "alignment": model.pose_modulation.alignment,
        "image_embedder": model.condition_embedder.image_embedder,
        "to_k": model.blocks[1].attn2.to_k,
        "add_v_proj": model.blocks[1].attn2.add_v_proj,
    }.items():
        module.register_forward_hook(count(name))
    model.condition_embedder.text_embedder.register_forward_hook(
        lambda module, given, output: words.append(given[0].shape[1])
    )
    video(model, reported, remember=True)
    # Two pose clips (positive, negative), two texts; the alignment meets the noise in every step with each clip.
    assert calls == {
        "rope": 1, "spatial": 2, "temporal": 2, "alignment": 8, "image_embedder": 4, "to_k": 2, "add_v_proj": 2,
    }  # fmt: skip
    assert [length for length in words if length] == [512] * 2  # later evaluations are given no words


def resident(model):
    return sum(p.numel() for p in model.parameters() if p.device.type != "meta")


def test_context_projections_can_be_given_up_after_the_first_step():
    model, reported = tiny_model(), branches()
    plain, whole = video(model, reported, remember=False), resident(model)
    after_first_step = []

    def after_step(step, timestep, latents):
        if step == 0:
            park_context_projections(model, "meta")
        after_first_step.append(resident(model))

    velocity = branch_velocity(model, reported)
    out = denoise(velocity, normal(1, 16, 3, 4, 6, seed=8), num_inference_steps=NUM_STEPS, callback=after_step)
    assert torch.equal(out, plain)
    of_one_block = 4 * (24 * 24 + 24)
    assert after_first_step == [whole - 2 * of_one_block] * NUM_STEPS
    with pytest.raises(ValueError, match="load the transformer again"):
        video(model, reported, remember=True)


def test_at_full_size_a_quarter_of_the_network_is_given_up():
    with torch.device("meta"):
        model = SteadyDancerTransformer3DModel()
    names = ("to_k", "to_v", "add_k_proj", "add_v_proj")
    given_up = sum(p.numel() for block in model.blocks for n in names for p in getattr(block.attn2, n).parameters())
    assert given_up / sum(p.numel() for p in model.parameters()) == pytest.approx(0.256, abs=5e-4)


def test_adapters_and_fused_projections_are_remembered_too():
    reported = branches()
    adapted = tiny_model()
    adapted.add_adapter(LoraConfig(r=2, target_modules=["to_k", "add_v_proj"], init_lora_weights=False))
    assert torch.equal(video(adapted, reported, remember=True), video(adapted, reported, remember=False))
    fused = tiny_model()
    fused.fuse_qkv_projections()
    assert torch.equal(video(fused, reported, remember=True), video(fused, reported, remember=False))


def test_nothing_is_remembered_while_gradients_flow():
    reported = branches()["conditional"]
    with pytest.raises(ValueError, match="no_grad"):
        tiny_model()(
            normal(1, 16, 3, 4, 6, seed=8),
            torch.tensor([500.0]),
            **reported.model_arguments(),
            step_memory=StepMemory(),
        )


def test_weights_that_are_brought_by_a_hook_are_brought_for_the_first_step_too():
    reported, model = branches(), tiny_model()
    plain = video(model, reported, remember=False)
    cpu_offload(model, execution_device="cpu")
    assert model.blocks[0].attn2.to_k.weight.is_meta
    assert torch.equal(video(model, reported, remember=True), plain)
