"""Configuration of a rendering job."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...datasets.video.writer import Chroma
from ...models.modes import Mode, get_mode
from ...models.parallel.processes import check_processes

FROZEN = ("vae", "text_encoder", "tokenizer", "image_encoder", "scheduler")
# Fields that state where and in which portions a job runs, and not what it makes.
WORKERS = ("motion_workers", "encode_workers", "write_workers")
RESOURCES = ("num_gpus", "packet_size", *WORKERS)


class RenderConfig(BaseModel):
    """How pairs are rendered. Defaults are the released settings; where paper and release differ, both are named."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    components: str | None = Field(
        None, description="folder or hub id of the VAE and encoders; null: those in the checkpoint's record"
    )
    mode: str = Field(
        "exact",
        description="`exact`, `fast`, `fast:THRESHOLD`, `fast:distilled`, `low_memory` or `low_memory:BLOCKS`; changes "
        "only settings that are at their default",
    )
    distilled_lora: str | None = Field(
        None, description="few-step LoRA for mode `fast:distilled`: a file, folder, or OWNER/NAME/FILE on the hub"
    )
    num_frames: int | None = Field(
        81, ge=5, description="frames to render, 4k + 1 (paper); null: as many as the driving video has"
    )
    window_frames: int = Field(81, ge=5, description="window length for longer videos in frames, 4k + 1 (paper)")
    window_overlap: int = Field(20, ge=0, description="frames that neighbouring windows share, a multiple of 4 (ours)")
    window_opening: Literal["reference", "tail", "none"] = Field(
        "reference",
        description="opening of later windows: the image, the last picture before them, or nothing (ours)",
    )
    max_area_px: int = Field(
        1024 * 576, ge=32 * 32, description="area of the video; the aspect ratio is the image's (paper: 768²)"
    )
    drawing_area_px: int = Field(1024 * 576, ge=32 * 32, description="skeletons are drawn at twice this size (release)")
    num_inference_steps: int = Field(40, ge=1, description="denoising steps (release)")
    guidance_scale: float = Field(5.0, ge=0, description="text guidance, w_txt of Eq. 7 (release)")
    pose_guidance_scale: float = Field(
        1.0, ge=0, description="pose guidance, w_pose of Eq. 8 (paper and release's README; its command line: 1.5)"
    )
    pose_guidance_interval: tuple[float, float] = Field(
        (0.1, 0.4), description="open interval of the steps with pose guidance, in `pose_guidance_unit` (release)"
    )
    pose_guidance_unit: Literal["step", "timestep"] = Field(
        "step", description="unit of the interval: share of the steps (release), or t / 1000 (as the paper states)"
    )
    negative_pose_shift: bool = Field(
        False, description="also shift the negative pose, up to a fifth of the picture (paper: yes, release: no)"
    )
    solver: Literal["unipc", "dpm++"] = Field(
        "unipc", description="UniPC (release) or DPM-Solver++ (optional in the release)"
    )
    flow_shift: float = Field(5.0, gt=0, description="shift of the sigma grid (release; 3.0 for 480p areas)")
    negative_prompt: str | None = Field(None, description="null: the pipeline's default")
    seed: int = Field(106060, ge=0, lt=2**64, description="seed of noise and negative pose (release's README)")
    num_seeds: int = Field(
        1, ge=1, le=1000, description="videos per pair: the seed of the pair, and those that follow it"
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="dtype of transformer and encoders"
    )
    branch_evaluation: Literal["sequential", "interleaved", "batched"] = Field(
        "interleaved",
        description="guidance branches of a step: one after another, together block by block (same bits, less time), "
        "or in one batch (the last bits may differ)",
    )
    parallel: Literal["guidance", "context"] | None = Field(
        None, description="how several processes sample a video: by guidance branches or by tokens; null: one process"
    )
    num_processes: int = Field(
        1, ge=1, description="processes that sample a video, with a GPU each unless `num_gpus` is 0; see `parallel`"
    )
    park_context_projections: bool = Field(
        False, description="keep the context's key and value projections on the CPU: 26 % less GPU memory for weights"
    )
    driving_fps: float | None = Field(
        None, gt=0, description="resample the driving video to this rate; null: its own rate"
    )
    fps: int = Field(16, ge=1, description="frame rate of the written video (release)")
    crf: int = Field(18, ge=0, le=51, description="H.264's constant rate factor of the written video; fewer is better")
    chroma: Chroma = Field(
        "4:2:0", description="`4:4:4` keeps the colours of small pictures sharp, but some browsers cannot play it"
    )
    sound: Literal["none", "keep"] = Field(
        "none", description="`keep`: add the driving video's sound for the rendered span, at the speed of the video"
    )
    main_person_only: bool = Field(False, description="drive only the main person (release); otherwise all people")
    on_missing_reference: Literal["keep", "raise"] = Field(
        "raise",
        description="without a person in the image to align to: `raise`: reject the pair, or `keep` the pose unaligned",
    )
    first_pose: Literal["driving", "reference"] = Field(
        "driving",
        description="pose of frame 0: the driving video's (release), or that of the person in the image, from which "
        "`start_gap_module` bridges to the motion",
    )
    pose_model: str = Field(
        "auto", description="`blazepose`, `dwpose`, `animal`, `supplied`, or `auto`: supplied, else the best available"
    )
    num_gpus: float = Field(
        0.0,
        ge=0,
        description="GPUs of one worker of each kind, or with `parallel` of each process: up to 1, encoding, denoising "
        "and writing share it as .1, .8, .1; with more, or a mode that offloads, one worker does all three; 0 renders "
        "on the CPU",
    )
    motion_workers: int | None = Field(
        None, ge=1, description="workers that find poses; null: on a machine with GPUs, as many as those that denoise"
    )
    encode_workers: int | None = Field(
        None, ge=1, description="workers that encode, of the share of a GPU in `num_gpus`; null: one for eight GPUs"
    )
    write_workers: int | None = Field(
        None, ge=1, description="workers that decode and write, of the share in `num_gpus`; null: one for eight GPUs"
    )
    packet_size: int = Field(1, ge=1, description="pairs per packet, the unit of retry")

    @model_validator(mode="before")
    @classmethod
    def _take_settings_of_mode(cls, given: Any) -> Any:
        """Set the fields that the mode changes; one that differs from its default is kept."""
        if not isinstance(given, dict) or not isinstance(given.get("mode", ""), str):
            return given
        settings = get_mode(given.get("mode", cls.model_fields["mode"].default)).settings
        at_default = {
            name: value for name, value in settings.items()
            if given.get(name, cls.model_fields[name].default) == cls.model_fields[name].default
        }  # fmt: skip
        return {**given, **at_default}

    @property
    def rendering_mode(self) -> Mode:
        """Return what `mode` changes."""
        return get_mode(self.mode)

    @property
    def kept_settings(self) -> dict[str, Any]:
        """Fields that the mode would change, but which were set to something else: their values."""
        return {
            name: getattr(self, name)
            for name, value in self.rendering_mode.settings.items()
            if getattr(self, name) != value
        }

    @model_validator(mode="after")
    def _check(self) -> "RenderConfig":
        for name, frames in (("num_frames", self.num_frames), ("window_frames", self.window_frames)):
            if frames is not None and frames % 4 != 1:
                raise ValueError(f"{name} must be 4k + 1 (the VAE takes 4 frames at a time), got {frames}")
        if self.window_overlap % 4 or self.window_overlap >= self.window_frames - 1:
            raise ValueError(
                f"window_overlap must be a multiple of 4 below window_frames - 1 ({self.window_frames - 1}), "
                f"got {self.window_overlap}"
            )
        check_processes(self.parallel, self.num_processes)
        if self.parallel is not None and self.num_gpus not in (0, 1):
            raise ValueError(
                f"with `parallel`, num_gpus must be 0 or 1, the GPUs of each process, not {self.num_gpus:g}"
            )
        if self.rendering_mode.cache_threshold is not None:
            if self.branch_evaluation == "batched":
                raise ValueError(f"mode {self.mode} decides for each guidance branch: use another branch_evaluation")
            if self.parallel == "context":
                raise ValueError(
                    f"mode {self.mode} decides by all tokens, of which each process has a part: use parallel 'guidance'"
                )
        low, high = self.pose_guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"pose_guidance_interval must be (low, high) with 0 <= low < high <= 1, got {(low, high)}")
        return self

    @property
    def gpus_per_worker(self) -> float:
        """GPUs of one worker of each kind, for all of its processes."""
        return self.num_gpus * self.num_processes

    @property
    def works_in_turn(self) -> bool:
        """Return whether one worker encodes, denoises and writes on its GPUs: several, or one with little memory."""
        return self.gpus_per_worker > 1 or (self.num_gpus > 0 and self.rendering_mode.offloads)
