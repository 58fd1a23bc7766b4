"""SteadyDancer as a diffusers pipeline: make a video from an image, a motion and a prompt."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

from ..datasets.arrays import Frames
from ..datasets.provenance import write_video
from ..datasets.video.sound import Sound
from ..datasets.video.writer import Chroma
from . import encoders
from .call_checks import check_encoded, check_sampling
from .checkpoints.folders import NAMES, resolve_folder
from .components import load_components
from .conditions import Conditions, with_frame_mask
from .encoded_inputs import EncodedInputs, encode_negative_windows, encode_pose_windows
from .encoders import decode_chunks, encode_image_condition, to_frames
from .guidance import BranchVelocity, branch_velocity
from .image_encoder import OpenCLIPImageEncoder
from .inference.branch_evaluation import BranchEvaluation
from .long_video import (
    WINDOW_FRAMES,
    WINDOW_OVERLAP,
    FusedVelocity,
    Window,
    WindowOpening,
    draw_noise,
    free_noise,
)
from .negative_pose import Perturbation
from .pipeline_encoding import ENCODING_ARGUMENTS, draw_and_encode
from .pipeline_folder import check_folder
from .pipeline_inputs import (
    Clip,
    DrivingVideo,
    InputError,
    OnMissingReference,
    as_motion,
)
from .pose.estimator import PoseEstimator
from .pose_condition import RELEASED_DRAWING_AREA_PX
from .render_record import model_digests, video_record
from .sampling import PoseGuidanceUnit, Solver, guided_velocity, released_scheduler
from .transformer import SteadyDancerTransformer3DModel
from .video_velocity import VideosVelocity, all_branches
from .window_openings import Continuation, denoise_in_turn

Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]
# Wan's own default for image to video; a pipeline may be saved with another one.
WAN_NEGATIVE_PROMPT = (
    "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


@dataclass
class SteadyDancerOutput(BaseOutput):
    """Videos of a call: `frames[k]` is video k of n.

    Attributes:
        frames: [n, F, H, W, 3], float32 in [0, 1] for "np" and uint8 for "uint8"; a list of n lists of F images for
            "pil"; normalised latents [n, 16, T, h, w] for "latent".
    """

    frames: Any


class SteadyDancerPipeline(DiffusionPipeline):
    """Pipeline that animates the person of an image with a motion.

    All components except the transformer and the image encoder are classes of diffusers and transformers.

    Args:
        transformer: the network.
        vae: Wan's autoencoder, float32.
        text_encoder: UMT5; None if every call gives `prompt_embeds` and `negative_prompt_embeds`.
        tokenizer: the tokenizer of the text encoder.
        image_encoder: open_clip's image tower; transformers' `CLIPVisionModel` is converted.
        scheduler: holds the shift of the sigmas; the released grid is computed from it.
        negative_prompt: default of the calls.

    Raises:
        ValueError: the transformer is not a SteadyDancer, for example a plain Wan.
    """

    # Set by `register_modules`; a type checker does not see diffusers' own types.
    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    image_encoder: Any
    scheduler: Any
    config: Any

    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    _guidance_scale: Any = 1.0
    _num_timesteps: Any = 0
    _current_timestep: Any = None
    _interrupt: Any = False
    branch_evaluation: BranchEvaluation = "interleaved"  # how the guidance branches of a step are evaluated
    process_group: Any = None  # a `ParallelGroup` that evaluates with this process; None: this process alone
    _driving_poses: Any = None  # alignment of the last call's driving video, for the record
    model_cpu_offload_seq: Any = "text_encoder->image_encoder->transformer->vae"

    def __init__(
        self,
        transformer: SteadyDancerTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        image_encoder: OpenCLIPImageEncoder | None,
        scheduler: UniPCMultistepScheduler,
        negative_prompt: str = WAN_NEGATIVE_PROMPT,
    ) -> None:
        super().__init__()
        if not isinstance(transformer, SteadyDancerTransformer3DModel):
            raise ValueError(
                f"transformer must be a SteadyDancerTransformer3DModel, not {type(transformer).__name__}: "
                "`SteadyDancerTransformer3DModel.from_wan` initialises one from a plain Wan transformer."
            )
        if isinstance(image_encoder, CLIPVisionModel):
            image_encoder = OpenCLIPImageEncoder.from_clip_vision_model(image_encoder)
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            image_encoder=image_encoder,
            scheduler=scheduler,
        )
        self.register_to_config(negative_prompt=negative_prompt)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> "SteadyDancerPipeline":
        """Load a pipeline from a folder or hub id, with the autoencoder in float32.

        Args:
            pretrained_model_name_or_path: folder or hub id, in diffusers' layout or the release's own.
            kwargs: those of `DiffusionPipeline.from_pretrained`, such as `dtype` or `torch_dtype` (one, or one per
                component), and components to use instead of the stored ones. A `CLIPVisionModel` is converted.

        Raises:
            ComponentsError: a component is missing, or the transformer or the autoencoder is another model. Raised
                before anything is loaded.
        """
        needed = [name for name in NAMES if name not in kwargs]
        folder = resolve_folder(str(pretrained_model_name_or_path), needed)
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None)
        if not (folder / "model_index.json").is_file():
            return cls(**load_components(folder, needed, dtype, kind="steadydancer"), **kwargs)
        check_folder(folder, needed)
        by_part = (dtype if isinstance(dtype, dict) else {"default": dtype}) | {"vae": torch.float32}
        return super().from_pretrained(folder, **{"dtype": by_part, "use_safetensors": True} | kwargs)

    @property
    def guidance_scale(self) -> float:
        """w_txt of Eq. 7 of the current call; a callback may set `_guidance_scale` for the next steps."""
        return float(self._guidance_scale)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Return whether the negative prompt guides the current call."""
        return self.guidance_scale != 1

    @property
    def num_timesteps(self) -> int:
        """Number of denoising steps of the current call."""
        return int(self._num_timesteps)

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the current step, for diffusers' step caches; None outside of sampling."""
        timestep: Tensor | None = self._current_timestep
        return timestep

    @property
    def interrupt(self) -> bool:
        """Return whether sampling stops after this step: set `_interrupt` in a callback. Its latents are decoded."""
        return bool(self._interrupt)

    def encode_prompt(
        self,
        prompt: str = "",
        negative_prompt: str | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode the prompt and the negative prompt, each cut to its own number of tokens.

        Args:
            prompt: what the video should show.
            negative_prompt: what it should not show; None takes the pipeline's default.
            prompt_embeds: used instead of `prompt`.
            negative_prompt_embeds: used instead of `negative_prompt`.

        Returns:
            (prompt_embeds, negative_prompt_embeds), each [1, L, Dt]. Two prompts are encoded in one batch: for the same
            bits, give both embeddings or neither.
        """
        negative_prompt = self.config.negative_prompt if negative_prompt is None else negative_prompt
        texts = [
            text
            for text, embeds in ((prompt, prompt_embeds), (negative_prompt, negative_prompt_embeds))
            if embeds is None
        ]
        encoded = encoders.encode_prompt(self.text_encoder, self.tokenizer, texts) if texts else []
        if negative_prompt_embeds is None:
            negative_prompt_embeds = encoded.pop()[None]
        if prompt_embeds is None:
            prompt_embeds = encoded.pop()[None]
        device = self._execution_device
        return prompt_embeds.to(device), negative_prompt_embeds.to(device)

    def encode_image(self, image: Frames) -> Tensor:
        """Encode the reference image [H, W, 3] with CLIP: [1, 257, D]."""
        return encoders.encode_image(self.image_encoder, image)[None].to(self._execution_device)

    def encode_pose(
        self,
        motion: Any,
        negatives: Sequence[Any],
        image: Frames,
        windows: Sequence[Window],
        height: int,
        width: int,
        drawing_area_px: int = RELEASED_DRAWING_AREA_PX,
    ) -> tuple[list[Tensor], Tensor, list[list[Tensor]]]:
        """Draw and encode the motion and the negative motion, one window at a time to bound the memory of drawn frames.

        Args:
            motion: from `prepare_motion`.
            negatives: from `prepare_negative_motion`, one per video or one for all.
            image: the reference image; the pose is drawn at its size.
            windows: from `plan_windows`, over the frames of `motion`.
            height: of the video.
            width: of the video.
            drawing_area_px: as in a call.

        Returns:
            (pose_latents [1, 16, T, h, w] of each window, pose_image_embeds [1, 257, D] of the first pose frame,
            negative_pose_latents of each window of each entry of `negatives`). Without pose guidance, the negative
            latents are the positive ones.
        """
        device = self._execution_device
        size = (height, width, drawing_area_px)
        pose_latents, embeds = encode_pose_windows(self.vae, self.image_encoder, motion, image, windows, *size)
        pose_latents = [each.to(device) for each in pose_latents]
        negative_latents = [
            pose_latents
            if negative is None
            else [
                each.to(device) for each in encode_negative_windows(self.vae, motion, negative, image, windows, *size)
            ]
            for negative in negatives
        ]
        return pose_latents, embeds.to(device), negative_latents

    @torch.no_grad()
    def encode_inputs(self, *args: Any, **kwargs: Any) -> EncodedInputs:
        """Encode everything that sampling needs besides noise, to sample from it later: `pipeline(encoded=...)`.

        Args:
            args: as in a call.
            kwargs: as in a call; those of sampling are not used, except `generator`, `latents` and
                `num_videos_per_prompt`: the negative pose is drawn after the noise, as in a call.

        Raises:
            InputError: as in a call.
        """
        call = inspect.signature(self.__call__).bind(*args, **kwargs)
        call.apply_defaults()
        arguments = {name: call.arguments[name] for name in ENCODING_ARGUMENTS}
        _, encoded = draw_and_encode(self, **arguments, latents=call.arguments["latents"])
        self.maybe_free_model_hooks()
        return replace(encoded, negative_pose_latents=()) if arguments["pose_guidance_scale"] == 0 else encoded

    def prepare_latents(
        self,
        num_videos: int,
        windows: Sequence[Window],
        height: int,
        width: int,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Draw the noise of every video, [n, 16, T, h, w] float32; for a long video, extended by `free_noise`.

        Args:
            num_videos: n.
            windows: from `plan_windows`.
            height: of the video.
            width: of the video.
            generator: one per video, or one that draws for all of them in turn.
            latents: noise to use instead.

        Raises:
            InputError: `latents` have another shape.
        """
        device = self._execution_device
        grid = (height // 8, width // 8)
        if latents is not None:
            shape = (num_videos, 16, windows[-1].stop, *grid)
            if latents.shape != shape:
                raise InputError(f"latents must have shape {[*shape]} for these videos, not {[*latents.shape]}.")
            return latents.to(device, torch.float32)
        generators = generator if isinstance(generator, list) else [generator] * num_videos
        drawn = [(each, draw_noise(windows[:1], height, width, each, device)) for each in generators]
        return torch.cat([free_noise(noise, windows, each) for each, noise in drawn])

    def prepare_image_latents(self, image: Frames, num_frames: int, height: int, width: int) -> Tensor:
        """Encode the image followed by grey frames, with its mask before it: [1, 20, T, h, w]."""
        latents = encode_image_condition(self.vae, image, num_frames, height, width)
        return with_frame_mask(latents[None]).to(self._execution_device)

    def prepare_negative_motion(
        self,
        num_videos: int,
        num_frames: int,
        generator: Generators,
        negative_pose_video: Clip | None,
        pose_guidance_scale: float,
        negative_pose_shift: bool = False,
    ) -> list[Any]:
        """Return what the pose guidance steers away from: a `Perturbation` per video, or one motion for all.

        Without pose guidance, returns [None].
        """
        if pose_guidance_scale == 0:
            return [None]
        if negative_pose_video is not None:
            return [as_motion(negative_pose_video, num_frames)]
        generators = generator if isinstance(generator, list) else [generator] * num_videos
        return [Perturbation.draw(num_frames, each, negative_pose_shift) for each in generators]

    def denoise(
        self,
        latents: Tensor,
        conditions: Sequence[Conditions],
        negative_prompt_embeds: Tensor,
        negative_pose_latents: Sequence[Sequence[Tensor]],
        windows: Sequence[Window] = (),
        *,
        num_inference_steps: int,
        flow_shift: float,
        guidance_scale: float,
        pose_guidance_scale: float,
        pose_guidance_interval: tuple[float, float] = (0.1, 0.4),
        pose_guidance_unit: PoseGuidanceUnit = "step",
        solver: Solver = "unipc",
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        continuation: Continuation | None = None,
    ) -> Tensor:
        """Denoise `latents` [n, 16, T, h, w] under the conditions; returns float32 of the same shape.

        Each video is evaluated separately in every step, so it has the same bits as a call that makes it alone.

        Args:
            latents: noise.
            conditions: the positive conditions of each window, with batch size 1.
            negative_prompt_embeds: [1, L, Dt].
            negative_pose_latents: [1, 16, T, h, w] of each window, for each video or one for all.
            windows: required with several conditions.
            num_inference_steps: as in a call.
            flow_shift: as in a call.
            guidance_scale: as in a call.
            pose_guidance_scale: as in a call.
            pose_guidance_interval: as in a call.
            pose_guidance_unit: as in a call.
            solver: as in a call.
            callback: as in a call.
            callback_on_step_end: as in a call.
            callback_on_step_end_tensor_inputs: as in a call.
            continuation: what a single window knows of finished ones.
        """
        scheduler = released_scheduler(num_inference_steps, flow_shift, solver)
        self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, num_inference_steps, False
        latents = latents.float()
        velocity = self._velocity(
            conditions, negative_prompt_embeds, negative_pose_latents, windows, len(latents), continuation
        )
        with self.progress_bar(total=num_inference_steps) as progress:
            for step, timestep in enumerate(scheduler.timesteps):
                self._current_timestep = timestep
                guided = guided_velocity(
                    velocity,
                    latents,
                    timestep,
                    step,
                    num_inference_steps,
                    self.guidance_scale,
                    pose_guidance_scale,
                    pose_guidance_interval,
                    pose_guidance_unit,
                )
                latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    prompt_embeds = conditions[0].prompt_embeds
                    tensors = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                    }
                    callback_kwargs = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    tensors |= callback_on_step_end(self, step, timestep, callback_kwargs) or {}
                    if self._guidance_scale == 0 != guidance_scale:
                        # diffusers' `SDCFGCutoffCallback` turns guidance off by 0, which here is the negative prompt.
                        self._guidance_scale = 1.0
                    latents = tensors["latents"].to(latents)
                    changed = (tensors["prompt_embeds"], tensors["negative_prompt_embeds"])
                    if changed[0] is not prompt_embeds or changed[1] is not negative_prompt_embeds:
                        conditions = [each.replace(prompt_embeds=changed[0]) for each in conditions]
                        negative_prompt_embeds = changed[1]
                        velocity = self._velocity(
                            *(conditions, negative_prompt_embeds, negative_pose_latents, windows, len(latents)),
                            continuation,
                        )
                progress.update()
                if callback is not None:
                    callback(step, timestep, latents)
                if self.interrupt:
                    break
        self._current_timestep = None
        return latents

    def _velocity(
        self,
        conditions: Sequence[Conditions],
        negative_prompt_embeds: Tensor,
        negative_pose_latents: Sequence[Sequence[Tensor]],
        windows: Sequence[Window],
        num_videos: int,
        continuation: Continuation | None,
    ) -> BranchVelocity:
        """Wrap the transformer and the conditions of all branches for `denoise`: windows fused, videos stacked."""
        branches = all_branches(conditions, negative_prompt_embeds, negative_pose_latents, num_videos)
        make = branch_velocity if self.process_group is None else self.process_group.branch_velocity
        velocity = make(self.transformer, branches, branch_evaluation=self.branch_evaluation)
        fuse = partial(FusedVelocity, windows=windows) if len(conditions) > 1 else None
        return VideosVelocity(velocity, num_videos, fuse if continuation is None else continuation.fuse)

    def decode_latents(self, latents: Tensor, output_type: str = "np") -> Any:
        """Decode latents [n, 16, T, h, w] to frames of the given type, see `SteadyDancerOutput`."""
        if output_type == "latent":
            return latents
        videos = [self._decode(each, output_type) for each in latents]
        return videos if output_type == "pil" else np.stack(videos)

    def decode_chunks(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode the latents [16, T, h, w] of one video to pixels in [-1, 1], in chunks [3, n, H, W].

        Calls, `stream` and `render_to` all decode by this method.
        """
        yield from decode_chunks(self.vae, latents)

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        """Decode the latents [16, T, h, w] of one video."""
        pieces = self.decode_chunks(latents)
        if output_type == "np":
            return np.concatenate([((pixels + 1) / 2).permute(1, 2, 3, 0).cpu().numpy() for pixels in pieces])
        frames = np.concatenate([to_frames(pixels) for pixels in pieces])
        return frames if output_type == "uint8" else [Image.fromarray(frame) for frame in frames]

    @torch.no_grad()
    def __call__(
        self,
        image: Frames | Image.Image | None = None,
        pose_video: Clip | None = None,
        prompt: str = "",
        negative_prompt: str | None = None,
        *,
        driving_video: DrivingVideo | None = None,
        driving_fps: float | None = None,
        pose_estimator: PoseEstimator | None = None,
        main_person_only: bool = False,
        on_missing_reference: OnMissingReference = "keep",
        negative_pose_video: Clip | None = None,
        height: int | None = None,
        width: int | None = None,
        max_area_px: int = RELEASED_DRAWING_AREA_PX,
        drawing_area_px: int = RELEASED_DRAWING_AREA_PX,
        num_frames: int | None = 81,
        window_frames: int = WINDOW_FRAMES,
        window_overlap: int = WINDOW_OVERLAP,
        window_opening: WindowOpening = "reference",
        num_inference_steps: int = 40,
        flow_shift: float | None = None,
        guidance_scale: float = 5.0,
        pose_guidance_scale: float = 1.0,
        pose_guidance_interval: tuple[float, float] = (0.1, 0.4),
        pose_guidance_unit: PoseGuidanceUnit = "step",
        negative_pose_shift: bool = False,
        solver: Solver = "unipc",
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        encoded: EncodedInputs | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> SteadyDancerOutput | tuple[Any]:
        """Make a video whose first frame is the image and whose motion is that of the pose.

        Args:
            image: the person, uint8 RGB [H, W, 3] or PIL, at least 32 px a side. A PIL image is converted as viewers
                show it, with its orientation and profile and with transparency on white.
            pose_video: the motion, already aligned to the image: keypoints of one person or a list of several people's,
                the main one first, or drawn frames (uint8 [F, h, w, 3] or PIL). Give this or `driving_video`.
            prompt: what the video should show.
            negative_prompt: what it should not show; None takes the pipeline's default.
            driving_video: frames of a moving person, or a file, which is read as `steadydancer render` reads it.
                `pose_estimator` estimates the poses, and they are aligned to the image from the first frame that shows
                the whole person; the frames before it hold that pose.
            driving_fps: resample a file to this rate; None takes all of its frames.
            pose_estimator: such as from `open_pose_estimator`; required with `driving_video`, and applied to it and to
                the image.
            main_person_only: of several people in `driving_video`, use the main one only, as released.
            on_missing_reference: if the image shows no neck and limb to align to, "keep" the pose of `driving_video`
                unchanged and log a warning, or "raise".
            negative_pose_video: the pose to steer away from. None: keypoints are perturbed as in the release, and drawn
                frames are stretched accordingly.
            height: of the video, a multiple of 16; None for both `height` and `width` follows the release's size rule.
            width: as `height`.
            max_area_px: area for the size rule.
            drawing_area_px: keypoints are drawn at twice the size of this area, see `draw_pose_condition`.
            num_frames: F = 4k + 1; the first F frames of the motion are used. None: as many as it has.
            window_frames: longer videos are made in windows of this many frames, see `long_video`.
            window_overlap: minimum number of frames that neighbouring windows share, a multiple of 4.
            window_opening: how windows after the first open: with the "reference", with the "tail" of the window before
                (windows are then sampled one after another), or with "none", see `window_openings`.
            num_inference_steps: number of steps from noise to data.
            flow_shift: shift of the sigmas; None takes the scheduler's. 3.0 is released for 480p areas.
            guidance_scale: text guidance; 1 turns it off.
            pose_guidance_scale: pose guidance; 0 turns it off.
            pose_guidance_interval: the pose guides strictly inside this share of the steps.
            pose_guidance_unit: unit of the interval: "step" (released), or "timestep", t / 1000 (printed).
            negative_pose_shift: also move the perturbed pose, as printed; the release does not. Not used with
                `negative_pose_video`.
            solver: "unipc" (released) or "dpm++".
            num_videos_per_prompt: number of videos, each with its own noise and its own negative pose.
            generator: draws noise and perturbation; a list has one per video. A CPU generator gives the same numbers
                for every device.
            latents: noise [n, 16, T, h, w] to use instead of drawn noise.
            prompt_embeds: [1, L, Dt] from `encode_prompt`, instead of `prompt`.
            negative_prompt_embeds: the same, instead of `negative_prompt`.
            encoded: from `encode_inputs`, instead of image, motion, prompts, size and length. `generator` is one with
                the seed that was given to `encode_inputs`: the noise is drawn again.
            output_type: "np", "uint8", "pil" or "latent", see `SteadyDancerOutput`.
            return_dict: False returns the tuple (frames,).
            callback: called with (step, timestep, latents) after every step.
            callback_on_step_end: diffusers' callback (pipeline, step, timestep, callback_kwargs) -> dict. Sampling
                continues with the tensors in the returned dict. Return new embeddings: those changed in place have no
                effect.
            callback_on_step_end_tensor_inputs: tensors in `callback_kwargs`: "latents", "prompt_embeds" and
                "negative_prompt_embeds".

        Raises:
            InputError: (a ValueError) sizes, lengths or combinations of arguments that cannot be used.
            DrivingError: (an InputError) the driving video shows no person, or never enough of one to align.
            FloatingPointError: a velocity is not finite; the message names the step.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs

        # 1. Check the settings of sampling
        check_sampling(
            num_inference_steps=num_inference_steps,
            pose_guidance_interval=pose_guidance_interval,
            pose_guidance_unit=pose_guidance_unit,
            guidance_scale=guidance_scale,
            pose_guidance_scale=pose_guidance_scale,
            solver=solver,
            flow_shift=flow_shift,
            output_type=output_type,
            num_videos=num_videos_per_prompt,
            generator=generator,
            callback_tensors=callback_on_step_end_tensor_inputs,
            known_callback_tensors=self._callback_tensor_inputs,
        )

        # 2. Draw the noise, and encode all other inputs
        arguments = {name: value for name, value in locals().items() if name in ENCODING_ARGUMENTS}
        if encoded is None:
            latents, encoded = draw_and_encode(self, **arguments, latents=latents)
            negative_poses = encoded.negative_pose_latents
        else:
            check_encoded(arguments)
            encoded = encoded.to(self._execution_device)
            negative_poses = encoded.negative_poses(num_videos_per_prompt, pose_guidance_scale)
            self._driving_poses = None
            size = (encoded.height, encoded.width)
            latents = self.prepare_latents(num_videos_per_prompt, encoded.windows, *size, generator, latents)

        # 3. Denoise
        denoise = partial(denoise_in_turn, self) if encoded.windows[-1].opening == "tail" else self.denoise
        latents = denoise(
            latents,
            encoded.conditions(),
            encoded.negative_prompt_embeds,
            negative_poses,
            encoded.windows,
            num_inference_steps=num_inference_steps,
            flow_shift=self.scheduler.config.flow_shift if flow_shift is None else flow_shift,
            guidance_scale=guidance_scale,
            pose_guidance_scale=pose_guidance_scale,
            pose_guidance_interval=pose_guidance_interval,
            pose_guidance_unit=pose_guidance_unit,
            solver=solver,
            callback=callback,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )

        # 4. Decode
        frames = self.decode_latents(latents, output_type)
        self.maybe_free_model_hooks()
        return SteadyDancerOutput(frames=frames) if return_dict else (frames,)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Frames]:
        """Make one video as a call does, but decode it in chunks, uint8 [n, H, W, 3], when they are requested.

        Sampling is finished when this returns; until they are decoded, only the latents are kept, a twelfth of the
        frames' bytes. `datasets.video.encode` accepts such chunks.

        Raises:
            InputError: several videos are requested, or as in a call.
        """
        if kwargs.get("num_videos_per_prompt", 1) != 1:
            raise InputError(
                "stream and render_to generate one video, so num_videos_per_prompt must be 1: call them once per "
                "video, each time with its own generator or seed."
            )
        (latents,) = self(*args, **kwargs | {"output_type": "latent", "return_dict": False})

        def pieces() -> Iterator[Frames]:
            for pixels in self.decode_chunks(latents[0]):
                yield to_frames(pixels)
            self.maybe_free_model_hooks()

        return pieces()

    def render_to(
        self,
        path: str | os.PathLike[str],
        *args: Any,
        seed: int,
        fps: float = 16,
        sound: Sound | None = None,
        crf: int = 18,
        chroma: Chroma = "4:2:0",
        model: Mapping[str, str] | None = None,
        inputs: Mapping[str, str] | None = None,
        more_settings: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Make one video as a call does, and write it to an mp4 with a record of its provenance while it is decoded.

        Args:
            path: the mp4; the record is written next to it with the suffix `.json`.
            args: as in a call.
            seed: of all random numbers, drawn on the CPU.
            fps: frames per second of the file; 16 is released.
            sound: sound track from `datasets.video.sound.read_sound`; None for a silent video.
            crf: constant rate factor of the file.
            chroma: resolution of the file's colours, see `datasets.video.encode`.
            model: sha256 per component, the transformer's first, if known. None: computed from the weights in memory.
            inputs: sha256 of the input files by name; for other inputs it is computed from the given pixels or
                keypoints.
            more_settings: recorded in addition to the call's own.
            kwargs: as in a call, except `generator` and `output_type`.

        Returns:
            The record, see `datasets.provenance`.

        Raises:
            InputError: `path` does not end with .mp4, or as in a call. No file is written then.
        """
        path = Path(path)
        if path.suffix.lower() != ".mp4":
            raise InputError(f"path must end in .mp4, not in {path.suffix or 'no suffix'}: {path}.")
        call = inspect.signature(self.__call__).bind(*args, **kwargs)
        call.apply_defaults()
        frames = self.stream(*args, **kwargs, generator=torch.Generator("cpu").manual_seed(seed))
        record = video_record(
            call.arguments,
            seed=seed,
            fps=fps,
            has_sound=sound is not None,
            negative_prompt=self.config.negative_prompt,
            flow_shift=self.scheduler.config.flow_shift,
            dtype=self.transformer.dtype,
            driven=self._driving_poses,
            model=model_digests(self) if model is None else model,
            inputs=inputs,
            more_settings=more_settings,
        )
        return write_video(frames, path, record, fps, sound, crf=crf, chroma=chroma)
