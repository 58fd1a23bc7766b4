"""The network: diffusers' Wan 2.1 image-to-video transformer, told what pose to follow.

The transformer blocks are untouched. Only what is fed in differs, and which output frames are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from .condition_reconciliation import (
    NUM_REFERENCE_FRAMES,
    append_reference_frames,
    fuse,
    image_tokens,
    pad_text,
    reference_image_channels,
)
from .conditions import MASK_CHANNELS
from .pose_modulation import AlignmentAxis, PoseModulation
from .step_memory import BlockContext, CrossAttention, StepMemory, once


class SteadyDancerTransformer3DModel(WanTransformer3DModel):
    """Wan 2.1 I2V with the Condition-Reconciliation Mechanism and the Synergistic Pose Modulation Modules.

    Arguments are those of `diffusers.WanTransformer3DModel` with the image-to-video defaults (36 channels in,
    `image_dim` 1280, `added_kv_proj_dim` None meaning the model's width), and

    - `pose_channels`: channels of the pose latents;
    - `alignment_axis`: "temporal", which the released weights need, or "spatial", as the paper words it.
    """

    # What Wan does not have; trained in full in every stage.
    pose_module_names = ("patch_embedding_fuse", "patch_embedding_ref_c", "pose_modulation")

    _keep_in_fp32_modules = [*WanTransformer3DModel._keep_in_fp32_modules, "pose_modulation"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = [  # noqa: RUF012
        *WanTransformer3DModel._skip_layerwise_casting_patterns,
        "pose_modulation",
    ]

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
    ) -> None:
        if pos_embed_seq_len is not None:
            raise ValueError(
                "pos_embed_seq_len joins two images into one embedding, here each has its own: leave it None"
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
        fused_channels = in_channels + 2 * pose_channels
        self.patch_embedding_fuse = nn.Conv3d(fused_channels, inner_dim, kernel_size=patch_size, stride=patch_size)
        self.patch_embedding_ref_c = nn.Conv3d(pose_channels, inner_dim, kernel_size=patch_size, stride=patch_size)
        self.pose_modulation = PoseModulation(pose_channels, alignment_axis)
        for block in self.blocks:
            block.attn2.set_processor(CrossAttention())

    @classmethod
    def from_wan(cls, base: WanTransformer3DModel, **kwargs: Any) -> SteadyDancerTransformer3DModel:
        """Start from a plain Wan image-to-video transformer; its tensors are copied, `kwargs` are our own arguments.

        The fused embedding begins as the pretrained one with zeros for the pose channels, the pose reference's
        embedding is zero and the pose modules are drawn from torch's global generator. So the video's first tokens are
        those of `base`, and step 0 differs from it by the two extra frames and the second image feature only.
        Raises ValueError if `base` does not take an image.
        """
        if base.config.in_channels != 36 or base.config.image_dim is None:
            raise ValueError(
                f"not a Wan 2.1 image-to-video transformer: in_channels {base.config.in_channels} (36 wanted), "
                f"image_dim {base.config.image_dim} (1280 in the released ones)"
            )
        config = {name: value for name, value in base.config.items() if not name.startswith("_")}
        with init_empty_weights():
            model = cls(**{**config, **kwargs})
        patch = base.patch_embedding
        state = {name: tensor.detach().clone() for name, tensor in base.state_dict().items()}
        state["patch_embedding_fuse.weight"] = torch.zeros_like(
            model.patch_embedding_fuse.weight, device=patch.weight.device
        )
        state["patch_embedding_fuse.weight"][:, : patch.in_channels] = patch.weight.detach()
        state["patch_embedding_fuse.bias"] = patch.bias.detach().clone()
        for name, parameter in model.patch_embedding_ref_c.named_parameters(prefix="patch_embedding_ref_c"):
            state[name] = torch.zeros_like(parameter, device=patch.weight.device)
        pose_modulation = PoseModulation(model.config.pose_channels, model.config.alignment_axis)
        state |= pose_modulation.to(patch.weight.device).state_dict(prefix="pose_modulation.")
        model.load_state_dict(state, assign=True)
        return model

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
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity ε − x0 at the noisy latents.

        hidden_states [B,16,T,H,W]; timestep [B] in 0..1000; encoder_hidden_states [B,L,text_dim], L ≤ 512;
        encoder_hidden_states_image and encoder_hidden_states_pose_image [B,257,image_dim]: features of the reference
        image and of the first pose; image_latents [B,20,T,H,W]: 4 mask channels, then 16; pose_latents [B,16,T,H,W];
        reference_latents and reference_pose_latents [B,16,1,H,W], None: first frame of the clips before them.
        step_memory, in sampling loops: what does not depend on hidden_states and timestep is put there by the first
        call and taken from there by the next ones, whose conditions must be the same; without gradients only.
        Returns sample [B,16,T,H,W].
        """
        if step_memory is not None and torch.is_grad_enabled():
            raise ValueError("step_memory keeps results between calls, through which no gradient flows: use no_grad")
        num_frames, height, width = hidden_states.shape[2:]
        _, patch_height, patch_width = self.config.patch_size
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"latents of {height}x{width}: height and width must divide by {patch_height}x{patch_width}"
            )
        memory = StepMemory() if step_memory is None else step_memory
        # One dtype for the tokens, whatever the latents' (float32 in the sampler) and the pose modules' are.
        dtype = self.patch_embedding.weight.dtype

        # Only the shape is read: the grid of the video and its two reference frames.
        frames = hidden_states[:, :, :1].expand(-1, -1, num_frames + NUM_REFERENCE_FRAMES, -1, -1)
        rotary_emb = once(memory.grid, "rotary_emb", lambda: self.rope(frames))
        fused_pose = once(memory.pose, "fused_pose", lambda: self.pose_modulation.fuse(pose_latents))
        tokens = self._embed_patches(
            hidden_states, image_latents, pose_latents, fused_pose, reference_latents, reference_pose_latents
        )
        tokens = tokens.to(dtype).flatten(2).transpose(1, 2).contiguous()
        # Words that every block has its keys and values of need not be embedded again: none are given.
        known = "blocks" in memory.context
        prompt = encoder_hidden_states[:, :0] if known else pad_text(encoder_hidden_states)
        temb, timestep_proj, text, _ = self.condition_embedder(timestep, prompt.to(dtype))
        timestep_proj = timestep_proj.unflatten(1, (6, -1))

        def contexts() -> list[Tensor] | list[BlockContext]:
            images = image_tokens(
                self.condition_embedder.image_embedder,
                encoder_hidden_states_image.to(dtype),
                encoder_hidden_states_pose_image.to(dtype),
            )
            context = torch.cat([images, text], dim=1)
            return [context if step_memory is None else BlockContext(context) for _ in self.blocks]

        for block, context in zip(self.blocks, once(memory.context, "blocks", contexts), strict=True):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, context, timestep_proj, rotary_emb)
            else:
                tokens = block(tokens, context, timestep_proj, rotary_emb)

        shift, scale = (self.scale_shift_table.to(temb.device) + temb.unsqueeze(1)).to(tokens.device).chunk(2, dim=1)
        tokens = self.proj_out((self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        sample = self._unpatchify(tokens, height, width)[:, :, :num_frames]
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _embed_patches(
        self,
        hidden_states: Tensor,
        image_latents: Tensor,
        pose_latents: Tensor,
        fused_pose: Tensor,
        reference_latents: Tensor | None,
        reference_pose_latents: Tensor | None,
    ) -> Tensor:
        """Eq. 3, 4 and 5: the tokens of the video and of the two reference frames, [B,D,T+2,H/2,W/2]."""
        if reference_latents is None:
            reference_latents = image_latents[:, MASK_CHANNELS:, :1]
        if reference_pose_latents is None:
            reference_pose_latents = pose_latents[:, :, :1]
        aligned_pose = self.pose_modulation.align(hidden_states, fused_pose)
        return append_reference_frames(
            _embed(self.patch_embedding_fuse, fuse(hidden_states, image_latents, fused_pose, aligned_pose)),
            _embed(self.patch_embedding, reference_image_channels(reference_latents)),
            _embed(self.patch_embedding_ref_c, reference_pose_latents),
        )

    def _unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Tokens [B,N,out] -> latents [B,16,T+2,H,W]; a token's outputs run (height, width, channel)."""
        _, patch_height, patch_width = self.config.patch_size
        rows, columns = height // patch_height, width // patch_width
        grid = tokens.unflatten(2, (patch_height, patch_width, -1)).unflatten(1, (-1, rows, columns))
        # [B, T+2, rows, columns, patch_height, patch_width, C] -> channel first, each patch beside its cell.
        return grid.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def _embed(patch_embedding: nn.Conv3d, channels: Tensor) -> Tensor:
    # The new embeddings may be trained in float32 beside frozen bfloat16 ones.
    return patch_embedding(channels.to(patch_embedding.weight.dtype))
