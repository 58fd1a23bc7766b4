"""Where each argument of a call goes, with stand-ins for what would compute: see test_pipeline for whole calls."""

from typing import Any

import numpy as np
import pytest
import torch

from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.models import pipeline as module
from steadydancer.models.components import tiny_components
from steadydancer.models.driving import Perturbation
from steadydancer.models.long_video import FusedVelocity, free_noise
from steadydancer.models.pipeline import WAN_NEGATIVE_PROMPT, SteadyDancerPipeline
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipeline() -> SteadyDancerPipeline:
    parts = tiny_components(transformer={"num_layers": 1})
    transformer = SteadyDancerTransformer3DModel.from_wan(parts.pop("transformer"))
    return SteadyDancerPipeline(transformer=transformer, **parts)


def pose(num_frames: int) -> PoseSequence:
    body = np.random.default_rng(1).random((num_frames, 18, 2))
    return PoseSequence(body, np.ones((num_frames, 18), bool), np.full((num_frames, 2, 21, 2), -1.0))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the steps of a call were given, by name."""
    given: dict[str, Any] = {}

    def encode_conditions(*arguments: Any) -> str:
        given["conditions"] = arguments
        return "branches"

    def branch_velocity(*arguments: Any) -> str:
        given["velocity"] = arguments
        return "velocity"

    def sample(*arguments: Any, **settings: Any) -> str:
        given["sample"], given["settings"] = arguments, settings
        return "latents"

    def decode_as(*arguments: Any) -> str:
        given["decode"] = arguments
        return "frames"

    for function in (encode_conditions, branch_velocity, sample, decode_as):
        monkeypatch.setattr(module, function.__name__, function)
    return given


def test_by_default_a_call_is_the_released_one(pipeline: SteadyDancerPipeline, told: dict[str, Any]) -> None:
    motion = pose(83)
    out = pipeline(IMAGE, motion, "a dance", generator=torch.Generator().manual_seed(3))
    assert out.frames == "frames"
    assert told["settings"] == {
        "num_inference_steps": 40, "flow_shift": 5.0, "guidance_scale": 5.0, "pose_guidance_scale": 1.0,
        "pose_guidance_interval": (0.1, 0.4), "pose_guidance_unit": "step", "solver": "unipc",
    }  # fmt: skip
    owner, image, (moved,), negative, prompts, (window,), size, area_px = told["conditions"]
    assert owner is pipeline and image is IMAGE
    np.testing.assert_array_equal(moved.body, motion.body[:81])
    assert prompts == ("a dance", WAN_NEGATIVE_PROMPT)
    assert (len(window.pixel_frames), size, area_px) == (81, (880, 656), 1024 * 576)
    assert told["velocity"] == (pipeline.transformer, "branches")
    _, velocity, noise, callback = told["sample"]
    assert (velocity, callback) == ("velocity", None)
    assert told["decode"] == ("np", pipeline.vae, "latents")
    # The noise is drawn first, then the perturbation, from the one generator.
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(noise, torch.randn(1, 16, 21, 110, 82, generator=generator))
    expected = Perturbation.draw(81, generator)
    np.testing.assert_array_equal(negative.scale, expected.scale)
    np.testing.assert_array_equal(negative.aspect, expected.aspect)


@pytest.mark.parametrize("is_shifted", [False, True])
def test_the_negative_pose_is_shifted_on_request(
    pipeline: SteadyDancerPipeline, told: dict[str, Any], is_shifted: bool
) -> None:
    given = {"height": 32, "width": 64, "num_frames": 9, "generator": torch.Generator().manual_seed(3)}
    pipeline(IMAGE, pose(9), "a dance", negative_pose_shift=is_shifted, **given)
    generator = torch.Generator().manual_seed(3)
    torch.randn(1, 16, 3, 4, 8, generator=generator)
    expected = Perturbation.draw(9, generator, has_shift=is_shifted)
    negative = told["conditions"][3]
    np.testing.assert_array_equal(negative.scale, expected.scale)
    np.testing.assert_array_equal(negative.shift, expected.shift)


def test_each_setting_goes_to_its_place(pipeline: SteadyDancerPipeline, told: dict[str, Any]) -> None:
    black, seen = np.zeros((15, 8, 6, 3), np.uint8), print
    settings: dict[str, Any] = {
        "num_inference_steps": 7, "flow_shift": 3.0, "guidance_scale": 4.0, "pose_guidance_scale": 2.0,
        "pose_guidance_interval": (0.2, 0.3), "pose_guidance_unit": "timestep", "solver": "dpm++",
    }  # fmt: skip
    pipeline(
        IMAGE, pose(13), "a walk", "stills", negative_pose_video=black, height=32, width=64, num_frames=None,
        window_frames=9, window_overlap=4, drawing_area_px=999, output_type="uint8", callback=seen,
        generator=torch.Generator().manual_seed(3), **settings,
    )  # fmt: skip
    assert told["settings"] == settings
    _, _, _, negative, prompts, windows, size, area_px = told["conditions"]
    np.testing.assert_array_equal(negative, black[:13])
    assert (prompts, size, area_px) == (("a walk", "stills"), (32, 64), 999)
    assert [(window.start, window.stop) for window in windows] == [(1, 3), (2, 4)]
    _, velocity, noise, callback = told["sample"]
    assert isinstance(velocity, FusedVelocity) and callback is seen
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(1, 16, 3, 4, 8, generator=generator)
    assert torch.equal(noise, free_noise(first, windows, generator)) and noise.shape[2] == 4
    assert told["decode"] == ("uint8", pipeline.vae, "latents")


def test_where_the_pose_does_not_guide_nothing_is_drawn_for_it(
    pipeline: SteadyDancerPipeline, told: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(3)
    pipeline(IMAGE, pose(5), num_frames=5, pose_guidance_scale=0.0, height=32, width=32, generator=generator)
    assert told["conditions"][3] is None and told["conditions"][4] == ("", WAN_NEGATIVE_PROMPT)
    again = torch.Generator().manual_seed(3)
    torch.randn(1, 16, 2, 4, 4, generator=again)
    assert torch.equal(generator.get_state(), again.get_state())


def test_an_empty_negative_prompt_is_one_and_not_the_pipelines_own(
    pipeline: SteadyDancerPipeline, told: dict[str, Any]
) -> None:
    pipeline(IMAGE, pose(5), "a dance", "", num_frames=5, height=32, width=32)
    assert told["conditions"][4] == ("a dance", "")
