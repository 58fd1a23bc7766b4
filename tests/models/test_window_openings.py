"""What each opening shows the network, and what a known flow makes of it."""

import weakref
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from steadydancer.datasets.arrays import Frames
from steadydancer.models import encoders
from steadydancer.models.components import tiny_components
from steadydancer.models.conditions import Conditions
from steadydancer.models.encoders import decode_latents, encode_image_condition, encode_video
from steadydancer.models.flow_matching import NUM_TRAIN_TIMESTEPS
from steadydancer.models.guidance import branch_velocity
from steadydancer.models.long_video import (
    FusedVelocity,
    Window,
    WindowOpening,
    free_noise,
    plan_windows,
    window_key,
)
from steadydancer.models.metrics import pixel_steps
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.sampling import denoise, released_scheduler
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.models.window_openings import Continuation, own_share, sample_in_turn, window_conditions

OPENINGS = get_args(WindowOpening)
SIDE = 32
NUM_FRAMES = 61
WINDOWS: dict[str, Any] = {"window_frames": 21, "window_overlap": 8}
QUIET: dict[str, Any] = {"guidance_scale": 1.0, "pose_guidance_scale": 0.0}


def smooth_video(num_frames: int = NUM_FRAMES) -> Frames:
    """A soft spot that crosses a slope of colours at an even speed."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    at = 0.2 + 0.6 * np.arange(num_frames)[:, None, None] / num_frames
    spot = np.exp(-((x - at) ** 2 + (y - 0.5) ** 2) / 0.02)
    return (255 * np.stack([spot, 1 - spot, np.broadcast_to(x, spot.shape)], axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def pipeline() -> SteadyDancerPipeline:
    parts = tiny_components(seed=0, transformer={"num_layers": 1})
    made = SteadyDancerPipeline(
        transformer=SteadyDancerTransformer3DModel.from_wan(parts.pop("transformer")).eval(), **parts
    )
    made.set_progress_bar_config(disable=True)
    return made


def call(pipeline: SteadyDancerPipeline, seed: int = 0, **arguments: Any) -> Any:
    image, pose = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), smooth_video()
    given = {
        "num_frames": NUM_FRAMES, "height": SIDE, "width": SIDE, "num_inference_steps": 3, "output_type": "latent",
        "generator": torch.Generator().manual_seed(seed), **WINDOWS, **QUIET,
    }  # fmt: skip
    return pipeline(image, pose, "a dance", **given | arguments).frames


def follow_the_pose(latents: Tensor, timestep: Tensor, *, pose_latents: Tensor, **rest: Any) -> tuple[Tensor]:
    """The exact flow to a clip that equals its pose clip."""
    return ((latents - pose_latents) / (timestep / NUM_TRAIN_TIMESTEPS),)


def own_frames(window: Window) -> list[int]:
    """The frames of a window's pose clip, by hand."""
    motion = list(range(4 * window.start - 3, 4 * window.stop - 3))
    return [0 if window.start == 1 or window.opening == "reference" else motion[0] - 1, *motion]


class Folding(torch.nn.Module):
    """An autoencoder whose latents are the pixels, shrunk by 8: the first frame, then four frames in 12 channels."""

    use_tiling = True  # so that `encoders` asks for nothing but `encode` and `decode`
    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(latents_mean=[0.5] * 16, latents_std=[0.5] * 16, is_residual=False, patch_size=None)
    _feat_map: tuple[()] = ()

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))  # `encoders` look for a parameter's device

    def clear_cache(self) -> None:
        """Keep nothing."""

    def encode(self, clip: Tensor) -> Any:
        small = F.avg_pool3d(clip, (1, 8, 8))
        first = F.pad(small[:, :, :1], (*[0] * 6, 0, 13))
        others = small[:, :, 1:].unflatten(2, (-1, 4)).transpose(2, 3).flatten(1, 2)
        latents = torch.cat([first, F.pad(others, (*[0] * 6, 0, 4))], dim=2)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: Tensor) -> Any:
        others = latents[:, :12, 1:].unflatten(1, (3, 4)).transpose(2, 3).flatten(2, 3)
        frames = torch.cat([latents[:, :3, :1], others], dim=2)
        return SimpleNamespace(sample=F.interpolate(frames, scale_factor=(1, 8, 8)))


def seam_ratio(frames: Frames, windows: Sequence[Window]) -> float:
    """The largest step of pixels where a window begins or ends, over the median of the others."""
    seams = {4 * cut - 4 for before, after in pairwise(windows) for cut in (after.start, before.stop)}
    steps = pixel_steps(frames)
    inside = [step for k, step in enumerate(steps) if k not in seams]
    return float(max(steps[k] for k in seams) / np.median(inside))


@pytest.mark.parametrize("num_frames", [33, NUM_FRAMES])
@pytest.mark.parametrize("opening", OPENINGS)
def test_with_a_known_flow_there_is_no_jump_at_seams(
    pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch, opening: WindowOpening, num_frames: int
) -> None:
    # The flow leads to the pose clip of each window, and these are cuts of one smooth video: that is what comes out.
    monkeypatch.setattr(pipeline.transformer, "forward", follow_the_pose)
    monkeypatch.setattr(pipeline, "vae", Folding())
    frames = call(pipeline, window_opening=opening, output_type="uint8", num_frames=num_frames)[0]
    windows = plan_windows(num_frames, **WINDOWS)
    assert len(windows) == 2 if num_frames == 33 else 5
    truth = decode_latents(pipeline.vae, encode_video(pipeline.vae, smooth_video()[:num_frames]))
    assert np.abs(frames.astype(int) - truth).max() <= 2
    assert seam_ratio(frames, windows) <= 1.2
    # The same measure notices windows that are a frame late.
    late = truth.copy()
    late[4 * windows[1].start - 3 :] = np.concatenate([truth[4 * windows[1].start - 2 :], truth[-1:]])
    assert seam_ratio(late, windows) > 1.2


@pytest.mark.parametrize(("overlap", "num_steps"), [(8, 1), (8, 6), (0, 4), (16, 4)])
@pytest.mark.parametrize("opening", OPENINGS)
def test_what_windows_disagree_in_is_spread_over_the_frames_that_they_share(
    opening: WindowOpening, overlap: int, num_steps: int
) -> None:
    # Window k predicts the true video plus k, from any latents: a flow whose end is known.
    windows = plan_windows(NUM_FRAMES, 21, overlap, opening)
    num_latents = 1 + NUM_FRAMES // 4
    truth = torch.linspace(-1, 1, num_latents).view(1, 1, -1, 1, 1).repeat(1, 16, 1, 2, 2)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    grid = released_scheduler(num_steps, 5.0)
    sigmas = dict(zip(grid.timesteps.tolist(), grid.sigmas.tolist(), strict=False))

    def velocity(latents: Tensor, timestep: Tensor, key: Any) -> Tensor:
        index = [window_key("conditional", k) for k in range(len(windows))].index(key)
        return (latents - truth[:, :, windows[index].latent_frames] - index) / sigmas[timestep.item()]

    settings: dict[str, Any] = {"num_inference_steps": num_steps, **QUIET}
    shown: list[Tensor | None] = []

    def sample(own: Tensor, index: int, known: Tensor, clip: Tensor | None) -> Tensor:
        def of_window(latents: Tensor, timestep: Tensor, branch: Any) -> Tensor:
            return velocity(latents, timestep, window_key(branch, index))

        shown.append(clip)
        if not index:
            return denoise(of_window, own, **settings)
        continuation = Continuation(own_share(windows[index], windows[index - 1]), known, sigmas)
        return denoise(continuation.fuse(of_window), own, **settings)

    if opening == "tail":
        out = sample_in_turn(noise, windows, sample)
    else:
        out = denoise(FusedVelocity(velocity, windows), noise, **settings)
    ramp = torch.zeros(num_latents)
    for index, window in enumerate(windows):
        ramp[window.latent_frames] += index * window.weights
    torch.testing.assert_close(out, truth + ramp.view(1, 1, -1, 1, 1), atol=1e-4, rtol=0)
    if opening == "tail":
        # A window is shown the clip of the one before it, up to the frame before its own motion, finished.
        assert shown[0] is None
        for index, (before, window) in enumerate(pairwise(windows), 1):
            clip = shown[index]
            assert clip is not None
            assert torch.equal(clip[:, 1:], out[0, :, before.start : window.start])
            torch.testing.assert_close(clip[:, 0], truth[0, :, 0] + index - 1, atol=1e-4, rtol=0)


def test_all_openings_have_the_same_windows_and_weights() -> None:
    for num_frames, frames, overlap in ((161, 81, 20), (401, 81, 76), (37, 21, 0)):
        of = {opening: plan_windows(num_frames, frames, overlap, opening) for opening in OPENINGS}
        for opening, windows in of.items():
            assert [(each.start, each.stop) for each in windows] == [(each.start, each.stop) for each in of["tail"]]
            assert [each.opening for each in windows] == ["reference"] + [opening] * (len(windows) - 1)
            total = torch.zeros(1 + num_frames // 4)
            for index, (window, other) in enumerate(zip(windows, of["reference"], strict=True)):
                total[window.latent_frames] += window.weights
                assert len(window.latent_frames) == len(window.weights)
                assert torch.equal(window.weights, other.weights[1:] if index and opening == "none" else other.weights)
                assert window.pixel_frames == own_frames(window)
            assert torch.equal(total, torch.ones_like(total))


def test_another_opening_is_refused() -> None:
    with pytest.raises(ValueError, match="window_opening must be one of reference, tail, none, not 'image'"):
        plan_windows(161, window_opening="image")  # type: ignore[arg-type]


def test_a_windows_own_share_is_what_later_windows_leave_to_it() -> None:
    for windows in (plan_windows(161, 41, 8, "tail"), plan_windows(161, 41, 28, "tail")):
        video = torch.zeros(41, len(windows))  # the windows' parts of each frame, sampled one after another
        video[windows[0].latent_frames, 0] = 1
        for index, (before, window) in enumerate(pairwise(windows), 1):
            share = own_share(window, before)
            assert share[0] == 1
            frames = window.latent_frames[1:]
            video[frames] *= 1 - share[1:, None]
            video[frames, index] += share[1:]
        for index, window in enumerate(windows):
            torch.testing.assert_close(video[window.latent_frames, index], window.weights, atol=2e-6, rtol=0)


def test_openings_change_what_they_name_and_nothing_else() -> None:
    def random(*shape: int) -> Tensor:
        return torch.randn(1, *shape)

    image, embeds, pose_embeds, prompt = random(20, 6, 2, 2), random(257, 4), random(257, 4), random(3, 8)
    for opening in OPENINGS:
        windows = plan_windows(37, 21, 8, opening)
        given = [
            Conditions(image, random(16, len(each.weights), 2, 2), embeds, pose_embeds, prompt) for each in windows
        ]
        first, *later = window_conditions(windows, given)
        assert first is given[0] or first == given[0]
        for before, after in zip(given[1:], later, strict=True):
            for name in ("pose_latents", "image_embeds", "pose_image_embeds", "prompt_embeds"):
                assert getattr(after, name) is getattr(before, name), (opening, name)
            if opening == "reference":
                assert after is before
                continue
            assert torch.equal(after.reference_latents, image[:, 4:, :1])
            assert torch.equal(after.reference_pose_latents, given[0].pose_latents[:, :, :1])
            if opening == "tail":
                assert after.image_latents is image
            else:
                assert torch.equal(after.image_latents, image[:, :, 1:])
                assert after.image_latents is later[0].image_latents  # so that all share one tensor


def test_the_tail_is_the_picture_before_the_motion_as_the_first_frame_of_a_clip(
    pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def recorded(latents: Tensor, timestep: Tensor, **conditions: Any) -> tuple[Tensor]:
        calls.append({"latents": latents, **conditions})
        return follow_the_pose(latents, timestep, **conditions)

    monkeypatch.setattr(pipeline.transformer, "forward", recorded)
    out = call(pipeline, window_opening="tail", num_frames=33, num_inference_steps=2)[0]
    first, second = calls[0], calls[2]
    assert len(calls) == 2 * 2  # one window after another
    (_, window) = plan_windows(33, **WINDOWS, window_opening="tail")
    assert (window.start, window.stop) == (4, 9)
    picture = decode_latents(pipeline.vae, out[:, :4])[12]
    alone = encode_image_condition(pipeline.vae, picture, 21, SIDE, SIDE)
    torch.testing.assert_close(second["image_latents"][0, 4:], alone, atol=1e-4, rtol=1e-4)
    assert torch.equal(second["image_latents"][:, :4], first["image_latents"][:, :4])
    assert torch.equal(second["reference_latents"], first["image_latents"][:, 4:, :1])
    assert torch.equal(second["reference_pose_latents"], first["pose_latents"][:, :, :1])
    assert torch.equal(second["pose_latents"][0], encode_video(pipeline.vae, smooth_video()[12:33]))
    for name in ("encoder_hidden_states", "encoder_hidden_states_image", "encoder_hidden_states_pose_image"):
        assert second[name] is first[name], name
    noise = torch.randn(1, 16, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first["latents"], noise)
    # The same noise in another order: of latent frame 0, of the two frames that are shared, and of those left behind.
    assert torch.equal(second["latents"][:, :, :3], noise[:, :, [0, 4, 5]])
    assert torch.equal(second["latents"][:, :, 3:].sort(dim=2).values, noise[:, :, 1:4].sort(dim=2).values)


def test_one_window_has_the_same_bits_with_each_opening(pipeline: SteadyDancerPipeline) -> None:
    bits = [call(pipeline, window_opening=opening, num_frames=9) for opening in OPENINGS]
    assert torch.equal(bits[0], bits[1]) and torch.equal(bits[0], bits[2])


def test_each_opening_makes_another_video_and_the_default_opens_with_the_reference(
    pipeline: SteadyDancerPipeline,
) -> None:
    short: dict[str, Any] = {"num_frames": 21, "window_frames": 13, "window_overlap": 4, "num_inference_steps": 2}
    bits = {opening: call(pipeline, window_opening=opening, **short) for opening in OPENINGS}
    assert torch.equal(call(pipeline, **short), bits["reference"])
    assert all(each.isfinite().all() for each in bits.values())
    for opening in ("tail", "none"):
        assert not torch.equal(bits[opening], bits["reference"])
        both = call(pipeline, window_opening=opening, **short, num_videos_per_prompt=2, generator=[
            torch.Generator().manual_seed(seed) for seed in (0, 1)
        ])  # fmt: skip
        assert torch.equal(both[:1], bits[opening])
        assert torch.equal(both[1:], call(pipeline, seed=1, window_opening=opening, **short))
    assert torch.equal(bits["tail"][:, :, :3], bits["reference"][:, :, :3]) is False  # windows are not fused


def test_the_reference_opening_is_the_plain_fusion_of_clips_that_open_with_the_image(
    pipeline: SteadyDancerPipeline,
) -> None:
    short: dict[str, Any] = {"num_frames": 21, "window_frames": 13, "window_overlap": 4}
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    encoded = pipeline.encode_inputs(image, smooth_video(), "a dance", height=SIDE, width=SIDE, **short)
    windows = plan_windows(*short.values())
    clips = [encode_video(pipeline.vae, smooth_video()[own_frames(window)])[None] for window in windows]
    assert all(torch.equal(clip, given) for clip, given in zip(clips, encoded.pose_latents, strict=True))
    others = (encoded.image_embeds, encoded.pose_image_embeds, encoded.prompt_embeds)
    branches: dict[Any, Conditions] = {
        window_key("conditional", k): Conditions(encoded.image_latents, clip, *others) for k, clip in enumerate(clips)
    }
    generator = torch.Generator().manual_seed(0)
    noise = free_noise(torch.randn(1, 16, 4, 4, 4, generator=generator), windows, generator)
    velocity = FusedVelocity(branch_velocity(pipeline.transformer, branches), windows)
    expected = denoise(velocity, noise, num_inference_steps=2, **QUIET)
    assert torch.equal(call(pipeline, window_opening="reference", num_inference_steps=2, **short), expected)


def test_an_interrupted_video_has_noise_where_no_window_was_sampled(pipeline: SteadyDancerPipeline) -> None:
    seen: list[int] = []

    def stop(dancer: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        dancer._interrupt = True
        return {}

    short: dict[str, Any] = {"num_frames": 21, "window_frames": 13, "window_overlap": 0, "num_inference_steps": 2}
    out = call(pipeline, window_opening="tail", callback_on_step_end=stop, **short)
    noise = torch.randn(1, 16, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert seen == [0]
    assert not (out[:, :, :4] == noise).any()
    assert torch.equal(out[:, :, 4:].sort(dim=2).values, noise[:, :, 1:3].sort(dim=2).values)
    assert len(call(pipeline, window_opening="tail", **short)[0]) == 16 and pipeline.interrupt is False


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and live at once; exact, where a process' memory is not."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and (key := (storage := tensor.untyped_storage())._cdata) not in self.known:
                self.known.add(key)
                self.live += storage.nbytes()
                weakref.finalize(storage, self.forget, key, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out


def peaks(pipeline: SteadyDancerPipeline, num_windows: int, opening: WindowOpening) -> tuple[int, int]:
    """Peak memory of sampling and of decoding beside the latents that are returned and the frames, in bytes."""
    num_frames = 21 + 12 * (num_windows - 1)
    image, pose = np.zeros((SIDE, SIDE, 3), np.uint8), smooth_video(num_frames)
    size = {"num_frames": num_frames, "height": SIDE, "width": SIDE}
    encoded = pipeline.encode_inputs(image, pose, window_opening=opening, **size, **WINDOWS)
    assert len(encoded.windows) == num_windows
    with PeakMemory() as sampling:
        latents = pipeline(encoded=encoded, num_inference_steps=2, output_type="latent", **QUIET).frames
    with PeakMemory() as decoding:
        for chunk in pipeline.decode_chunks(latents[0]):
            assert chunk.isfinite().all()
            del chunk
    return sampling.peak - latents.nbytes, decoding.peak


@pytest.mark.acceptance
@pytest.mark.parametrize("opening", OPENINGS)
def test_memory_beside_latents_and_frames_does_not_grow_with_the_windows(
    pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch, opening: WindowOpening
) -> None:
    monkeypatch.setattr(encoders, "MAX_LATENTS_AT_ONCE", 0)  # as for pictures that are not tiny
    of_two, of_ten = (peaks(pipeline, num_windows, opening) for num_windows in (2, 10))
    assert of_ten == pytest.approx(of_two, rel=0.05)
