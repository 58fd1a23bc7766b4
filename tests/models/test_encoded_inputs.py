"""A video that is sampled from encoded inputs has the bits of one call."""

from typing import Any

import numpy as np
import pytest
import torch

from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.models.encoded_inputs import EncodedInputs
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.pipeline_inputs import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
SHAPE: dict[str, Any] = {"height": 48, "width": 32, "num_frames": 9, "drawing_area_px": 64 * 64}
SETTINGS: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "return_dict": False}


@pytest.fixture
def pipeline(small_pipeline: SteadyDancerPipeline) -> SteadyDancerPipeline:
    return small_pipeline


def pose() -> PoseSequence:
    body = np.random.default_rng(1).random((9, 18, 2))
    return PoseSequence(body, np.ones((9, 18), bool), np.full((9, 2, 21, 2), -1.0))


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(pipeline: SteadyDancerPipeline, *args: Any, **given: Any) -> torch.Tensor:
    (latents,) = pipeline(*args, **SETTINGS | given)
    return latents


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"window_frames": 5, "window_overlap": 0},
        {"num_videos_per_prompt": 2},
        {"pose_guidance_scale": 0.0},
        {"negative_pose_shift": True},
        {"latents": torch.full((1, 16, 3, 6, 4), 0.3)},
    ],
    ids=["one window", "windows", "two videos", "no pose guidance", "shifted", "given noise"],
)
def test_encoding_and_sampling_apart_give_the_bits_of_one_call(
    pipeline: SteadyDancerPipeline, case: dict[str, Any]
) -> None:
    at_once = sampled(pipeline, IMAGE, pose(), "a dance", **SHAPE, **case, generator=seeded())
    encoded = pipeline.encode_inputs(IMAGE, pose(), "a dance", **SHAPE, **case, generator=seeded())
    names = ("num_videos_per_prompt", "pose_guidance_scale", "latents")
    later = {name: value for name, value in case.items() if name in names}
    assert torch.equal(sampled(pipeline, encoded=encoded, generator=seeded(), **later), at_once)
    if "latents" not in later:
        assert not torch.equal(sampled(pipeline, encoded=encoded, generator=seeded(6), **later), at_once)


def test_encoded_inputs_are_sampled_with_any_settings_and_without_encoders(pipeline: SteadyDancerPipeline) -> None:
    encoded = pipeline.encode_inputs(IMAGE, pose(), "a dance", **SHAPE, generator=seeded())
    bare = SteadyDancerPipeline(pipeline.transformer, None, None, None, None, pipeline.scheduler)  # type: ignore[arg-type]
    bare.set_progress_bar_config(disable=True)
    for settings in ({"guidance_scale": 1.0}, {"num_inference_steps": 2, "solver": "dpm++"}):
        whole = sampled(pipeline, IMAGE, pose(), "a dance", **SHAPE, **settings, generator=seeded())
        assert torch.equal(sampled(bare, encoded=encoded, **settings, generator=seeded()), whole)


def test_encoded_inputs_exclude_what_they_replace(pipeline: SteadyDancerPipeline) -> None:
    encoded = pipeline.encode_inputs(IMAGE, pose(), **SHAPE, pose_guidance_scale=0.0)
    with pytest.raises(InputError, match="encoded replaces image, prompt: pass either encoded or these"):
        sampled(pipeline, IMAGE, prompt="a dance", encoded=encoded)
    two = pipeline.encode_inputs(IMAGE, pose(), **SHAPE, num_videos_per_prompt=2)
    with pytest.raises(InputError, match="encoded has 2 negative poses, but 3 videos"):
        sampled(pipeline, encoded=two, num_videos_per_prompt=3)
    assert sampled(pipeline, encoded=encoded, pose_guidance_scale=0.0).shape == (1, 16, 3, 6, 4)


def test_a_move_keeps_values_and_moves_a_shared_tensor_once() -> None:
    one = torch.ones(1)
    encoded = EncodedInputs(16, 16, 5, [], one, one, [one, one + 1], one, one, one, [[one]])
    moved = encoded.to("meta")
    assert {tensor.device.type for tensor in moved.tensors()} == {"meta"}
    assert moved.image_latents is moved.pose_latents[0] and moved.pose_latents[1] is not moved.pose_latents[0]
    assert [tensor.item() for tensor in encoded.tensors()] == [1, 1, 1, 2, 1, 1, 1, 1]
