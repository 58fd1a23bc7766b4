"""Create, save and load the components of a pipeline.

`tiny_components` creates small components of the real classes from a seed. Folders are written in diffusers' layout
(one subfolder per component and `model_index.json`) and read in that layout or in Wan's own, which the releases use
(see `folders`).
"""

import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, processors
from torch import nn
from transformers import AutoTokenizer, CLIPVisionModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ..datasets.storage import Location
from ..datasets.storage.atomic import write_json
from .checkpoints import official_encoders
from .checkpoints.files import CheckpointError
from .checkpoints.folders import NAMES, ComponentsError, part_folders, part_path, resolve_folder
from .checkpoints.transformer_files import Kind
from .encoders import encode_video
from .image_encoder import OpenCLIPImageEncoder
from .inference.cpu_convolution import use_onednn
from .transformer_loading import load_transformer


def tiny_components(seed: int = 0, **sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Build all components of a Wan 2.1 I2V pipeline with their real classes, random weights and sizes that fit a CPU.

    Args:
        seed: seed of the weights; the global random state does not change.
        sizes: constructor arguments that replace the defaults, per component: `tiny_components(vae={"base_dim": 32})`.

    Returns:
        component by name, for all `NAMES`; the transformer is plain Wan image-to-video (36 → 16 channels).
    """
    clip: dict[str, Any] = {"width": 32, "num_layers": 3, "num_heads": 2, "mlp_ratio": 2.0} | dict(
        sizes.get("image_encoder", {})
    )
    text: dict[str, Any] = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4} | dict(
        sizes.get("text_encoder", {})
    )
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "transformer": _tiny_transformer(clip["width"], text["d_model"], sizes.get("transformer", {})),
            "vae": _tiny_vae(sizes.get("vae", {})),
            "text_encoder": UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), **text)),
            "image_encoder": OpenCLIPImageEncoder(**clip),
        }
    for module in parts.values():
        module.eval()
    return parts | {"tokenizer": tokenizer, "scheduler": flow_scheduler()}


def flow_scheduler(flow_shift: float = 5.0) -> UniPCMultistepScheduler:
    """Return the released UniPC scheduler for rectified flows: order 2, bh2, predicts x0, corrector on."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of UTF-8 bytes that appends `</s>` and uses T5's special ids."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"<0x{byte:02X}>", -1.0) for byte in range(256))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def save_components(components: Mapping[str, Any], directory: str | Path) -> None:
    """Write the components as a diffusers folder: one subfolder each, then `model_index.json`."""
    for name, part in components.items():
        part.save_pretrained(Path(directory) / name)
    write_model_index(directory, {name: type(part) for name, part in components.items()})


def write_model_index(directory: str | Path, classes: Mapping[str, type]) -> None:
    """Write `model_index.json`, which makes a folder of saved components a diffusers pipeline."""
    index: dict[str, Any] = {"_diffusers_version": diffusers.__version__}
    for name, cls in classes.items():
        library = cls.__module__.split(".")[0]
        index[name] = [library if library in ("diffusers", "transformers") else cls.__module__, cls.__name__]
    is_wan = index.get("transformer", ["", "WanTransformer3DModel"])[1] == "WanTransformer3DModel"
    index["_class_name"] = "WanImageToVideoPipeline" if is_wan else "SteadyDancerPipeline"
    write_json(Path(directory) / "model_index.json", index)


def load_components(
    source: str | Location,
    names: Iterable[str] = NAMES,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    kind: Kind | None = None,
) -> dict[str, Any]:
    """Load components from a folder (diffusers' layout, Wan's own, a checkpoint) or a hub id; modules in eval mode.

    Weights are read from safetensors, except the three encoders of Wan's own layout, which are `.pth` files and read as
    tensors only.

    Args:
        source: folder (local or on a store), or hub id such as those in `weights.lookup.CATALOGUE` (downloaded if it is
            not on this machine); for a transformer alone also a safetensors file or the index of its shards.
        names: components to load.
        dtype: dtype of the transformer, text and image encoder; None keeps the stored dtype. The autoencoder is always
            float32.
        device: device of the modules.
        kind: expected transformer, "wan" (a base) or "steadydancer"; None accepts either.

    Returns:
        component by name. A `CLIPVisionModel` is converted to `OpenCLIPImageEncoder`. Wan's own layout has no
        scheduler: `flow_scheduler()` is returned for it.

    Raises:
        ComponentsError: the folder or a component is missing or unreadable.
        CheckpointError: (a ComponentsError) weights are damaged, incomplete, or belong to another model.
    """
    names = tuple(names)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ComponentsError(f"Unknown component {unknown[0]!r}; expected one of {', '.join(NAMES)}")
    parts: dict[str, Any] = {}
    for name, folder in part_folders(resolve_folder(str(source), names), names).items():
        path = part_path(folder, name)
        try:
            part = flow_scheduler() if path is None else _load_part(name, path, dtype, kind, device)
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise ComponentsError(f"{path} cannot be loaded: {error}") from error
        parts[name] = part.to(device).eval() if isinstance(part, nn.Module) else part
        if name == "vae":
            use_onednn(part)
    return parts


def load_network(source: str | Location, dtype: torch.dtype | None, device: str | torch.device) -> Any:
    """Load the transformer alone as `load_components` does; a `partial` of it can be sent to other processes."""
    return load_components(source, ("transformer",), dtype, device)["transformer"]


def _load_part(name: str, path: Path, dtype: torch.dtype | None, kind: Kind | None, device: str | torch.device) -> Any:
    # The class is never imported by a name in a file, because that could run foreign code.
    if name == "transformer":
        return load_transformer(path, dtype, kind, device=device)
    if name == "tokenizer":
        return AutoTokenizer.from_pretrained(path)
    if name == "scheduler":
        return UniPCMultistepScheduler.from_pretrained(path)
    if path.is_file():
        if name == "vae":
            return official_encoders.load_autoencoder(path)
        load = {
            "text_encoder": official_encoders.load_text_encoder,
            "image_encoder": official_encoders.load_image_encoder,
        }
        return load[name](path, dtype)
    if name == "vae":
        check_vae_config(path)
        return AutoencoderKLWan.from_pretrained(path, use_safetensors=True, torch_dtype=torch.float32)
    options: dict[str, Any] = {"use_safetensors": True} | ({} if dtype is None else {"torch_dtype": dtype})
    if name == "text_encoder":
        return UMT5EncoderModel.from_pretrained(path, **options)
    class_name = json.loads((path / "config.json").read_text()).get("_class_name")
    if class_name == OpenCLIPImageEncoder.__name__:
        return OpenCLIPImageEncoder.from_pretrained(path, **options)
    return OpenCLIPImageEncoder.from_clip_vision_model(CLIPVisionModel.from_pretrained(path, **options))


def check_vae_config(folder: Path) -> None:
    """Check that an autoencoder's folder in diffusers' layout gives Wan 2.1's latents; loads nothing.

    With a patch size p, the encoder reads p × p pixels as 3p² channels.

    Raises:
        ComponentsError: its latents are not 16 numbers for 4 frames of 8 × 8 pixels, or its channels do not fit.
    """
    file = folder / "config.json"
    if not file.is_file():
        return  # diffusers names what is missing
    config = json.loads(file.read_text())
    defaults = {name: item.default for name, item in inspect.signature(AutoencoderKLWan.__init__).parameters.items()}
    given = SimpleNamespace(**(defaults | config))
    patch = given.patch_size or 1
    side_px = patch * 2 ** (len(given.dim_mult) - 1)
    num_frames = 2 ** sum(given.temperal_downsample)
    if (given.z_dim, num_frames, side_px) != (16, 4, 8):
        raise ComponentsError(
            f"{folder} turns {num_frames} frames of {side_px} × {side_px} pixels into {given.z_dim} numbers; Wan 2.1's "
            "latents, which all parts of this package expect, are 16 numbers for 4 frames of 8 × 8 pixels"
        )
    # diffusers' tiling and its own pipelines read these two numbers, not the layers.
    if (given.scale_factor_temporal, given.scale_factor_spatial) != (4, 8):
        raise ComponentsError(
            f"{file}: scale_factor_temporal is {given.scale_factor_temporal} and scale_factor_spatial "
            f"{given.scale_factor_spatial}, but the layers compress 4 frames of 8 × 8 pixels: set them to 4 and 8"
        )
    if {given.in_channels, given.out_channels} != {3 * patch**2}:
        raise ComponentsError(
            f"{file}: in_channels is {given.in_channels} and out_channels {given.out_channels}; with patch_size "
            f"{given.patch_size} both must be {3 * patch**2}"
        )


def _tiny_transformer(image_dim: int, text_dim: int, sizes: Mapping[str, Any]) -> WanTransformer3DModel:
    options: dict[str, Any] = {
        "in_channels": 36,
        "num_attention_heads": 4,
        "attention_head_dim": 32,
        "ffn_dim": 256,
        "num_layers": 4,
        "image_dim": image_dim,
        "text_dim": text_dim,
    } | dict(sizes)
    width = options["num_attention_heads"] * options["attention_head_dim"]
    return WanTransformer3DModel(**({"added_kv_proj_dim": width} | options))


def _tiny_vae(sizes: Mapping[str, Any]) -> AutoencoderKLWan:
    options: dict[str, Any] = {"base_dim": 16, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1} | dict(sizes)
    unnormalised = {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
    vae: Any = AutoencoderKLWan(**(unnormalised | options))
    vae.eval()
    if not {"latents_mean", "latents_std"} & set(sizes):
        # Wan's statistics only fit Wan's weights. Measure these weights so that every channel has unit scale.
        latents = encode_video(vae, _calibration_frames()).flatten(1)
        vae.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())
    return vae


def _calibration_frames(num_frames: int = 9, side: int = 64) -> np.ndarray:
    """Return colour gradients with a bright bar that swings across them: uint8 [num_frames, side, side, 3]."""
    time, row, column = np.mgrid[0 : 1 : num_frames * 1j, 0 : 1 : side * 1j, 0 : 1 : side * 1j]
    background = np.stack([row, column, (row + column) / 2], axis=-1) * 0.6 + 0.1
    bar = (np.abs(column - 0.5 - 0.3 * np.sin(2 * np.pi * time)) < 0.08) & (row > 0.2)
    frames = np.where(bar[..., None], [0.9, 0.7, 0.3], background)
    return (frames * 255).astype(np.uint8)
