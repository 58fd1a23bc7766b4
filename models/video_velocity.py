"""The velocity of whole videos: guidance branches by window and by video, fused and stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .conditions import Conditions
from .guidance import Branch, BranchVelocity, branch_conditions, evaluate
from .long_video import window_key


def video_key(branch: Any, video: int) -> Any:
    """Return the name of a guidance branch of video `video`; in the first video, the branch's own name."""
    return f"{branch} of video {video}" if video else branch


def all_branches(
    conditions: Sequence[Conditions],
    negative_prompt_embeds: Tensor,
    negative_pose_latents: Sequence[Sequence[Tensor]],
    num_videos: int,
) -> dict[Any, Conditions]:
    """Return the conditions of every branch of every window of every video, by `video_key` of `window_key`.

    Args:
        conditions: the positive conditions of each window, with batch size 1.
        negative_prompt_embeds: [1, L, Dt].
        negative_pose_latents: [1, 16, T, h, w] of each window, for each video or one for all.
        num_videos: number of videos.
    """
    branches: dict[Any, Conditions] = {}
    for video in range(num_videos):
        negative = negative_pose_latents[video % len(negative_pose_latents)]
        for index, (positive, negative_latents) in enumerate(zip(conditions, negative, strict=True)):
            by_branch = branch_conditions(positive, negative_prompt_embeds, negative_latents)
            branches |= {video_key(window_key(branch, index), video): each for branch, each in by_branch.items()}
    return branches


class VideosVelocity:
    """The velocity of n videos [n,16,T,h,w], each evaluated separately: it has the bits of a video that is made alone.

    Args:
        velocity: of all branches that `all_branches` returned.
        num_videos: n.
        fuse: makes the velocity of one video from that of its windows, as `FusedVelocity`; None if it has one window.
    """

    def __init__(
        self,
        velocity: BranchVelocity,
        num_videos: int,
        fuse: Callable[[BranchVelocity], BranchVelocity] | None = None,
    ) -> None:
        of_videos = [_OfVideo(velocity, video) for video in range(num_videos)]
        self._videos: list[BranchVelocity] = [each if fuse is None else fuse(each) for each in of_videos]

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """Return the velocity of one branch."""
        return self.many(latents, timestep, [branch])[branch]

    def many(self, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> dict[Branch, Tensor]:
        """Return the velocity of each branch; the branches of a video are evaluated together (`evaluate`)."""
        samples = zip(self._videos, latents.split(1), timestep.split(1), strict=True)
        of_videos = [evaluate(velocity, noisy, time, branches) for velocity, noisy, time in samples]
        return {branch: torch.cat([of_video[branch] for of_video in of_videos]) for branch in branches}


class _OfVideo:
    """The velocity of one video: branch names without the video's number."""

    def __init__(self, velocity: BranchVelocity, video: int) -> None:
        self._velocity, self._video = velocity, video

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return self._velocity(latents, timestep, video_key(branch, self._video))

    def many(self, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> dict[Branch, Tensor]:
        keys = [video_key(branch, self._video) for branch in branches]
        velocities = evaluate(self._velocity, latents, timestep, keys)
        return {branch: velocities[key] for branch, key in zip(branches, keys, strict=True)}
