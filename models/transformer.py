"""The network: diffusers' Wan 2.1 image-to-video transformer, conditioned on a pose.

The transformer blocks are unchanged. Only their inputs differ, and the output frames that are kept. Saved pipelines
name this module in `model_index.json`: it cannot be moved or renamed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin as ModelMixin  # diffusers looks up a component's base class in its module
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from .checkpoints.key_maps import POSE_MODULE_NAMES
from .checkpoints.quantisation import has_scales
from .checkpoints.transformer_files import (
    check_complete,
    checkpoint_shapes,
    create_empty,
    load_weights,
    read_transformer,
)
from .condition_reconciliation import (
    NUM_REFERENCE_FRAMES,
    FeatureFusion,
    PoseAdapter,
    PoseFusion,
    ReferenceEmbedding,
    add_pose,
    add_pose_latents,
    append_reference_frames,
    append_reference_latents,
    concatenate_poses,
    fuse,
    image_to_video_channels,
    image_tokens,
    pad_text,
    reference_image_channels,
)
from .conditions import MASK_CHANNELS, Conditions
from .diffusers_internals import ContextParallelInput
from .inference.branch_attention import BranchBlock, SelfAttention
from .inference.branch_evaluation import BranchInputs, evaluate_together
from .inference.step_caches import separate_contexts, with_attention_names
from .inference.step_memory import BlockContext, CrossAttention, StepMemory, compute_once
from .initialisation import state_from_wan
from .pose_modulation import POSE_MODULES, AlignmentAxis, PoseModulation, PoseModule
from .start_gap import StartGapModule, make_start_gap_module

# Context parallelism: the adapter's features are split along the tokens, as the tokens are.
_SPLIT_TOKENS = {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)}


class SteadyDancerTransformer3DModel(WanTransformer3DModel):
    """Wan 2.1 I2V with the Condition-Reconciliation Mechanism and the Synergistic Pose Modulation Modules.

    Arguments are those of `diffusers.WanTransformer3DModel` with the image-to-video defaults (`in_channels` 36,
    `image_dim` 1280; `added_kv_proj_dim` None means the model's width), and

    - `pose_channels`: channels of the pose latents;
    - `alignment_axis`: "temporal", as the released weights need, or "spatial", as printed;
    - `alignment_dropout`: probability of dropping an attention weight of the alignment unit in training;
    - `temporal_kernel_size`: frames that a temporal convolution of TMCM mixes: 3 (released), or 1, pointwise (printed);
    - `reference_embedding`: patch embeddings of the reference frames of Eq. 4: "separate" ones (released), or one
      "shared" with the video (printed);
    - `image_feature_fusion`: the tokens of the two image features as "sum" (released) or "concatenation" (printed).

    The paper's ablations (Table 3, Figure 12). A module that is off has no parameters and no effect:

    - `pose_modulation_modules`: the active ones of "spatial" (SSAE), "temporal" (TMCM) and "alignment" (FAAU);
    - `condition_augmentation`: whether there are the two reference frames and the second image feature (Eq. 4);
    - `pose_fusion`: "concatenation" (Eq. 3), "latent_addition" (Eq. 2: pose latents are added to the image's, without
      new parameters), "addition" (the pose has its own embedding, which is added to the embedded video) or "adapter"
      (pose features are added after every block);
    - `start_gap_module`: "none", or one of appendix B.1's alternatives to pose simulation: "warping", "generator" or
      "mapping" (`start_gap`). A stage 3 adds it to the network of its parent (`add_start_gap_module`).
    """

    _repeated_blocks = ["BranchBlock"]  # noqa: RUF012
    _no_split_modules = ["BranchBlock"]  # noqa: RUF012
    _cp_plan: dict[str, Any] = WanTransformer3DModel._cp_plan
    _keep_in_fp32_modules = [*WanTransformer3DModel._keep_in_fp32_modules, "pose_modulation"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = [  # noqa: RUF012
        *WanTransformer3DModel._skip_layerwise_casting_patterns,
        "pose_modulation",
        "pose_adapter",
    ]

    keeps_keys_and_values = True  # of the context, in a step memory: 1.3 GB at 14B; False computes them in each step

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int = 1280,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        pose_channels: int = 16,
        alignment_axis: AlignmentAxis = "temporal",
        alignment_dropout: float = 0.0,
        pose_modulation_modules: Sequence[PoseModule] = POSE_MODULES,
        condition_augmentation: bool = True,
        pose_fusion: PoseFusion = "concatenation",
        image_feature_fusion: FeatureFusion = "sum",
        temporal_kernel_size: int = 3,
        reference_embedding: ReferenceEmbedding = "separate",
        start_gap_module: StartGapModule = "none",
    ) -> None:
        if pos_embed_seq_len is not None:
            raise ValueError(
                f"pos_embed_seq_len must be None, not {pos_embed_seq_len}: it joins two images into one embedding, but "
                "this model embeds each image separately"
            )
        inner_dim = num_attention_heads * attention_head_dim
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim or inner_dim,
            rope_max_seq_len=rope_max_seq_len,
        )

        def patch_embedding(channels: int) -> nn.Conv3d:
            return nn.Conv3d(channels, inner_dim, kernel_size=patch_size, stride=patch_size)

        self.pose_modulation = PoseModulation(
            pose_channels,
            alignment_axis,
            pose_modulation_modules,
            alignment_dropout,
            temporal_kernel_size,
            start_gap_module,
        )
        joined_channels = self.pose_modulation.out_channels
        if pose_fusion == "concatenation":
            self.patch_embedding_fuse = patch_embedding(in_channels + joined_channels)
        elif pose_fusion == "addition":
            self.pose_patch_embedding = patch_embedding(joined_channels)
        elif pose_fusion == "latent_addition":
            if pose_channels != in_channels - MASK_CHANNELS - out_channels:
                raise ValueError(
                    f"pose_fusion 'latent_addition' adds the pose latents to the image latents: pose_channels must be "
                    f"{in_channels - MASK_CHANNELS - out_channels}, not {pose_channels}"
                )
        elif pose_fusion == "adapter":
            self.pose_adapter = PoseAdapter(joined_channels, inner_dim, num_layers, patch_size)
            self._cp_plan = {**self._cp_plan, "pose_adapter": _SPLIT_TOKENS}
        else:
            raise ValueError(
                f"pose_fusion must be 'concatenation', 'addition', 'latent_addition' or 'adapter', not {pose_fusion!r}"
            )
        if reference_embedding not in ("separate", "shared"):
            raise ValueError(f"reference_embedding must be 'separate' or 'shared', not {reference_embedding!r}")
        if image_feature_fusion not in ("sum", "concatenation"):
            raise ValueError(f"image_feature_fusion must be 'sum' or 'concatenation', not {image_feature_fusion!r}")
        if condition_augmentation and reference_embedding == "separate":
            self.patch_embedding_ref_c = patch_embedding(pose_channels)
        elif pose_fusion == "concatenation":
            del self.patch_embedding  # not used: the video has its own embedding, which the image reference shares
        for block in self.blocks:
            block.attn1.set_processor(SelfAttention())
            block.attn2.set_processor(CrossAttention())
            block.__class__ = BranchBlock  # the same block, which also takes a list of branches

    @property
    def pose_module_names(self) -> tuple[str, ...]:
        """Names of the child modules with parameters that Wan does not have; every stage trains them in full."""
        holding = {name.split(".")[0] for name, _ in self.named_parameters()}
        return tuple(name for name in POSE_MODULE_NAMES if name in holding)

    def add_start_gap_module(self, kind: StartGapModule) -> None:
        """Add one of appendix B.1's alternatives to pose simulation to a network that has none.

        Raises:
            ValueError: the network has one.
        """
        if self.config.start_gap_module not in ("none", kind):
            raise ValueError(f"the network has the start gap module {self.config.start_gap_module!r} already")
        if self.config.start_gap_module == kind:
            return
        module = make_start_gap_module(kind, self.config.pose_channels)
        assert module is not None
        like = self.patch_embedding_fuse if hasattr(self, "patch_embedding_fuse") else self.proj_out
        self.pose_modulation.start_gap = module.to(like.weight.device, self.pose_modulation.dtype or like.weight.dtype)
        self.register_to_config(start_gap_module=kind)

    @classmethod
    def from_wan(
        cls, base: WanTransformer3DModel, *, copy: bool = True, **kwargs: Any
    ) -> SteadyDancerTransformer3DModel:
        """Start from a plain Wan image-to-video transformer.

        The layers that add the pose to the tokens start at zero (`state_from_wan`). At step 0 the output differs from
        that of `base` only by the two extra frames and the second image feature, and without condition augmentation not
        at all. With `pose_fusion="latent_addition"` there is no such layer: at step 0 the base reads z_c + z_p instead
        of z_c.

        Args:
            base: a Wan 2.1 image-to-video transformer.
            copy: copy its tensors. False shares them, which needs the memory of one network only; do not use `base`
                after.
            kwargs: arguments of this class that Wan does not have.

        Raises:
            ValueError: `base` does not take an image.
        """
        if base.config.in_channels != 36 or base.config.image_dim is None:
            raise ValueError(
                f"base is not a Wan 2.1 image-to-video transformer: in_channels is {base.config.in_channels} (must be "
                f"36), image_dim is {base.config.image_dim} (1280 in the released models)"
            )
        config = {name: value for name, value in base.config.items() if not name.startswith("_")}
        with init_empty_weights():
            model = cls(**{**config, **kwargs})
        model.load_state_dict(state_from_wan(model, base, copy), assign=True)
        return model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any
    ) -> SteadyDancerTransformer3DModel:
        """Load as diffusers does; a folder with quantised weights (`checkpoints.quantisation`) keeps them quantised.

        Of such a folder, only the arguments `subfolder` and `torch_dtype` or `dtype` are used.

        Raises:
            ValueError: `device_map` for quantised weights.
            CheckpointError: quantised weights are damaged.
        """
        folder = Path(pretrained_model_name_or_path or "") / (kwargs.get("subfolder") or "")
        if not (folder.is_dir() and has_scales(folder)):
            loaded: SteadyDancerTransformer3DModel = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
            return loaded
        if kwargs.get("device_map") is not None:
            raise ValueError(f"device_map cannot be used with the quantised weights of {folder}: move the loaded model")
        return cls.from_single_file(folder, torch_dtype=kwargs.get("torch_dtype") or kwargs.get("dtype"))

    @classmethod
    def from_single_file(
        cls,
        file: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        num_attention_heads: int | None = None,
        **unknown: Any,
    ) -> SteadyDancerTransformer3DModel:
        """Load a local SteadyDancer file, or the index of its shards, with the released key names or diffusers'.

        The names are mapped by `checkpoints.key_maps`; diffusers' converter would rename keys inside the pose modules.

        Raises:
            ValueError: an argument of diffusers' method that is not supported.
            CheckpointError: the file does not fit.
        """
        if unknown:
            raise ValueError(
                f"from_single_file takes a local file, torch_dtype and num_attention_heads, not {sorted(unknown)}"
            )
        opened = read_transformer(file, "steadydancer", num_attention_heads)
        model = create_empty(cls, opened.config)
        check_complete(opened, checkpoint_shapes(model, opened.layout))
        loaded: SteadyDancerTransformer3DModel = load_weights(model, opened, torch_dtype)
        return loaded

    def enable_cache(self, config: Any) -> None:
        """Enable one of diffusers' step caches; each `cache_context` (a guidance branch) has its own state.

        Raises:
            ValueError: the network has a pose adapter, which adds to the output of every block, also of skipped ones.
        """
        if self.config.pose_fusion == "adapter":
            raise ValueError(
                "a step cache cannot be used with pose_fusion 'adapter': it skips blocks, and the adapter adds the "
                "pose after each of them"
            )
        super().enable_cache(with_attention_names(config))
        separate_contexts(self)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor,
        encoder_hidden_states_pose_image: Tensor,
        image_latents: Tensor,
        pose_latents: Tensor,
        reference_latents: Tensor | None = None,
        reference_pose_latents: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        step_memory: StepMemory | None = None,
        alignment_seeds: Sequence[int] | None = None,
        branches: BranchInputs | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor, ...]:
        """Return the velocity ε − x0 at the noisy latents: sample [B,16,T,H,W].

        Args:
            hidden_states: noisy latents [B,16,T,H,W].
            timestep: [B] in 0..1000.
            encoder_hidden_states: text features [B,L,text_dim], L ≤ 512.
            encoder_hidden_states_image: features of the reference image [B,257,image_dim].
            encoder_hidden_states_pose_image: features of the first pose frame [B,257,image_dim].
            image_latents: [B,20,T,H,W], 4 mask channels, then 16.
            pose_latents: [B,16,T,H,W].
            reference_latents: [B,16,1,H,W]; None takes the first frame of `image_latents`.
            reference_pose_latents: [B,16,1,H,W]; None takes the first frame of `pose_latents`.
            attention_kwargs: as in diffusers; `scale` scales LoRA adapters.
            return_dict: False returns the tuple (sample,).
            step_memory: for sampling loops, without gradients. The first call stores values that do not depend on
                `hidden_states` and `timestep`, later calls reuse them; their conditions must be the same.
            alignment_seeds: in training with `alignment_dropout`, B numbers that seed the samples' dropout masks.
            branches: guidance branches to evaluate together, see `branch_evaluation`; returns one sample each, and the
                other conditions and `step_memory` are not read.
        """
        if step_memory is not None and torch.is_grad_enabled():
            raise ValueError("step_memory keeps results without their gradients: call under torch.no_grad()")
        _, patch_height, patch_width = self.config.patch_size
        height, width = hidden_states.shape[3:]
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"height and width of the latents must be multiples of {patch_height} and {patch_width}, not "
                f"{height} and {width}"
            )
        if branches is not None:
            return evaluate_together(self, hidden_states, timestep, branches)
        conditions = Conditions(
            image_latents,
            pose_latents,
            encoder_hidden_states_image,
            encoder_hidden_states_pose_image,
            encoder_hidden_states,
            reference_latents,
            reference_pose_latents,
        )
        rotary_emb = self.rotary_tables(hidden_states, step_memory)
        tokens, pose_features = self.embed_tokens(hidden_states, conditions, step_memory, alignment_seeds)
        temb, timestep_proj, contexts = self.embed_context(timestep, conditions, step_memory)
        for i, (block, context) in enumerate(zip(self.blocks, contexts, strict=True)):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, context, timestep_proj, rotary_emb)
            else:
                tokens = block(tokens, context, timestep_proj, rotary_emb)
            tokens = self.inject_pose(i, tokens, pose_features)
        sample = self.to_sample(tokens, temb, hidden_states)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    @property
    def _num_reference_frames(self) -> int:
        return NUM_REFERENCE_FRAMES if self.config.condition_augmentation else 0

    @property
    def _dtype_of_tokens(self) -> torch.dtype:
        # One dtype for the tokens: latents (float32 in the sampler) and pose modules may have others.
        dtype: torch.dtype = self.blocks[0].attn1.norm_q.weight.dtype
        return dtype

    def num_tokens(self, latents: Tensor) -> int:
        """Return the number of tokens of a clip and its reference frames; of latents [B,16,T,H,W] the shape is read."""
        _, patch_height, patch_width = self.config.patch_size
        num_frames, height, width = latents.shape[2:]
        return (num_frames + self._num_reference_frames) * (height // patch_height) * (width // patch_width)

    def rotary_tables(self, hidden_states: Tensor, memory: StepMemory | None) -> tuple[Tensor, Tensor]:
        """Return cosines and sines for the tokens of the video and its reference frames."""
        num_frames = hidden_states.shape[2] + self._num_reference_frames
        frames = hidden_states[:, :, :1].expand(-1, -1, num_frames, -1, -1)  # only the shape is read
        return compute_once({} if memory is None else memory.grid, "rotary_emb", lambda: self.rope(frames))

    def embed_tokens(
        self,
        hidden_states: Tensor,
        conditions: Conditions,
        memory: StepMemory | None,
        alignment_seeds: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens [B,N,D] of the video and its reference frames, and the adapter's pose features, if any."""
        fused_pose = compute_once(
            {} if memory is None else memory.pose,
            "fused_pose",
            lambda: self.pose_modulation.fuse(conditions.pose_latents),
        )
        pose = concatenate_poses(fused_pose, self.pose_modulation.align(hidden_states, fused_pose, alignment_seeds))
        adapts = self.config.pose_fusion == "adapter"
        pose_features = self.pose_adapter(pose, self._num_reference_frames) if adapts else None
        tokens = self._embed_patches(hidden_states, conditions, pose)
        return tokens.to(self._dtype_of_tokens).flatten(2).transpose(1, 2).contiguous(), pose_features

    def embed_context(
        self, timestep: Tensor, conditions: Conditions, memory: StepMemory | None
    ) -> tuple[Tensor, Tensor, list[Tensor | BlockContext]]:
        """Return the embedded time [B,D], its projection [B,6,D], and the cross-attention's context for each block."""
        dtype = self._dtype_of_tokens
        # Skip the text embedding once every block has cached its cross-attention keys and values.
        known = memory is not None and "blocks" in memory.context
        prompt = conditions.prompt_embeds[:, :0] if known else pad_text(conditions.prompt_embeds)
        temb, timestep_proj, text, _ = self.condition_embedder(timestep, prompt.to(dtype))

        def contexts() -> list[Tensor | BlockContext]:
            images = image_tokens(
                self.condition_embedder.image_embedder,
                conditions.image_embeds.to(dtype),
                conditions.pose_image_embeds.to(dtype) if self.config.condition_augmentation else None,
                self.config.image_feature_fusion,
            )
            context = torch.cat([images, text], dim=1)
            if memory is None:
                return [context for _ in self.blocks]
            return [BlockContext(context, self.keeps_keys_and_values) for _ in self.blocks]

        known_contexts = compute_once({} if memory is None else memory.context, "blocks", contexts)
        return temb, timestep_proj.unflatten(1, (6, -1)), known_contexts

    def to_sample(self, tokens: Tensor, temb: Tensor, hidden_states: Tensor) -> Tensor:
        """Return the velocity [B,16,T,H,W] from the last block's tokens; of `hidden_states` only the shape is read."""
        num_frames, height, width = hidden_states.shape[2:]
        shift, scale = (self.scale_shift_table.to(temb.device) + temb.unsqueeze(1)).to(tokens.device).chunk(2, dim=1)
        tokens = self.proj_out((self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        return self._unpatchify(tokens, height, width)[:, :, :num_frames]

    def _embed_patches(self, hidden_states: Tensor, conditions: Conditions, pose: Tensor) -> Tensor:
        """Eq. 4: embed the video and the reference frames as tokens [B,D,T+2,H/2,W/2] (T without augmentation).

        `pose` [B,32,T,H,W]: p* and p† of Eq. 5, or p* alone, 16 channels.
        """
        image_latents = conditions.image_latents
        reference_latents, reference_pose_latents = conditions.reference_latents, conditions.reference_pose_latents
        if not self.config.condition_augmentation:
            return self._embed_frames(hidden_states, image_latents, pose)
        if reference_latents is None:
            reference_latents = image_latents[:, MASK_CHANNELS:, :1]
        if reference_pose_latents is None:
            reference_pose_latents = conditions.pose_latents[:, :, :1]
        if self.config.reference_embedding == "shared":
            return self._embed_frames(
                *append_reference_latents(hidden_states, image_latents, pose, reference_latents, reference_pose_latents)
            )
        return append_reference_frames(
            self._embed_frames(hidden_states, image_latents, pose),
            _embed(self.patch_embedding, reference_image_channels(reference_latents)),
            _embed(self.patch_embedding_ref_c, reference_pose_latents),
        )

    def _embed_frames(self, hidden_states: Tensor, image_latents: Tensor, pose: Tensor) -> Tensor:
        """Eq. 2 and 3: embed frames as tokens [B,D,T,H/2,W/2]; all three inputs have T frames."""
        if self.config.pose_fusion == "concatenation":
            return _embed(self.patch_embedding_fuse, fuse(hidden_states, image_latents, pose))
        if self.config.pose_fusion == "latent_addition":
            return _embed(self.patch_embedding, add_pose_latents(hidden_states, image_latents, pose))
        video = _embed(self.patch_embedding, image_to_video_channels(hidden_states, image_latents))
        if self.config.pose_fusion == "addition":
            return add_pose(video, _embed(self.pose_patch_embedding, pose))
        return video

    def inject_pose(self, index: int, tokens: Tensor, pose_features: Tensor | None) -> Tensor:
        """Add the adapter's pose features after the block `index`; without an adapter, return the tokens unchanged."""
        return tokens if pose_features is None else self.pose_adapter.inject(index, tokens, pose_features)

    def _unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Unpatchify tokens [B,N,out] to latents [B,16,T+2,H,W]; `out` is ordered (height, width, channel)."""
        _, patch_height, patch_width = self.config.patch_size
        rows, columns = height // patch_height, width // patch_width
        grid = tokens.unflatten(2, (patch_height, patch_width, -1)).unflatten(1, (-1, rows, columns))
        # [B, T+2, rows, columns, patch_height, patch_width, C] -> channels first, patch sizes next to the grid's.
        return grid.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def _embed(patch_embedding: nn.Conv3d, channels: Tensor) -> Tensor:
    # New embeddings may be trained in float32 while the frozen ones are bfloat16.
    return patch_embedding(channels.to(patch_embedding.weight.dtype))
