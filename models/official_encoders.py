"""The encoders of an official Wan 2.1 folder: UMT5, the autoencoder and CLIP, as their `.pth` files hold them.

A `.pth` is a pickle. These are read with `weights_only`, which builds tensors and refuses all else, and mapped, so that
no second copy is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .checkpoints import PICKLES, CheckpointError, StoredTensor, check_tensors, open_checkpoint

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import UMT5EncoderModel

    from .image_encoder import OpenCLIPImageEncoder

_TEXT_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",  # the half that passes the GELU
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
_IMAGE_BLOCK = {
    "norm1": "ln_1",
    "attn.to_qkv": "attn.in_proj",
    "attn.proj": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.0": "mlp.c_fc",
    "mlp.2": "mlp.c_proj",
}
_IMAGE_OUTSIDE = {
    "cls_embedding": "class_embedding",
    "pos_embedding": "positional_embedding",
    "patch_embedding.weight": "conv1.weight",
    "pre_norm.weight": "ln_pre.weight",
    "pre_norm.bias": "ln_pre.bias",
    "post_norm.weight": "ln_post.weight",
    "post_norm.bias": "ln_post.bias",
}
_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_CLIP_HEAD_DIM = 80  # of ViT-H/14: 1280 / 16


def load_text_encoder(file: str | Path, dtype: torch.dtype | None = None) -> UMT5EncoderModel:
    """UMT5's encoder out of `models_t5_umt5-xxl-enc-bf16.pth`, in eval mode.

    Raises:
        CheckpointError: the file is another one, damaged or incomplete.
    """
    from transformers import UMT5Config, UMT5EncoderModel

    state = text_encoder_from_official(_read(Path(file)))
    layer = "encoder.block.0."
    vocab_size, width = _shape(state, "shared.weight", 2, file, "UMT5 encoder")
    inner, _ = _shape(state, layer + "layer.0.SelfAttention.q.weight", 2, file, "UMT5 encoder")
    num_buckets, num_heads = _shape(
        state, layer + "layer.0.SelfAttention.relative_attention_bias.weight", 2, file, "UMT5 encoder"
    )
    with torch.device("meta"):
        model = UMT5EncoderModel(
            UMT5Config(
                vocab_size=vocab_size,
                d_model=width,
                d_kv=inner // num_heads,
                d_ff=_shape(state, layer + "layer.1.DenseReluDense.wo.weight", 2, file, "UMT5 encoder")[1],
                num_layers=_count(state, r"encoder\.block\.(\d+)\."),
                num_heads=num_heads,
                relative_attention_num_buckets=num_buckets,
            )
        )
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name != "encoder.embed_tokens.weight"}
    _assign(model, state, wanted, dtype, file, "the UMT5 encoder of Wan")
    model.tie_weights()
    return model.eval()


def load_autoencoder(file: str | Path) -> AutoencoderKLWan:
    """Wan's autoencoder out of `Wan2.1_VAE.pth`, in float32 and eval mode; the latents' statistics are Wan 2.1's.

    Raises:
        CheckpointError: the file is another one (such as Wan 2.2's), damaged or incomplete.
    """
    from diffusers import AutoencoderKLWan

    state = vae_from_official(_read(Path(file)))
    base_dim = _shape(state, "encoder.conv_in.weight", 5, file, "Wan 2.1 autoencoder")[0]
    with torch.device("meta"):
        model = AutoencoderKLWan(base_dim=base_dim)
    _assign(model, state, model.state_dict(), torch.float32, file, "Wan 2.1's autoencoder")
    return model.eval()


def load_image_encoder(file: str | Path, dtype: torch.dtype | None = None) -> OpenCLIPImageEncoder:
    """CLIP's image tower out of `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`, in eval mode.

    The text tower, the projection and the temperature are left out.

    Raises:
        CheckpointError: the file is another one, damaged or incomplete.
    """
    from .image_encoder import OpenCLIPImageEncoder

    state = image_encoder_from_official(_read(Path(file)))
    what = "image tower of CLIP"
    width, _, patch_size, _ = _shape(state, "visual.conv1.weight", 4, file, what)
    num_tokens, _ = _shape(state, "visual.positional_embedding", 2, file, what)
    hidden, _ = _shape(state, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2, file, what)
    with torch.device("meta"):
        model = OpenCLIPImageEncoder(
            image_size=round((num_tokens - 1) ** 0.5) * patch_size,
            patch_size=patch_size,
            width=width,
            num_layers=_count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
            num_heads=max(width // _CLIP_HEAD_DIM, 1),
            mlp_ratio=hidden / width,
        )
    _assign(model, state, model.state_dict(), dtype, file, "CLIP's ViT with open_clip's text tower, as Wan has it")
    return model.eval()


def text_encoder_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wan's names of UMT5's encoder to transformers'; a name that it does not know is kept."""
    return {_text_name(name): tensor for name, tensor in tensors.items()}


def vae_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wan's names of its autoencoder to diffusers', by diffusers' own converter."""
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    return dict(convert_wan_vae_to_diffusers(dict(tensors)))


def image_encoder_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wan's names of CLIP's image tower to ours, the head left out; names outside the tower are dropped."""
    state = {}
    for name, tensor in tensors.items():
        inside = name.removeprefix("visual.")
        if inside == name or inside == "head":
            continue
        ours = _image_name(inside)
        if ours in ("class_embedding", "positional_embedding"):
            tensor = tensor.reshape(tensor.shape[-1] if ours == "class_embedding" else tensor.shape[-2:])
        state[f"visual.{ours}"] = tensor
    return state


def stored_tensors(
    file: str | Path, rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> dict[str, StoredTensor]:
    """Where the tensors of a `.pth` lie in the file, under the names that `rename` gives them; none is read.

    Raises:
        CheckpointError: the file is damaged, holds more than tensors, or is of the old format that cannot be mapped.
    """
    file = Path(file)
    if file.suffix not in PICKLES:
        raise CheckpointError(f"{file} is no .pth file")
    with FakeTensorMode():
        tensors = rename(_unpickle(file, lambda: torch.load(file, map_location="cpu", weights_only=True)))
    stored = {}
    for name, tensor in tensors.items():
        begin = tensor.untyped_storage()._checkpoint_offset
        if begin is None or not tensor.is_contiguous():
            raise CheckpointError(f"{file}: {name} does not lie in the file in one piece, so it cannot be streamed")
        offset = begin + tensor.storage_offset() * tensor.itemsize
        stored[name] = StoredTensor(file, _DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), offset)
    return stored


def _text_name(name: str) -> str:
    if name == "token_embedding.weight":
        return "shared.weight"
    if name == "norm.weight":
        return "encoder.final_layer_norm.weight"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if block and block[2] in _TEXT_BLOCK:
        return f"encoder.block.{block[1]}.{_TEXT_BLOCK[block[2]]}.weight"
    return name


def _image_name(name: str) -> str:
    if name in _IMAGE_OUTSIDE:
        return _IMAGE_OUTSIDE[name]
    block = re.fullmatch(r"transformer\.(\d+)\.(.+)\.(weight|bias)", name)
    if block and block[2] in _IMAGE_BLOCK:
        joint = "_" if block[2] == "attn.to_qkv" else "."
        return f"transformer.resblocks.{block[1]}.{_IMAGE_BLOCK[block[2]]}{joint}{block[3]}"
    return name


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` (or of a safetensors file with the same names), mapped where the format allows it."""
    if file.suffix not in PICKLES:
        return open_checkpoint(file).load()
    return _unpickle(file, lambda: torch.load(file, map_location="cpu", weights_only=True, mmap=True))


def _unpickle(file: Path, load: Callable[[], Any]) -> dict[str, Tensor]:
    try:
        state = load()
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read as tensors alone: {str(error).splitlines()[0]}. It is damaged, cut short, or holds "
            "more than tensors, which is not run; fetch the official file, or give the part in diffusers' layout"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file} holds more than named tensors: it is none of Wan's official encoders")
    return dict(state)


def _assign(
    model: Any,
    state: dict[str, Tensor],
    wanted: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    file: str | Path,
    what: str,
) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    check_tensors({name: tuple(tensor.shape) for name, tensor in state.items()}, shapes, file, what)
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True, strict=False)


def _shape(state: Mapping[str, Tensor], name: str, num_axes: int, file: str | Path, what: str) -> tuple[int, ...]:
    shape = tuple(state[name].shape) if name in state else ()
    if len(shape) != num_axes:
        raise CheckpointError(
            f"{file} is no {what}: it has no {name} with {num_axes} axes ({', '.join(list(state)[:3])})"
        )
    return shape


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=0)
