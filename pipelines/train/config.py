"""Configuration of one training stage. Importing this module loads pydantic and nothing heavier.

Each description names the source of its default: *paper* (a number the paper gives) or *choice* (nothing is published;
`docs/paper.md` has the reason).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stage = Literal[1, 2, 3]

# Defaults per stage. Steps and learning rates: paper. Sharding: choice (all 16 B parameters need ZeRO-3).
STAGE_DEFAULTS: dict[int, dict[str, Any]] = {
    1: {"steps": 12_000, "learning_rate": 1e-4, "zero_stage": 2},
    2: {"steps": 2_000, "learning_rate": 1e-6, "zero_stage": 3},
    3: {"steps": 500, "learning_rate": 1e-4, "zero_stage": 2},
}


# Fields that define the network. Stage 1 creates it; stages 2 and 3 must use the same values.
NETWORK_FIELDS = (
    "alignment_axis",
    "pose_modulation_modules",
    "condition_augmentation",
    "pose_fusion",
    "image_feature_fusion",
    "temporal_kernel_size",
    "reference_embedding",
    "start_gap_module",
)


class GalleryConfig(BaseModel):
    """Videos of validation clips, rendered during training from the weights of some steps, for people to compare.

    A clip is rendered from its cached conditions, at the size and number of frames that training uses. The negative
    prompt is the cached empty prompt; the negative pose is perturbed as in the release.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_clips: int = Field(
        0, ge=0, description="validation clips in a gallery; 0 disables galleries (choice: they cost GPU time)"
    )
    every_steps: int = Field(
        500,
        ge=1,
        description="steps between galleries; their trained weights are kept. The last step always has a gallery",
    )
    num_inference_steps: int = Field(40, ge=1, description="sampling steps per clip (release)")
    guidance_scale: float = Field(5.0, ge=0, description="w_txt of Eq. 7 (release)")
    pose_guidance_scale: float = Field(1.0, ge=0, description="w_pose of Eq. 8 (paper)")
    seed: int = Field(
        106060,
        ge=0,
        lt=2**64,
        description="seed of noise and negative poses, the same in every gallery (release's README)",
    )
    num_gpus: float = Field(
        1.0,
        gt=0,
        description="GPUs of the rendering worker, in addition to those for training; without use_gpu, one CPU core",
    )
    max_seconds: float = Field(
        7200.0,
        gt=0,
        description="time limit for rendering one gallery, in seconds, not counting the wait for a GPU (choice)",
    )


class TrainConfig(BaseModel):
    """One stage of SteadyDancer's curriculum; `TrainConfig(stage=n)` is the paper's stage n.

    Stage 1 is action supervision (LoRA), stage 2 condition-decoupled distillation (all parameters), stage 3 motion
    discontinuity mitigation by pose simulation (LoRA).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stage: Stage = Field(description="stage of the curriculum")
    num_frames: int = Field(81, ge=5, description="pixel frames of a clip, 4k + 1 (paper)")
    steps: int = Field(ge=1, description="optimizer steps of the stage (paper: 12,000 / 2,000 / 500)")
    seed: int = Field(
        0, ge=0, lt=2**64, description="seed of initial weights, order, noise, σ, dropouts and pose simulation"
    )

    continue_stage: bool = Field(
        False,
        description="start from a checkpoint of the same stage, with a new optimizer, instead of the previous stage's "
        "(choice)",
    )

    learning_rate: float = Field(gt=0, description="rate after warm-up (paper: 1e-4 / 1e-6 / 1e-4)")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up (choice)")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="rate after warm-up: constant, or half a cosine that falls to 0 at the end of the stage (choice)",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: torch's Muon for the matrices of the blocks and their LoRA, AdamW for all others (choice)",
    )
    muon_learning_rate: float | None = Field(
        None, gt=0, description="Muon's rate, with the same schedule; null: `learning_rate` (choice)"
    )
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="Muon's Nesterov momentum (choice)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's β1, β2 (choice)")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of AdamW and Muon (choice)")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the moving average of the trained weights that checkpoint and galleries get; 0: the "
        "weights of the last step (choice)",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this global L2 norm (choice)")

    global_batch_size: int = Field(8, ge=1, description="clips per optimizer step over all workers (choice: 1 per GPU)")
    gradient_accumulation: int = Field(1, ge=1, description="micro-batches per worker and optimizer step (choice)")
    num_workers: int = Field(8, ge=0, description="Ray Train workers (paper: 8 GPUs); 0 trains in this process")
    use_gpu: bool = Field(True, description="use one GPU per worker (NCCL); otherwise CPU (gloo)")
    max_restarts: int = Field(
        0, ge=0, description="number of times Ray restarts a failed worker group from the newest training state"
    )
    bundle: bool = Field(
        False,
        description="copy the frozen components into the checkpoint; off: its record names their folder and digests",
    )
    zero_stage: Literal[2, 3] = Field(description="DeepSpeed ZeRO stage (choice: 2 with LoRA, 3 for all parameters)")
    offload_optimizer: bool = Field(
        False, description="keep the optimizer state in host memory (choice; stage 2 on 8 × 80 GB needs it)"
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="compute dtype; trained weights keep a float32 copy (choice)"
    )
    gradient_checkpointing: bool = Field(
        True, description="activation checkpointing: recompute each block's activations in the backward pass (choice)"
    )
    keep_attention_outputs: bool = Field(
        False,
        description="do not recompute self-attention: 14 % fewer operations, 2 × the activation memory (choice)",
    )
    offload_activations: bool = Field(
        False, description="keep the inputs that gradient_checkpointing saves in host memory; bit-identical (choice)"
    )
    merge_text_padding: bool = Field(
        False,
        description="attend to the text's equal padding rows once, with the weight of all of them; exact up to "
        "rounding, and for small networks on CPUs faster (choice)",
    )
    shard_teacher: bool = Field(
        True,
        description="shard stage 2's frozen teacher over the workers as ZeRO-3 shards the student, and gather each "
        "layer when it runs; off: a full copy on every GPU; bit-identical either way (choice)",
    )

    trained_weights: Literal["by_stage", "lora", "all"] = Field(
        "by_stage",
        description="`by_stage`: LoRA and the pose modules in stages 1 and 3, all weights in stage 2 (paper); `lora`, "
        "`all`: these in any stage. A LoRA whose rank is near the network's width takes longer than all weights",
    )
    lora_rank: int = Field(128, ge=1, description="rank of the LoRA of stages 1 and 3 (choice)")
    lora_alpha: int = Field(128, ge=1, description="the LoRA update is scaled by alpha / rank (choice: alpha = rank)")
    lora_targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"),
        min_length=1,
        description="suffixes of the block modules that get LoRA (choice: q, k, v, o of both attentions, FFN)",
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
        description="branch of the student that stage 2 compares with the teacher: without pose (Eq. 6, paper), or "
        "with pose (the ablation, which collapses)",
    )
    uncond_text: Literal["same", "empty"] = Field(
        "same", description="text of Eq. 6's unconditional branches, in teacher and student (choice)"
    )

    pose_simulation_targets: tuple[int, ...] = Field(
        (2, 3, 4), min_length=1, description="stage 3 draws T* uniformly from these (paper)"
    )
    pose_simulation_probability: float = Field(
        0.5, ge=0, le=1, description="probability that a sample's pose is simulated (paper)"
    )
    pose_simulation_unit: Literal["frame", "latent"] = Field(
        "frame", description="T* counts pixel frames of the skeleton, or latent frames of its latents (choice)"
    )
    alignment_axis: Literal["temporal", "spatial"] = Field(
        "temporal",
        description="axis of FAAU's attention: as in the released weights (temporal) or in the paper's text (choice)",
    )

    pose_modulation_modules: tuple[Literal["spatial", "temporal", "alignment"], ...] = Field(
        ("spatial", "temporal", "alignment"), description="SSAE, TMCM and FAAU; fewer are the paper's ablations"
    )
    condition_augmentation: bool = Field(True, description="Eq. 4; False is the paper's ablation")
    pose_fusion: Literal["concatenation", "addition", "latent_addition", "adapter"] = Field(
        "concatenation",
        description="Eq. 3 (concatenation), or the paper's ablations: add the embedded pose, add its latents to the "
        "image's (Eq. 2), or inject it into the blocks (adapter)",
    )
    image_feature_fusion: Literal["sum", "concatenation"] = Field(
        "sum", description="fusion of the two image features: as in the released weights (sum) or in the paper's text"
    )
    temporal_kernel_size: Literal[3, 1] = Field(
        3,
        description="frames of TMCM's temporal kernel: 3 as in the released weights, or 1 as in the paper's text",
    )
    reference_embedding: Literal["separate", "shared"] = Field(
        "separate",
        description="patch embeddings of Eq. 4's frames: as in the released weights (separate) or in the paper",
    )
    start_gap_module: Literal["none", "warping", "generator", "mapping"] = Field(
        "none",
        description="appendix B.1's alternatives to pose simulation (none: paper); stage 3 may add one to its parent",
    )

    alignment_dropout: float = Field(
        0.0, ge=0, lt=1, description="attention dropout inside FAAU (choice; the release's modules have 0.1)"
    )

    checkpoint_every_steps: int = Field(250, ge=1, description="steps between saved training states (choice)")
    keep_checkpoints: int = Field(2, ge=1, description="training states to keep; older ones are removed (choice)")
    asynchronous_checkpoints: bool = Field(
        True, description="copy a training state to host memory and write it while training continues (choice)"
    )
    evaluation_samples: int = Field(
        16,
        ge=0,
        description="number of fixed (clip, noise, σ) triples on which the loss is measured before and after the stage",
    )
    validation_share: float = Field(
        0.02, ge=0, lt=1, description="share of the sources held out from training, chosen by hash (choice)"
    )
    validation_clips: int = Field(8, ge=1, description="maximum number of held-out clips to measure (choice)")
    validation_sigmas: tuple[float, ...] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9), min_length=1, description="σ at which each validation clip is measured (choice)"
    )
    validation_every_steps: int = Field(
        500, ge=1, description="steps between measurements of the validation loss (choice)"
    )
    gallery: GalleryConfig = Field(GalleryConfig(), description="videos rendered while the stage trains")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        ("tensorboard",),
        description="experiment trackers that receive the metrics, in addition to metrics.jsonl (choice)",
    )
    profile: bool = Field(
        False,
        description="synchronise with the GPU after each part of a step, so that the metrics contain each part's "
        "share; slower, bit-identical (choice)",
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
            raise ValueError(f"validation_sigmas must be in (0, 1], got {self.validation_sigmas}")
        if self.gallery.num_clips > self.validation_clips:
            raise ValueError(
                f"gallery.num_clips {self.gallery.num_clips} must be at most validation_clips {self.validation_clips}: "
                "galleries show the first validation clips"
            )
        if self.keep_attention_outputs and not self.gradient_checkpointing:
            raise ValueError("keep_attention_outputs requires gradient_checkpointing")
        if self.offload_activations and not self.gradient_checkpointing:
            raise ValueError("offload_activations requires gradient_checkpointing")
        counted = self.num_latent_frames if self.pose_simulation_unit == "latent" else self.num_frames
        if min(self.pose_simulation_targets) < 2 or max(self.pose_simulation_targets) >= counted:
            raise ValueError(
                f"pose_simulation_targets must be in 2..{counted - 1} ({self.pose_simulation_unit} frames after the "
                f"first), got {self.pose_simulation_targets}"
            )
        return self

    @property
    def num_latent_frames(self) -> int:
        """T = (num_frames − 1) / 4 + 1."""
        return (self.num_frames - 1) // 4 + 1

    @property
    def micro_batch_size(self) -> int:
        """Clips per forward pass of one worker."""
        return self.global_batch_size // (max(self.num_workers, 1) * self.gradient_accumulation)

    @property
    def trains_lora(self) -> bool:
        """Return whether the stage trains LoRA and the pose modules (by stage: 1, 3) instead of all weights (2)."""
        return self.stage != 2 if self.trained_weights == "by_stage" else self.trained_weights == "lora"
