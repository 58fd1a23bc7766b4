"""DINO ViT-B/16 (Caron et al., ICCV 2021): class tokens for VBench's subject_consistency and i2v_subject."""

from pathlib import Path

import torch

from ....datasets.arrays import Floats32, Frames
from ..preprocessing import preprocess
from .parameters import file_of, in_batches, load_parameters, read_parameters
from .vision_transformer import WIDTH, class_tokens, vit_base

FILES = ("dino_vitbase16_pretrain.pth", "dino_vitbase16_pretrain.safetensors")
_BATCH = 16


class Dino:
    """DINO's class token, before any normalisation to unit length.

    Args:
        weights: the published `dino_vitbase16_pretrain.pth`, its parameters as `.safetensors`, or the folder of
            either; None: random.
        device: device of the network, which computes in float32.

    Raises:
        WeightsError: the file is missing or contains other parameters.
    """

    name = "dino-vitb16"

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        self._device = device
        self._network = vit_base()
        if weights is not None:
            file = file_of(weights, FILES)
            load_parameters(self._network, read_parameters(file), file, "DINO ViT-B/16")
        self._network.to(device).eval()

    def frames(self, frames: Frames) -> Floats32:
        """Compute [F, 768] of frames [F, H, W, 3] as subject_consistency sees them: shorter side 224, not cropped."""
        return self._features(frames, "dino_frames")

    def i2v_frames(self, frames: Frames, antialias: bool = True) -> Floats32:
        """Compute [F, 768] of frames [F, H, W, 3] as i2v_subject sees them: shorter side 256, centre 224 × 224.

        Args:
            frames: uint8 RGB.
            antialias: False: resize as VBench did with torchvision before 0.17.
        """
        return self._features(frames, "i2v_dino_frames" if antialias else "i2v_dino_frames_no_aa")

    def i2v_image(self, image: Frames) -> Floats32:
        """Compute [768] of the reference image [H, W, 3] as i2v_subject sees it: resized by PIL."""
        features: Floats32 = self._features(image[None], "i2v_dino_image")[0]
        return features

    def _features(self, frames: Frames, preprocessing: str) -> Floats32:
        def compute(batch: Frames) -> torch.Tensor:
            pictures = torch.from_numpy(preprocess(batch, preprocessing)).to(self._device)
            return class_tokens(self._network, pictures)

        return in_batches(frames, _BATCH, compute, WIDTH)
