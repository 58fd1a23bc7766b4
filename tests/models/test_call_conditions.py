"""What each branch is told in each window of a call, with encoders that say what they were shown."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steadydancer.models import call_conditions
from steadydancer.models.call_conditions import encode_conditions
from steadydancer.models.driving import Perturbation
from steadydancer.models.long_video import plan_windows

SIZE = (48, 32)
IMAGE = np.array([[[10, 20, 30]]], np.uint8)
WINDOWS = plan_windows(13, 9, 4)  # frames 0 to 8, and 0 with 5 to 12
SECOND = [0, *range(5, 13)]


def frames(first: int) -> np.ndarray:
    """Thirteen frames whose pixels are their number, from `first`."""
    return np.arange(first, first + 13, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
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
        assert picture is IMAGE and area_px == 99
        return motion

    for name, function in {
        "encode_video": video, "encode_image_condition": image_condition, "encode_image": image,
        "encode_pose_condition": pose, "encode_prompt": prompt, "draw_motion": drawn,
    }.items():  # fmt: skip
        monkeypatch.setattr(call_conditions, name, function)
    return asked


def told(negative: Any) -> dict[Any, Any]:
    pipeline = SimpleNamespace(
        vae="vae", image_encoder="image encoder", text_encoder="text encoder", tokenizer="tokenizer",
        _execution_device=torch.device("cpu"),
    )  # fmt: skip
    return encode_conditions(pipeline, IMAGE, frames(0), negative, ("ab", "abcde"), WINDOWS, SIZE, 99)


def pose_of(conditions: Any) -> list[int]:
    return conditions.pose_latents[0, 0, :, 0, 0].int().tolist()


def test_each_window_is_told_its_own_frames_and_all_else_is_the_same_tensor(shown: list[Any]) -> None:
    branches = told(frames(100))
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
    assert [kind for kind, _ in shown] == ["image condition", "image", "video", "image", "video", "video", "video"]
    assert shown[:2] == [("image condition", [10, 20, 30]), ("image", [10, 20, 30])]  # red first, as it came


def test_without_a_negative_pose_nothing_is_encoded_for_it(shown: list[Any]) -> None:
    branches = told(None)
    assert branches["negative_pose of window 1"].pose_latents is branches["conditional of window 1"].pose_latents
    assert [kind for kind, _ in shown].count("video") == 2


def test_a_perturbation_follows_the_frames_of_its_window(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def negative_motion(moved: np.ndarray, perturbation: Perturbation) -> np.ndarray:
        asked.append((moved[:, 0, 0, 0].tolist(), perturbation.scale.tolist(), perturbation.aspect.tolist()))
        return moved + 100

    monkeypatch.setattr(call_conditions, "negative_motion", negative_motion)
    branches = told(Perturbation(np.arange(13.0), 20 + np.arange(13.0)))
    assert asked == [(of, of, [20 + frame for frame in of]) for of in (list(range(9)), SECOND)]
    assert pose_of(branches["negative_pose of window 1"]) == [100 + frame for frame in SECOND]
