"""Which files are no Wan 2.1 image-to-video transformer, and what they are instead: by names and shapes of tensors."""

from __future__ import annotations

from collections.abc import Mapping

from .files import Checkpoint, CheckpointError
from .key_maps import POSE_MODULE_NAMES, Shape, known_official, known_ours

# How names of tensors that Wan does not have begin, officially and in diffusers' layout.
POSE_KEYS = ("condition_embedding_", *(f"{name}." for name in POSE_MODULE_NAMES))
_IMAGE_EMBEDDERS = ("img_emb.", "condition_embedder.image_embedder.")
_ADVICE = (
    "The bases that fit are Wan 2.1 I2V 14B (480P or 720P) and the 1.3B models that take 36 channels and an image."
)


def refuse_other_models(checkpoint: Checkpoint) -> None:
    """Refuse what is not a Wan 2.1 image-to-video transformer, with the reason.

    Raises:
        CheckpointError: it is text-to-video, a Wan 2.2, a LoRA, quantised, or no Wan transformer at all.
    """
    names, shapes = list(checkpoint.tensors), checkpoint.shapes
    reason = _reason(names, shapes)
    if reason is not None:
        raise CheckpointError(f"{checkpoint.source} cannot be used here: {reason}. {_ADVICE}")


def _reason(names: list[str], shapes: Mapping[str, Shape]) -> str | None:
    def has(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    if has(".lora_", ".lora.", "_lora.", "lora_unet_", "lycoris_", ".lokr_", ".hada_", ".diff_b"):
        return "it is a LoRA, which `steadydancer.models.lora.loading.load_lora` adds to a transformer"
    if has("scaled_fp8", ".scale_weight", ".weight_scale", ".scale_input", ".absmax"):
        return "its weights are quantised with scales beside them, and only plain ones are read"
    if not (known_official(names) or known_ours(names)):
        begin = ", ".join(names[:3]) or "no tensors"
        return f"it holds no Wan transformer ({begin})"
    if has("vace_blocks", "vace_patch_embedding"):
        return "it is a VACE model, which is steered by a second stack of blocks"
    if has("motion_encoder", "face_adapter", "casual_audio_encoder", "audio_injector"):
        return "it is a Wan 2.2 model that is driven by faces or sound"
    if has("img_emb.emb_pos", "image_embedder.pos_embed"):
        return "it is a first-and-last-frame model, which joins two images into one embedding"
    patch = shapes.get("patch_embedding.weight", ())
    channels = patch[1] if len(patch) == 5 else 36
    takes_image = any(name.startswith(_IMAGE_EMBEDDERS) for name in names)
    if channels == 16:
        return "it is a text-to-video model: it takes 16 channels, and an image-to-video one takes 36"
    if channels == 48:
        return (
            "it takes 48 channels, as Wan 2.2 TI2V 5B (which has an autoencoder of its own) and control models do, and "
            "Wan 2.1 I2V takes 36: noise, mask and image latents"
        )
    if channels != 36:
        return f"it takes {channels} channels, and Wan 2.1 I2V takes 36: noise, mask and image latents"
    is_pose = any(name.startswith(POSE_KEYS) for name in names)
    if not takes_image and not is_pose and not has(".k_img.", ".add_k_proj."):
        return (
            "it takes 36 channels but no image embedding, as one of the two experts of Wan 2.2 I2V A14B, and the poses "
            "are told by that embedding too"
        )
    return None
