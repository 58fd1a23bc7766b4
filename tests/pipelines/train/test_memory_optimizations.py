"""What saves memory changes no bit."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers import WanTransformer3DModel

from steadydancer.models.components import save_components
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.train import memory_optimizations as memory
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.engine import process_group
from steadydancer.pipelines.train.memory_optimizations import checkpoint_blocks, shard_frozen

SIZES = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 64, "num_layers": 2, "text_dim": 8,
         "freq_dim": 8, "image_dim": 8, "added_kv_proj_dim": 32, "in_channels": 36, "out_channels": 16}  # fmt: skip


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"stage": 2, "num_workers": 0, "use_gpu": False, **changes})


def wan() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(**SIZES).eval().requires_grad_(False)


@torch.no_grad()
def test_a_sharded_network_gives_the_same_bits_and_holds_nothing_between_its_turns():
    network = wan()
    network.blocks.to(torch.bfloat16)
    network.blocks[0].norm2.float()  # as diffusers keeps some of them
    network.condition_embedder.text_embedder.to(torch.bfloat16)
    given = torch.randn(1, 36, 3, 4, 4), torch.tensor([500]), torch.randn(1, 512, 8), torch.randn(1, 257, 8)
    types = {name: weight.dtype for name, weight in network.named_parameters()}
    linear = torch.nn.functional.linear
    with process_group(config()), torch.autocast("cpu", torch.bfloat16):
        whole = network(*given, return_dict=False)[0]
        shard_frozen(network)
        assert {name: weight.dtype for name, weight in network.named_parameters()} == types
        assert not any(weight.numel() for weight in network.parameters())
        for _ in range(3):
            assert torch.equal(network(*given, return_dict=False)[0], whole)
    assert torch.nn.functional.linear is linear


def gradients(monkeypatch, **changes):
    """(loss, gradients, sizes of what was put into host memory) of a tiny network."""
    torch.manual_seed(0)
    sizes = {name: size for name, size in SIZES.items() if name not in ("in_channels", "out_channels")}
    network = SteadyDancerTransformer3DModel(**sizes).train()
    network.enable_gradient_checkpointing(checkpoint_blocks(config(**changes)))
    moved, empty_like = [], torch.empty_like

    def counted(tensor, **named):
        if "pin_memory" in named:
            moved.append(tuple(tensor.shape))
        return empty_like(tensor, **named)

    monkeypatch.setattr(memory.torch, "empty_like", counted)
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int):
        return torch.randn(1, *shape, generator=generator)

    given = {"encoder_hidden_states": normal(4, 8), "encoder_hidden_states_image": normal(257, 8),
             "encoder_hidden_states_pose_image": normal(257, 8), "image_latents": normal(20, 3, 28, 28),
             "pose_latents": normal(16, 3, 28, 28)}  # fmt: skip
    sample = network(normal(16, 3, 28, 28), torch.tensor([500]), **given, return_dict=False)[0]
    loss = sample.square().mean()
    loss.backward()
    monkeypatch.undo()
    return loss.item(), {name: weight.grad for name, weight in network.named_parameters()}, moved


def test_what_is_kept_for_backward_may_wait_in_host_memory(monkeypatch):
    """Two blocks keep their inputs, 980 tokens of 32 channels; and, if asked, what their self-attention gave."""
    loss, plain, moved = gradients(monkeypatch)
    assert moved == []
    for kept, wanted in ((False, {(1, 980, 32): 2}), (True, {(1, 980, 32): 2, (1, 2, 980, 16): 2})):
        same, offloaded, moved = gradients(monkeypatch, offload_activations=True, keep_attention_outputs=kept)
        assert same == loss
        assert offloaded.keys() == plain.keys()
        assert all(torch.equal(offloaded[name], plain[name]) for name in plain)
        assert {shape: moved.count(shape) for shape in set(moved)} == wanted


TWO_WORKERS = """
import json, os, sys
import torch, torch.distributed as dist
rank, folder = int(sys.argv[1]), sys.argv[2]
os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"}
import deepspeed
deepspeed.ops.__compatible_ops__ = {}
from steadydancer.models.conditions import Conditions, NullConditions, with_frame_mask
from steadydancer.models.objectives import TrainingBatch
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.engine import full_weights, open_engine
from steadydancer.pipelines.train.networks import engine_velocity, load_objective, load_student

dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
device = torch.device("cpu")

def batch(step):
    generator = torch.Generator().manual_seed(10 * step + rank)
    normal = lambda *shape: torch.randn(1, *shape, generator=generator)
    conditions = Conditions(image_latents=with_frame_mask(normal(16, 3, 4, 4)), pose_latents=normal(16, 3, 4, 4),
                      image_embeds=normal(257, 8), pose_image_embeds=normal(257, 8), prompt_embeds=normal(5, 8))
    null = NullConditions(normal(16, 3, 4, 4), normal(257, 8), normal(1, 8))
    return TrainingBatch(normal(16, 3, 4, 4), conditions, null, normal(16, 3, 4, 4), torch.tensor([0.3 + 0.4 * rank]))

def run(zero_stage, dtype, shard_teacher):
    config = TrainConfig(stage=2, num_workers=2, global_batch_size=2, use_gpu=False, learning_rate=1e-2, dtype=dtype,
                         zero_stage=zero_stage, shard_teacher=shard_teacher, warmup_steps=0)
    engine = open_engine(load_student(config, f"{folder}/base", None, device), config)
    objective = load_objective(config, f"{folder}/base", device)
    losses = []
    for step in range(3):
        terms = objective(engine_velocity(engine, config), batch(step))
        engine.backward(terms["loss"])
        engine.step()
        losses.append([terms[name].item() for name in ("loss", "distillation")])
    weights = full_weights(engine)
    held_by = lambda function: [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    behind = [found for teacher in held_by(objective) for found in held_by(teacher)]
    (base,) = [found for found in behind if isinstance(found, torch.nn.Module)]
    held = sum(w.ds_tensor.numel() if hasattr(w, "ds_tensor") else w.numel() for w in base.parameters())
    engine.destroy()
    return losses, weights, held

results = []
# ZeRO-2 first: ZeRO-3 leaves a linear layer of its own behind.
for zero_stage, dtype in ((2, "float32"), (3, "float32"), (3, "bfloat16")):
    whole, apart = run(zero_stage, dtype, False), run(zero_stage, dtype, True)
    results.append({"losses": whole[0] == apart[0], "last": whole[0][-1], "shares": apart[2] / whole[2],
                 "weights": all(torch.equal(whole[1][name], apart[1][name]) for name in whole[1]),
                 "num_weights": len(whole[1])})
open(f"{folder}/{rank}.json", "w").write(json.dumps(results))
"""


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_two_workers_with_half_a_teacher_each_take_the_same_steps(tmp_path):
    save_components({"transformer": wan()}, tmp_path / "base")
    processes = [
        subprocess.Popen([sys.executable, "-c", TWO_WORKERS, str(rank), str(tmp_path)], stdout=subprocess.DEVNULL)
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    for rank in range(2):
        for reported in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert reported["losses"] and reported["weights"] and reported["last"][1] > 0
            assert reported["shares"] == pytest.approx(0.5, abs=0.02)
            assert (reported["num_weights"] > 0) == (rank == 0)
