"""How the windows of a long video open after the first, which always opens with the reference image.

The network was trained on clips whose first latent frame is a single picture, given under a mask of 1 and equal to the
reference; four frames lie in every other latent frame, under a mask of 0.

- `reference`: every window is such a clip. It opens with latent frame 0 of the video, followed by motion from its own
  place in the video, and all windows are fused in every step (`long_video.FusedVelocity`). The network has to bridge
  the gap between the image and a pose that does not follow from it. Training stage 3 prepares it for this, and in the
  frames of the gap the window before still has the larger weight. No error accumulates, but what the image does not
  show (a back, an object that came into view) is made anew in each window, and the motion may return to the image.
- `tail`: a window continues the one before it, as image-to-video does: it opens with the picture right before its
  motion. Only that picture changes, under the mask, and its pose. The identity still comes from the reference: in the
  reference frames of Eq. 4, with the first pose, and in both image features. The mask promises a finished picture, and
  a latent frame of motion holds four, so the picture has to be decoded and encoded again, and it is only there once
  the window before is sampled. So the windows are sampled one after another (`sample_in_turn`). The other way, to
  fuse all windows and to renew the picture in every step, would show the network a blur under the mask for most of the
  steps, which training never does, and cost a decoding and an encoding in each. Errors of the autoencoder and of the
  network accumulate from window to window.
- `none`: no picture. A window holds only its own motion: the condition is that of `reference` without its first frame,
  with zeros in the mask and grey in all frames. The reference frames and the image features stay. The windows are fused
  in every step. Neither a mask of zeros nor a first latent frame of four pictures occurs in training.

A video of one window has the same bits with each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .conditions import MASK_CHANNELS, Conditions
from .encoders import to_frames
from .guidance import Branch, BranchVelocity, evaluate
from .long_video import Window, WindowOpening
from .pipeline_inputs import InputError
from .sampling import released_scheduler


def window_conditions(windows: Sequence[Window], conditions: Sequence[Conditions]) -> list[Conditions]:
    """Return the conditions of each window, opened as `Window.opening` says.

    Args:
        windows: from `plan_windows`.
        conditions: of each window as if it opened with the reference, except that its pose latents are already those of
            its own frames (`own_latents`).

    Returns:
        With `reference` the given ones. With `tail` the picture is still the reference: see `sample_in_turn`.
    """
    if all(window.opening == "reference" for window in windows):
        return list(conditions)
    first = conditions[0]
    reference = {
        "reference_latents": first.image_latents[:, MASK_CHANNELS:, :1],
        "reference_pose_latents": first.pose_latents[:, :, :1],
    }
    without_picture = first.image_latents[:, :, 1:]  # one tensor for all windows
    changes: dict[WindowOpening, dict[str, Tensor]] = {
        "reference": {},
        "tail": reference,
        "none": {**reference, "image_latents": without_picture},
    }
    return [each.replace(**changes[window.opening]) for window, each in zip(windows, conditions, strict=True)]


def own_latents(window: Window, latents: Tensor) -> Tensor:
    """Return the latents [..., T, h, w] of a window's pose clip without those of an opening that it does not have."""
    return latents[..., 1:, :, :] if window.opening == "none" else latents


class Continuation:
    """What a window knows of the windows before it, which are finished: v = r v_k + (1 − r) (x − x0) / σ.

    (x − x0) / σ is the velocity of a window that predicts the finished latents x0 from any x. So the frames that are
    shared are fused as in `long_video.FusedVelocity`, with weights that rise linearly, in every step. Guidance is
    linear in the branches' velocities and its coefficients sum to 1, so each branch can be fused alone.

    Args:
        share: r [T], the window's own part of each of its latent frames.
        known: x0 [B,16,T,h,w]; of no effect where r is 1.
        sigmas: timestep -> σ of the sampling grid; the grid's timesteps are truncated.
    """

    def __init__(self, share: Tensor, known: Tensor, sigmas: Mapping[float, float]) -> None:
        self._share, self._known, self._sigmas = share[:, None, None], known, sigmas

    def fuse(self, velocity: BranchVelocity) -> BranchVelocity:
        """Return `velocity`, which is v_k, fused with what is known."""
        return _Continued(self, velocity)

    def with_known(self, velocity: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return v [B,16,T,h,w], float32, of v_k -> `velocity` and x -> `latents`, of the same shape."""
        finished = (latents - self._known) / self._sigmas[timestep[0].item()]
        return self._share * velocity.float() + (1 - self._share) * finished


class _Continued:
    """The velocity of a window, fused with what is known; its branches are evaluated together."""

    def __init__(self, continuation: Continuation, velocity: BranchVelocity) -> None:
        self._continuation, self._velocity = continuation, velocity

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return self.many(latents, timestep, [branch])[branch]

    def many(self, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> dict[Branch, Tensor]:
        velocities = evaluate(self._velocity, latents, timestep, branches)
        fuse = self._continuation.with_known
        return {branch: fuse(velocity, latents, timestep) for branch, velocity in velocities.items()}


def own_share(window: Window, before: Window) -> Tensor:
    """Return how much of each latent frame of a window is its own, next to the windows before it: float32 [T].

    It rises linearly over the frames that it shares with them, as in `plan_windows`. It is 1 after these, and in the
    opening, which is no frame of the video.
    """
    share = torch.ones(len(window.weights))
    num_shared = before.stop - window.start
    share[1 : 1 + num_shared] = torch.arange(1, num_shared + 1) / (num_shared + 1)
    return share


def sample_in_turn(
    noise: Tensor,
    windows: Sequence[Window],
    sample: Callable[[Tensor, int, Tensor, Tensor | None], Tensor | None],
) -> Tensor:
    """Sample the windows of one video one after another, each from the tail of the window before it.

    Args:
        noise: [1,16,T,h,w] of the whole video, float32. The opening of a window starts from that of latent frame 0, so
            that every window sees the same noise in another order.
        windows: from `plan_windows` with `tail`.
        sample: (noise of the window's clip, index, known, clip) -> latents of the window's clip, or None to stop.
            `known` are the video's latents in the window's frames, finished where windows before reach. `clip`
            [16,t,h,w] ends with the frame with which the window opens; None for the first window.

    Returns:
        float32 [1,16,T,h,w]. Frames before a window's motion are finished when it is sampled.
    """
    video, opening = noise.clone(), noise[:, :, :0]
    for index, window in enumerate(windows):
        frames = window.latent_frames
        finished = None
        if index:
            finished = torch.cat([opening, video[:, :, windows[index - 1].start : window.start]], dim=2)[0]
        clip = sample(noise[:, :, frames], index, video[:, :, frames], finished)
        if clip is None:
            break
        opening = clip[:, :, :1]
        video[:, :, window.start : window.stop] = clip[:, :, 1:]
        if not index:
            video[:, :, :1] = opening
    return video


def denoise_in_turn(
    pipeline: Any,
    latents: Tensor,
    conditions: Sequence[Conditions],
    negative_prompt_embeds: Tensor,
    negative_pose_latents: Sequence[Sequence[Tensor]],
    windows: Sequence[Window],
    **settings: Any,
) -> Tensor:
    """Denoise as `SteadyDancerPipeline.denoise`, with its arguments, but sample the windows of each video in turn.

    Callbacks see one window of one video, whose steps count from 0. If one interrupts, later windows stay noise.

    Raises:
        InputError: the pipeline has no autoencoder.
    """
    if pipeline.vae is None:
        raise InputError(
            "window_opening 'tail' decodes and encodes a picture before each window, and this pipeline has no vae: "
            "load it with one, or encode the inputs with window_opening='reference'."
        )
    pipeline._interrupt = False
    height, width = (8 * side for side in latents.shape[3:])
    grid = released_scheduler(*(settings[name] for name in ("num_inference_steps", "flow_shift", "solver")))
    sigmas = dict(zip(grid.timesteps.tolist(), grid.sigmas.tolist(), strict=False))

    def opened(index: int, clip: Tensor) -> Conditions:
        for pixels in pipeline.decode_chunks(clip):  # only the last one is kept
            picture = to_frames(pixels[:, -1:])[0]
        num_frames = len(windows[index].pixel_frames)
        image_latents = pipeline.prepare_image_latents(picture, num_frames, height, width)
        return conditions[index].replace(image_latents=image_latents)

    def sample_video(noise: Tensor, negatives: Sequence[Tensor]) -> Tensor:
        def sample(own: Tensor, index: int, known: Tensor, clip: Tensor | None) -> Tensor | None:
            if pipeline.interrupt:
                return None
            continuation = None
            if clip is not None:
                share = own_share(windows[index], windows[index - 1]).to(known.device)
                continuation = Continuation(share, known, sigmas)
            denoised: Tensor = pipeline.denoise(
                own,
                [conditions[index] if clip is None else opened(index, clip)],
                negative_prompt_embeds,
                [[negatives[index]]],
                continuation=continuation,
                **settings,
            )
            return denoised

        return sample_in_turn(noise, windows, sample)

    count = len(negative_pose_latents)
    videos = enumerate(latents.float().split(1))
    return torch.cat([sample_video(noise, negative_pose_latents[video % count]) for video, noise in videos])
