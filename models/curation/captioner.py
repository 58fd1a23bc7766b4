"""Caption clips that have no caption with an image-text-to-text model of transformers.

The model is a folder in the format of `save_pretrained`: configuration, safetensors, and a processor with a chat
template. No code in it is run: weights are read from safetensors only, and all classes are transformers' own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.storage import local_folder, location
from ...datasets.storage.digests import content_digest, folder_digest
from ..checkpoints.folders import ComponentsError

if TYPE_CHECKING:
    import torch

# Prompt that follows the images. The paper does not describe how its captions were made.
INSTRUCTION = (
    "These pictures are frames of one video, in order. Describe the video in two or three plain sentences: the "
    "person's appearance and clothes, what they do and how they move, and the place. Say only what can be seen."
)
NUM_FRAMES = 4
MAX_NEW_TOKENS = 128
LONGEST_SIDE_PX = 768

_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")


def captioner_folder(source: str) -> Path:
    """Return the local folder of a captioner, fetched if it is on a store.

    Raises:
        ComponentsError: it does not exist or has no safetensors files.
    """
    folder = local_folder(location(source), _FILES)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ComponentsError(
            f"{source} is not a captioner: pass a folder with an image-text-to-text model saved by transformers: "
            "config.json, its safetensors files and its processor"
        )
    return folder.resolve()


def captioner_digest(source: str) -> str:
    """Compute the sha256 of the files of a captioner that are read.

    Raises:
        ComponentsError: as for `captioner_folder`.
    """
    folder = captioner_folder(source)
    files = {file for pattern in _FILES for file in folder.rglob(pattern) if file.is_file()}
    return folder_digest({file.relative_to(folder).as_posix(): content_digest(file) for file in files})


class Captioner:
    """Image-text-to-text model that describes frames deterministically.

    Args:
        source: folder of the model, local or on a store.
        dtype: dtype of its weights.
        device: device of the model.

    Raises:
        ComponentsError: it cannot be loaded, or has no chat template.
    """

    def __init__(self, source: str, dtype: torch.dtype | None = None, device: str = "cpu") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder = captioner_folder(source)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor: Any = AutoProcessor.from_pretrained(folder, **options)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, dtype=dtype, **options
            )
        except (OSError, ValueError, KeyError) as error:
            raise ComponentsError(f"{source} cannot be loaded as a captioner: {error}") from error
        if not getattr(self.processor, "chat_template", None):
            raise ComponentsError(
                f"{source} has no chat template, so it cannot be prompted: choose an instruction-tuned model"
            )
        self.model = model.to(device).eval()

    def __call__(self, frames: NDArray[np.uint8]) -> str:
        """Generate a caption for at most `NUM_FRAMES` evenly spaced frames of [n, H, W, 3].

        Decoding is greedy, up to `MAX_NEW_TOKENS` tokens; white space is collapsed. The caption may be empty.
        """
        import torch

        pictures = [
            _picture(frames[i])
            for i in np.linspace(0, len(frames) - 1, min(NUM_FRAMES, len(frames))).round().astype(int)
        ]
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": INSTRUCTION}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self.processor(images=pictures, text=text, return_tensors="pt").to(self.model.device)
        # The processor returns images in float32, regardless of the dtype of the weights.
        inputs = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value for name, value in inputs.items()
        }
        with torch.no_grad():
            tokens = self.model.generate(
                **inputs, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
                max_new_tokens=MAX_NEW_TOKENS,
            )  # fmt: skip
        answer = tokens[0, inputs["input_ids"].shape[1] :]
        return " ".join(self.processor.decode(answer, skip_special_tokens=True).split())


def _picture(frame: NDArray[np.uint8]) -> Any:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame))
    image.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    return image
