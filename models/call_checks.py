"""Checks of a pipeline's call before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, get_args

from .condition_reconciliation import TEXT_LENGTH
from .pipeline_inputs import MIN_SIDE_PX, InputError
from .pose_condition import RELEASED_DRAWING_AREA_PX
from .sampling import PoseGuidanceUnit, Solver

if TYPE_CHECKING:
    import torch
    from torch import Tensor

OUTPUT_TYPES = ("np", "uint8", "pil", "latent")
# Arguments of a call that its encoded inputs replace.
ENCODED_ARGUMENTS = (
    *("image", "pose_video", "prompt", "negative_prompt", "driving_video", "driving_fps", "pose_estimator"),
    *("negative_pose_video", "height", "width", "prompt_embeds", "negative_prompt_embeds"),
)


def check_sampling(
    *,
    num_inference_steps: int,
    pose_guidance_interval: tuple[float, float],
    pose_guidance_unit: PoseGuidanceUnit,
    guidance_scale: float,
    pose_guidance_scale: float,
    solver: Solver,
    flow_shift: float | None,
    output_type: str,
    num_videos: int,
    generator: torch.Generator | list[torch.Generator] | None,
    callback_tensors: Sequence[str],
    known_callback_tensors: Collection[str],
) -> None:
    """Check the settings of sampling.

    Raises:
        InputError: an argument is out of range, or two arguments exclude each other.
    """
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps must be at least 1, not {num_inference_steps} (default: 40).")
    low, high = pose_guidance_interval
    if not 0 <= low < high <= 1:
        raise InputError(
            f"pose_guidance_interval must be (low, high) with 0 <= low < high <= 1, not {(low, high)} (default: "
            "(0.1, 0.4)). Use pose_guidance_scale=0 to disable pose guidance."
        )
    for name, scale in (("guidance_scale", guidance_scale), ("pose_guidance_scale", pose_guidance_scale)):
        if not isinstance(scale, Real) or not math.isfinite(scale):
            raise InputError(f"{name} must be a finite number, not {scale!r}.")
    if flow_shift is not None and not 0 < flow_shift < math.inf:
        raise InputError(f"flow_shift must be a number above 0, not {flow_shift} (released: 5.0; 3.0 for 480p).")
    for name, value, options in (
        ("output_type", output_type, OUTPUT_TYPES),
        ("pose_guidance_unit", pose_guidance_unit, get_args(PoseGuidanceUnit)),
        ("solver", solver, get_args(Solver)),
    ):
        if value not in options:
            raise InputError(f"{name} must be one of {', '.join(options)}, not {value!r}.")
    if num_videos < 1:
        raise InputError(f"num_videos_per_prompt must be at least 1, not {num_videos}.")
    if isinstance(generator, list) and len(generator) != num_videos:
        raise InputError(
            f"generator is a list of {len(generator)} and num_videos_per_prompt is {num_videos}: pass one generator "
            "per video, or a single generator for all of them."
        )
    unknown = [name for name in callback_tensors if name not in known_callback_tensors]
    if unknown:
        raise InputError(
            f"callback_on_step_end_tensor_inputs must be among {', '.join(known_callback_tensors)}; got "
            f"{', '.join(unknown)}."
        )


def check_encoding(
    *,
    prompt: str,
    negative_prompt: str | None,
    num_frames: int | None,
    drawing_area_px: int = RELEASED_DRAWING_AREA_PX,
    prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
    transformer: Any,
    has_text_encoder: bool,
) -> None:
    """Check what is going to be encoded, except for image and motion.

    Raises:
        InputError: an argument is out of range, or two arguments exclude each other.
    """
    if num_frames is not None and (num_frames < 1 or num_frames % 4 != 1):
        near = max(1, num_frames // 4 * 4 + 1)
        raise InputError(f"num_frames must be 4k + 1, such as 81, not {num_frames}: use {near} or {near + 4}.")
    if drawing_area_px < MIN_SIDE_PX**2:
        raise InputError(f"drawing_area_px must be at least {MIN_SIDE_PX**2}, not {drawing_area_px}.")
    if prompt and prompt_embeds is not None:
        raise InputError("Pass either prompt or prompt_embeds, not both.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise InputError("Pass either negative_prompt or negative_prompt_embeds, not both.")
    if not isinstance(prompt, str) and prompt_embeds is None:
        raise InputError(f"prompt must be one string, not {prompt!r}: call once per prompt, or pass prompt_embeds.")
    if not isinstance(negative_prompt, str | None):
        raise InputError(f"negative_prompt must be one string or None, not {negative_prompt!r}.")
    for name, embeds in (("prompt_embeds", prompt_embeds), ("negative_prompt_embeds", negative_prompt_embeds)):
        if embeds is None:
            if not has_text_encoder:
                raise InputError(
                    "This pipeline has no text encoder: pass prompt_embeds and negative_prompt_embeds; "
                    f"{name} is missing."
                )
            continue
        text_width, found = transformer.config.text_dim, [*getattr(embeds, "shape", ())]
        if len(found) != 3 or [found[0], found[2]] != [1, text_width] or found[1] > TEXT_LENGTH:
            given = found or type(embeds).__name__
            raise InputError(f"{name} must be [1, L, {text_width}], not {given}; L is at most {TEXT_LENGTH}.")


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def check_encoded(arguments: Mapping[str, Any]) -> None:
    """Check that a call with encoded inputs has none of the arguments that they replace.

    Raises:
        InputError: it has one.
    """
    given = [name for name in ENCODED_ARGUMENTS if arguments[name] is not None and not _is_empty(arguments[name])]
    if given:
        raise InputError(
            f"encoded replaces {', '.join(given)}: pass either encoded or these, or encode them with encode_inputs."
        )
