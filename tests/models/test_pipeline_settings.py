"""Where each argument of a call goes, with stand-ins for what would compute: see test_pipeline for whole calls."""

from typing import Any

import numpy as np
import pytest
import torch

from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.models import encoders
from steadydancer.models.components import tiny_components
from steadydancer.models.conditions import Conditions
from steadydancer.models.long_video import free_noise
from steadydancer.models.negative_pose import Perturbation
from steadydancer.models.pipeline import WAN_NEGATIVE_PROMPT, SteadyDancerPipeline
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
NO_CALLBACKS: dict[str, Any] = {
    "callback": None, "callback_on_step_end": None, "callback_on_step_end_tensor_inputs": ("latents",),
}  # fmt: skip


def made(kind: Any) -> Any:
    parts = tiny_components(transformer={"num_layers": 1})
    transformer = SteadyDancerTransformer3DModel.from_wan(parts.pop("transformer"))
    return kind(transformer=transformer, **parts)


@pytest.fixture
def pipeline() -> Any:
    reported = made(Told)
    reported.given = {}
    return reported


def pose(num_frames: int) -> PoseSequence:
    body = np.random.default_rng(1).random((num_frames, 18, 2))
    return PoseSequence(body, np.ones((num_frames, 18), bool), np.full((num_frames, 2, 21, 2), -1.0))


class Told(SteadyDancerPipeline):
    """What would compute is left out; what it was given is kept, by name."""

    given: dict[str, Any]

    def encode_prompt(self, *prompts: Any) -> Any:
        self.given["prompts"] = prompts
        return "prompt", "negative prompt"

    def prepare_image_latents(self, *arguments: Any) -> Any:
        self.given["image latents"] = arguments
        return "image latents"

    def encode_image(self, image: Any) -> Any:
        self.given["image"] = image
        return "image embeds"

    def encode_pose(self, *arguments: Any) -> Any:
        self.given["pose"] = arguments
        return ["first pose", "second pose"][: len(arguments[3])], "pose embeds", "negative poses"

    def denoise(self, *arguments: Any, **settings: Any) -> Any:
        self.given["denoise"], self.given["settings"] = arguments, settings
        return "latents"

    def decode_latents(self, *arguments: Any) -> Any:
        self.given["decode"] = arguments
        return "frames"


def test_by_default_a_call_is_the_released_one(pipeline: Told) -> None:
    motion = pose(83)
    out = pipeline(IMAGE, motion, "a dance", generator=torch.Generator().manual_seed(3))
    reported = pipeline.given
    assert out.frames == "frames"
    assert reported["settings"] == {
        "num_inference_steps": 40, "flow_shift": 5.0, "guidance_scale": 5.0, "pose_guidance_scale": 1.0,
        "pose_guidance_interval": (0.1, 0.4), "pose_guidance_unit": "step", "solver": "unipc", **NO_CALLBACKS,
    }  # fmt: skip
    (moved,), (negative,), image, (window,), *sizes = reported["pose"]
    assert image is IMAGE and reported["image"] is IMAGE
    np.testing.assert_array_equal(moved.body, motion.body[:81])
    assert reported["prompts"] == ("a dance", None, None, None)
    assert (len(window.pixel_frames), sizes) == (81, [880, 656, 1024 * 576])
    assert reported["image latents"] == (IMAGE, 81, 880, 656)
    noise, conditions, negative_prompt, negative_poses, windows = reported["denoise"]
    assert conditions == [Conditions("image latents", "first pose", "image embeds", "pose embeds", "prompt")]
    assert (negative_prompt, negative_poses, windows) == ("negative prompt", "negative poses", [window])
    assert reported["decode"] == ("latents", "np")
    # The noise is drawn first, then the perturbation, from the one generator.
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(noise, torch.randn(1, 16, 21, 110, 82, generator=generator))
    expected = Perturbation.draw(81, generator)
    np.testing.assert_array_equal(negative.scale, expected.scale)
    np.testing.assert_array_equal(negative.aspect, expected.aspect)


@pytest.mark.parametrize("is_shifted", [False, True])
def test_the_negative_pose_is_shifted_on_request(pipeline: Told, is_shifted: bool) -> None:
    given = {"height": 32, "width": 64, "num_frames": 9, "generator": torch.Generator().manual_seed(3)}
    pipeline(IMAGE, pose(9), "a dance", negative_pose_shift=is_shifted, **given)
    generator = torch.Generator().manual_seed(3)
    torch.randn(1, 16, 3, 4, 8, generator=generator)
    expected = Perturbation.draw(9, generator, has_shift=is_shifted)
    _, (negative,), *_ = pipeline.given["pose"]
    np.testing.assert_array_equal(negative.scale, expected.scale)
    np.testing.assert_array_equal(negative.shift, expected.shift)


def test_each_setting_goes_to_its_place(pipeline: Told) -> None:
    black = np.zeros((15, 8, 6, 3), np.uint8)
    settings: dict[str, Any] = {
        "num_inference_steps": 7, "flow_shift": 3.0, "guidance_scale": 4.0, "pose_guidance_scale": 2.0,
        "pose_guidance_interval": (0.2, 0.3), "pose_guidance_unit": "timestep", "solver": "dpm++", "callback": print,
        "callback_on_step_end": repr, "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }  # fmt: skip
    pipeline(
        IMAGE, pose(13), "a walk", "stills", negative_pose_video=black, height=32, width=64, num_frames=None,
        window_frames=9, window_overlap=4, drawing_area_px=1999, output_type="uint8",
        generator=torch.Generator().manual_seed(3), **settings,
    )  # fmt: skip
    reported = pipeline.given
    assert reported["settings"] == settings
    _, (negative,), _, windows, *sizes = reported["pose"]
    np.testing.assert_array_equal(negative, black[:13])
    assert (reported["prompts"], sizes) == (("a walk", "stills", None, None), [32, 64, 1999])
    assert [(window.start, window.stop) for window in windows] == [(1, 3), (2, 4)]
    noise, conditions, _, _, given = reported["denoise"]
    assert given is windows and [each.pose_latents for each in conditions] == ["first pose", "second pose"]
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(1, 16, 3, 4, 8, generator=generator)
    assert torch.equal(noise, free_noise(first, windows, generator)) and noise.shape[2] == 4
    assert reported["decode"] == ("latents", "uint8")


def test_where_the_pose_does_not_guide_nothing_is_drawn_for_it(pipeline: Told) -> None:
    generator = torch.Generator().manual_seed(3)
    pipeline(IMAGE, pose(5), num_frames=5, pose_guidance_scale=0.0, height=32, width=32, generator=generator)
    assert pipeline.given["pose"][1] == [None] and pipeline.given["prompts"] == ("", None, None, None)
    again = torch.Generator().manual_seed(3)
    torch.randn(1, 16, 2, 4, 4, generator=again)
    assert torch.equal(generator.get_state(), again.get_state())


def test_an_empty_negative_prompt_is_one_and_not_the_pipelines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def encode(encoder: Any, tokenizer: Any, texts: list[str]) -> list[torch.Tensor]:
        asked.append(texts)
        return [torch.zeros(1, 4) for _ in texts]

    monkeypatch.setattr(encoders, "encode_prompt", encode)
    pipeline = made(SteadyDancerPipeline)
    pipeline.encode_prompt("a dance", "")
    pipeline.encode_prompt("a dance")
    pipeline.encode_prompt("a dance", prompt_embeds=torch.zeros(1, 2, 4))
    assert asked == [["a dance", ""], ["a dance", WAN_NEGATIVE_PROMPT], [WAN_NEGATIVE_PROMPT]]
