"""What each branch is told in each window of a call, with encoders that say what they were shown."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steadydancer.models import encoded_inputs, encoders, pipeline
from steadydancer.models.negative_pose import Perturbation
from steadydancer.models.pipeline import SteadyDancerPipeline

SIZE = (48, 32)
IMAGE = np.full((32, 32, 3), (10, 20, 30), np.uint8)
WINDOWS: dict[str, Any] = {"window_frames": 9, "window_overlap": 4}  # frames 0 to 8, and 0 with 5 to 12
SECOND = [0, *range(5, 13)]


def frames(first: int) -> np.ndarray:
    """Thirteen frames whose pixels are their number, from `first`."""
    return np.arange(first, first + 13, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


@pytest.fixture
def encoder_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Encoders that answer with what they are shown, and keep a list of it."""
    asked: list[Any] = []

    def video(vae: Any, clip: np.ndarray, height: int, width: int) -> Tensor:
        assert (vae, height, width) == ("vae", *SIZE)
        asked.append(("video", clip[:, 0, 0, 0].tolist()))
        return torch.from_numpy(clip[:, 0, 0, 0].astype(np.float32)).view(1, -1, 1, 1)

    def image_condition(vae: Any, image: np.ndarray, num_frames: int, height: int, width: int) -> Tensor:
        assert (vae, num_frames, height, width) == ("vae", 9, *SIZE)
        asked.append(("image condition", image[0, 0].tolist()))
        return torch.full((16, 9, 1, 1), 7.0)

    def image(encoder: Any, picture: np.ndarray) -> Tensor:
        assert encoder == "image encoder"
        asked.append(("image", picture[0, 0].tolist()))
        return torch.full((257, 4), float(picture[0, 0, 0]))

    def pose(vae: Any, encoder: Any, clip: np.ndarray, height: int, width: int) -> tuple[Tensor, Tensor]:
        return video(vae, clip, height, width), image(encoder, clip[0])

    def prompt(encoder: Any, tokenizer: Any, prompts: list[str]) -> list[Tensor]:
        assert (encoder, tokenizer) == ("text encoder", "tokenizer")
        return [torch.full((len(text), 2), float(len(text))) for text in prompts]

    def drawn(motion: np.ndarray, picture: np.ndarray, area_px: int) -> np.ndarray:
        assert picture is IMAGE and area_px == 1099
        return motion

    for name, function in {
        "encode_video": video, "encode_image_condition": image_condition, "encode_pose_condition": pose,
        "draw_motion": drawn, "branch_velocity": velocity,
    }.items():  # fmt: skip
        for module in (encoded_inputs, pipeline):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, function)
    monkeypatch.setattr(encoders, "encode_image", image)
    monkeypatch.setattr(encoders, "encode_prompt", prompt)
    return asked


def velocity(transformer: Any, branches: dict[Any, Any], **_: Any) -> Any:
    transformer.append(branches)
    return lambda latents, timestep, branch: torch.zeros_like(latents)


class Unloaded(SteadyDancerPipeline):
    """A pipeline whose networks are names, and whose transformer is a list of what it is told."""

    _execution_device = torch.device("cpu")
    config: Any = SimpleNamespace(negative_prompt="stills")

    def __init__(self) -> None:
        self.vae, self.image_encoder, self.transformer = "vae", "image encoder", []
        self.text_encoder, self.tokenizer = "text encoder", "tokenizer"

    def maybe_free_model_hooks(self) -> None:
        pass


def conditions_of_call(negative: Any, **arguments: Any) -> dict[Any, Any]:
    dancer = Unloaded()
    dancer.set_progress_bar_config(disable=True)
    dancer(
        IMAGE, frames(0), "ab", "abcde", negative_pose_video=negative, height=SIZE[0], width=SIZE[1], num_frames=13,
        drawing_area_px=1099, num_inference_steps=1, flow_shift=5.0, output_type="latent", **WINDOWS | arguments,
    )  # fmt: skip
    (branches,) = dancer.transformer
    return branches


def pose_of(conditions: Any) -> list[int]:
    return conditions.pose_latents[0, 0, :, 0, 0].int().tolist()


def test_each_window_is_told_its_own_frames_and_all_else_is_the_same_tensor(encoder_calls: list[Any]) -> None:
    branches = conditions_of_call(frames(100))
    names = [*("conditional", "negative_text", "negative_pose")]
    assert list(branches) == [*names, *(f"{name} of window 1" for name in names)]
    first, second = branches["conditional"], branches["conditional of window 1"]
    assert (pose_of(first), pose_of(second)) == (list(range(9)), SECOND)
    assert pose_of(branches["negative_pose"]) == [100 + frame for frame in range(9)]
    assert pose_of(branches["negative_pose of window 1"]) == [100 + frame for frame in SECOND]
    assert first.image_latents[0, :, 0, 0, 0].tolist() == [1.0] * 4 + [7.0] * 16
    assert not first.image_latents[0, :4, 1:].any()
    assert (first.image_embeds.unique().tolist(), first.pose_image_embeds.unique().tolist()) == ([10.0], [0.0])
    assert first.prompt_embeds.shape == (1, 2, 2) and branches["negative_text"].prompt_embeds.shape == (1, 5, 2)
    for name in ("image_latents", "image_embeds", "pose_image_embeds", "prompt_embeds"):
        assert getattr(second, name) is getattr(first, name), name
    assert branches["negative_text of window 1"].pose_latents is second.pose_latents
    assert [kind for kind, _ in encoder_calls] == [
        "image condition",
        "image",
        "video",
        "image",
        "video",
        "video",
        "video",
    ]
    assert encoder_calls[:2] == [("image condition", [10, 20, 30]), ("image", [10, 20, 30])]  # red first, as it came


def test_without_a_negative_pose_nothing_is_encoded_for_it(encoder_calls: list[Any]) -> None:
    branches = conditions_of_call(None, pose_guidance_scale=0.0)
    assert branches["negative_pose of window 1"].pose_latents is branches["conditional of window 1"].pose_latents
    assert [kind for kind, _ in encoder_calls].count("video") == 2


def test_a_perturbation_follows_the_frames_of_its_window(
    encoder_calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def negative_motion(moved: np.ndarray, perturbation: Perturbation) -> np.ndarray:
        asked.append((moved[:, 0, 0, 0].tolist(), perturbation.scale.tolist(), perturbation.aspect.tolist()))
        return moved + 100

    drawn = Perturbation(np.arange(13.0), 20 + np.arange(13.0))
    monkeypatch.setattr(encoded_inputs, "negative_motion", negative_motion)
    monkeypatch.setattr(Perturbation, "draw", lambda num_frames, generator, has_shift: drawn)
    branches = conditions_of_call(None)
    assert asked == [(of, of, [20 + frame for frame in of]) for of in (list(range(9)), SECOND)]
    assert pose_of(branches["negative_pose of window 1"]) == [100 + frame for frame in SECOND]


def test_several_videos_share_all_but_their_own_negative_pose(
    encoder_calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter([1, 2])
    monkeypatch.setattr(encoded_inputs, "negative_motion", lambda moved, perturbation: moved + perturbation.scale[0])
    monkeypatch.setattr(
        Perturbation,
        "draw",
        lambda num_frames, generator, has_shift: Perturbation(np.full(13, 100 * next(draws), np.uint8), []),
    )
    monkeypatch.setattr(Perturbation, "__getitem__", lambda self, frames: self)
    branches = conditions_of_call(None, num_videos_per_prompt=2)
    assert len(branches) == 2 * 2 * 3
    first, second = branches["negative_pose of window 1"], branches["negative_pose of window 1 of video 1"]
    assert (pose_of(first), pose_of(second)) == ([100 + frame for frame in SECOND], [200 + frame for frame in SECOND])
    assert branches["conditional of window 1 of video 1"] is branches["conditional of window 1"]
    # A clip that is given is the same for all videos, and encoded once.
    encoder_calls.clear()
    branches = conditions_of_call(frames(100), num_videos_per_prompt=2)
    assert branches["negative_pose of video 1"].pose_latents is branches["negative_pose"].pose_latents
    assert [kind for kind, _ in encoder_calls].count("video") == 4
