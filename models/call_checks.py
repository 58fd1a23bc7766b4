"""What a call of the pipeline may be given; everything else is refused in one sentence before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import SteadyDancerError
from ..datasets.images import ImageError, show_image
from ..datasets.video import size_for_area
from .folders import ComponentsError, require_parts

LEAST_SIDE_PX = 32
OUTPUT_TYPES = ("np", "uint8", "pil", "latent")


class InputError(SteadyDancerError, ValueError):
    """An input that cannot be used. The message says what came, what is wanted and what to do."""


def as_frame(image: Any, name: str = "the image") -> NDArray[np.uint8]:
    """A picture, PIL or array, as uint8 RGB [H, W, 3]; one of PIL as viewers show it (`datasets.images`).

    Raises:
        InputError: it is something else.
    """
    if isinstance(image, Image.Image):
        try:
            return show_image(image, name).pixels
        except (ImageError, OSError, ValueError) as error:
            raise InputError(str(error)) from error
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    what = f"{image.dtype} {list(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
    raise InputError(f"{name} must be a PIL image or uint8 RGB [H, W, 3], not {what}: convert it first.")


def as_reference(image: Any) -> NDArray[np.uint8]:
    """The reference image as uint8 RGB [H, W, 3], at least 32 px a side.

    Raises:
        InputError: it is no picture, or a smaller one.
    """
    frame = as_frame(image)
    height, width = frame.shape[:2]
    if min(height, width) < LEAST_SIDE_PX:
        raise InputError(
            f"The image is {width}×{height} px, {LEAST_SIDE_PX}×{LEAST_SIDE_PX} is the least: give a larger picture "
            "(the released model was made for about 1024×576)."
        )
    return frame


def video_size(image: NDArray[np.uint8], height: int | None, width: int | None, max_area_px: int) -> tuple[int, int]:
    """Height and width of the video: as given, else by the release's size rule.

    Raises:
        InputError: they are no multiples of 16, one is missing, or the area leaves less than 16 px a side.
    """
    if height is None and width is None:
        if max_area_px > 0:
            height, width = size_for_area(image.shape[0], image.shape[1], max_area_px)
        if not height or not width:
            raise InputError(
                f"max_area_px {max_area_px} leaves no video of 16×16 px at the aspect of an image of {image.shape[1]}×"
                f"{image.shape[0]}: give a larger area (released: 589824), or crop the image."
            )
    elif height is None or width is None or height <= 0 or width <= 0 or height % 16 or width % 16:
        raise InputError(
            f"height and width must be given together as multiples of 16, not {height} and {width}: "
            "leave both out to follow the image's aspect."
        )
    return height, width


def check_numbers(
    num_frames: int | None,
    num_inference_steps: int,
    pose_guidance_interval: tuple[float, float],
    output_type: str,
) -> None:
    """The numbers and words of a call.

    Raises:
        InputError: one of them is out of its range.
    """
    if num_frames is not None and (num_frames < 1 or num_frames % 4 != 1):
        near = max(1, num_frames // 4 * 4 + 1)
        raise InputError(f"num_frames must be 4k + 1, such as 81, not {num_frames}: take {near}, or {near + 4}.")
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps must be at least 1, not {num_inference_steps} (released: 40).")
    low, high = pose_guidance_interval
    if not 0 <= low < high <= 1:
        raise InputError(
            f"pose_guidance_interval must be (low, high) with 0 <= low < high <= 1, not {(low, high)} (released: "
            "(0.1, 0.4)); pose_guidance_scale=0 turns the pose guidance off."
        )
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}.")


def check_folder(folder: Path, names: Collection[str]) -> None:
    """Whether a folder in diffusers' layout holds the parts `names`, and a SteadyDancer among them; loads nothing.

    Raises:
        ComponentsError: a part is missing, or the transformer is another model.
    """
    require_parts(folder, names)
    config = folder / "transformer" / "config.json"
    kind = json.loads(config.read_text()).get("_class_name") if config.is_file() else None
    if "transformer" in names and kind != "SteadyDancerTransformer3DModel":
        raise ComponentsError(
            f"{folder / 'transformer'} holds {f'a {kind}' if kind else 'no config.json'}, not a "
            "SteadyDancerTransformer3DModel: give the folder of a trained or converted SteadyDancer, or begin one by "
            "`SteadyDancerTransformer3DModel.from_wan`."
        )
