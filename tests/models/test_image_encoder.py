from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from open_clip.transformer import VisionTransformer
from torch import Tensor

from steadydancer.models.image_encoder import OpenCLIPImageEncoder

NUM_LAYERS = 3


def encoder() -> OpenCLIPImageEncoder:
    torch.manual_seed(0)
    made = OpenCLIPImageEncoder(width=32, num_layers=NUM_LAYERS, num_heads=2, mlp_ratio=2.0).eval()
    for block in made.visual.transformer.resblocks:
        torch.nn.init.normal_(block.attn.in_proj_bias)  # zero at first
    return made


@torch.no_grad()
def tokens(model: OpenCLIPImageEncoder) -> Tensor:
    return model(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)))


@torch.no_grad()
def test_it_is_open_clips_tower_before_its_last_block() -> None:
    ours = encoder()
    theirs = VisionTransformer(224, 14, 32, NUM_LAYERS, 2, 2.0).eval()
    theirs.load_state_dict(ours.visual.state_dict() | {"proj": theirs.proj})
    seen: list[Tensor] = []
    theirs.transformer.resblocks[NUM_LAYERS - 1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    theirs(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(tokens(ours), seen[0], atol=5e-6, rtol=5e-6)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Fills whatever is allocated and not written with NaN: weights that are away then show."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "how", [{"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}]
)
def test_weights_that_are_away_are_fetched_for_every_layer(
    tmp_path: Path, deterministic: None, how: dict[str, Any]
) -> None:
    model, expected = encoder(), tokens(encoder())
    model.enable_group_offload(torch.device("cpu"), offload_to_disk_path=str(tmp_path), **how)
    assert all(weight.isnan().all() for weight in model.parameters())
    torch.testing.assert_close(tokens(model), expected, atol=2e-6, rtol=2e-6)


def test_offload_layer_by_layer_changes_no_bit() -> None:
    model, expected = encoder(), tokens(encoder())
    cpu_offload(model, "cpu", offload_buffers=True)
    assert all(weight.is_meta for weight in model.parameters())
    assert torch.equal(tokens(model), expected)


def test_fp8_storage_stays_near() -> None:
    model, expected = encoder(), tokens(encoder())
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert model.visual.transformer.resblocks[0].attn.out_proj.weight.dtype == torch.float8_e4m3fn
    assert 1e-3 < (tokens(model) - expected).norm() / expected.norm() < 0.1
