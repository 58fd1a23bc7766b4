"""Aesthetic score and action of an image: CLIP ViT-L/14 with LAION's aesthetic head.

Both networks are read from `aesthetics/` in the local folder of weights:

| file | contents |
|---|---|
| `open_clip_model.safetensors` | OpenAI's CLIP ViT-L/14 in open_clip's format (`ViT-L-14`) |
| `sac+logos+ava1-l14-linearMSE.pth` | LAION's improved aesthetic predictor, or the same as `.safetensors` |

One image embedding gives both a score on LAION's scale (about 1 to 10, mostly 4 to 7) and the probabilities of actions,
which are described in words.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ...datasets.arrays import Floats32

# Each action with its prompt for CLIP; the paper excludes the last one.
ACTIONS = {
    "dance": "a person dancing",
    "daily": "a person doing an everyday activity",
    "talk": "a person talking to the camera",
    "sport": "a person doing sports",
    "extreme": "a person doing acrobatics, a flip or a handstand",
}


def aesthetic_head() -> nn.Sequential:
    """Build LAION's head: five linear layers (768 → 1024 → 128 → 64 → 16 → 1) with only dropout between them."""
    sizes = (768, 1024, 128, 64, 16, 1)
    layers: list[nn.Module] = []
    for index, (width, out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(width, out))
        if index < 3:
            layers.append(nn.Dropout((0.2, 0.2, 0.1)[index]))
    return nn.Sequential(*layers)


class Aesthetics:
    """Scores images; `model` may be another open_clip model with embeddings of 768 channels, for tests."""

    def __init__(
        self, clip_file: Path | None, head_file: Path | None, model: str = "ViT-L-14", device: str = "cpu"
    ) -> None:
        import open_clip

        self._clip, _, self._prepare = open_clip.create_model_and_transforms(
            model, pretrained=str(clip_file) if clip_file else None, force_quick_gelu=True
        )
        self._device = device
        self._clip.to(device).eval()
        self._head = aesthetic_head().to(device).eval()
        if head_file is not None:
            self._head.load_state_dict(_read_head(head_file))
        with torch.inference_mode():
            words = self._clip.encode_text(open_clip.get_tokenizer(model)(list(ACTIONS.values())).to(device))
            self._actions = nn.functional.normalize(words.float(), dim=-1)

    def __call__(self, frames: NDArray[np.uint8]) -> tuple[Floats32, Floats32]:
        """Compute scores [F] and probabilities [F, 5] of `ACTIONS` for images uint8 [F, H, W, 3] RGB."""
        pictures = torch.stack([self._prepare(Image.fromarray(frame)) for frame in frames])
        with torch.inference_mode():
            embedding = nn.functional.normalize(self._clip.encode_image(pictures.to(self._device)).float(), dim=-1)
            scores = self._head(embedding)[:, 0]
            probabilities = (100 * embedding @ self._actions.T).softmax(dim=-1)
        return scores.cpu().numpy(), probabilities.cpu().numpy()

    def summary(self, frames: NDArray[np.uint8]) -> dict[str, float | str]:
        """Return `aesthetic_score` (mean), `action_type` (most likely) and `extreme_action` (mean probability)."""
        scores, probabilities = self(frames)
        mean, names = probabilities.mean(axis=0), list(ACTIONS)
        return {
            "aesthetic_score": float(scores.mean()),
            "action_type": names[int(mean.argmax())],
            "extreme_action": float(mean[names.index("extreme")]),
        }


def _read_head(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix("layers."): value for name, value in state.items()}
