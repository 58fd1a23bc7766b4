"""EfficientNet-Lite0: ImageNet features of pictures, for a named Fréchet distance, i2v and crops of people.

Its weights come with a Python package (Apache-2.0), so these metrics need no model hub. They are other metrics than
those on Inception, DINO or CLIP: name the network, as in `fid[efficientnet-lite0]`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ....datasets.arrays import Floats32, Frames
from ..preprocessing import preprocess

WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
NUM_FEATURES = 1280
_BATCH = 16


class EfficientNetLite0:
    """Pooled features of EfficientNet-Lite0, before its classifier.

    Args:
        weights: the published file or its folder; None: random weights, for tests.
        device: where the network runs.
    """

    name = "efficientnet-lite0"

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        import timm

        network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        if weights is not None:
            file = weights / WEIGHTS_FILE if weights.is_dir() else weights
            published = torch.load(file, map_location="cpu", weights_only=True)
            network.load_state_dict(timm_names(published))
        self._network, self._device = network.eval().requires_grad_(False).to(device), device

    def features(self, frames: Frames, preprocessing: str = "efficientnet_224") -> Floats32:
        """Return features [F, 1280].

        Args:
            frames: uint8 RGB [F, H, W, 3].
            preprocessing: `efficientnet_224` (the whole picture), or `i2v_efficientnet_224` (its middle).
        """
        batches = [frames[start : start + _BATCH] for start in range(0, len(frames), _BATCH)]
        found = [self._batch(preprocess(batch, preprocessing)) for batch in batches]
        return np.concatenate(found) if found else np.zeros((0, NUM_FEATURES), np.float32)

    def _batch(self, pictures: Floats32) -> Floats32:
        with torch.inference_mode():
            return self._network(torch.from_numpy(pictures).to(self._device)).float().cpu().numpy()


def timm_names(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of the published file to timm's, without the classifier.

    The file counts 16 blocks in a row; timm has them in stages, and numbers the normalisations of a block from 1. The
    first block has no expansion.
    """
    stages = [f"blocks.{stage}.{block}" for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"} | {
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    renamed = {}
    for name, value in published.items():
        head, *rest = name.split(".")
        if head == "_fc":
            continue
        if head == "_blocks":
            number, layer, *rest = rest
            prefix = f"{stages[int(number)]}.{(expanded if number != '0' else first)[layer]}"
        else:
            prefix = outside[head]
        renamed[".".join([prefix, *rest])] = value
    return renamed
