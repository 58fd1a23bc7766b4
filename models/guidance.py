"""DC-CFG, condition-decoupled classifier-free guidance (Eq. 7 and 8): text and pose are guided separately.

Branches: "conditional" (prompt and pose), "negative_text" (negative prompt, pose), "negative_pose" (prompt,
perturbed pose).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from .conditions import Conditions
from .diffusers_internals import group_offload_unit, reset_step_caches
from .inference.branch_evaluation import (
    BranchEvaluation,
    BranchInputs,
    must_be_sequential,
    require_no_step_cache,
    shared_inputs,
)
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


def evaluate(
    velocity: BranchVelocity, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]
) -> dict[Branch, Tensor]:
    """Return the velocity of each branch: by one call of `velocity.many`, if it has that, else by a call for each."""
    many = getattr(velocity, "many", None)
    if many is None:
        return {branch: velocity(latents, timestep, branch) for branch in branches}
    velocities: dict[Branch, Tensor] = many(latents, timestep, branches)
    return velocities


def branch_velocity(
    transformer: Any,
    branches: Mapping[Branch, Conditions],
    use_step_memory: bool = True,
    branch_evaluation: BranchEvaluation = "interleaved",
) -> BranchVelocity:
    """Wrap a `SteadyDancerTransformer3DModel` for `denoise`: (latents, timestep [B], branch) -> velocity.

    Use it for one sampling loop. Values that do not depend on the step are computed at their first use and kept
    (`step_memory`); `use_step_memory=False` computes them in every step, to the same bits. Each branch has its own
    context in diffusers' step caches.

    Args:
        transformer: the network.
        branches: the conditions of each branch.
        use_step_memory: whether values are kept between steps.
        branch_evaluation: how the branches of a step are evaluated, see `inference.branch_evaluation`. "sequential" and
            "interleaved" give the same bits; with a step cache, or weights that are offloaded layer by layer,
            "interleaved" works as "sequential".

    Raises:
        ValueError: "batched" with a step cache.
    """
    return TransformerVelocity(transformer, branches, use_step_memory, branch_evaluation)


class TransformerVelocity:
    """The network and the conditions of its branches as a velocity; made by `branch_velocity`."""

    def __init__(
        self,
        transformer: Any,
        branches: Mapping[Branch, Conditions],
        use_step_memory: bool,
        branch_evaluation: BranchEvaluation,
    ) -> None:
        if branch_evaluation not in get_args(BranchEvaluation):
            options = ", ".join(get_args(BranchEvaluation))
            raise ValueError(f"branch_evaluation must be one of {options}, not {branch_evaluation!r}")
        if branch_evaluation == "batched":
            require_no_step_cache(transformer)
        self._transformer, self._branches, self._way = transformer, branches, branch_evaluation
        self._memories = share_memory(branches) if use_step_memory else {}
        reset_step_caches(transformer)  # entries of an earlier sampling loop must not be reused

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """Return the velocity of one branch, of the shape of `latents` [B,16,T,H,W]."""
        with self._transformer.cache_context(branch):
            velocity: Tensor = self._transformer(
                latents,
                timestep,
                **self._branches[branch].model_arguments(),
                step_memory=self._memories.get(branch),
                return_dict=False,
            )[0]
        return velocity

    def many(self, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> dict[Branch, Tensor]:
        """Return the velocity of each branch."""
        batched = self._way == "batched"
        if batched:
            require_no_step_cache(self._transformer)
        elif len(branches) == 1 or self._way == "sequential" or must_be_sequential(self._transformer):
            return {branch: self(latents, timestep, branch) for branch in branches}
        elif len(parts := self._parts(branches)) > 1:
            found: dict[Branch, Tensor] = {}
            for part in parts:
                found |= self.many(latents, timestep, part)
            return {branch: found[branch] for branch in branches}
        conditions = [self._branches[branch] for branch in branches]
        inputs = BranchInputs(conditions, [self._memories.get(branch) for branch in branches], batched)
        # The conditions of one branch are passed as well, since `forward` requires them; `branches` takes their place.
        velocities = self._transformer(
            latents, timestep, **conditions[0].model_arguments(), branches=inputs, return_dict=False
        )
        return dict(zip(branches, velocities, strict=True))

    def _parts(self, branches: Sequence[Branch]) -> list[list[Branch]]:
        """Divide branches into those that share work; where blocks are loaded for a step, all share that.

        Others would only keep one another's tokens, half a gigabyte for each at 14B.
        """
        if group_offload_unit(self._transformer) is not None:
            return [[*branches]]
        parts: dict[tuple[int, ...], list[Branch]] = {}
        for branch in branches:
            parts.setdefault(shared_inputs(self._branches[branch]), []).append(branch)
        return [*parts.values()]
