"""The official encoders load from `.pth` files with the official names, and answer like the models they come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import UMT5Config, UMT5EncoderModel

from steadydancer.models.checkpoints.files import CheckpointError
from steadydancer.models.checkpoints.official_encoder_key_maps import text_encoder_from_official
from steadydancer.models.checkpoints.official_encoders import (
    describe,
    load_autoencoder,
    load_image_encoder,
    load_text_encoder,
)
from steadydancer.models.image_encoder import OpenCLIPImageEncoder

NUM_BLOCKS, WIDTH, NUM_HEADS = 2, 24, 3


def random_like(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights of unit scale everywhere: what is zero or one at first would hide a swap."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2 + (0.5 if weight.ndim == 1 else 0))


def official_text_state(num_blocks: int = NUM_BLOCKS) -> dict[str, Tensor]:
    """UMT5 as Wan's own file names it, written out by hand."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    state = {"token_embedding.weight": random(40, WIDTH), "norm.weight": random(WIDTH)}
    for i in range(num_blocks):
        state |= {f"blocks.{i}.attn.{name}.weight": random(WIDTH, WIDTH) for name in "qkvo"}
        state |= {f"blocks.{i}.norm{n}.weight": random(WIDTH) for n in (1, 2)}
        state[f"blocks.{i}.ffn.gate.0.weight"] = random(32, WIDTH)
        state[f"blocks.{i}.ffn.fc1.weight"] = random(32, WIDTH)
        state[f"blocks.{i}.ffn.fc2.weight"] = random(WIDTH, 32)
        state[f"blocks.{i}.pos_embedding.embedding.weight"] = random(8, NUM_HEADS)
    return state


def umt5_of_one_token(state: dict[str, Tensor], token: int) -> Tensor:
    """UMT5's equations for a text of one token, where attention is its value alone."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x * torch.rsqrt(x.square().mean() + 1e-6)

    x = state["token_embedding.weight"][token]
    for i in range(NUM_BLOCKS):
        block = {key.removeprefix(f"blocks.{i}."): value for key, value in state.items()}
        value = block["attn.v.weight"] @ norm(x, block["norm1.weight"])
        x = x + block["attn.o.weight"] @ value
        h = norm(x, block["norm2.weight"])
        gate = F.gelu(block["ffn.gate.0.weight"] @ h, approximate="tanh")
        x = x + block["ffn.fc2.weight"] @ (gate * (block["ffn.fc1.weight"] @ h))
    return norm(x, state["norm.weight"])


def test_umt5_follows_its_equations_and_its_twin(tmp_path: Path) -> None:
    state = official_text_state()
    torch.save(state, tmp_path / "t5.pth")
    ours = load_text_encoder(tmp_path / "t5.pth")
    with torch.no_grad():
        answer = ours(torch.tensor([[7]])).last_hidden_state[0, 0]
    torch.testing.assert_close(answer, umt5_of_one_token(state, 7), atol=1e-5, rtol=1e-5)

    config = UMT5Config(
        vocab_size=40, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=NUM_BLOCKS, num_heads=NUM_HEADS,
        relative_attention_num_buckets=8,
    )  # fmt: skip
    twin = UMT5EncoderModel(config).eval()
    twin.load_state_dict(text_encoder_from_official(state), strict=False)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(ours(ids).last_hidden_state, twin(ids).last_hidden_state)
    assert not any(tensor.is_meta for tensor in (*ours.parameters(), *ours.buffers()))
    assert load_text_encoder(tmp_path / "t5.pth", torch.bfloat16).dtype == torch.bfloat16


def official_vae_state(vae: Any) -> dict[str, Tensor]:
    """diffusers' names back to Wan's, for the released arrangement: four levels of two blocks."""
    state = {}
    residual = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
    for name, tensor in vae.state_dict().items():
        for theirs, ours in {**residual, "conv_shortcut": "shortcut"}.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        for side in ("encoder", "decoder"):
            name = name.replace(f"{side}.conv_in.", f"{side}.conv1.").replace(f"{side}.norm_out.", f"{side}.head.0.")
            name = name.replace(f"{side}.conv_out.", f"{side}.head.2.")
            name = name.replace(f"{side}.mid_block.attentions.0.", f"{side}.middle.1.")
            name = name.replace(f"{side}.mid_block.resnets.0.", f"{side}.middle.0.")
            name = name.replace(f"{side}.mid_block.resnets.1.", f"{side}.middle.2.")
        name = name.replace("encoder.down_blocks.", "encoder.downsamples.")
        name = name.replace("post_quant_conv.", "conv2.").replace("quant_conv.", "conv1.")
        if name.startswith("decoder.up_blocks."):
            level, kind, index, rest = name.removeprefix("decoder.up_blocks.").split(".", 3)
            position = 4 * int(level) + (int(index) if kind == "resnets" else 3)
            name = f"decoder.upsamples.{position}.{rest}"
        state[name] = tensor
    return state


def test_the_autoencoder_answers_like_its_twin(tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    twin: Any = AutoencoderKLWan(base_dim=8).eval()
    random_like(twin)
    torch.save(official_vae_state(twin), tmp_path / "vae.pth")
    ours = load_autoencoder(tmp_path / "vae.pth")
    assert dict(ours.config) == dict(twin.config)
    clip = torch.randn(1, 3, 5, 16, 16)
    with torch.no_grad():
        latents = twin.encode(clip).latent_dist.mode()
        assert torch.equal(ours.encode(clip).latent_dist.mode(), latents)
        assert torch.equal(ours.decode(latents).sample, twin.decode(latents).sample)
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}


def official_clip_state(encoder: OpenCLIPImageEncoder) -> dict[str, Tensor]:
    """open_clip's names back to Wan's, with a head, a text tower and a temperature that are not ours."""
    state: dict[str, Tensor] = {"log_scale": torch.zeros(()), "textual.norm.weight": torch.ones(4)}
    state["visual.head"] = torch.zeros(encoder.config.width, 4)
    inside = {
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn.out_proj": "attn.proj",
        "mlp.c_fc": "mlp.0",
        "mlp.c_proj": "mlp.2",
    }
    for name, tensor in encoder.visual.state_dict().items():
        name = name.replace("conv1.", "patch_embedding.").replace("ln_pre.", "pre_norm.")
        name = name.replace("ln_post.", "post_norm.").replace("transformer.resblocks.", "transformer.")
        name = name.replace("attn.in_proj_", "attn.to_qkv.")
        for theirs, ours in inside.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        if name == "class_embedding":
            name, tensor = "cls_embedding", tensor[None, None]
        if name == "positional_embedding":
            name, tensor = "pos_embedding", tensor[None]
        state[f"visual.{name}"] = tensor
    return state


def test_the_image_tower_answers_like_its_twin(tmp_path: Path) -> None:
    twin = OpenCLIPImageEncoder(image_size=28, width=160, num_layers=3, num_heads=2).eval()
    random_like(twin)
    torch.save(official_clip_state(twin), tmp_path / "clip.pth")
    ours = load_image_encoder(tmp_path / "clip.pth")
    assert (ours.config.image_size, ours.config.patch_size, ours.config.num_heads) == (28, 14, 2)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(ours(pixels), twin(pixels))
    assert load_image_encoder(tmp_path / "clip.pth", torch.float16).dtype == torch.float16


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("blocks.1.attn.v.weight"), r"1 missing: encoder\.block\.1.*SelfAttention\.v\.weight"),
        (lambda state: state.update(more=torch.zeros(1)), "1 unexpected: more"),
        (lambda state: state.pop("token_embedding.weight"), "is not Wan's UMT5 encoder: it has no shared.weight"),
    ],
)
def test_an_incomplete_or_foreign_file_is_told(tmp_path: Path, spoil: Callable[[Any], Any], message: str) -> None:
    state = official_text_state()
    spoil(state)
    torch.save(state, tmp_path / "t5.pth")
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(tmp_path / "t5.pth")


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this pickle runs code",))


def test_a_pickle_that_holds_more_than_tensors_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"token_embedding.weight": Harm()}, tmp_path / "t5.pth")
    with pytest.raises(CheckpointError, match="cannot be read as tensors only"):
        load_text_encoder(tmp_path / "t5.pth")
    assert "runs code" not in capsys.readouterr().out
    whole = tmp_path / "whole.pth"
    torch.save(official_text_state(), whole)
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_text_encoder(whole)


def test_what_a_file_holds_is_described_without_reading_its_tensors(tmp_path: Path) -> None:
    """Places in the file, shapes and configuration: all that a conversion needs."""
    from diffusers import AutoencoderKLWan

    vae: Any = AutoencoderKLWan(base_dim=8)
    tower = OpenCLIPImageEncoder(image_size=28, width=160, num_layers=3, num_heads=2).half()
    states = {
        "text_encoder": official_text_state(),
        "vae": official_vae_state(vae),
        "image_encoder": official_clip_state(tower),
    }
    loads = {"text_encoder": load_text_encoder, "vae": load_autoencoder, "image_encoder": load_image_encoder}
    for name, state in states.items():
        file = tmp_path / f"{name}.pth"
        torch.save(state, file)
        places, config, library = describe(name, file)
        content = file.read_bytes()
        loaded: Any = loads[name](file)
        weights = {key: tensor for key, tensor in loaded.state_dict().items() if "embed_tokens" not in key}
        assert places.keys() == weights.keys()
        for key, tensor in weights.items():
            raw = content[places[key].offset : places[key].offset + places[key].num_bytes]
            kind = {"F32": np.float32, "F16": np.float16}[places[key].dtype]
            assert np.array_equal(np.frombuffer(raw, kind).reshape(places[key].shape), tensor.numpy())
        assert type(loaded).__name__ == config.get("_class_name", config.get("architectures", [""])[0])
        assert library in ("transformers", "diffusers", "steadydancer.models.image_encoder")
