"""DC-CFG, condition-decoupled classifier-free guidance (Eq. 7 and 8): text and pose are guided separately.

Branches: "conditional" (prompt and pose), "negative_text" (negative prompt, pose), "negative_pose" (prompt,
perturbed pose).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from .conditions import Conditions
from .diffusers_internals import reset_step_caches
from .inference.step_memory import share_memory

Branch = Literal["conditional", "negative_text", "negative_pose"]
BranchVelocity = Callable[[Tensor, Tensor, Branch], Tensor]


def in_pose_guidance_interval(share: float, interval: tuple[float, float]) -> bool:
    """Return whether low < share < high, strictly. Released: share = i / n at step i of n, in steps and not in σ."""
    low, high = interval
    return low < share < high


def needed_branches(guidance_scale: float, pose_guidance_scale: float, pose_guided: bool) -> list[Branch]:
    """Return the branches whose velocity enters `guide`; a branch with weight zero is not evaluated."""
    branches: list[Branch] = ["conditional"]
    if guidance_scale != 1:
        branches.append("negative_text")
    if pose_guided and pose_guidance_scale != 0:
        branches.append("negative_pose")
    return branches


def guide(velocities: Mapping[Branch, Tensor], guidance_scale: float, pose_guidance_scale: float) -> Tensor:
    """Eq. 7 and 8: v = v_n + w_txt (v_c − v_n), and inside the interval + w_pose (v_c − v_p).

    v_c, v_n, v_p -> `velocities` of "conditional", "negative_text", "negative_pose" [B,16,T,H,W]; w_txt ->
    `guidance_scale`, w_pose -> `pose_guidance_scale`. A missing branch adds nothing.
    """
    v_c = velocities["conditional"]
    v = v_c
    if "negative_text" in velocities:
        v_n = velocities["negative_text"]
        v = v_n + guidance_scale * (v_c - v_n)
    if "negative_pose" in velocities:
        v = v + pose_guidance_scale * (v_c - velocities["negative_pose"])
    return v


def branch_conditions(
    conditions: Conditions, negative_prompt_embeds: Tensor, negative_pose_latents: Tensor
) -> dict[Branch, Conditions]:
    """Build the conditions of each branch from the positive `conditions`. Members not named here stay positive.

    negative_prompt_embeds [B,L,Dt]; negative_pose_latents [B,16,T,H,W]: the perturbed pose clip. As released, its first
    frame does not become the pose reference, and the image feature of the first pose stays the positive one.
    """
    reference = conditions.reference_pose_latents
    return {
        "conditional": conditions,
        "negative_text": conditions.replace(prompt_embeds=negative_prompt_embeds),
        "negative_pose": conditions.replace(
            pose_latents=negative_pose_latents,
            reference_pose_latents=conditions.pose_latents[:, :, :1] if reference is None else reference,
        ),
    }


def branch_velocity(
    transformer: Any, branches: Mapping[Branch, Conditions], use_step_memory: bool = True
) -> BranchVelocity:
    """Wrap a `SteadyDancerTransformer3DModel` for `denoise`: (latents, timestep [B], branch) -> velocity.

    Use it for one sampling loop. Values that do not depend on the step are computed at their first use and kept
    (`step_memory`); `use_step_memory=False` computes them in every step, to the same bits. Each branch has its own
    context in diffusers' step caches.
    """
    memories = share_memory(branches) if use_step_memory else {}
    reset_step_caches(transformer)  # entries of an earlier sampling loop must not be reused

    def velocity(latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        with transformer.cache_context(branch):
            return transformer(
                latents,
                timestep,
                **branches[branch].model_arguments(),
                step_memory=memories.get(branch),
                return_dict=False,
            )[0]

    return velocity
