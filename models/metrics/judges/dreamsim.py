"""DreamSim's ensemble (Fu et al., NeurIPS 2023): features of three adapted networks for VBench's i2v_background.

The published archive `dreamsim_ensemble_checkpoint.zip` holds, among others:

| file | contents |
|---|---|
| `clip_vitb16_pretrain.pth.tar` | CLIP ViT-B/16's image encoder in DINO's layout, and `proj` [768, 512] |
| `open_clip_vitb16_pretrain.pth.tar` | the same of OpenCLIP (LAION-400M) |
| `ensemble_lora/` | LoRA of `qkv` in all 36 blocks, as PEFT saves it (0: DINO, 1: CLIP, 2: OpenCLIP) |

DINO's own parameters are not in it: they are the published `dino_vitbase16_pretrain.pth`. (The archive's
`dino_vitb16_pretrain.pth` is for a projection head that the ensemble does not use.)
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....datasets.arrays import Floats32, Frames
from ...weights import WeightsError, find, weight
from ..preprocessing import CLIP, IMAGENET, preprocess
from . import dino
from .parameters import file_of, in_batches, load_parameters, read_parameters
from .vision_transformer import WIDTH, class_tokens, vit_base

_PROJECTED = 512
_BATCH = 16
_CLIP_FILES = ("clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar")
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


class _Ensemble(nn.Module):
    """DINO ViT-B/16, CLIP ViT-B/16 and OpenCLIP ViT-B/16, whose features are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        # Only OpenAI's CLIP was trained with QuickGELU.
        self.networks = nn.ModuleList([vit_base(), vit_base(clip=True, quick_gelu=True), vit_base(clip=True)])
        self.projections = nn.ParameterList([nn.Parameter(torch.randn(WIDTH, _PROJECTED) / WIDTH**0.5) for _ in "ab"])

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute [B, 768 + 512 + 512] of pictures [B, 3, 224, 224] in [0, 1]."""
        features = [class_tokens(self.networks[0], _normalised(pictures, IMAGENET), final_norm=False)]
        for network, projection in zip(self.networks[1:], self.projections, strict=True):
            features.append(class_tokens(network, _normalised(pictures, CLIP)) @ projection)
        return torch.cat(features, dim=1)


class DreamSim:
    """DreamSim's features, before its mean is subtracted (`image_to_video(…, centred=True)` subtracts it).

    Args:
        weights: the folder with the published files; None: random.
        device: device of the networks, which compute in float32.
        dino_weights: DINO's file or folder. By default it is looked for in `weights`, in `weights/checkpoints` (where
            the `dreamsim` package puts it) and among the weights `dino`.

    Raises:
        WeightsError: a file is missing or contains other parameters.
    """

    name = "dreamsim-ensemble"

    def __init__(self, weights: Path | None, device: str = "cpu", dino_weights: Path | None = None) -> None:
        self._device = device
        self._network = _Ensemble()
        if weights is not None:
            self._load(weights, dino_weights or _find_dino(weights))
        self._network.to(device).eval()

    def frames(self, frames: Frames, antialias: bool = True) -> Floats32:
        """Compute [F, 1792] of frames [F, H, W, 3], resized to 224 × 224: the aspect is not kept.

        Args:
            frames: uint8 RGB.
            antialias: False: resize as VBench did with torchvision before 0.17.
        """
        return self._features(frames, "i2v_dreamsim_frames" if antialias else "i2v_dreamsim_frames_no_aa")

    def image(self, image: Frames) -> Floats32:
        """Compute [1792] of the reference image [H, W, 3], resized by PIL."""
        features: Floats32 = self._features(image[None], "i2v_dreamsim_image")[0]
        return features

    def _features(self, frames: Frames, preprocessing: str) -> Floats32:
        def compute(batch: Frames) -> Tensor:
            features: Tensor = self._network(torch.from_numpy(preprocess(batch, preprocessing)).to(self._device))
            return features

        return in_batches(frames, _BATCH, compute, WIDTH + 2 * _PROJECTED)

    def _load(self, folder: Path, dino_weights: Path) -> None:
        networks = list(self._network.networks)
        file = file_of(dino_weights, dino.FILES)
        load_parameters(networks[0], read_parameters(file), file, "DINO ViT-B/16")
        for network, projection, name in zip(networks[1:], self._network.projections, _CLIP_FILES, strict=True):
            file = file_of(folder, (name,))
            parameters = read_parameters(file)
            own = parameters.pop("proj", None)
            if own is None or own.shape != projection.shape:
                raise WeightsError(
                    f"{file} has no projection `proj` {tuple(projection.shape)}: use the published file."
                )
            load_parameters(network, parameters, file, "DreamSim's ViT-B/16")
            projection.data.copy_(own)
        _add_adapters(networks, folder / "ensemble_lora")


def _normalised(pictures: Tensor, mean_std: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (pictures.new_tensor(values)[:, None, None] for values in mean_std)
    return (pictures - mean) / std


def _find_dino(weights: Path) -> Path:
    for folder in (weights, weights / "checkpoints"):
        if any((folder / name).is_file() for name in dino.FILES):
            return folder
    row = weight("dino")
    found = find(row)
    if found is None:
        raise WeightsError(
            f"DreamSim needs DINO's parameters too: {dino.FILES[0]} is neither in {weights} nor in "
            f"{row.search_locations}; {row.remedy}."
        )
    return found


def _add_adapters(networks: list[Any], folder: Path) -> None:
    """Add (α / r) · B · A of each adapter to the weight that it adapts.

    Raises:
        WeightsError: the folder is incomplete, or its adapters are not LoRA of every `qkv` and of nothing else.
    """
    file, config_file = file_of(folder, _ADAPTER_FILES), file_of(folder, ("adapter_config.json",))
    config = json.loads(config_file.read_text())
    others = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(key)]
    if others or config.get("bias", "none") != "none":
        raise WeightsError(f"{config_file} is not plain LoRA ({', '.join(others) or 'bias'}): use the published files.")
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    parameters = read_parameters(file)
    adapted = {
        f"base_model.model.extractor_list.{index}.model.blocks.{number}.attn.qkv": block.attn.qkv.weight
        for index, network in enumerate(networks)
        for number, block in enumerate(network.blocks)
    }
    expected = {f"{name}.lora_{side}.weight" for name in adapted for side in "AB"}
    if different := sorted(expected ^ parameters.keys()):
        raise WeightsError(
            f"{file} does not adapt exactly the 36 qkv layers of DreamSim's ensemble (at {different[0]} and "
            f"{len(different) - 1} more): use the published files."
        )
    for name, value in adapted.items():
        down, up = (parameters[f"{name}.lora_{side}.weight"].float() for side in "AB")
        if down.shape != (rank, WIDTH) or up.shape != (3 * WIDTH, rank):
            raise WeightsError(f"{file}: {name} is not of rank {rank}, as {config_file.name} says.")
        value.data += alpha / rank * (up @ down)
