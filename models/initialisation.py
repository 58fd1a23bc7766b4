"""Initial weights for training: a plain Wan's, plus new ones that do not change its output at first."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from .pose_modulation import PoseModulation

# Last layers of SSAE (two paths), TMCM (its third block) and FAAU.
_LAST_LAYERS = re.compile(
    r"pose_modulation\.(spatial\.conv|spatial\.conv_p|temporal\.2\.temporal|alignment\.proj_out)\."
)


def state_from_wan(model: Any, base: WanTransformer3DModel, copy: bool = True) -> dict[str, Tensor]:
    """Return all weights of `model`, a `SteadyDancerTransformer3DModel` of any variant: those of `base`, and new ones.

    The layers through which pose, pose reference and adapter reach the tokens start at zero. The fused embedding's
    channels for noise, mask and image are the base's. Layers before a zero layer are drawn from torch's global
    generator: two zero layers in a row would never learn. With `pose_fusion="latent_addition"` there is no such layer;
    instead the last layers of the pose modules start at zero, so that the base first reads z_c + z_p.

    Args:
        model: may be without storage (on the meta device).
        base: a Wan image-to-video transformer; new weights are float32, on its device.
        copy: copy the base's tensors instead of sharing them.
    """
    device = base.patch_embedding.weight.device
    state = {name: tensor.detach().clone() if copy else tensor for name, tensor in base.state_dict().items()}
    for name in model.pose_module_names:
        tensors = model.get_submodule(name).state_dict(prefix=f"{name}.")
        state |= {key: torch.zeros_like(tensor, device=device) for key, tensor in tensors.items()}
    for prefix, module in _random_modules(model).items():
        state |= module.to(device).state_dict(prefix=prefix)
    if model.config.pose_fusion == "latent_addition":
        state |= {key: torch.zeros_like(tensor) for key, tensor in state.items() if _LAST_LAYERS.match(key)}
    if model.config.pose_fusion == "concatenation":
        state["patch_embedding_fuse.weight"][:, : base.config.in_channels] = state["patch_embedding.weight"]
        state["patch_embedding_fuse.bias"][:] = state["patch_embedding.bias"]
        if getattr(model, "patch_embedding", None) is None:  # the fused embedding is the only one
            del state["patch_embedding.weight"], state["patch_embedding.bias"]
    return state


def _random_modules(model: Any) -> dict[str, nn.Module]:
    """Return prefix -> module for the modules that start with random weights."""
    config = model.config
    modules: dict[str, nn.Module] = {
        "pose_modulation.": PoseModulation(
            config.pose_channels,
            config.alignment_axis,
            config.pose_modulation_modules,
            temporal_kernel_size=config.temporal_kernel_size,
            start_gap_module=config.start_gap_module,
        )
    }
    if config.pose_fusion == "adapter":
        embedding = model.pose_adapter.patch_embedding.to_empty(device="cpu")
        embedding.reset_parameters()
        modules["pose_adapter.patch_embedding."] = embedding
    return modules
