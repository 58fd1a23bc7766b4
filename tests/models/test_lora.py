import pytest
import torch

from steadydancer.models.components import tiny_components
from steadydancer.models.lora import add_lora, save_trained
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


def answer(network) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        return network(
            random(1, 16, 2, 4, 4),
            torch.tensor([500.0]),
            random(1, 3, 16),
            random(1, 257, 16),
            random(1, 257, 16),
            random(1, 20, 2, 4, 4),
            random(1, 16, 2, 4, 4),
            return_dict=False,
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
