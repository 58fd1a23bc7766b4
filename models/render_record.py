"""The record of a rendered video: digests of the weights and of the inputs, and all settings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from ..datasets.driving_poses import DrivingPoses
from ..datasets.provenance import make_record
from ..datasets.skeleton import PoseSequence
from ..datasets.storage.digests import content_digest, json_digest
from .diffusers_internals import accelerate_hooks
from .encoded_inputs import EncodedInputs

INPUTS = (
    *("image", "pose_video", "driving_video", "negative_pose_video"),
    *("prompt_embeds", "negative_prompt_embeds", "latents", "encoded"),
)
_NOT_RECORDED = (
    *INPUTS,
    *("generator", "output_type", "return_dict", "num_videos_per_prompt"),
    *("callback", "callback_on_step_end", "callback_on_step_end_tensor_inputs"),
)
_DRIVING_SETTINGS = ("driving_fps", "on_missing_reference")


def video_record(
    arguments: Mapping[str, Any],
    *,
    seed: int,
    fps: float,
    has_sound: bool,
    negative_prompt: str,
    flow_shift: float,
    dtype: torch.dtype,
    driven: DrivingPoses | None = None,
    model: Mapping[str, str],
    inputs: Mapping[str, str] | None = None,
    more_settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the record of a video from the call that made it.

    Args:
        arguments: all arguments of the call by name.
        seed: of all random numbers.
        fps: of the file.
        has_sound: whether the file has a sound track.
        negative_prompt: the pipeline's default.
        flow_shift: the scheduler's.
        dtype: of the transformer.
        driven: how the call aligned its driving video, if it did.
        model: sha256 per component, the transformer's first.
        inputs: sha256 of the input files by name; for other inputs it is computed from the given pixels or keypoints.
        more_settings: recorded in addition to the call's own.
    """
    inputs = inputs or {}
    encoded = arguments.get("encoded")
    if encoded is not None:
        arguments = {**arguments, **{name: getattr(encoded, name) for name in ("height", "width", "num_frames")}}
    given = {name: value for name in INPUTS if (value := arguments.get(name)) is not None}
    settings = call_settings(arguments, negative_prompt, flow_shift)
    settings["fps"] = fps
    if has_sound:
        settings["sound"] = "kept"
    if driven is not None:
        settings |= driven.to_record()
    return make_record(
        model=model,
        inputs={name: input_digest(value) for name, value in given.items() if name not in inputs} | dict(inputs),
        settings=settings | {"dtype": str(dtype).removeprefix("torch."), **(more_settings or {})},
        seed=seed,
    )


def call_settings(arguments: Mapping[str, Any], negative_prompt: str, flow_shift: float) -> dict[str, Any]:
    """Return the settings of a call as JSON values, for the record of its video. Inputs are recorded by digest instead.

    Args:
        arguments: all arguments of the call by name.
        negative_prompt: used if the call gave neither a negative prompt nor its embeddings.
        flow_shift: used if the call gave None.
    """
    settings = {name: value for name, value in arguments.items() if name not in _NOT_RECORDED}
    if arguments["driving_video"] is None:
        settings = {name: value for name, value in settings.items() if name not in _DRIVING_SETTINGS}
    settings["pose_estimator"] = getattr(settings["pose_estimator"], "name", None)
    settings["pose_guidance_interval"] = list(settings["pose_guidance_interval"])
    if settings["negative_prompt"] is None and arguments["negative_prompt_embeds"] is None:
        settings["negative_prompt"] = negative_prompt
    if settings["flow_shift"] is None:
        settings["flow_shift"] = flow_shift
    return settings


def model_digests(pipeline: DiffusionPipeline) -> dict[str, str]:
    """Return the sha256 of every network of a pipeline as it is in memory: adapters count, the device does not."""
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    return {name: module_digest(part) for name, part in parts.items()}


def module_digest(module: nn.Module) -> str:
    """Return the sha256 over names, types, shapes and bytes of all tensors that `save_pretrained` would write."""
    total = hashlib.sha256()
    for name, tensor in sorted(_state_dict(module).items()):
        total.update(_tensor_head(name, tensor))
        total.update(_tensor_data(tensor))
    return total.hexdigest()


def _tensor_head(name: str, tensor: Tensor) -> bytes:
    return f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode()


def _tensor_data(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict; weights of offloaded layers are read from accelerate's own map."""
    maps = (getattr(hook, "weights_map", None) for hook in accelerate_hooks(module))
    weights_map: Any = next((each for each in maps if each is not None), {})
    by_name = getattr(weights_map, "dataset", weights_map)  # each layer's map is a view of the whole module's
    return {name: by_name[name] if tensor.is_meta else tensor for name, tensor in module.state_dict().items()}


def input_digest(value: Any) -> str:
    """Return the sha256 of a file, a tensor, an image, a clip of frames, or the keypoints of one or several people."""
    if isinstance(value, (str, os.PathLike)):
        return content_digest(value)
    if isinstance(value, EncodedInputs):
        return json_digest([input_digest(each) for each in value.tensors()])
    if isinstance(value, Tensor):
        return hashlib.sha256(_tensor_head("", value) + _tensor_data(value)).hexdigest()
    if isinstance(value, PoseSequence):
        return hashlib.sha256(value.to_bytes()).hexdigest()
    if isinstance(value, Image.Image):
        value = np.asarray(value.convert("RGB"))
    if isinstance(value, np.ndarray):
        head = f"{value.dtype} {list(value.shape)}\n".encode()
        return hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).hexdigest()
    return json_digest([input_digest(each) for each in value])
