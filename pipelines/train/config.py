"""Configuration of one training stage. Importing this module loads pydantic and nothing heavier.

The source of each default stands in its description: *paper* (a number the paper gives) or *choice* (nothing is
published; `docs/paper.md` has the reason).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stage = Literal[1, 2, 3]

# What differs between the stages. Steps and learning rates: paper. Sharding: choice (all 16 B parameters need ZeRO-3).
STAGE_DEFAULTS: dict[int, dict[str, Any]] = {
    1: {"steps": 12_000, "learning_rate": 1e-4, "zero_stage": 2},
    2: {"steps": 2_000, "learning_rate": 1e-6, "zero_stage": 3},
    3: {"steps": 500, "learning_rate": 1e-4, "zero_stage": 2},
}


# Fields that decide which network it is: stage 1 makes it, stages 2 and 3 must not ask for another.
NETWORK_FIELDS = (
    "alignment_axis",
    "pose_modulation_modules",
    "condition_augmentation",
    "pose_fusion",
    "image_feature_fusion",
    "temporal_kernel_size",
    "reference_embedding",
)


class GalleryConfig(BaseModel):
    """Videos of validation clips, made beside the training from the weights of some steps, for people to compare.

    A clip is rendered from its cached conditions: at the size, and for as many frames, as it is trained at. The
    negative prompt is the empty one, which is cached; the negative pose is perturbed as in the release.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_clips: int = Field(0, ge=0, description="validation clips in a gallery; 0: no galleries (choice: they cost)")
    every_steps: int = Field(
        500, ge=1, description="steps between two galleries, whose trained weights are kept; the last step has one too"
    )
    num_inference_steps: int = Field(40, ge=1, description="sampling steps of a clip (release)")
    guidance_scale: float = Field(5.0, ge=0, description="w_txt of Eq. 7 (release)")
    pose_guidance_scale: float = Field(1.0, ge=0, description="w_pose of Eq. 8 (paper)")
    seed: int = Field(
        106060, ge=0, lt=2**64, description="of noise and negative poses, the same in every gallery (release's README)"
    )
    num_gpus: float = Field(
        1.0, gt=0, description="GPUs of the worker that renders, beside the training's; without use_gpu it takes a core"
    )
    max_seconds: float = Field(
        7200.0, gt=0, description="seconds that rendering one gallery may take, waiting for a GPU not counted (choice)"
    )


class TrainConfig(BaseModel):
    """One stage of SteadyDancer's curriculum; `TrainConfig(stage=n)` is the paper's stage n.

    Stage 1 is action supervision (LoRA), stage 2 condition-decoupled distillation (all parameters), stage 3 motion
    discontinuity mitigation by pose simulation (LoRA).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stage: Stage = Field(description="stage of the curriculum")
    num_frames: int = Field(81, ge=5, description="pixel frames of a clip, 4k + 1 (paper)")
    steps: int = Field(ge=1, description="optimizer steps of the whole stage (paper: 12,000 / 2,000 / 500)")
    seed: int = Field(
        0, ge=0, lt=2**64, description="seed of initial weights, order, noise, σ, dropouts and pose simulation"
    )

    learning_rate: float = Field(gt=0, description="constant rate after warm-up (paper: 1e-4 / 1e-6 / 1e-4)")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up (choice)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's β1, β2 (choice)")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay (choice)")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this global L2 norm (choice)")

    global_batch_size: int = Field(8, ge=1, description="clips per optimizer step over all workers (choice: 1 a GPU)")
    gradient_accumulation: int = Field(1, ge=1, description="micro-batches of a worker per optimizer step (choice)")
    num_workers: int = Field(8, ge=0, description="Ray Train workers (paper: 8 GPUs); 0 trains in this process")
    use_gpu: bool = Field(True, description="one GPU a worker (NCCL); otherwise CPU (gloo)")
    max_restarts: int = Field(0, ge=0, description="times Ray starts a fallen worker group again from the newest state")
    bundle: bool = Field(
        False, description="copy the frozen parts into the checkpoint; off: its record names their folder and digests"
    )
    zero_stage: Literal[2, 3] = Field(description="DeepSpeed ZeRO stage (choice: 2 with LoRA, 3 for all parameters)")
    offload_optimizer: bool = Field(False, description="optimizer state in host memory (choice; 8 × 80 GB: stage 2)")
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="compute; trained weights keep a float32 copy (choice)"
    )
    gradient_checkpointing: bool = Field(True, description="recompute each block's activations in backward (choice)")
    keep_attention_outputs: bool = Field(
        False,
        description="recompute a block without its self-attention: 14 % fewer operations, 2 × the kept memory (choice)",
    )
    offload_activations: bool = Field(
        False, description="what gradient_checkpointing keeps waits in host memory; the same bits (choice)"
    )
    shard_teacher: bool = Field(
        True,
        description="stage 2's frozen teacher is cut up among the workers as ZeRO-3 cuts the student, and each layer "
        "brought together for its turn; off: whole on every GPU; the same bits (choice)",
    )

    lora_rank: int = Field(128, ge=1, description="rank of the LoRA of stages 1 and 3 (choice)")
    lora_alpha: int = Field(128, ge=1, description="LoRA update is scaled by alpha / rank (choice: alpha = rank)")
    lora_targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"),
        min_length=1,
        description="ends of module names inside the blocks that get LoRA (choice: q, k, v, o of both attentions, FFN)",
    )

    flow_shift: float = Field(5.0, gt=0, description="σ = s·u / (1 + (s − 1)·u) with u uniform in [0, 1) (choice)")
    loss_weighting: Literal["none", "gaussian"] = Field(
        "none", description="weight of a sample's loss over σ: 1, or exp(−2(σ − ½)²) shifted to 0, mean 1 (choice)"
    )
    text_dropout: float = Field(0.1, ge=0, le=1, description="probability of the empty prompt (choice)")
    pose_dropout: float = Field(0.05, ge=0, le=1, description="probability of the null pose, a black clip (choice)")

    distillation_weight: float = Field(1.0, ge=0, description="λ of Eq. 6, stage 2 (choice)")
    distillation: Literal["condition_decoupled", "normal"] = Field(
        "condition_decoupled",
        description="what stage 2 holds to the teacher: the student without pose (Eq. 6, paper), or, as its ablation, "
        "the student that follows the pose, which collapses",
    )
    uncond_text: Literal["same", "empty"] = Field(
        "same", description="text of Eq. 6's unconditional branches, teacher's and student's (choice)"
    )

    pose_simulation_targets: tuple[int, ...] = Field(
        (2, 3, 4), min_length=1, description="T* is drawn uniformly from these, stage 3 (paper)"
    )
    pose_simulation_probability: float = Field(0.5, ge=0, le=1, description="share of simulated samples (paper)")
    pose_simulation_unit: Literal["frame", "latent"] = Field(
        "frame", description="T* counts pixel frames of the skeleton, or latent frames of its latents (choice)"
    )
    alignment_axis: Literal["temporal", "spatial"] = Field(
        "temporal", description="axis of FAAU's attention: as in the released weights, or as the paper's text (choice)"
    )

    pose_modulation_modules: tuple[Literal["spatial", "temporal", "alignment"], ...] = Field(
        ("spatial", "temporal", "alignment"), description="SSAE, TMCM and FAAU; fewer are the paper's ablations"
    )
    condition_augmentation: bool = Field(True, description="Eq. 4; False is the paper's ablation")
    pose_fusion: Literal["concatenation", "addition", "latent_addition", "adapter"] = Field(
        "concatenation",
        description="Eq. 3, or the paper's ablations: the embedded pose added, its latents added to the image's "
        "(Eq. 2), or injection into the blocks",
    )
    image_feature_fusion: Literal["sum", "concatenation"] = Field(
        "sum", description="tokens of the two image features: as in the released weights, or as the paper's text"
    )
    temporal_kernel_size: Literal[3, 1] = Field(
        3, description="frames of TMCM's temporal kernel: as in the released weights, or pointwise, as the paper's text"
    )
    reference_embedding: Literal["separate", "shared"] = Field(
        "separate", description="patch embeddings of Eq. 4's frames: as in the released weights, or as the paper prints"
    )

    alignment_dropout: float = Field(
        0.0, ge=0, lt=1, description="attention dropout inside FAAU (choice; the release's modules have 0.1)"
    )

    checkpoint_every_steps: int = Field(250, ge=1, description="steps between two saved engine states (choice)")
    keep_checkpoints: int = Field(2, ge=1, description="engine states kept; older ones are removed (choice)")
    asynchronous_checkpoints: bool = Field(
        True, description="copy an engine state to host memory and write it while training goes on (choice)"
    )
    evaluation_samples: int = Field(
        16, ge=0, description="fixed (clip, noise, σ) on which the objective is measured before and after; 0: none"
    )
    validation_share: float = Field(
        0.02, ge=0, lt=1, description="share of the sources that is never trained on, by hash (choice)"
    )
    validation_clips: int = Field(8, ge=1, description="clips of those sources that are measured, at most (choice)")
    validation_sigmas: tuple[float, ...] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9), min_length=1, description="σ at which each of them is measured (choice)"
    )
    validation_every_steps: int = Field(
        500, ge=1, description="steps between two measurements, in the metrics (choice)"
    )
    gallery: GalleryConfig = Field(GalleryConfig(), description="what is rendered while the stage trains")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        ("tensorboard",), description="who is told of the metrics beside metrics.jsonl (choice)"
    )
    profile: bool = Field(
        False,
        description="wait for the GPU after each part of a step, so that the metrics have the share of each; slower, "
        "the same bits (choice)",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_stage_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**STAGE_DEFAULTS.get(values.get("stage", 0), {}), **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.num_frames % 4 != 1:
            raise ValueError(f"num_frames must be 4k + 1 (the VAE takes 4 frames at a time), got {self.num_frames}")
        ranks = max(self.num_workers, 1)
        if self.global_batch_size % (ranks * self.gradient_accumulation):
            raise ValueError(
                f"global_batch_size {self.global_batch_size} must be a multiple of num_workers × gradient_accumulation "
                f"= {ranks} × {self.gradient_accumulation}"
            )
        if not all(0 < sigma <= 1 for sigma in self.validation_sigmas):
            raise ValueError(f"validation_sigmas must lie in (0, 1], got {self.validation_sigmas}")
        if self.gallery.num_clips > self.validation_clips:
            raise ValueError(
                f"gallery.num_clips {self.gallery.num_clips} are more than validation_clips {self.validation_clips}, "
                "of which they are the first"
            )
        if self.keep_attention_outputs and not self.gradient_checkpointing:
            raise ValueError("keep_attention_outputs says what gradient_checkpointing spares: it needs it on")
        if self.offload_activations and not self.gradient_checkpointing:
            raise ValueError("offload_activations moves what gradient_checkpointing keeps: it needs it on")
        counted = self.num_latent_frames if self.pose_simulation_unit == "latent" else self.num_frames
        if min(self.pose_simulation_targets) < 2 or max(self.pose_simulation_targets) >= counted:
            raise ValueError(
                f"pose_simulation_targets must lie in 2..{counted - 1} ({self.pose_simulation_unit} frames after the "
                f"first), got {self.pose_simulation_targets}"
            )
        return self

    @property
    def num_latent_frames(self) -> int:
        """T = (num_frames − 1) / 4 + 1."""
        return (self.num_frames - 1) // 4 + 1

    @property
    def micro_batch_size(self) -> int:
        """Clips in one forward pass of one worker."""
        return self.global_batch_size // (max(self.num_workers, 1) * self.gradient_accumulation)

    @property
    def trains_lora(self) -> bool:
        """Stages 1 and 3 train LoRA and the pose modules, stage 2 all parameters."""
        return self.stage != 2
