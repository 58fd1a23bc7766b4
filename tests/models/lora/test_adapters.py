import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from steadydancer.models.components import tiny_components
from steadydancer.models.lora.adapters import add_lora, save_trained
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


def small_network() -> SteadyDancerTransformer3DModel:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 32, "num_layers": 2}
    wan = tiny_components(
        transformer=sizes,
        image_encoder={"width": 16, "num_layers": 1},
        text_encoder={"d_model": 16, "num_layers": 1},
    )["transformer"]
    torch.manual_seed(0)
    return SteadyDancerTransformer3DModel.from_wan(wan).eval()


def answer(network, with_gradient: bool = False, **arguments) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    with torch.set_grad_enabled(with_gradient):
        return network(
            random(1, 16, 2, 4, 4),
            torch.tensor([500.0]),
            random(1, 3, 16),
            random(1, 257, 16),
            random(1, 257, 16),
            random(1, 20, 2, 4, 4),
            random(1, 16, 2, 4, 4),
            return_dict=False,
            **arguments,
        )[0]


def test_fresh_adapters_change_nothing_and_sit_in_the_blocks_alone():
    network = small_network()
    before = answer(network)
    add_lora(network, rank=2, alpha=2, targets=TARGETS)
    assert torch.equal(answer(network), before)
    adapted = {name.split(".lora_")[0] for name, _ in network.named_parameters() if ".lora_" in name}
    assert len(adapted) == 2 * (4 + 4 + 2)  # layers × (self-attention, cross-attention, FFN)
    assert all(name.startswith("blocks.") for name in adapted)
    for name, weight in network.named_parameters():
        assert weight.requires_grad == (".lora_" in name or name.startswith(network.pose_module_names))


def test_merged_weights_and_the_kept_adapter_both_answer_like_the_trained_network(tmp_path):
    network = small_network()
    add_lora(network, rank=2, alpha=3, targets=TARGETS)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(2)
    for name, weight in network.named_parameters():
        if ".lora_" in name:
            weight.data += 0.1 * torch.randn_like(weight)
    trained = answer(network)
    save_trained(network, network.state_dict(), tmp_path / "merged", tmp_path / "lora", torch.float32)
    assert torch.equal(answer(network), trained)  # what was merged are copies: training may go on

    merged = SteadyDancerTransformer3DModel.from_pretrained(tmp_path / "merged")
    assert not any("lora" in name for name in merged.state_dict())
    assert torch.allclose(answer(merged), trained, atol=1e-5)

    save_trained(network, start, tmp_path / "base", None, torch.float32)
    again = SteadyDancerTransformer3DModel.from_pretrained(tmp_path / "base")
    assert not torch.allclose(answer(again), trained, atol=1e-3)
    again.load_lora_adapter(tmp_path / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors")
    assert torch.allclose(answer(again), trained, atol=1e-5)


def test_a_target_that_no_layer_has_is_refused():
    with pytest.raises(ValueError, match="not found"):
        add_lora(small_network(), rank=2, alpha=2, targets=("to_nothing",))
    with pytest.raises(ValueError, match="not found"):  # those outside the blocks are none
        add_lora(small_network(), rank=2, alpha=2, targets=("linear_1",))


def test_weights_are_merged_before_they_are_rounded_and_the_adapter_is_not_rounded(tmp_path):
    network = small_network()
    add_lora(network, rank=2, alpha=3, targets=("to_q",))
    torch.manual_seed(4)
    layer = network.blocks[1].attn1.to_q
    layer.lora_B.default.weight.data.normal_()
    exact = layer.base_layer.weight + 1.5 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    save_trained(network, network.state_dict(), tmp_path / "merged", tmp_path / "lora", torch.bfloat16)
    merged = load_file(tmp_path / "merged/diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    assert torch.equal(merged["blocks.1.attn1.to_q.weight"], exact.bfloat16())
    pairs = load_file(tmp_path / "lora" / FILE)
    assert {tensor.dtype for tensor in pairs.values()} == {torch.float32}
    assert torch.equal(pairs["blocks.1.attn1.to_q.lora_B.weight"], layer.lora_B.default.weight)


# Layers of the pose modules may have adapters as well: linear ones and convolutions.
ANYWHERE = (
    rf"blocks\.\d+\.(?:.+\.)?(?:{'|'.join(map(re.escape, TARGETS))})",
    r"pose_modulation\.alignment\.(?:proj_query|proj_pose|to_out|ffn\.2|proj_out)",
    r"pose_modulation\.spatial\.(?:squeeze|to_kernel)",
    r"pose_modulation\.temporal\.\d\.temporal",
    r"patch_embedding_(?:fuse|ref_c)",
)
FILE = "pytorch_lora_weights.safetensors"


def sighted_network() -> SteadyDancerTransformer3DModel:
    network = small_network()
    torch.nn.init.normal_(network.patch_embedding_fuse.weight, std=0.05)  # a new one does not see the pose
    return network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """An adapter's folder after a step of training, and the trained network's answer."""
    network = sighted_network().train()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    torch.manual_seed(3)
    network.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules="|".join(ANYWHERE)), adapter_name="dance")
    adapters = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in adapters} == {
        *("blocks", "pose_modulation", "patch_embedding_fuse", "patch_embedding_ref_c")
    }
    optimizer = torch.optim.SGD(adapters.values(), lr=3.0)
    answer(network, with_gradient=True).square().mean().backward()
    assert all(weight.grad is not None for weight in adapters.values())
    optimizer.step()
    for name, weight in network.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")]), f"{name} was trained"
    folder = tmp_path_factory.mktemp("adapter")
    network.save_lora_adapter(folder, adapter_name="dance")
    return folder, answer(network.eval())


def close(network, expected: torch.Tensor, **arguments) -> bool:
    return torch.allclose(answer(network, **arguments), expected, atol=1e-5)


def test_a_loaded_adapter_answers_like_the_trained_one_at_its_scale(trained) -> None:
    folder, expected = trained
    network = sighted_network()
    base = answer(network)
    network.load_lora_adapter(folder, prefix=None, weight_name=FILE, adapter_name="again")
    assert (base - expected).abs().max() > 0.05
    assert close(network, expected)
    assert close(network, base, attention_kwargs={"scale": 0.0})
    half = answer(network, attention_kwargs={"scale": 0.5})
    assert (half - base).abs().max() > 0.01
    assert (half - expected).abs().max() > 0.01
    assert close(network, expected)  # the scale of one call is that call's alone
    network.set_adapters("again", 0.5)
    assert close(network, half)
    network.disable_adapters()
    assert close(network, base)
    network.enable_adapters()
    assert close(network, half)
    network.delete_adapters("again")
    assert close(network, base)


def test_two_adapters_add_up(trained) -> None:
    folder, expected = trained
    network = sighted_network()
    for name in ("left", "right"):
        network.load_lora_adapter(folder, prefix=None, weight_name=FILE, adapter_name=name)
    network.set_adapters(["left", "right"], [0.25, 0.75])
    assert close(network, expected)
    network.set_adapters(["right"], [1.0])
    assert close(network, expected)


def test_a_fused_adapter_is_in_the_weights_until_it_is_taken_out_again(trained) -> None:
    folder, expected = trained
    network = sighted_network()
    base, plain = answer(network), network.state_dict()
    network.load_lora_adapter(folder, prefix=None, weight_name=FILE, adapter_name="again")
    network.fuse_lora()
    assert close(network, expected)
    assert close(network, expected, attention_kwargs={"scale": 0.0})  # in the weights, whatever the scale
    network.unfuse_lora()
    assert close(network, expected)
    assert close(network, base, attention_kwargs={"scale": 0.0})
    network.fuse_lora(lora_scale=1.0)
    network.unload_lora()
    assert close(network, expected)
    assert network.state_dict().keys() == plain.keys()
    assert not getattr(network, "peft_config", None)
