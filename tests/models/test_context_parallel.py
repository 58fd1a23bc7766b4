from datetime import timedelta
from typing import Any

import pytest
import torch
from diffusers import ContextParallelConfig
from torch import distributed, multiprocessing

from steadydancer.models.conditions import Conditions, with_frame_mask
from steadydancer.models.inference.step_memory import StepMemory
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

TINY: dict[str, Any] = {
    "num_attention_heads": 2,  # one for each process
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "image_dim": 8,
}
SIZE = (2, 4, 6)  # latent frames, height, width
PATIENCE_S = 100


def tiny_model(**changes: Any) -> SteadyDancerTransformer3DModel:
    torch.manual_seed(0)
    model = SteadyDancerTransformer3DModel(**{**TINY, **changes}).eval()
    for parameter in model.parameters():  # an adapter begins at zero
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def answer(model: SteadyDancerTransformer3DModel, **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator)

    conditions = Conditions(
        image_latents=with_frame_mask(normal(16, *SIZE)),
        pose_latents=normal(16, *SIZE),
        image_embeds=normal(257, 8),
        pose_image_embeds=normal(257, 8),
        prompt_embeds=normal(5, 16),
    )
    arguments = conditions.model_arguments()
    # A tuple is returned: the plan's hook on the whole network takes no output object.
    return model(normal(16, *SIZE), torch.tensor([500.0]), **arguments, return_dict=False, **more)[0]


def compare(model: SteadyDancerTransformer3DModel) -> tuple[bool, bool, int]:
    """Return whether two processes give the bits of one, also from memory, and how many tokens this one had."""
    expected = answer(model)
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    num_tokens: list[int] = []
    model.blocks[1].register_forward_pre_hook(lambda module, given: num_tokens.append(given[0].shape[1]))
    same = torch.equal(answer(model), expected)
    memory = StepMemory()
    remembered = [torch.equal(answer(model, step_memory=memory), expected) for _ in range(2)]
    return same, all(remembered), num_tokens[0]


def process(rank: int, store: str, results: Any) -> None:
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 2  # diffusers divides the world by the accelerators that it counts
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=PATIENCE_S)
    )
    results.put(
        (
            rank,
            {
                "joined by channels": compare(tiny_model()),
                "injected": compare(tiny_model(pose_fusion="adapter")),
                "without references": compare(tiny_model(condition_augmentation=False)),
            },
        )
    )
    distributed.destroy_process_group()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="diffusers would put the group on the accelerator")
def test_two_processes_that_share_the_tokens_give_the_bits_of_one(tmp_path):
    # Forked, as a data loader's workers are: importing everything twice again would take longer than the test.
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=process, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(PATIENCE_S)
        one.kill()
    assert [one.exitcode for one in processes] == [0, 0]
    reported = dict(results.get() for _ in processes)
    # (2 frames + 2 references, or none) x 2 rows x 3 columns, cut in two.
    tokens = {"joined by channels": 12, "injected": 12, "without references": 6}
    for name, num_tokens in tokens.items():
        assert [reported[rank][name] for rank in range(2)] == [(True, True, num_tokens)] * 2, name
