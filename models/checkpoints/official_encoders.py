"""Load the encoders of an official Wan 2.1 folder from their `.pth` files: UMT5, the autoencoder and CLIP.

A `.pth` file is a pickle. It is read with `weights_only`, which accepts only tensors, and memory-mapped to avoid a
second copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .files import PICKLES, CheckpointError, StoredTensor, check_tensors, open_checkpoint
from .key_maps import Shaped
from .official_encoder_key_maps import image_encoder_from_official, text_encoder_from_official, vae_from_official
from .safetensors_header import FLOATS

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import UMT5EncoderModel

    from ..image_encoder import OpenCLIPImageEncoder

_DTYPE_NAMES = {getattr(torch, FLOATS[name]): name for name in ("F32", "F16", "BF16")}
_TIED = ("encoder.embed_tokens.weight",)
_CLIP_HEAD_DIM = 80  # ViT-H/14: 1280 / 16


def load_text_encoder(file: str | Path, dtype: torch.dtype | None = None) -> UMT5EncoderModel:
    """Load UMT5's encoder from `models_t5_umt5-xxl-enc-bf16.pth`, in eval mode.

    Raises:
        CheckpointError: the file contains another model, or is damaged or incomplete.
    """
    state = text_encoder_from_official(_read(Path(file)))
    model = _matching_model(_empty_text_encoder, state, file)
    _assign(model, state, dtype)
    model.tie_weights()
    return model.eval()


def load_autoencoder(file: str | Path) -> AutoencoderKLWan:
    """Load Wan's autoencoder from `Wan2.1_VAE.pth`, in float32 and eval mode, with Wan 2.1's latent statistics.

    Raises:
        CheckpointError: the file contains another model (such as Wan 2.2's), or is damaged or incomplete.
    """
    state = vae_from_official(_read(Path(file)))
    model = _matching_model(_empty_autoencoder, state, file)
    _assign(model, state, torch.float32)
    return model.eval()


def load_image_encoder(file: str | Path, dtype: torch.dtype | None = None) -> OpenCLIPImageEncoder:
    """Load CLIP's image tower from `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`, in eval mode.

    The text tower, the projection and the temperature are skipped.

    Raises:
        CheckpointError: the file contains another model, or is damaged or incomplete.
    """
    state = image_encoder_from_official(_read(Path(file)))
    model = _matching_model(_empty_image_encoder, state, file)
    _assign(model, state, dtype)
    return model.eval()


def describe(name: str, file: Path) -> tuple[dict[str, StoredTensor], dict[str, Any], str]:
    """Describe an encoder file of an official folder without reading its tensors.

    Args:
        name: "text_encoder", "vae" or "image_encoder".
        file: its `.pth`.

    Returns:
        location of each tensor by its name in diffusers or transformers; the encoder's `config.json`; the library of
        its class.

    Raises:
        CheckpointError: the file contains another model, or is damaged or incomplete.
    """
    rename, empty, library = {
        "text_encoder": (text_encoder_from_official, _empty_text_encoder, "transformers"),
        "vae": (vae_from_official, _empty_autoencoder, "diffusers"),
        "image_encoder": (image_encoder_from_official, _empty_image_encoder, "steadydancer.models.image_encoder"),
    }[name]
    stored = stored_tensors(file, rename)
    model = _matching_model(empty, stored, file)
    config = json.loads(model.config.to_json_string() if name == "text_encoder" else model.to_json_string())
    return stored, config | ({"architectures": [type(model).__name__]} if name == "text_encoder" else {}), library


def _empty_text_encoder(state: Mapping[str, Shaped]) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    layer = "encoder.block.0.layer"
    vocab_size, width = _shape(state, "shared.weight", 2)
    num_buckets, num_heads = _shape(state, f"{layer}.0.SelfAttention.relative_attention_bias.weight", 2)
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocab_size,
            d_model=width,
            d_kv=_shape(state, f"{layer}.0.SelfAttention.q.weight", 2)[0] // num_heads,
            d_ff=_shape(state, f"{layer}.1.DenseReluDense.wo.weight", 2)[1],
            num_layers=_count(state, r"encoder\.block\.(\d+)\."),
            num_heads=num_heads,
            relative_attention_num_buckets=num_buckets,
        )
    )


def _empty_autoencoder(state: Mapping[str, Shaped]) -> Any:
    from diffusers import AutoencoderKLWan

    base_dim, in_channels = _shape(state, "encoder.conv_in.weight", 5)[:2]
    if in_channels != 3:
        raise KeyError(
            f"its encoder reads {in_channels} channels, but Wan 2.1's reads 3, and this layout has no field for a "
            "patch size: use a vae/ folder in diffusers' layout"
        )
    return AutoencoderKLWan(base_dim=base_dim)


def _empty_image_encoder(state: Mapping[str, Shaped]) -> Any:
    from ..image_encoder import OpenCLIPImageEncoder

    width, _, patch_size, _ = _shape(state, "visual.conv1.weight", 4)
    num_tokens, _ = _shape(state, "visual.positional_embedding", 2)
    return OpenCLIPImageEncoder(
        image_size=round((num_tokens - 1) ** 0.5) * patch_size,
        patch_size=patch_size,
        width=width,
        num_layers=_count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        num_heads=max(width // _CLIP_HEAD_DIM, 1),
        mlp_ratio=_shape(state, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0] / width,
    )


_WHAT: dict[Callable[[Mapping[str, Shaped]], Any], str] = {
    _empty_text_encoder: "Wan's UMT5 encoder",
    _empty_autoencoder: "Wan 2.1's autoencoder",
    _empty_image_encoder: "Wan's CLIP ViT with an XLM-R text tower",
}


def stored_tensors(
    file: str | Path, rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> dict[str, StoredTensor]:
    """Locate the tensors of a `.pth` file, under the names that `rename` gives them, without reading them.

    Raises:
        CheckpointError: the file is damaged, contains more than tensors, or has the old format that cannot be mapped.
    """
    file = Path(file)
    if file.suffix not in PICKLES:
        raise CheckpointError(f"{file} is not a .pth file")
    with FakeTensorMode():
        tensors = rename(_unpickle(file, lambda: torch.load(file, map_location="cpu", weights_only=True)))
    stored = {}
    for name, tensor in tensors.items():
        begin = tensor.untyped_storage()._checkpoint_offset
        if begin is None or not tensor.is_contiguous():
            raise CheckpointError(f"{file}: {name} is not contiguous in the file, so it cannot be streamed")
        offset = int(begin + tensor.storage_offset() * tensor.itemsize)
        stored[name] = StoredTensor(file, _DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), offset)
    return stored


def _read(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.pth` file (or of a safetensors file with the same names), mapped if the format allows."""
    if file.suffix not in PICKLES:
        return open_checkpoint(file).load()
    return _unpickle(file, lambda: torch.load(file, map_location="cpu", weights_only=True, mmap=True))


def _unpickle(file: Path, load: Callable[[], Any]) -> dict[str, Tensor]:
    try:
        state = load()
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read as tensors only: {str(error).splitlines()[0]}. It is damaged or truncated, or "
            "contains other objects, which are never loaded: download the official file, or pass the encoder in the "
            "diffusers layout"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{file} contains objects other than named tensors: it is not one of Wan's official encoders"
        )
    return dict(state)


def _matching_model(empty: Callable[[Mapping[str, Shaped]], Any], state: Mapping[str, Shaped], file: str | Path) -> Any:
    """Build the model without weights for the tensors, and check that they are complete.

    Raises:
        CheckpointError: tensors are missing, unexpected or of the wrong shape.
    """
    try:
        with torch.device("meta"):
            model = empty(state)
    except KeyError as error:
        begin = ", ".join(list(state)[:3]) or "it is empty"
        raise CheckpointError(f"{file} is not {_WHAT[empty]}: {error.args[0]} ({begin})") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in _TIED}
    check_tensors({name: tuple(tensor.shape) for name, tensor in state.items()}, wanted, file, _WHAT[empty])
    return model


def _assign(model: Any, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True, strict=False)  # checked strictly before; the tied weight is not stored


def _shape(state: Mapping[str, Shaped], name: str, num_axes: int) -> tuple[int, ...]:
    if name not in state or len(state[name].shape) != num_axes:
        raise KeyError(f"it has no {name} with {num_axes} axes")
    return tuple(state[name].shape)


def _count(state: Mapping[str, Shaped], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=0)
