"""Recognise models other than Wan 2.1 image-to-video transformers by the names and shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from .files import Checkpoint, CheckpointError
from .key_maps import POSE_MODULE_NAMES, Shape, known_official, known_ours

# Prefixes of tensors that plain Wan does not have, in the official and in diffusers' layout.
POSE_KEYS = ("condition_embedding_", *(f"{name}." for name in POSE_MODULE_NAMES))
_IMAGE_EMBEDDERS = ("img_emb.", "condition_embedder.image_embedder.")
_ADVICE = (
    "Supported bases: Wan 2.1 I2V 14B (480P or 720P), and 1.3B models with 36 input channels and an image embedding."
)


def reject_unsupported_models(checkpoint: Checkpoint) -> None:
    """Raise an error with the reason if a checkpoint is not a Wan 2.1 image-to-video transformer.

    Raises:
        CheckpointError: it is text-to-video, Wan 2.2, a LoRA, quantised, or not a Wan transformer.
    """
    names, shapes = list(checkpoint.tensors), checkpoint.shapes
    reason = _reason(names, shapes)
    if reason is not None:
        raise CheckpointError(f"{checkpoint.source} cannot be used: {reason}. {_ADVICE}")


def _reason(names: list[str], shapes: Mapping[str, Shape]) -> str | None:
    def has(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    if has(".lora_", ".lora.", "_lora.", "lora_unet_", "lycoris_", ".lokr_", ".hada_", ".diff_b"):
        return "it is a LoRA; add it to a transformer with `steadydancer.models.lora.loading.load_lora`"
    if has("scaled_fp8", ".scale_weight", ".weight_scale", ".scale_input", ".absmax"):
        return "its weights are quantised with separate scales, and only unquantised weights are supported"
    if not (known_official(names) or known_ours(names)):
        begin = ", ".join(names[:3]) or "no tensors"
        return f"it contains no Wan transformer ({begin})"
    if has("vace_blocks", "vace_patch_embedding"):
        return "it is a VACE model, which is conditioned by a second stack of blocks"
    if has("motion_encoder", "face_adapter", "casual_audio_encoder", "audio_injector"):
        return "it is a Wan 2.2 model driven by faces or audio"
    if has("img_emb.emb_pos", "image_embedder.pos_embed"):
        return "it is a first-and-last-frame model, which embeds two images together"
    patch = shapes.get("patch_embedding.weight", ())
    channels = patch[1] if len(patch) == 5 else 36
    takes_image = any(name.startswith(_IMAGE_EMBEDDERS) for name in names)
    if channels == 16:
        return "it is a text-to-video model: it has 16 input channels; an image-to-video model has 36"
    if channels == 48:
        return (
            "it has 48 input channels, like control models and Wan 2.2 TI2V 5B (which has its own autoencoder); "
            "Wan 2.1 I2V has 36: noise, mask and image latents"
        )
    if channels != 36:
        return f"it has {channels} input channels; Wan 2.1 I2V has 36: noise, mask and image latents"
    is_pose = any(name.startswith(POSE_KEYS) for name in names)
    if not takes_image and not is_pose and not has(".k_img.", ".add_k_proj."):
        return (
            "it has 36 input channels but no image embedding, like the experts of Wan 2.2 I2V A14B; the poses need "
            "that embedding too"
        )
    return None
