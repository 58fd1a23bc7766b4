"""Where training begins: a plain Wan's weights, and new ones that change nothing yet."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from .pose_modulation import PoseModulation

# Of SSAE (two paths), the third block of TMCM, and FAAU.
_LAST_LAYERS = re.compile(
    r"pose_modulation\.(spatial\.conv|spatial\.conv_p|temporal\.2\.temporal|alignment\.proj_out)\."
)


def state_from_wan(model: Any, base: WanTransformer3DModel, copy: bool = True) -> dict[str, Tensor]:
    """All weights of `model`, a `SteadyDancerTransformer3DModel` of any variant: a Wan's (or copies), and new ones.

    The layers through which pose, pose reference and adapter reach the tokens are zero, the fused embedding's channels
    of noise, mask and image are the base's. What comes before a zero layer is drawn from torch's global generator: two
    zeros in a row would never learn. Where pose latents are added to the image's there is no such layer, and the last
    ones of the pose modules are zero: z_c + z_p is read at first. `model` itself may be without storage; new weights
    are float32, on the base's device.
    """
    device = base.patch_embedding.weight.device
    state = {name: tensor.detach().clone() if copy else tensor for name, tensor in base.state_dict().items()}
    for name in model.pose_module_names:
        tensors = model.get_submodule(name).state_dict(prefix=f"{name}.")
        state |= {key: torch.zeros_like(tensor, device=device) for key, tensor in tensors.items()}
    for prefix, module in _drawn(model).items():
        state |= module.to(device).state_dict(prefix=prefix)
    if model.config.pose_fusion == "latent_addition":
        state |= {key: torch.zeros_like(tensor) for key, tensor in state.items() if _LAST_LAYERS.match(key)}
    if model.config.pose_fusion == "concatenation":
        state["patch_embedding_fuse.weight"][:, : base.config.in_channels] = state["patch_embedding.weight"]
        state["patch_embedding_fuse.bias"][:] = state["patch_embedding.bias"]
        if getattr(model, "patch_embedding", None) is None:  # the fused embedding is then the only one
            del state["patch_embedding.weight"], state["patch_embedding.bias"]
    return state


def _drawn(model: Any) -> dict[str, nn.Module]:
    """Prefix -> module, for those that begin at random."""
    config = model.config
    modules: dict[str, nn.Module] = {
        "pose_modulation.": PoseModulation(
            config.pose_channels,
            config.alignment_axis,
            config.pose_modulation_modules,
            temporal_kernel_size=config.temporal_kernel_size,
        )
    }
    if config.pose_fusion == "adapter":
        embedding = model.pose_adapter.patch_embedding.to_empty(device="cpu")
        embedding.reset_parameters()
        modules["pose_adapter.patch_embedding."] = embedding
    return modules
