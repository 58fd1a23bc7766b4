"""The stage `denoise`: sample the latents of a video from its encoded inputs."""

import json
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...datasets.schema import Row
from ...datasets.storage.result_store import Result
from ...models.components import load_components
from ...models.inference.step_memory import park_context_projections
from ...models.parallel.group import ParallelGroup
from ...models.pipeline import SteadyDancerPipeline
from ...models.pipeline_inputs import InputError
from ..runtime.stage import BadClip
from . import mode
from .encode import files_of, read_encoded
from .results import tensor_result
from .task import CheckpointTask, RenderTask

# Configuration fields that sampling takes as arguments of the same name.
SAMPLING_ARGUMENTS = (
    *("num_inference_steps", "guidance_scale", "pose_guidance_scale", "pose_guidance_interval"),
    *("pose_guidance_unit", "solver", "flow_shift"),
)


class Denoiser:
    """The network of a worker: that of the checkpoint used last, loaded when first needed."""

    def __init__(self, task: RenderTask) -> None:
        self.task = task
        self.name: str | None = None
        self.pipeline: SteadyDancerPipeline | None = None

    def of(self, name: str) -> SteadyDancerPipeline:
        """Return the pipeline of a checkpoint, without encoders and autoencoder."""
        if self.pipeline is None or self.name != name:
            self.close()  # frees its memory first
            self.pipeline, self.name = load_denoiser(self.task, self.task.checkpoints[name]), name
        return self.pipeline

    def close(self) -> None:
        """Give up the network, and end the processes that sample with this one."""
        if self.pipeline is not None and self.pipeline.process_group is not None:
            self.pipeline.process_group.close()
        self.pipeline = None


def load_denoiser(task: RenderTask, place: CheckpointTask) -> SteadyDancerPipeline:
    """Load the pipeline of a checkpoint; with `parallel`, start the other processes, which load it at the same time."""
    group = None
    if task.config.parallel is not None:
        load = partial(_load_network, task, place)
        group = ParallelGroup(task.config.parallel, task.config.num_processes, load, task.device)
    try:
        pipeline = _load_pipeline(task, place, task.device)
    except BaseException:
        if group is not None:
            group.close()
        raise
    pipeline.process_group = group
    return pipeline


def _load_network(task: RenderTask, place: CheckpointTask, device: torch.device) -> Any:
    """Load the network alone, prepared as that of `load_denoiser`, on the device of another process."""
    return _load_pipeline(task, place, device).transformer


def _load_pipeline(task: RenderTask, place: CheckpointTask, device: str | torch.device) -> SteadyDancerPipeline:
    """Load transformer and scheduler of a checkpoint; the VAE only if windows open with pictures that it makes."""
    trained = load_components(
        place.checkpoint, ("transformer",), task.dtype, mode.device_to_load_on(task.config, device)
    )
    scheduler = load_components(place.components, ("scheduler",), task.dtype, device)
    parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "image_encoder"))
    if task.config.window_opening == "tail":
        parts |= load_components(place.components, ("vae",), task.dtype, device)
    pipeline = SteadyDancerPipeline(**trained, **parts, **scheduler)
    pipeline.branch_evaluation = task.config.branch_evaluation
    mode.apply(task.config, pipeline, place.checkpoint, device)
    if task.config.park_context_projections:
        park_context_projections(pipeline.transformer, "cpu")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def denoise_pair(row: Row, task: RenderTask, denoiser: Denoiser) -> Row:
    """Sample the latents of a pair, unless they are in the work folder."""

    def compute() -> Result:
        return tensor_result({"latents": sample(row, task, denoiser)}, files_of(row))

    task.store.get_or_compute(row["latents"], compute)
    return row


def sample(row: Row, task: RenderTask, denoiser: Denoiser) -> Tensor:
    """Sample the latents [1, 16, T, h, w] of a pair.

    Raises:
        BadClip: the pair cannot be sampled; the settings or the device may be the reason.
    """
    config = task.config
    encoded = read_encoded(task.store, json.loads(row["encoded"]), config)
    try:
        (latents,) = denoiser.of(row["checkpoint"])(
            encoded=encoded,
            generator=torch.Generator("cpu").manual_seed(row["seed"]),
            **{name: getattr(config, name) for name in SAMPLING_ARGUMENTS},
            output_type="latent",
            return_dict=False,
        )
    except InputError as error:
        raise BadClip("bad_input", str(error)) from error
    except FloatingPointError as error:
        raise BadClip("not_finite", str(error)) from error
    except torch.OutOfMemoryError as error:
        raise BadClip(
            "out_of_memory", f"{encoded.width}×{encoded.height}, {encoded.num_frames} frames: {error}"
        ) from error
    return latents
