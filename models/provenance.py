"""What a pipeline writes about its videos: digests of its weights and of its inputs, and all settings."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..datasets.digests import json_digest
from ..datasets.provenance import make_record, write_video
from ..datasets.skeleton import PoseSequence
from ..datasets.video_sound import Sound
from .call_checks import InputError
from .diffusers_internals import accelerate_hooks

INPUTS = ("image", "pose_video", "driving_video", "negative_pose_video")
_NO_SETTINGS = (*INPUTS, "generator", "output_type", "callback")


def render_to(
    pipeline: Any,
    path: Path,
    *args: Any,
    seed: int,
    fps: float = 16,
    sound: Sound | None = None,
    model: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
    more_settings: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Call a pipeline and write the video as it is decoded, to an mp4 that says what made it.

    Args:
        pipeline: a `SteadyDancerPipeline`.
        path: the mp4; `.json` in place of its suffix is written beside it.
        args: as in a call.
        seed: of all that is drawn, on the CPU.
        fps: frames a second of the file; 16 is released.
        sound: of the video, as from `datasets.video_sound.read_sound`; None: it has none.
        model: sha256 by part, the transformer's first, if known. None: of the weights as they are in memory.
        inputs: sha256 of the files behind the inputs, by name; others are taken of the pixels or keypoints given.
        more_settings: put down beside the call's own.
        kwargs: as in a call, but for `generator` and `output_type`.

    Returns:
        The record, see `datasets.provenance`.

    Raises:
        InputError: `path` is no mp4, or as in a call. Nothing is written then, and nothing half.
    """
    if path.suffix.lower() != ".mp4":
        raise InputError(f"A video is written as .mp4, not {path.suffix or 'without a suffix'}: {path}.")
    call = inspect.signature(pipeline.__call__).bind(*args, **kwargs)
    call.apply_defaults()
    given = {name: call.arguments[name] for name in INPUTS if call.arguments[name] is not None}
    settings = {name: value for name, value in call.arguments.items() if name not in _NO_SETTINGS}
    settings |= {"fps": fps, "pose_estimator": getattr(call.arguments["pose_estimator"], "name", None)}
    settings["pose_guidance_interval"] = list(settings["pose_guidance_interval"])
    if settings["negative_prompt"] is None:
        settings["negative_prompt"] = pipeline.config.negative_prompt
    if settings["flow_shift"] is None:
        settings["flow_shift"] = pipeline.scheduler.config.flow_shift
    frames = pipeline.stream(*args, **kwargs, generator=torch.Generator("cpu").manual_seed(seed))
    if sound is not None:
        settings["sound"] = "kept"
    if pipeline._driven is not None:
        settings |= pipeline._driven.told()
    digests = {name: input_digest(value) for name, value in given.items() if name not in (inputs or {})}
    record = make_record(
        model=model_digests(pipeline) if model is None else model,
        inputs=digests | dict(inputs or {}),
        settings=settings | {"dtype": str(pipeline.transformer.dtype).removeprefix("torch."), **(more_settings or {})},
        seed=seed,
    )
    return write_video(frames, path, record, fps, sound)


def model_digests(pipeline: Any) -> dict[str, str]:
    """sha256 of every network of a pipeline as it is in memory: adapters count, and where it lies does not."""
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    return {name: module_digest(part) for name, part in parts.items()}


def module_digest(module: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of all tensors that `save_pretrained` would write."""
    total = hashlib.sha256()
    for name, tensor in sorted(_state(module).items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict; of layers that are offloaded, from where accelerate keeps their weights."""
    maps = (getattr(hook, "weights_map", None) for hook in accelerate_hooks(module))
    kept: Any = next((kept for kept in maps if kept is not None), {})
    by_name = getattr(kept, "dataset", kept)  # each layer's map is a view of the whole module's
    return {name: by_name[name] if tensor.is_meta else tensor for name, tensor in module.state_dict().items()}


def input_digest(value: Any) -> str:
    """sha256 of pixels or keypoints: an image, a clip of either, or several people's."""
    if isinstance(value, PoseSequence):
        return hashlib.sha256(value.to_bytes()).hexdigest()
    if isinstance(value, Image.Image):
        value = np.asarray(value.convert("RGB"))
    if isinstance(value, np.ndarray):
        head = f"{value.dtype} {list(value.shape)}\n".encode()
        return hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).hexdigest()
    return json_digest([input_digest(each) for each in value])
