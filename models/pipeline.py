"""SteadyDancer as a diffusers pipeline: an image, a motion and a sentence make a video."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

from . import call_checks, provenance
from .call_conditions import encode_conditions
from .call_steps import SteadyDancerOutput, decode_as, sample
from .components import load_components
from .driving import Clip, Perturbation, as_motion, given_motion, num_frames_of
from .encoders import decode_chunks, to_frames
from .folders import NAMES, resolve_folder
from .guidance import branch_velocity
from .image_encoder import OpenCLIPImageEncoder
from .long_video import WINDOW_FRAMES, WINDOW_OVERLAP, FusedVelocity, free_noise, plan_windows
from .pose_condition import RELEASED_DRAWING_AREA_PX
from .pose_estimator import PoseEstimator
from .sampling import PoseGuidanceUnit, Solver
from .transformer import SteadyDancerTransformer3DModel

Frames = NDArray[np.uint8]
# Wan's own setting for image to video; a pipeline may be saved with another.
WAN_NEGATIVE_PROMPT = (
    "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


class SteadyDancerPipeline(DiffusionPipeline):
    """Animates the person of an image by a motion. Parts are diffusers' and transformers', but for the transformer.

    Args:
        transformer: the network.
        vae: Wan's autoencoder, float32.
        text_encoder: UMT5.
        tokenizer: its tokenizer.
        image_encoder: open_clip's tower; transformers' `CLIPVisionModel` is converted.
        scheduler: says the shift of the sigmas; the released grid is made of it.
        negative_prompt: used where a call gives none.

    Raises:
        ValueError: the transformer is another one, such as plain Wan's.
    """

    # Set by `register_modules`; diffusers' own types are not visible to a type checker.
    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    image_encoder: Any
    scheduler: Any
    config: Any

    _interrupt: Any = False
    _driven: Any = None  # how the driving video of the last call was followed, for its record
    model_cpu_offload_seq: Any = "text_encoder->image_encoder->transformer->vae"

    def __init__(
        self,
        transformer: SteadyDancerTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        image_encoder: OpenCLIPImageEncoder,
        scheduler: UniPCMultistepScheduler,
        negative_prompt: str = WAN_NEGATIVE_PROMPT,
    ) -> None:
        super().__init__()
        if not isinstance(transformer, SteadyDancerTransformer3DModel):
            raise ValueError(f"A {type(transformer).__name__} is not a SteadyDancer; `from_wan` begins one from Wan's.")
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
        """`DiffusionPipeline.from_pretrained` of a pipeline's folder or hub id, with the autoencoder in float32.

        Args:
            pretrained_model_name_or_path: folder or hub id, in diffusers' layout or the release's own.
            kwargs: diffusers' own, such as `dtype` or `torch_dtype` (one, or one by part), and parts to take instead
                of those stored. A `CLIPVisionModel` is fitted to our image encoder.

        Raises:
            ComponentsError: a part is missing, or the transformer is another model; nothing has been loaded then.
        """
        needed = [name for name in NAMES if name not in kwargs]
        folder = resolve_folder(str(pretrained_model_name_or_path), needed)
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None)
        if not (folder / "model_index.json").is_file():
            return cls(**load_components(folder, needed, dtype, kind="steadydancer"), **kwargs)
        call_checks.check_folder(folder, needed)
        by_part = (dtype if isinstance(dtype, dict) else {"default": dtype}) | {"vae": torch.float32}
        return super().from_pretrained(folder, **{"dtype": by_part, "use_safetensors": True} | kwargs)

    @property
    def interrupt(self) -> bool:
        """Whether sampling shall end; set `_interrupt` in a callback, and what there is by then is decoded."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        image: Frames | Image.Image,
        pose_video: Clip | None = None,
        prompt: str = "",
        negative_prompt: str | None = None,
        *,
        driving_video: Frames | Sequence[Image.Image] | None = None,
        pose_estimator: PoseEstimator | None = None,
        main_person_only: bool = False,
        negative_pose_video: Clip | None = None,
        height: int | None = None,
        width: int | None = None,
        max_area_px: int = RELEASED_DRAWING_AREA_PX,
        drawing_area_px: int = RELEASED_DRAWING_AREA_PX,
        num_frames: int | None = 81,
        window_frames: int = WINDOW_FRAMES,
        window_overlap: int = WINDOW_OVERLAP,
        num_inference_steps: int = 40,
        flow_shift: float | None = None,
        guidance_scale: float = 5.0,
        pose_guidance_scale: float = 1.0,
        pose_guidance_interval: tuple[float, float] = (0.1, 0.4),
        pose_guidance_unit: PoseGuidanceUnit = "step",
        negative_pose_shift: bool = False,
        solver: Solver = "unipc",
        generator: torch.Generator | None = None,
        output_type: str = "np",
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> SteadyDancerOutput:
        """Make a video whose first frame is the image and whose motion is the pose's.

        Args:
            image: the person, uint8 RGB [H, W, 3] or PIL, at least 32 px a side. One of PIL is taken as viewers show
                it: by its orientation and profile, transparency on white.
            pose_video: the motion, already aligned to the image: keypoints of one person or a list of several people's,
                the main one first, or drawn frames (uint8 [F, h, w, 3] or PIL). Or give `driving_video`.
            prompt: what happens.
            negative_prompt: what should not; None takes the pipeline's own.
            driving_video: frames of somebody moving; poses are found by `pose_estimator` and aligned to the image from
                the first frame that shows the person whole, whose pose stands in the frames before it. What else is
                not as supposed (nobody to align to in the image) is logged.
            pose_estimator: as from `open_pose_estimator`; needed with `driving_video` only, and looks at both.
            main_person_only: of several people in `driving_video`, take the main one only, as released.
            negative_pose_video: the pose to steer away from. None: keypoints are perturbed as in the release, and
                drawn frames are stretched alike.
            height: of the video, a multiple of 16; None with `width` None follows the release's size rule.
            width: as `height`.
            max_area_px: area for the size rule.
            drawing_area_px: keypoints are drawn at twice its size, see `draw_pose_condition`.
            num_frames: F = 4k + 1; the first F frames of the motion are used. None: as many as it has.
            window_frames: longer videos are made in windows of so many frames, see `long_video`.
            window_overlap: frames that neighbouring windows share at least, a multiple of 4.
            num_inference_steps: steps from noise to data.
            flow_shift: of the sigmas; None takes the scheduler's. 3.0 is released for 480p areas.
            guidance_scale: text guidance, 1 is none.
            pose_guidance_scale: pose guidance, 0 is none.
            pose_guidance_interval: share of the steps in which the pose guides, strict on both ends.
            pose_guidance_unit: "step" (released), or "timestep": the interval is one of t / 1000 (the paper's words).
            negative_pose_shift: move the perturbed pose too, as the paper says; the release does not. Not read with
                `negative_pose_video`.
            solver: "unipc" (released) or "dpm++".
            generator: noise and perturbation come from it. One on the CPU gives the same on every device.
            output_type: "np", "uint8", "pil" or "latent", see `SteadyDancerOutput`.
            callback: called with (step, timestep, latents) after every step.

        Raises:
            InputError: (a ValueError) sizes, lengths or a combination of arguments that cannot be.
            DrivingError: (an InputError) nobody is found in the image or in the driving video, or never enough of one.
            FloatingPointError: a velocity is not finite; the message names the step.
        """
        reference = call_checks.as_reference(image)
        size = call_checks.video_size(reference, height, width, max_area_px)
        call_checks.check_numbers(num_frames, num_inference_steps, pose_guidance_interval, output_type)
        motion, self._driven = given_motion(
            pose_video, driving_video, pose_estimator, main_person_only, num_frames, reference
        )
        windows = plan_windows(num_frames_of(motion), window_frames, window_overlap)

        shape = (1, 16, len(windows[0].weights), size[0] // 8, size[1] // 8)
        noise = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        noise = free_noise(noise, windows, generator)
        negative: Any = None
        if pose_guidance_scale != 0 and negative_pose_video is None:
            negative = Perturbation.draw(num_frames_of(motion), generator, negative_pose_shift)
        elif pose_guidance_scale != 0:
            negative = as_motion(negative_pose_video, num_frames_of(motion))
        prompts = (prompt, self.config.negative_prompt if negative_prompt is None else negative_prompt)
        branches = encode_conditions(self, reference, motion, negative, prompts, windows, size, drawing_area_px)
        velocity = branch_velocity(self.transformer, branches)
        self._interrupt = False
        latents = sample(
            self,
            velocity if len(windows) == 1 else FusedVelocity(velocity, windows),
            noise,
            callback,
            num_inference_steps=num_inference_steps,
            flow_shift=self.scheduler.config.flow_shift if flow_shift is None else flow_shift,
            guidance_scale=guidance_scale,
            pose_guidance_scale=pose_guidance_scale,
            pose_guidance_interval=pose_guidance_interval,
            pose_guidance_unit=pose_guidance_unit,
            solver=solver,
        )
        frames = decode_as(output_type, self.vae, latents)
        self.maybe_free_model_hooks()
        return SteadyDancerOutput(frames=frames)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Frames]:
        """As a call, but the video comes in pieces, uint8 [n, H, W, 3], decoded as they are asked for.

        Sampling is over when this returns; what is held then is the video's latents, a twelfth of its frames' bytes.
        `datasets.video.encode` takes such pieces.
        """
        latents = self(*args, **kwargs, output_type="latent").frames

        def pieces() -> Iterator[Frames]:
            for pixels in decode_chunks(self.vae, latents[0]):
                yield to_frames(pixels)
            self.maybe_free_model_hooks()

        return pieces()

    def render_to(self, path: str | os.PathLike[str], *args: Any, seed: int, **kwargs: Any) -> dict[str, Any]:
        """As a call, but the video is written to `path`, an mp4 that says what made it; see `provenance.render_to`."""
        return provenance.render_to(self, Path(path), *args, seed=seed, **kwargs)
