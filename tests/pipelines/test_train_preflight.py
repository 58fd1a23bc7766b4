import pytest
import torch

from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.train import cost, preflight
from steadydancer.pipelines.train.config import TrainConfig

CLIP = (81, 640, 640)


@pytest.fixture(autouse=True)
def torchs_own_linear(monkeypatch):
    """DeepSpeed's ZeRO-3 leaves one of its own in its place, which keeps other tensors; a preflight runs before it."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)


@pytest.fixture(scope="module")
def networks() -> dict[int, cost.Network]:
    """Wan 14B as stages 1 and 2 train it; counted, not made."""
    return {stage: cost.count(TrainConfig(stage=stage), {}) for stage in (1, 2)}


def test_the_released_shapes_cost_what_is_known_of_them(networks):
    """2.016 PFLOP a forward pass; LoRA 7.74 (5.16 needed), all parameters 8.63 (6.05), a step of stage 2 19.0."""
    lora, full = networks[1], networks[2]
    assert cost.num_tokens(lora, CLIP) == 36_800
    assert cost.num_tokens(lora, (81, 1024, 576)) == 52_992
    assert sum(cost._forward(lora, 36_800)) == pytest.approx(2.016e15, rel=1e-3)
    assert sum(cost._forward(lora, 52_992)) == pytest.approx(3.604e15, rel=1e-3)
    flops = cost.step_flops(TrainConfig(stage=1), lora, CLIP)
    assert (flops.hardware, flops.model) == pytest.approx((7.74e15, 5.16e15), rel=1e-3)
    assert cost.step_flops(TrainConfig(stage=1, keep_attention_outputs=True), lora, CLIP).hardware == pytest.approx(
        6.63e15, rel=1e-3
    )
    assert cost.step_flops(TrainConfig(stage=2), full, CLIP).hardware == pytest.approx(19.0e15, rel=1e-3)
    one_branch = cost.step_flops(TrainConfig(stage=2, distillation="normal"), full, CLIP)
    teacher = sum(cost._forward(full, 33_600))
    assert (one_branch.hardware - teacher, one_branch.model - teacher) == pytest.approx((8.63e15, 6.05e15), rel=1e-3)


def test_the_memory_of_the_released_shapes_is_what_is_known_of_it(networks):
    """LoRA 55 to 60 GB (weights 32.8, block inputs 15, one block); all parameters 16 bytes each, 262 GB."""
    lora = cost.gpu_memory(TrainConfig(stage=1), networks[1], CLIP)
    assert lora["kept_activations"] == pytest.approx(15.0e9, rel=0.01)
    adapters = 2 * networks[1].adapters
    assert lora["weights"] - adapters == pytest.approx(32.8e9, rel=0.01)
    assert 55e9 < lora["weights"] - adapters + lora["kept_activations"] + lora["one_block"] < 60e9

    alone = cost.gpu_memory(TrainConfig(stage=2, num_workers=1, global_batch_size=1), networks[2], CLIP)
    assert alone["weights"] + alone["gradients_and_optimizer"] == pytest.approx(262e9, rel=0.01)
    assert alone["teacher"] == pytest.approx(32.8e9, rel=0.01)
    shared = cost.gpu_memory(TrainConfig(stage=2), networks[2], CLIP)
    for name in ("weights", "gradients_and_optimizer"):
        assert shared[name] == pytest.approx(alone[name] / 8, rel=1e-6)

    # One GPU and 128 GB of host memory are too little even with the optimizer offloaded: 12 bytes a weight are 197 GB.
    offloaded = TrainConfig(stage=2, num_workers=1, offload_optimizer=True, asynchronous_checkpoints=False)
    host = cost.host_memory(offloaded, networks[2])
    assert host["total"] * 12 / 16 == pytest.approx(197e9, rel=0.01)
    (refusal,) = preflight._too_little_host_memory(host, int(128e9))
    assert refusal.startswith("host_memory: 262 GB are needed") and "128 GB" in refusal


def test_zero_stages_and_offload_move_what_they_are_said_to_move(networks):
    def parts(**changes):
        return cost.gpu_memory(TrainConfig(stage=2, **changes), networks[2], CLIP)

    assert parts(zero_stage=2)["weights"] == pytest.approx(8 * parts(zero_stage=3)["weights"], rel=1e-6)
    assert parts(zero_stage=2)["gradients_and_optimizer"] == parts(zero_stage=3)["gradients_and_optimizer"]
    assert parts(offload_optimizer=True)["gradients_and_optimizer"] == 0
    assert parts(gradient_checkpointing=False)["kept_activations"] == pytest.approx(40 * 2 * parts()["one_block"])
    kept, twice = parts()["kept_activations"], parts(keep_attention_outputs=True)["kept_activations"]
    assert twice == pytest.approx(2 * kept, rel=0.03)
    assert parts(global_batch_size=16)["kept_activations"] == 2 * kept


def test_a_step_that_does_not_fit_names_what_would_help(networks):
    config = TrainConfig(stage=1, gradient_checkpointing=False)
    parts = cost.gpu_memory(config, networks[1], CLIP)
    (refusal,) = preflight._too_little_gpu_memory(config, parts, int(80e9))
    assert refusal.startswith("gpu_memory: a step needs 497 GB a GPU") and "try gradient_checkpointing" in refusal
    fits = cost.gpu_memory(TrainConfig(stage=1), networks[1], CLIP)
    assert not list(preflight._too_little_gpu_memory(TrainConfig(stage=1), fits, int(80e9)))
    assert not list(preflight._too_little_gpu_memory(config, parts, None))


def test_what_a_block_keeps_is_what_torch_keeps():
    """The count on the meta device against the tensors of a real forward pass."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 64, "num_layers": 1, "text_dim": 8}
    sizes |= {"freq_dim": 8, "image_dim": 8}
    config = TrainConfig(stage=2, dtype="float32")
    network = cost.count(config, sizes)
    block = SteadyDancerTransformer3DModel(**sizes).blocks[0]
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held: no other gets its address
        return tensor

    tokens = torch.randn(1, 100, 32, requires_grad=True)
    given = torch.randn(1, 769, 32), torch.randn(1, 6, 32), tuple(torch.randn(1, 100, 1, 16) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(tokens, *given)
    assert out.shape == tokens.shape
    assert cost._kept_by_a_block(config, network, 100) == pytest.approx(sum(map(len, kept.values())), rel=0.02)


@pytest.mark.parametrize("use_gpu", [True, False])
def test_workers_that_would_be_waited_for_without_end_are_refused(use_gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert not list(preflight._missing_workers(TrainConfig(stage=1, num_workers=1, use_gpu=use_gpu)))
    (refusal,) = preflight._missing_workers(TrainConfig(stage=1, num_workers=2, use_gpu=use_gpu))
    assert refusal.startswith("num_workers: 2 ") and "has 1" in refusal
