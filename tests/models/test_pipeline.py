from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.models import driving, encoders
from steadydancer.models.components import load_components, save_components, tiny_components
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.pose_condition import draw_pose_condition
from steadydancer.models.pose_estimator import PoseTrack
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

T_POSE = [
    *((0.5, 0.2), (0.5, 0.3), (0.4, 0.3), (0.3, 0.3), (0.2, 0.3), (0.6, 0.3), (0.7, 0.3), (0.8, 0.3), (0.45, 0.55)),
    *((0.45, 0.7), (0.45, 0.85), (0.55, 0.55), (0.55, 0.7), (0.55, 0.85), (0.48, 0.18), (0.52, 0.18)),
    *((0.46, 0.2), (0.54, 0.2)),
]
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 36, 3), dtype=np.uint8)
SMALL: dict[str, Any] = {"height": 48, "width": 32, "num_frames": 5, "num_inference_steps": 3}


def pose(num_frames: int = 5) -> PoseSequence:
    body = np.repeat(np.array(T_POSE)[None], num_frames, axis=0)
    body[:, 4, 1] += 0.03 * np.arange(num_frames)  # a hand sinks
    return PoseSequence(body, np.ones((num_frames, 18), bool), np.full((num_frames, 2, 21, 2), -1.0))


@pytest.fixture(scope="module")
def pipeline() -> SteadyDancerPipeline:
    parts = tiny_components(seed=0, transformer={"num_layers": 2})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SteadyDancerTransformer3DModel.from_wan(parts.pop("transformer")).eval()
        # A new network does not see the pose; a trained one does.
        transformer.patch_embedding_fuse.weight.data.normal_(std=0.05)
    made = SteadyDancerPipeline(transformer=transformer, **parts)
    made.set_progress_bar_config(disable=True)
    return made


def run(pipeline: SteadyDancerPipeline, seed: int = 0, **arguments: Any) -> Any:
    defaults: dict[str, Any] = {"image": IMAGE, "prompt": "a dance", "output_type": "latent"} | SMALL
    motion = {} if "driving_video" in arguments else {"pose_video": pose()}
    generator = torch.Generator().manual_seed(seed)
    return pipeline(**(defaults | motion | arguments), generator=generator).frames


def test_saved_and_loaded_it_makes_the_same_video(pipeline: SteadyDancerPipeline, tmp_path: Path) -> None:
    expected = run(pipeline)
    pipeline.save_pretrained(tmp_path / "whole")
    loaded = SteadyDancerPipeline.from_pretrained(tmp_path / "whole")
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(run(loaded), expected, atol=1e-4, rtol=1e-4)
    assert loaded.config.negative_prompt == pipeline.config.negative_prompt
    save_components(pipeline.components, tmp_path / "parts")
    loaded = SteadyDancerPipeline(**load_components(tmp_path / "parts"))
    torch.testing.assert_close(run(loaded), expected, atol=1e-4, rtol=1e-4)
    parts = SteadyDancerPipeline.from_pretrained(tmp_path / "parts", torch_dtype=torch.bfloat16, vae=pipeline.vae)
    assert parts.vae is pipeline.vae
    assert [parts.transformer.patch_embedding.weight.dtype, parts.text_encoder.dtype] == [torch.bfloat16] * 2


def test_a_pipeline_may_be_saved_with_its_own_negative_prompt(pipeline: SteadyDancerPipeline, tmp_path: Path) -> None:
    SteadyDancerPipeline(**pipeline.components, negative_prompt="stills").save_pretrained(tmp_path)
    assert SteadyDancerPipeline.from_pretrained(tmp_path).config.negative_prompt == "stills"


def test_the_plain_wan_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a SteadyDancer"):
        SteadyDancerPipeline(**tiny_components(transformer={"num_layers": 1}))


def test_every_kind_of_output_shows_the_same_video(pipeline: SteadyDancerPipeline) -> None:
    latents, bytes_, floats, images = (run(pipeline, output_type=kind) for kind in ("latent", "uint8", "np", "pil"))
    assert latents.shape == (1, 16, 2, 6, 4)
    assert bytes_.shape == floats.shape == (1, 5, 48, 32, 3)
    assert (bytes_[0] == encoders.decode_latents(pipeline.vae, latents[0])).all()
    assert np.abs(floats - bytes_ / 255).max() <= 0.5 / 255 + 1e-6
    assert all((np.asarray(image) == frame).all() for image, frame in zip(images[0], bytes_[0], strict=True))


def test_every_input_counts_and_the_generator_decides_the_rest(pipeline: SteadyDancerPipeline) -> None:
    first = run(pipeline)
    assert torch.equal(first, run(pipeline))
    moved = PoseSequence(pose().body + 0.05, pose().body_visible, pose().hands)
    for change in (
        {"seed": 1},
        {"prompt": "a walk"},
        {"negative_prompt": "a walk"},
        {"image": 255 - IMAGE},
        {"pose_video": moved},
        {"pose_guidance_scale": 0.0},
        {"guidance_scale": 1.0},
        {"flow_shift": 3.0},
    ):
        assert (run(pipeline, **change) - first).abs().max() > 1e-4, change


def test_keypoints_and_their_drawing_are_the_same_motion(pipeline: SteadyDancerPipeline) -> None:
    drawn = draw_pose_condition(pose(), *IMAGE.shape[:2])
    expected = run(pipeline, pose_guidance_scale=0.0)
    assert torch.equal(run(pipeline, pose_guidance_scale=0.0, pose_video=drawn), expected)
    images = [Image.fromarray(frame) for frame in drawn]
    as_images = run(pipeline, pose_guidance_scale=0.0, pose_video=images, image=Image.fromarray(IMAGE))
    assert torch.equal(as_images, expected)


def test_the_negative_pose_is_asked_in_its_interval_only_and_differs_only_in_the_clip(
    pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    forward = pipeline.transformer.forward

    def recorded(*args: Any, **arguments: Any) -> Any:
        calls.append(arguments)
        return forward(*args, **arguments)

    monkeypatch.setattr(pipeline.transformer, "forward", recorded)
    run(pipeline, num_inference_steps=5, negative_pose_video=np.zeros((5, 60, 36, 3), np.uint8))
    assert len(calls) == 2 * 5 + 1  # 0.1 < 1/5 < 0.4, and 2/5 is not below 0.4
    positive, negative_text, negative_pose = calls[2:5]
    black = encoders.encode_video(pipeline.vae, np.zeros((5, 48, 32, 3), np.uint8))
    torch.testing.assert_close(negative_pose["pose_latents"][0], black)
    torch.testing.assert_close(negative_pose["reference_pose_latents"], positive["pose_latents"][:, :, :1])
    same = ("image_latents", "encoder_hidden_states_image", "encoder_hidden_states_pose_image")
    for name in (*same, "encoder_hidden_states"):
        assert torch.equal(negative_pose[name], positive[name]), name
    for name in (*same, "pose_latents"):
        assert torch.equal(negative_text[name], positive[name]), name


class OneDancer:
    """An estimator that finds the same person in every picture, smaller and further left in the driving one."""

    name = "one-dancer"
    counts_people = True

    def __init__(self, nobody_in: int | None = None) -> None:
        self.nobody_in = nobody_in

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        if len(frames) == self.nobody_in:
            return []
        found = pose(len(frames))
        if len(frames) > 1:
            found = PoseSequence(found.body * 0.5, found.body_visible, found.hands)
        return [PoseTrack(found, np.ones((len(frames), 18), np.float32))]


def test_a_driving_video_is_aligned_to_the_image(pipeline: SteadyDancerPipeline) -> None:
    frames = np.zeros((7, 60, 36, 3), np.uint8)
    aligned = driving.driven_pose(frames[:5], IMAGE, OneDancer())
    np.testing.assert_allclose(aligned[0].body, pose().body, atol=1e-6)
    driven = run(pipeline, driving_video=frames, pose_estimator=OneDancer())
    assert torch.equal(driven, run(pipeline, pose_video=aligned))


@pytest.mark.parametrize(("nobody_in", "where"), [(1, "the reference image"), (5, "the driving video")])
def test_nobody_found_is_one_sentence(pipeline: SteadyDancerPipeline, nobody_in: int, where: str) -> None:
    frames = np.zeros((5, 60, 36, 3), np.uint8)
    with pytest.raises(driving.DrivingError, match=f"one-dancer finds nobody in .*{where}"):
        run(pipeline, driving_video=frames, pose_estimator=OneDancer(nobody_in))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 6}, r"4k \+ 1, .*not 6"),
        ({"num_frames": 9}, "has 5 frames .* asks for 9"),
        ({"height": 40}, "multiples of 16"),
        ({"width": None}, "given together"),
        ({"driving_video": IMAGE[None], "pose_video": pose()}, "either pose_video or driving_video, not both"),
        ({"pose_video": None}, "either pose_video or driving_video, not neither"),
        ({"driving_video": IMAGE[None]}, "needs a pose_estimator"),
        ({"output_type": "gif"}, "gif"),
    ],
)
def test_what_cannot_be_is_refused(pipeline: SteadyDancerPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(pipeline, **arguments)


def test_without_sizes_the_release_rule_decides(pipeline: SteadyDancerPipeline) -> None:
    frames = run(pipeline, height=None, width=None, max_area_px=32 * 48, num_inference_steps=1)
    assert frames.shape == (1, 16, 2, 6, 2)  # √(1536 · 5/3) = 50.6 and √(1536 · 3/5) = 30.4, down to multiples of 16


def test_perturbation_draws_its_ranges_and_stretches_drawings_about_their_middle() -> None:
    draws = driving.Perturbation.draw(4000, torch.Generator().manual_seed(0))
    assert 0.7 <= draws.scale.min() < 0.71
    assert 1.29 < draws.scale.max() <= 1.3
    assert 0.6 <= draws.aspect.min() < 0.61
    assert 1.39 < draws.aspect.max() <= 1.4
    assert abs(np.corrcoef(draws.scale, draws.aspect)[0, 1]) < 0.05

    frames = np.zeros((2, 100, 100, 3), np.uint8)
    frames[:, 40:61, 30:51] = 255
    twice_as_wide = driving.Perturbation(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    stretched = driving.stretch_drawing(frames, twice_as_wide)
    assert (stretched[0] == frames[0]).all()
    drawn = np.argwhere(stretched[1].max(axis=-1) > 127)
    assert drawn.min(axis=0).tolist() == pytest.approx([40, 20], abs=1)
    assert drawn.max(axis=0).tolist() == pytest.approx([60, 60], abs=1)
    assert not driving.stretch_drawing(np.zeros_like(frames), twice_as_wide).any()
