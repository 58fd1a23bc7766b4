"""OpenAI's CLIP image encoders for VBench's background_consistency (ViT-B/32) and aesthetic_quality (ViT-L/14)."""

from pathlib import Path

import open_clip
import torch
from open_clip.transformer import QuickGELU, VisionTransformer

from ....datasets.arrays import Floats32, Frames
from ..preprocessing import preprocess
from .parameters import file_of, in_batches, load_parameters, read_parameters

_BATCH = 32
_IMAGE_ENCODER = "visual."


class ClipImage:
    """CLIP's image embedding, before any normalisation to unit length.

    Args:
        weights: OpenAI's published file (`ViT-B-32.pt`, `ViT-L-14.pt`: TorchScript archives, whose tensors are read
            and which are not run), the same parameters in `open_clip_model.safetensors`, or the folder of either;
            None: random.
        model: open_clip's name: "ViT-B-32" or "ViT-L-14".
        device: device of the network. It computes in float32; VBench computes in float16 on a GPU, which differs by
            about 1e-3.

    Raises:
        WeightsError: the file is missing or contains other parameters.
        ValueError: open_clip does not know the model.
    """

    def __init__(self, weights: Path | None, model: str = "ViT-B-32", device: str = "cpu") -> None:
        self.name = f"clip-{model.lower()}"
        self._device = device
        self._network, self.width = _image_encoder(model)
        if weights is not None:
            file = file_of(weights, (f"{model}.pt", "open_clip_model.safetensors"))
            parameters = {
                name.removeprefix(_IMAGE_ENCODER): value
                for name, value in read_parameters(file).items()
                if name.startswith(_IMAGE_ENCODER)
            }
            load_parameters(self._network, parameters, file, f"CLIP {model}")
        self._network.to(device).eval()

    def embed(self, frames: Frames) -> Floats32:
        """Compute [F, 512] (ViT-B/32) or [F, 768] (ViT-L/14) of frames [F, H, W, 3]; the centre is cropped."""

        def compute(batch: Frames) -> torch.Tensor:
            embeddings: torch.Tensor = self._network(
                torch.from_numpy(preprocess(batch, "clip_frames")).to(self._device)
            )
            return embeddings

        return in_batches(frames, _BATCH, compute, self.width)


def aesthetic_head(file: Path) -> tuple[Floats32, Floats32]:
    """Return weight [1, 768] and bias [1] of VBench's aesthetic head, `sa_0_4_vit_l_14_linear.pth`.

    It is LAION's first predictor, one linear layer; the improved one, which curation uses, gives other scores.

    Raises:
        WeightsError: the file is missing or is another head.
    """
    head = torch.nn.Linear(768, 1)
    file = file_of(file, ("sa_0_4_vit_l_14_linear.pth", "sa_0_4_vit_l_14_linear.safetensors"))
    load_parameters(head, read_parameters(file), file, "VBench's aesthetic head")
    return head.weight.detach().numpy(), head.bias.detach().numpy()


def _image_encoder(model: str) -> tuple[VisionTransformer, int]:
    """Build the image encoder alone, with the activation that OpenAI trained with, and its embedding's width."""
    config = open_clip.get_model_config(model)
    if config is None:
        raise ValueError(f"open_clip has no model {model!r}: choose ViT-B-32 or ViT-L-14.")
    vision, width = config["vision_cfg"], config["embed_dim"]
    network = VisionTransformer(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        mlp_ratio=4.0,
        output_dim=width,
        act_layer=QuickGELU,
    )
    return network, width
