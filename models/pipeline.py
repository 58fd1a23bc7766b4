"""SteadyDancer as a diffusers pipeline: an image, a motion and a sentence make a video."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

from ..datasets.skeleton import PoseSequence
from ..datasets.video import size_for_area
from .components import load_components
from .conditions import Conditions, with_frame_mask
from .driving import Clip, Perturbation, as_frame, draw_motion, draw_negative_motion, driven_pose, first_frames
from .encoders import decode_pixels, encode_image, encode_image_condition, encode_prompt, encode_video
from .folders import NAMES, resolve_folder
from .guidance import Branch, branch_conditions, branch_velocity
from .image_encoder import OpenCLIPImageEncoder
from .pose_condition import RELEASED_DRAWING_AREA_PX, encode_pose_condition
from .pose_estimator import PoseEstimator
from .sampling import denoise
from .transformer import SteadyDancerTransformer3DModel

Frames = NDArray[np.uint8]
# Wan's own setting for image to video; a pipeline may be saved with another.
WAN_NEGATIVE_PROMPT = (
    "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


@dataclass
class SteadyDancerOutput(BaseOutput):
    """`frames[0]` is the video.

    Attributes:
        frames: [1, F, H, W, 3], float32 in [0, 1] for "np" and bytes for "uint8"; a list of one list of F images for
            "pil"; normalised latents [1, 16, T, h, w] for "latent".
    """

    frames: Any


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
        cls, pretrained_model_name_or_path: str | Path, torch_dtype: torch.dtype | None = None, **parts: Any
    ) -> "SteadyDancerPipeline":
        """Load a pipeline's folder or hub id by `load_components`, which also fits Wan's image encoder to ours.

        Args:
            pretrained_model_name_or_path: folder or hub id.
            torch_dtype: of all but the autoencoder, which stays float32.
            parts: parts (or a `negative_prompt`) to take instead of those stored.
        """
        source = pretrained_model_name_or_path
        loaded = load_components(source, [name for name in NAMES if name not in parts], torch_dtype)
        index = json.loads((resolve_folder(source) / "model_index.json").read_text())
        settings = {name: index[name] for name in ("negative_prompt",) if name in index}
        return cls(**(loaded | settings | parts))

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
        negative_pose_video: Clip | None = None,
        height: int | None = None,
        width: int | None = None,
        max_area_px: int = RELEASED_DRAWING_AREA_PX,
        num_frames: int = 81,
        num_inference_steps: int = 40,
        flow_shift: float | None = None,
        guidance_scale: float = 5.0,
        pose_guidance_scale: float = 1.0,
        pose_guidance_interval: tuple[float, float] = (0.1, 0.4),
        generator: torch.Generator | None = None,
        output_type: str = "np",
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> SteadyDancerOutput:
        """Make a video whose first frame is the image and whose motion is the pose's.

        Args:
            image: the person, uint8 RGB [H, W, 3] or PIL, of any size.
            pose_video: the motion, already aligned to the image: drawn frames (uint8 [F, h, w, 3] or PIL images) or
                keypoints. Or give `driving_video`.
            prompt: what happens.
            negative_prompt: what should not; None takes the pipeline's own.
            driving_video: frames of somebody moving; the pose is found by `pose_estimator` and aligned to the image.
            pose_estimator: as from `open_pose_estimator`; needed with `driving_video` only.
            negative_pose_video: the pose to steer away from. None: keypoints are perturbed as in the release, and
                drawn frames are stretched alike.
            height: of the video, a multiple of 16; None with `width` None follows the release's size rule.
            width: as `height`.
            max_area_px: area for the size rule.
            num_frames: F = 4k + 1; the first F frames of the motion are used.
            num_inference_steps: steps from noise to data.
            flow_shift: of the sigmas; None takes the scheduler's. 3.0 is released for 480p areas.
            guidance_scale: text guidance, 1 is none.
            pose_guidance_scale: pose guidance, 0 is none.
            pose_guidance_interval: share of the steps in which the pose guides, strict on both ends.
            generator: noise and perturbation come from it.
            output_type: "np", "uint8", "pil" or "latent", see `SteadyDancerOutput`.
            callback: called with (step, timestep, latents) after every step.

        Raises:
            ValueError: sizes, lengths or a combination of arguments that cannot be.
            DrivingError: (a ValueError) nobody is found in the image or in the driving video.
        """
        reference = as_frame(image)
        height, width = _video_size(reference, height, width, max_area_px)
        if num_frames % 4 != 1:
            raise ValueError(f"num_frames must be 4k + 1, such as 81, not {num_frames}.")
        if output_type not in ("np", "uint8", "pil", "latent"):
            raise ValueError(f"output_type must be np, uint8, pil or latent, not {output_type!r}.")
        motion = _motion(pose_video, driving_video, pose_estimator, num_frames, reference)
        device = self._execution_device
        latent_shape = (1, 16, (num_frames - 1) // 4 + 1, height // 8, width // 8)
        noise = randn_tensor(latent_shape, generator=generator, device=device, dtype=torch.float32)

        if pose_guidance_scale == 0:
            negative = None
        elif negative_pose_video is not None:
            negative = draw_motion(first_frames(negative_pose_video, num_frames), reference)
        else:
            negative = draw_negative_motion(motion, Perturbation.draw(num_frames, generator), reference)

        branches = self._encode(
            reference,
            draw_motion(motion, reference),
            negative,
            [prompt, self.config.negative_prompt if negative_prompt is None else negative_prompt],
            (height, width),
        )
        with self.progress_bar(total=num_inference_steps) as progress:

            def after_step(step: int, timestep: Tensor, latents: Tensor) -> None:
                progress.update()
                if callback is not None:
                    callback(step, timestep, latents)

            latents = denoise(
                branch_velocity(self.transformer, branches),
                noise,
                num_inference_steps=num_inference_steps,
                flow_shift=self.scheduler.config.flow_shift if flow_shift is None else flow_shift,
                guidance_scale=guidance_scale,
                pose_guidance_scale=pose_guidance_scale,
                pose_guidance_interval=pose_guidance_interval,
                callback=after_step,
            )
        frames = self._decode(latents, output_type)
        self.maybe_free_model_hooks()
        return SteadyDancerOutput(frames=frames)

    def _encode(
        self,
        image: Frames,
        pose_frames: Frames,
        negative_pose_frames: Frames | None,
        prompts: list[str],
        size: tuple[int, int],
    ) -> dict[Branch, Conditions]:
        """What every branch is told. The references' latents are first frames of the clips', so nobody encodes them."""
        prompt_embeds, negative_prompt_embeds = encode_prompt(self.text_encoder, self.tokenizer, prompts)
        num_frames = len(pose_frames)
        pose_latents, pose_image_embeds = encode_pose_condition(self.vae, self.image_encoder, pose_frames, *size)
        conditions = Conditions(
            image_latents=with_frame_mask(encode_image_condition(self.vae, image, num_frames, *size)[None]),
            pose_latents=pose_latents[None],
            image_embeds=encode_image(self.image_encoder, image)[None],
            pose_image_embeds=pose_image_embeds[None],
            prompt_embeds=prompt_embeds[None],
        )
        negative = pose_latents if negative_pose_frames is None else encode_video(self.vae, negative_pose_frames, *size)
        branches = branch_conditions(conditions, negative_prompt_embeds[None], negative[None])
        return {branch: told.to(self._execution_device) for branch, told in branches.items()}

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        unit = (decode_pixels(self.vae, latents[0]) + 1) / 2
        pixels = unit.permute(1, 2, 3, 0).cpu().numpy()
        if output_type == "np":
            return pixels[None]
        rounded = (pixels * 255).round().astype(np.uint8)
        return rounded[None] if output_type == "uint8" else [[Image.fromarray(frame) for frame in rounded]]


def _motion(
    pose_video: Clip | None,
    driving_video: Frames | Sequence[Image.Image] | None,
    pose_estimator: PoseEstimator | None,
    num_frames: int,
    image: Frames,
) -> PoseSequence | Frames:
    if pose_video is not None and driving_video is None:
        return first_frames(pose_video, num_frames)
    if driving_video is None or pose_video is not None:
        raise ValueError("Give either pose_video or driving_video.")
    if pose_estimator is None:
        raise ValueError("driving_video needs a pose_estimator, as from open_pose_estimator('blazepose').")
    return driven_pose(first_frames(driving_video, num_frames), image, pose_estimator)


def _video_size(image: Frames, height: int | None, width: int | None, max_area_px: int) -> tuple[int, int]:
    if height is None and width is None:
        return size_for_area(image.shape[0], image.shape[1], max_area_px)
    if height is None or width is None or height % 16 or width % 16:
        raise ValueError(f"Height and width must be given together as multiples of 16, not {height} and {width}.")
    return height, width
