"""The ablations of Table 3 and Figure 12: what is off is gone, what is on does what it says."""

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch.nn import functional as F  # noqa: N812

from steadydancer.models.conditions import Conditions, with_frame_mask
from steadydancer.models.lora.adapters import add_lora
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

NAIVE = {"pose_modulation_modules": (), "condition_augmentation": False}
VARIANTS = {
    "released": {},
    "without SSAE": {"pose_modulation_modules": ("temporal", "alignment")},
    "without TMCM": {"pose_modulation_modules": ("spatial", "alignment")},
    "without FAAU": {"pose_modulation_modules": ("spatial", "temporal")},
    "without modulation": {"pose_modulation_modules": ()},
    "without augmentation": {"condition_augmentation": False},
    "addition": {"pose_fusion": "addition"},
    "addition without augmentation": {"pose_fusion": "addition", "condition_augmentation": False},
    "addition, naive": {"pose_fusion": "addition", **NAIVE},
    "adapter": {"pose_fusion": "adapter"},
    "adapter without augmentation": {"pose_fusion": "adapter", "condition_augmentation": False},
    "concatenation, naive": NAIVE,
    "image features concatenated": {"image_feature_fusion": "concatenation"},
    "latent addition": {"pose_fusion": "latent_addition"},
    "latent addition without augmentation": {"pose_fusion": "latent_addition", "condition_augmentation": False},
    "latent addition, naive": {"pose_fusion": "latent_addition", **NAIVE},
    "pointwise temporal": {"temporal_kernel_size": 1},
    "shared": {"reference_embedding": "shared"},
    "shared, addition": {"reference_embedding": "shared", "pose_fusion": "addition"},
    "shared, latent addition": {"reference_embedding": "shared", "pose_fusion": "latent_addition"},
    "shared, adapter": {"reference_embedding": "shared", "pose_fusion": "adapter"},
}
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
FRAMES, HEIGHT, WIDTH = 9, 18, 4


def tiny_inputs(num_frames=3, height=4, width=4):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(1, *shape, generator=generator)

    conditions = Conditions(
        image_latents=with_frame_mask(normal(16, num_frames, height, width)),
        pose_latents=normal(16, num_frames, height, width),
        image_embeds=normal(257, 8),
        pose_image_embeds=normal(257, 8),
        prompt_embeds=normal(5, 16),
    )
    return normal(16, num_frames, height, width), torch.tensor([700.0]), conditions


def velocity(model, latents, timestep, conditions):
    return model(latents, timestep, **conditions.model_arguments()).sample


def first_tokens(model, latents, timestep, conditions):
    """What enters the first block, the video's part: [T, H/2, W/2, D]."""
    seen = []
    hook = model.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    velocity(model, latents, timestep, conditions)
    hook.remove()
    num_frames, height, width = latents.shape[2:]
    num_tokens = num_frames * height * width // 4
    return seen[0][0, :num_tokens].unflatten(0, (num_frames, height // 2, width // 2))


@every_variant
def test_what_is_off_has_no_parameters_and_all_others_are_used(changes, plain_wan, tiny_model):
    model = tiny_model(**changes)
    modules = changes.get("pose_modulation_modules", ("spatial", "temporal", "alignment"))
    fusion, augmented = changes.get("pose_fusion", "concatenation"), changes.get("condition_augmentation", True)
    expected = {f"pose_modulation.{name}" for name in modules}
    separate = augmented and changes.get("reference_embedding", "separate") == "separate"
    joining = {
        "concatenation": {"patch_embedding_fuse"},
        "addition": {"pose_patch_embedding"},
        "latent_addition": set(),
        "adapter": {"pose_adapter"},
    }
    expected |= joining[fusion]
    expected |= {"patch_embedding_ref_c"} if separate else set()

    ours, wans = dict(model.named_parameters()), dict(plain_wan().named_parameters())
    new = {name.split(".")[0] for name in ours.keys() - wans.keys()}
    assert new == {name.split(".")[0] for name in expected} == set(model.pose_module_names)
    parts = {".".join(name.split(".")[:2]) for name in ours if name.startswith("pose_modulation")}
    assert parts == {name for name in expected if name.startswith("pose_modulation")}
    # Wan's own embedding has no work left only where nothing but the fused one takes anything in.
    gone = {name.split(".")[0] for name in wans.keys() - ours.keys()}
    assert gone == ({"patch_embedding"} if fusion == "concatenation" and not separate else set())

    velocity(model.train(), *tiny_inputs()).square().mean().backward()
    assert [name for name, parameter in ours.items() if parameter.grad is None or not parameter.grad.any()] == []


@pytest.mark.parametrize(
    ("fusion", "modules", "channels"),
    [
        ("concatenation", ("spatial", "temporal", "alignment"), 68),
        ("concatenation", ("spatial", "temporal"), 52),
        ("addition", ("alignment",), 32),
        ("adapter", (), 16),
    ],
)
def test_the_joining_layer_takes_what_the_modules_give(fusion, modules, channels, tiny_model):
    model = tiny_model(pose_fusion=fusion, pose_modulation_modules=modules)
    layer = {
        "concatenation": lambda: model.patch_embedding_fuse,
        "addition": lambda: model.pose_patch_embedding,
        "adapter": lambda: model.pose_adapter.patch_embedding,
    }[fusion]()
    assert layer.in_channels == channels


def reach(modules, at, steps=3):
    """Tokens that one pose value at (t, h, w) may reach, bool [T, H/2, W/2]; `steps` of time in the temporal module."""
    t, h, w = at
    reached = torch.zeros(FRAMES, HEIGHT // 2, WIDTH // 2, dtype=torch.bool)
    reached[t, h // 2, w // 2] = True
    if "spatial" in modules:
        reached[t] = True
    if "temporal" in modules:
        reached[t - steps : t + steps + 1, (h - 3) // 2 : (h + 3) // 2 + 1] = (
            True  # the width of 4 is within its reach anywhere
        )
    if "alignment" in modules:
        reached |= reached.any(dim=0)  # what moves in one frame is answered with in all of them
    return reached


@pytest.mark.parametrize("fusion", ["concatenation", "addition", "latent_addition"])
@pytest.mark.parametrize("size", [3, 1])
@pytest.mark.parametrize(
    "modules",
    [(), ("spatial",), ("temporal",), ("alignment",), ("spatial", "temporal"), ("temporal", "alignment")],
    ids=lambda modules: "+".join(modules) or "none",
)
@torch.no_grad()
def test_a_pose_value_reaches_the_tokens_that_its_modules_let_it_reach(fusion, size, modules, tiny_model):
    model = tiny_model(pose_fusion=fusion, pose_modulation_modules=modules, temporal_kernel_size=size).double()
    latents, timestep, conditions = tiny_inputs(FRAMES, HEIGHT, WIDTH)
    latents, conditions = latents.double(), conditions.to(dtype=torch.float64)
    at = (4, 9, 1)
    pose = conditions.pose_latents.clone()
    pose[0, :, *at] += 1.0
    before = first_tokens(model, latents, timestep, conditions)
    after = first_tokens(model, latents, timestep, conditions.replace(pose_latents=pose))
    assert torch.equal((after != before).any(dim=-1), reach(modules, at, steps=3 * (size // 2)))

    # The noise moves its own token, whoever answers it.
    latents[0, :, *at] += 1.0
    moved = (first_tokens(model, latents, timestep, conditions) != before).any(dim=-1)
    assert torch.equal(moved, reach((), at))


@torch.no_grad()
def test_the_adapter_leaves_the_input_alone_and_reaches_every_block_once(tiny_model):
    model = tiny_model(pose_fusion="adapter", **NAIVE)
    latents, timestep, conditions = tiny_inputs()
    reported = conditions.replace(pose_latents=-conditions.pose_latents)
    assert torch.equal(
        first_tokens(model, latents, timestep, reported), first_tokens(model, latents, timestep, conditions)
    )
    before = velocity(model, latents, timestep, conditions)
    for i in range(2):
        assert not torch.allclose(before, velocity(model, latents, timestep, reported), atol=1e-4)
        model.pose_adapter.injections[i].weight.zero_()
        assert not torch.allclose(before, velocity(model, latents, timestep, conditions), atol=1e-4)
    assert torch.equal(velocity(model, latents, timestep, reported), velocity(model, latents, timestep, conditions))


@torch.no_grad()
def test_the_adapter_gives_nothing_to_the_reference_frames(tiny_model):
    model = tiny_model(pose_fusion="adapter")
    features = model.pose_adapter(torch.randn(1, 32, 3, 4, 4), num_reference_frames=2)
    assert features.shape == (1, 5 * 4, 256)
    tokens = torch.randn(1, 5 * 4, 24)
    moved = (model.pose_adapter.inject(1, tokens, features) != tokens).any(dim=-1)[0]
    assert moved[:12].all() and not moved[12:].any()


@pytest.mark.parametrize("fusion", ["concatenation", "addition", "latent_addition", "adapter"])
@pytest.mark.parametrize("embedding", ["separate", "shared"])
@pytest.mark.parametrize("augmented", [True, False])
@torch.no_grad()
def test_references_and_the_second_image_feature_count_with_augmentation_only(fusion, embedding, augmented, tiny_model):
    model = tiny_model(pose_fusion=fusion, condition_augmentation=augmented, reference_embedding=embedding)
    latents, timestep, conditions = tiny_inputs()
    expected = velocity(model, latents, timestep, conditions)
    for change in (
        {"pose_image_embeds": -conditions.pose_image_embeds},
        {"reference_latents": -conditions.image_latents[:, 4:, :1]},
        {"reference_pose_latents": -conditions.pose_latents[:, :, :1]},
    ):
        got = velocity(model, latents, timestep, conditions.replace(**change))
        if augmented:
            assert (got - expected).abs().max() > 1e-4
        else:
            assert torch.equal(got, expected)


@torch.no_grad()
def test_equation_2_has_the_bases_parameters_and_does_not_tell_image_and_pose_apart(plain_wan, tiny_model):
    model = tiny_model(pose_fusion="latent_addition", **NAIVE)
    shapes = [{name: p.shape for name, p in network.named_parameters()} for network in (model, plain_wan())]
    assert shapes[0] == shapes[1] and model.pose_module_names == ()

    latents, timestep, conditions = tiny_inputs()
    image, pose = conditions.image_latents[:, 4:], conditions.pose_latents
    exchanged = conditions.replace(image_latents=with_frame_mask(pose), pose_latents=image)
    expected = velocity(model, latents, timestep, conditions)
    assert torch.equal(velocity(model, latents, timestep, exchanged), expected)
    moved = velocity(model, latents, timestep, conditions.replace(pose_latents=-pose))
    assert (moved - expected).abs().max() > 1e-4

    # Each of the three variants around it does tell them apart.
    for other in (
        {**NAIVE, "pose_fusion": "concatenation"},
        {**NAIVE, "pose_fusion": "latent_addition", "pose_modulation_modules": ("spatial",)},
        {**NAIVE, "pose_fusion": "latent_addition", "condition_augmentation": True},
    ):
        network = tiny_model(**other)
        outputs = [velocity(network, latents, timestep, each) for each in (conditions, exchanged)]
        assert (outputs[0] - outputs[1]).abs().max() > 1e-4


@torch.no_grad()
def test_equation_2_embeds_the_sum_of_the_latents_with_the_bases_own_layer(tiny_model):
    latents, timestep, conditions = tiny_inputs()
    for modules in ((), ("spatial", "temporal"), ("spatial", "temporal", "alignment")):
        model = tiny_model(pose_fusion="latent_addition", pose_modulation_modules=modules)
        poses = [pose for pose in model.pose_modulation(latents, conditions.pose_latents) if pose is not None]
        assert len(poses) == (2 if "alignment" in modules else 1)
        image = sum(poses, conditions.image_latents[:, 4:])
        read = torch.cat([latents, conditions.image_latents[:, :4], image], dim=1)
        expected = F.conv3d(read, model.patch_embedding.weight, model.patch_embedding.bias, stride=(1, 2, 2))
        got = first_tokens(model, latents, timestep, conditions)
        torch.testing.assert_close(got, expected[0].permute(1, 2, 3, 0), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_one_shared_embedding_equals_separate_ones_with_its_weights(tiny_model):
    """The image reference fills noise, mask and image of z_cond, the pose reference noise and p*."""
    shared, separate = tiny_model(reference_embedding="shared"), tiny_model()
    state = shared.state_dict()
    weight, bias = state["patch_embedding_fuse.weight"], state["patch_embedding_fuse.bias"]
    separate.load_state_dict(
        {
            **state,
            "patch_embedding.weight": weight[:, :36],
            "patch_embedding.bias": bias,
            "patch_embedding_ref_c.weight": weight[:, :16] + weight[:, 36:52],
            "patch_embedding_ref_c.bias": bias,
        }
    )
    inputs = tiny_inputs()
    torch.testing.assert_close(velocity(shared, *inputs), velocity(separate, *inputs), atol=5e-6, rtol=5e-6)


@torch.no_grad()
def test_addition_adds_the_embedded_pose_to_the_embedded_input_of_equation_1(tiny_model):
    model = tiny_model(pose_fusion="addition", **NAIVE)
    latents, timestep, conditions = tiny_inputs()
    image_to_video = torch.cat([latents, conditions.image_latents], dim=1)
    wan, pose = model.patch_embedding, model.pose_patch_embedding
    expected = F.conv3d(image_to_video, wan.weight, wan.bias, stride=(1, 2, 2))
    expected = expected + F.conv3d(conditions.pose_latents, pose.weight, pose.bias, stride=(1, 2, 2))
    got = first_tokens(model, latents, timestep, conditions)
    torch.testing.assert_close(got, expected[0].permute(1, 2, 3, 0), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_addition_equals_a_concatenation_whose_weights_are_the_two_embeddings_side_by_side(tiny_model):
    added, joined = tiny_model(pose_fusion="addition"), tiny_model()
    state = added.state_dict()
    wan, pose = (state[f"{name}.weight"] for name in ("patch_embedding", "pose_patch_embedding"))
    side_by_side = {name: tensor for name, tensor in state.items() if not name.startswith("pose_patch_embedding")}
    side_by_side["patch_embedding_fuse.weight"] = torch.cat([wan, pose], dim=1)
    side_by_side["patch_embedding_fuse.bias"] = state["patch_embedding.bias"] + state["pose_patch_embedding.bias"]
    joined.load_state_dict(side_by_side)
    inputs = tiny_inputs()
    torch.testing.assert_close(velocity(added, *inputs), velocity(joined, *inputs), atol=5e-6, rtol=5e-6)


def wan_output(base, latents, timestep, conditions):
    return base(
        torch.cat([latents, conditions.image_latents], dim=1),
        timestep,
        F.pad(conditions.prompt_embeds, (0, 0, 0, 507)),
        conditions.image_embeds,
    ).sample


@every_variant
@torch.no_grad()
def test_every_variant_starts_as_its_base(changes, plain_wan):
    base = plain_wan()
    model = SteadyDancerTransformer3DModel.from_wan(base, **changes).eval()
    assert {name: model.config[name] for name in changes} == changes
    assert not any(parameter.is_meta for parameter in model.parameters())
    inputs = tiny_inputs()
    wans = inputs
    if changes.get("pose_fusion") == "latent_addition":  # then the base sees the pose in the image latents
        latents, timestep, conditions = inputs
        image = conditions.image_latents[:, 4:] + conditions.pose_latents
        wans = (latents, timestep, conditions.replace(image_latents=with_frame_mask(image)))
    if changes.get("condition_augmentation", True):
        # The two things that differ are taken away: the extra frames reach the video through self-attention only,
        # and the second image feature joins the base's own.
        for network in (base, model):
            for block in network.blocks:
                block.attn1.to_out[0].weight.zero_()
        extra = model.condition_embedder.image_embedder(inputs[2].pose_image_embeds)
        side_by_side = changes.get("image_feature_fusion") == "concatenation"
        base.condition_embedder.image_embedder.register_forward_hook(
            lambda module, given, output: torch.cat([output, extra], dim=1) if side_by_side else output + extra
        )
        torch.testing.assert_close(velocity(model, *inputs), wan_output(base, *wans), atol=2e-6, rtol=2e-6)
    elif changes.get("pose_fusion", "concatenation") != "concatenation":
        assert torch.equal(velocity(model, *inputs), wan_output(base, *wans))
    else:  # zeros for the pose channels make another order of the sum
        torch.testing.assert_close(velocity(model, *inputs), wan_output(base, *wans), atol=2e-6, rtol=2e-6)


@every_variant
@torch.no_grad()
def test_a_bfloat16_base_gets_new_layers_in_float32_and_answers_in_its_own_type(changes, plain_wan):
    base = plain_wan()
    expected = velocity(SteadyDancerTransformer3DModel.from_wan(base, **changes).eval(), *tiny_inputs())
    half = SteadyDancerTransformer3DModel.from_wan(base.bfloat16(), **changes).eval()
    new = {p.dtype for name in half.pose_module_names for p in half.get_submodule(name).parameters()}
    assert new == ({torch.float32} if half.pose_module_names else set())
    got = velocity(half, *tiny_inputs())
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_base_whose_weights_have_other_names_is_not_started_from(plain_wan):
    base = plain_wan()
    base.blocks[0].attn1.to_q = torch.nn.Sequential(base.blocks[0].attn1.to_q)
    with pytest.raises(RuntimeError, match=r"attn1\.to_q"):
        SteadyDancerTransformer3DModel.from_wan(base)


@every_variant
def test_training_moves_the_joining_layers_first_and_the_pose_modules_next(changes, plain_wan):
    torch.manual_seed(0)
    model = SteadyDancerTransformer3DModel.from_wan(plain_wan(), **changes).train()
    add_lora(model, 2, 2, ("to_q", "to_v"))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained if "lora_" not in name} == set(model.pose_module_names)
    # Behind a layer that is zero at first: no gradient comes through to it in the first step.
    behind = {name for name in trained if name.startswith(("pose_modulation.", "pose_adapter.patch_embedding."))}
    if changes.get("pose_fusion") == "latent_addition":  # those are the modules' own last ones
        last = ("spatial.conv.", "spatial.conv_p.", "temporal.2.temporal.", "alignment.proj_out.")
        behind = {name for name in behind if not name.startswith(tuple(f"pose_modulation.{each}" for each in last))}
    behind |= {name for name in trained if "lora_A" in name}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        velocity(model, *tiny_inputs()).square().mean().backward()
        optimizer.step()
        moved.append({name for name, p in model.named_parameters() if not torch.equal(p, before[name])})
    assert moved == [trained.keys() - behind, trained.keys()]


@every_variant
@torch.no_grad()
def test_saving_keeps_the_arguments(changes, tmp_path, tiny_model):
    model = tiny_model(**changes, alignment_dropout=0.1)
    model.save_pretrained(tmp_path)
    again = SteadyDancerTransformer3DModel.from_pretrained(tmp_path).eval()
    assert {name: type(value)(again.config[name]) for name, value in changes.items()} == changes
    assert again.config.alignment_dropout == 0.1
    assert again.pose_module_names == model.pose_module_names
    inputs = tiny_inputs()
    torch.testing.assert_close(velocity(again, *inputs), velocity(model, *inputs), atol=1e-6, rtol=1e-6)


def test_the_adapter_stands_beside_gradient_checkpointing(tiny_model):
    gradients = []
    for checkpointed in (False, True):
        model = tiny_model(pose_fusion="adapter").train()
        if checkpointed:
            model.enable_gradient_checkpointing()
        velocity(model, *tiny_inputs()).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"pose_fusion": "multiplication"}, "'concatenation', 'addition', 'latent_addition' or 'adapter'"),
        ({"pose_fusion": "latent_addition", "pose_channels": 8}, "pose_channels must be 16, not 8"),
        ({"reference_embedding": "joint"}, "must be 'separate' or 'shared', not 'joint'"),
        ({"temporal_kernel_size": 2}, "temporal_kernel_size must be odd.*not 2"),
        ({"temporal_kernel_size": -1}, "temporal_kernel_size must be odd.*not -1"),
        ({"pose_modulation_modules": ("ssae",)}, r"\['ssae'\]: choose from spatial, temporal, alignment"),
        ({"alignment_dropout": 1.0}, "dropout must be .*, not 1.0"),
    ],
)
def test_unknown_variants_are_refused(changes, reported, tiny_model):
    with pytest.raises(ValueError, match=reported):
        tiny_model(**changes)


def test_dropout_of_the_alignment_unit_reaches_it_from_the_network_and_in_training_alone(tiny_model):
    model = tiny_model(alignment_dropout=0.5)
    latents, timestep, conditions = tiny_inputs()
    reported = conditions.model_arguments()
    plain = velocity(model, latents, timestep, conditions)
    assert torch.equal(model(latents, timestep, **reported, alignment_seeds=[3]).sample, plain)
    assert torch.equal(velocity(tiny_model().train(), latents, timestep, conditions), plain)

    model.train()
    with pytest.raises(ValueError, match="one seed per sample"):
        velocity(model, latents, timestep, conditions)
    outputs = [model(latents, timestep, **reported, alignment_seeds=[seed]).sample for seed in (3, 3, 4)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-5)
    assert not torch.allclose(outputs[0], plain, atol=1e-5)


def test_gradient_checkpointing_leaves_out_the_same_attention_weights(tiny_model):
    gradients = []
    for checkpointed in (False, True):
        model = tiny_model(alignment_dropout=0.5).train()
        if checkpointed:
            model.enable_gradient_checkpointing()
        latents, timestep, conditions = tiny_inputs()
        sample = model(latents, timestep, **conditions.model_arguments(), alignment_seeds=[5]).sample
        sample.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


@torch.no_grad()
def test_concatenated_image_features_are_attended_to_side_by_side(tiny_model):
    model = tiny_model(image_feature_fusion="concatenation")
    latents, timestep, conditions = tiny_inputs()
    twice = conditions.replace(pose_image_embeds=conditions.image_embeds)
    # Every token stands there twice, with the same key and value: the softmax gives what one of each would.
    once = tiny_model()
    calls = []
    once.condition_embedder.image_embedder.register_forward_hook(
        lambda module, given, tokens: calls.append(0) or (tokens if len(calls) == 1 else torch.zeros_like(tokens))
    )
    expected = velocity(once, latents, timestep, twice)
    torch.testing.assert_close(velocity(model, latents, timestep, twice), expected, atol=2e-6, rtol=2e-6)
    assert (velocity(model, latents, timestep, conditions) - expected).abs().max() > 1e-4


def test_a_network_with_a_pose_adapter_takes_no_step_cache(tiny_model):
    with pytest.raises(ValueError, match="pose_fusion .adapter.: it skips blocks"):
        tiny_model(pose_fusion="adapter").enable_cache(FirstBlockCacheConfig(threshold=0.1))
