import copy
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image
from safetensors.torch import load_file

from steadydancer.datasets.provenance import read_provenance
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.video import decode, encode
from steadydancer.models import encoders, pipeline_inputs
from steadydancer.models.checkpoints.folders import ComponentsError
from steadydancer.models.components import flow_scheduler, load_components, save_components, tiny_components
from steadydancer.models.pipeline import WAN_NEGATIVE_PROMPT, SteadyDancerPipeline
from steadydancer.models.pipeline_inputs import InputError
from steadydancer.models.pose.track import PoseTrack
from steadydancer.models.pose_condition import draw_pose_condition
from steadydancer.models.render_record import input_digest, model_digests, module_digest
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

T_POSE = [
    *((0.5, 0.2), (0.5, 0.3), (0.4, 0.3), (0.3, 0.3), (0.2, 0.3), (0.6, 0.3), (0.7, 0.3), (0.8, 0.3), (0.45, 0.55)),
    *((0.45, 0.7), (0.45, 0.85), (0.55, 0.55), (0.55, 0.7), (0.55, 0.85), (0.48, 0.18), (0.52, 0.18)),
    *((0.46, 0.2), (0.54, 0.2)),
]
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 36, 3), dtype=np.uint8)
AREA_PX = 64 * 64
SMALL: dict[str, Any] = {
    "height": 48, "width": 32, "num_frames": 5, "num_inference_steps": 3, "drawing_area_px": AREA_PX,
}  # fmt: skip


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


def aligned(frames: np.ndarray, estimator: Any, **options: Any) -> list[PoseSequence]:
    """What a call makes of a driving video."""
    motion, _ = pipeline_inputs.prepare_motion(IMAGE, None, frames, estimator, len(frames), **options)
    return motion


def run(pipeline: SteadyDancerPipeline, seed: int = 0, **arguments: Any) -> Any:
    defaults: dict[str, Any] = {"image": IMAGE, "prompt": "a dance", "output_type": "latent"} | SMALL
    motion = {} if "driving_video" in arguments else {"pose_video": pose()}
    generator = torch.Generator().manual_seed(seed)
    return pipeline(**(defaults | motion | arguments), generator=generator).frames


RENDER_ELSEWHERE = """
import sys, numpy as np, torch
from pathlib import Path
from safetensors.torch import save_file
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.models import SteadyDancerPipeline

folder = Path(sys.argv[1])
pipeline = SteadyDancerPipeline.from_pretrained(folder / "pipeline")
pipeline.set_progress_bar_config(disable=True)
inputs = np.load(folder / "inputs.npz")
latents = pipeline(
    inputs["image"], PoseSequence.from_bytes((folder / "pose").read_bytes()), "a dance", height=48, width=32,
    num_frames=5, num_inference_steps=3, drawing_area_px=64 * 64, output_type="latent",
    generator=torch.Generator().manual_seed(0),
).frames
save_file({"latents": latents}, folder / "latents.safetensors")
"""


@pytest.mark.acceptance
def test_a_fresh_process_loads_it_and_makes_the_same_bits(pipeline: SteadyDancerPipeline, tmp_path: Path) -> None:
    parts = pipeline.components | {"scheduler": flow_scheduler(3.0)}
    saved = SteadyDancerPipeline(**parts, negative_prompt="stills")
    saved.set_progress_bar_config(disable=True)
    saved.save_pretrained(tmp_path / "pipeline")
    np.savez(tmp_path / "inputs.npz", image=IMAGE)
    (tmp_path / "pose").write_bytes(pose().to_bytes())
    subprocess.run([sys.executable, "-c", RENDER_ELSEWHERE, str(tmp_path)], check=True, cwd=tmp_path)
    there = load_file(tmp_path / "latents.safetensors")["latents"]

    loaded = SteadyDancerPipeline.from_pretrained(tmp_path / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    assert (loaded.config.negative_prompt, loaded.scheduler.config.flow_shift) == ("stills", 3.0)
    motion = PoseSequence.from_bytes(pose().to_bytes())  # stored as float32
    assert torch.equal(run(loaded, pose_video=motion), there)
    # Mapped from a file the same weights may lie at other addresses, for which other kernels are taken.
    torch.testing.assert_close(run(saved, pose_video=motion), there, atol=1e-4, rtol=1e-4)
    for name, part in saved.components.items():
        if isinstance(part, torch.nn.Module):
            assert module_digest(part) == module_digest(loaded.components[name]), name


def test_parts_saved_apart_are_a_pipeline_too(pipeline: SteadyDancerPipeline, tmp_path: Path) -> None:
    save_components(pipeline.components, tmp_path)
    expected = run(pipeline)
    loaded = SteadyDancerPipeline(**load_components(tmp_path))
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(run(loaded), expected, atol=1e-4, rtol=1e-4)
    parts = SteadyDancerPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16, vae=pipeline.vae)
    assert parts.vae is pipeline.vae
    assert [parts.transformer.patch_embedding.weight.dtype, parts.text_encoder.dtype] == [torch.bfloat16] * 2


@pytest.mark.parametrize(("dtype", "most", "mean"), [(torch.bfloat16, 0.02, 2e-3), (torch.float16, 0.005, 5e-4)])
def test_half_precision_is_close_and_keeps_in_float32_what_must_be(
    pipeline: SteadyDancerPipeline, tmp_path: Path, dtype: torch.dtype, most: float, mean: float
) -> None:
    pipeline.save_pretrained(tmp_path)
    half = SteadyDancerPipeline.from_pretrained(tmp_path, torch_dtype=dtype)
    half.set_progress_bar_config(disable=True)
    parts = (half.transformer, half.text_encoder, half.image_encoder)
    assert [part.dtype for part in parts] == [dtype] * 3
    whole = (half.vae, half.transformer.pose_modulation)
    assert {parameter.dtype for part in whole for parameter in part.parameters()} == {torch.float32}
    seen: list[torch.dtype] = []
    latents = run(half, callback=lambda step, timestep, latents: seen.append(latents.dtype))
    assert {*seen, latents.dtype} == {torch.float32}
    off = np.abs(run(half, output_type="np") - run(pipeline, output_type="np"))  # of 1.0; NaN would fail both
    assert off.max() < most and off.mean() < mean


OFFLOADS: dict[str, Callable[[SteadyDancerPipeline], None]] = {
    "by model": lambda pipeline: pipeline.enable_model_cpu_offload(device="cpu"),
    "by layer": lambda pipeline: pipeline.enable_sequential_cpu_offload(device="cpu"),
    "by block": lambda pipeline: pipeline.enable_group_offload(
        torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    ),
    "by leaf": lambda pipeline: pipeline.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
}


@pytest.mark.parametrize("kind", OFFLOADS)
def test_offloaded_it_makes_the_same_bits_and_knows_its_weights(
    pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    by_layer = accelerate.cpu_offload
    # diffusers asks for "cpu:0", which accelerate takes for another device than "cpu" and then loses the type.
    monkeypatch.setattr(accelerate, "cpu_offload", lambda model, _, **options: by_layer(model, "cpu", **options))
    offloaded = SteadyDancerPipeline(**copy.deepcopy(pipeline.components))
    offloaded.set_progress_bar_config(disable=True)
    OFFLOADS[kind](offloaded)
    for output_type in ("latent", "uint8"):  # and a second call finds everything in its place
        assert np.array_equal(run(offloaded, output_type=output_type), run(pipeline, output_type=output_type))
    assert model_digests(offloaded) == model_digests(pipeline)
    if kind == "by layer":
        assert offloaded.transformer.proj_out.weight.is_meta and not pipeline.transformer.proj_out.weight.is_meta


def test_a_pipeline_may_be_saved_with_its_own_negative_prompt(pipeline: SteadyDancerPipeline, tmp_path: Path) -> None:
    SteadyDancerPipeline(**pipeline.components, negative_prompt="stills").save_pretrained(tmp_path)
    assert SteadyDancerPipeline.from_pretrained(tmp_path).config.negative_prompt == "stills"


def test_another_model_is_refused_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny_components(transformer={"num_layers": 1})
    with pytest.raises(
        ValueError,
        match="must be a SteadyDancerTransformer3DModel, not WanTransformer3DModel: `SteadyDancerTrans",
    ):
        SteadyDancerPipeline(**parts)
    save_components(parts, tmp_path)
    monkeypatch.setattr(AutoencoderKLWan, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ComponentsError, match="contains a WanTransformer3DModel, not a SteadyDancer.*from_wan"):
        SteadyDancerPipeline.from_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "vae")
    with pytest.raises(ComponentsError, match="has no vae/"):
        SteadyDancerPipeline.from_pretrained(tmp_path)


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
    drawn = draw_pose_condition(pose(), *IMAGE.shape[:2], AREA_PX)
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
    monkeypatch.setattr(pipeline, "branch_evaluation", "sequential")  # a call for each branch
    run(pipeline, num_inference_steps=5, negative_pose_video=np.zeros((5, 64, 36, 3), np.uint8))
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
    frames = np.zeros((7, 64, 36, 3), np.uint8)
    people = aligned(frames[:5], OneDancer())
    np.testing.assert_allclose(people[0].body, pose().body, atol=1e-6)
    driven = run(pipeline, driving_video=frames, pose_estimator=OneDancer())
    assert torch.equal(driven, run(pipeline, pose_video=people))
    all_of_it = run(pipeline, driving_video=frames, pose_estimator=OneDancer(), num_frames=None, num_inference_steps=1)
    assert all_of_it.shape[2] == 2  # seven frames: five are 4k + 1


class TwoDancers(OneDancer):
    """And a second one beside the first in every picture."""

    name = "two-dancers"

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        (main,) = super().estimate(frames)
        beside = PoseSequence(main.pose.body + np.array([0.1, 0.05]), main.pose.body_visible, main.pose.hands)
        return [main, PoseTrack(beside, main.confidence)]


def test_the_others_follow_the_main_persons_alignment(pipeline: SteadyDancerPipeline) -> None:
    frames = np.zeros((5, 64, 36, 3), np.uint8)
    people = aligned(frames, TwoDancers())
    (main,) = aligned(frames, TwoDancers(), main_person_only=True)
    (alone,) = aligned(frames, OneDancer())
    assert (main.body == people[0].body).all() and (main.body == alone.body).all()
    # Twice the size about the own neck, which keeps its distance from the main person's.
    expected = main.body + np.array([0.1, 0.05])
    np.testing.assert_allclose(people[1].body, expected, atol=1e-6)

    both = draw_pose_condition(people, *IMAGE.shape[:2], AREA_PX)
    drawn = {"negative_pose_video": np.zeros_like(frames)}
    as_driven = run(pipeline, driving_video=frames, pose_estimator=TwoDancers(), **drawn)
    assert torch.equal(as_driven, run(pipeline, pose_video=both, **drawn))
    only_main = run(pipeline, driving_video=frames, pose_estimator=TwoDancers(), main_person_only=True, **drawn)
    assert torch.equal(only_main, run(pipeline, pose_video=alone, **drawn))
    assert not torch.equal(only_main, as_driven)


class LateDancer(OneDancer):
    """Who is not seen in the first two frames of a video."""

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        (found,) = super().estimate(frames)
        if len(frames) > 1:
            found.pose.body_visible[:2] = False
        return [found]


def test_a_record_says_from_which_frame_the_driving_video_was_followed(
    pipeline: SteadyDancerPipeline, tmp_path: Path
) -> None:
    frames, settings = np.zeros((5, 64, 36, 3), np.uint8), SMALL | {"num_inference_steps": 1}
    given = {"driving_video": frames, "pose_estimator": LateDancer()}
    record = pipeline.render_to(tmp_path / "late.mp4", IMAGE, **given, **settings, seed=0)
    reported = {name: record["settings"][name] for name in ("num_people", "aligned", "pose_start_frame")}
    assert reported == {"num_people": 1, "aligned": True, "pose_start_frame": 2}
    assert (record["settings"]["on_missing_reference"], record["settings"]["driving_fps"]) == ("keep", None)
    drawn = pipeline.render_to(tmp_path / "drawn.mp4", IMAGE, np.zeros_like(frames), **settings, seed=0)
    assert not {"pose_start_frame", "on_missing_reference"} & drawn["settings"].keys()


@pytest.mark.parametrize(("nobody_in", "where"), [(1, "the reference image"), (5, "the driving video")])
def test_nobody_found_is_one_sentence(pipeline: SteadyDancerPipeline, nobody_in: int, where: str) -> None:
    frames = np.zeros((5, 64, 36, 3), np.uint8)
    with pytest.raises(pipeline_inputs.DrivingError, match=f"one-dancer found no person .*in {where}"):
        run(pipeline, driving_video=frames, pose_estimator=OneDancer(nobody_in), on_missing_reference="raise")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 6}, r"4k \+ 1, .*not 6"),
        ({"num_frames": 9}, "has 5 frames and num_frames is 9"),
        ({"height": 40}, "multiples of 16"),
        ({"width": None}, "passed together"),
        ({"driving_video": IMAGE[None], "pose_video": pose()}, "Pass either pose_video or driving_video, not both"),
        ({"pose_video": None}, "Pass either pose_video or driving_video, not neither"),
        ({"driving_video": IMAGE[None]}, "requires a pose_estimator"),
        ({"driving_fps": 8.0}, "driving_fps requires driving_video to be a file"),
        ({"pose_video": None, "driving_video": "gone.mp4", "pose_estimator": object()}, "gone.mp4 cannot be read"),
        ({"output_type": "gif"}, "gif"),
        ({"num_videos_per_prompt": 0}, "at least 1, not 0"),
        ({"prompt_embeds": torch.zeros(1, 2, 4)}, "either prompt or prompt_embeds"),
        ({"negative_prompt": "", "negative_prompt_embeds": torch.zeros(1, 2, 4)}, "either negative_prompt or"),
        ({"prompt": "", "prompt_embeds": torch.zeros(2, 4)}, r"prompt_embeds must be \[1, L, \d+\], not \[2, 4\]"),
        ({"latents": torch.zeros(1, 16, 3, 6, 4)}, r"must have shape \[1, 16, 2, 6, 4\] .*, not \[1, 16, 3, 6, 4\]"),
        ({"callback_on_step_end_tensor_inputs": ["latents", "noise"]}, "prompt_embeds, .*; got noise"),
        ({"num_frames": 0}, r"4k \+ 1, .*not 0"),
        ({"num_frames": -3}, r"4k \+ 1, .*not -3"),
        ({"image": IMAGE[:1, :1]}, "1×1 px, but the minimum is 32×32"),
        ({"image": IMAGE[:, :31]}, "31×64 px, but the minimum is 32×32"),
        ({"image": IMAGE / 255}, r"uint8 RGB \[H, W, 3\], not float64"),
        ({"image": "me.png"}, "PIL image or uint8 .*not str"),
        ({"pose_video": IMAGE[None][..., :1].repeat(5, 0)}, "each frame of the motion must be .*64, 36, 1"),
        ({"pose_video": [pose(5), pose(4)]}, r"the same number of frames, not \[4, 5\]"),
        ({"pose_video": []}, "motion is empty"),
        ({"negative_pose_video": pose(4)}, "has 4 frames and num_frames is 5"),
        ({"height": None, "width": None, "max_area_px": -1}, "max_area_px -1 is too small"),
        ({"height": None, "width": None, "max_area_px": 100}, "max_area_px 100 is too small"),
        ({"height": -16}, "multiples of 16, not -16"),
        ({"num_inference_steps": 0}, "at least 1, not 0"),
        ({"pose_guidance_interval": (0.4, 0.1)}, r"low < high <= 1, not \(0.4, 0.1\)"),
        ({"window_frames": 80}, "window_frames must be 4k"),
        ({"window_overlap": 80}, "window_overlap must be a multiple of 4"),
        ({"prompt": ["a dance"]}, r"prompt must be one string, not \['a dance'\]"),
        ({"prompt": None}, "prompt must be one string, not None"),
        ({"negative_prompt": ["stills"]}, "negative_prompt must be one string or None"),
        (
            {"prompt": "", "prompt_embeds": torch.zeros(1, 3, 65)},
            r"prompt_embeds must be \[1, L, 64\], not \[1, 3, 65\]",
        ),
        ({"prompt": "", "prompt_embeds": torch.zeros(1, 513, 64)}, r"not \[1, 513, 64\]; L is at most 512"),
        ({"prompt": "", "prompt_embeds": [torch.zeros(3, 64)]}, r"prompt_embeds must be .*, not list"),
        ({"guidance_scale": "5"}, "guidance_scale must be a finite number, not '5'"),
        ({"pose_guidance_scale": float("nan")}, "pose_guidance_scale must be a finite number, not nan"),
        ({"flow_shift": 0.0}, "flow_shift must be a number above 0, not 0.0"),
        ({"drawing_area_px": 5}, "drawing_area_px must be at least 1024, not 5"),
        ({"pose_guidance_unit": "percent"}, "pose_guidance_unit must be one of step, timestep, not 'percent'"),
        ({"solver": "euler"}, r"solver must be one of unipc, dpm\+\+, not 'euler'"),
        ({"pose_video": [pose(), IMAGE]}, "keypoints or frames, not both: 1 of 2 are keypoints"),
        ({"pose_video": [IMAGE, IMAGE[:, :35]] * 3}, "the same size, not 35×64, 36×64"),
    ],
)
def test_what_cannot_be_is_refused(pipeline: SteadyDancerPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(pipeline, **arguments)


def test_a_velocity_that_is_no_number_stops_at_its_step_and_leaves_no_file(
    pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forward, times = pipeline.transformer.forward, []

    def broken(latents: torch.Tensor, timestep: torch.Tensor, *args: Any, **arguments: Any) -> Any:
        times.append(timestep.item())
        velocities = forward(latents, timestep, *args, **arguments)
        return tuple(velocity * (float("nan") if len(set(times)) == 2 else 1) for velocity in velocities)

    monkeypatch.setattr(pipeline.transformer, "forward", broken)
    with pytest.raises(FloatingPointError, match="step 1 of 3"):
        pipeline.render_to(tmp_path / "video.mp4", IMAGE, pose(), seed=0, **SMALL)
    assert not list(tmp_path.iterdir())


def test_a_callback_may_end_the_sampling(pipeline: SteadyDancerPipeline) -> None:
    seen: list[torch.Tensor] = []

    def watch(step: int, timestep: torch.Tensor, latents: torch.Tensor) -> None:
        seen.append(latents)
        pipeline._interrupt = step == 1

    assert torch.equal(run(pipeline, callback=watch), seen[1]) and len(seen) == 2
    assert run(pipeline).shape == seen[1].shape and not pipeline.interrupt


def test_a_callback_of_diffusers_replaces_latents_and_prompts(pipeline: SteadyDancerPipeline) -> None:
    steps: list[tuple[int, float, list[str]]] = []

    def zero_at_the_end(pipe: Any, step: int, timestep: torch.Tensor, given: dict[str, Any]) -> dict[str, Any]:
        assert pipe is pipeline and (pipe.num_timesteps, pipe.guidance_scale) == (3, 5.0)
        assert pipe.do_classifier_free_guidance and pipe.current_timestep is timestep
        steps.append((step, timestep.item(), list(given)))
        return {"latents": torch.zeros_like(given["latents"])} if step == 2 else {}

    frames = run(pipeline, callback_on_step_end=zero_at_the_end, output_type="uint8")
    np.testing.assert_array_equal(frames[0], encoders.decode_latents(pipeline.vae, torch.zeros(16, 2, 6, 4)))
    times: list[float] = []
    plain = run(pipeline, callback=lambda step, timestep, latents: times.append(timestep.item()))
    assert steps == [(step, time, ["latents"]) for step, time in enumerate(times)]
    assert pipeline.current_timestep is None

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    walk, stills = pipeline.encode_prompt("a walk", "stills")
    seen: list[dict[str, Any]] = []

    def after_the_first(pipe: Any, step: int, timestep: torch.Tensor, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(dict(given))
        return {"prompt_embeds": walk, "negative_prompt_embeds": stills} if step == 0 else given

    changed = run(pipeline, callback_on_step_end=after_the_first, callback_on_step_end_tensor_inputs=names)
    assert list(seen[0]) == names and seen[1]["prompt_embeds"] is walk
    assert not torch.equal(changed, plain)
    # After the first step it is the loop of the other prompts: two steps of that are the difference, and no more.
    first, calls = [], []
    run(pipeline, callback=lambda step, timestep, latents: first.append(latents))
    assert torch.equal(seen[0]["latents"], first[0]) and not torch.equal(seen[1]["latents"], first[1])
    unchanged = run(pipeline, callback_on_step_end=lambda *given: calls.append(given))  # diffusers' may return None
    assert torch.equal(unchanged, plain) and len(calls) == 3


def test_a_callback_may_turn_the_guidance_off(pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = pipeline.transformer.forward, []
    monkeypatch.setattr(pipeline.transformer, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    monkeypatch.setattr(pipeline, "branch_evaluation", "sequential")  # a call for each branch

    def off(pipe: Any, step: int, timestep: torch.Tensor, given: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 1.0
        return given

    run(pipeline, callback_on_step_end=off, pose_guidance_scale=0.0)
    assert len(calls) == 2 + 1 + 1 and not pipeline.do_classifier_free_guidance


def test_diffusers_own_cutoff_turns_the_guidance_off(
    pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(pipe: Any, step: int, timestep: torch.Tensor, given: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 1.0
        return given

    quiet = {"pose_guidance_scale": 0.0}
    expected = run(pipeline, callback_on_step_end=off, **quiet)
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)  # it sets the guidance scale to 0
    assert torch.equal(run(pipeline, callback_on_step_end=cutoff, **quiet), expected)
    assert not pipeline.do_classifier_free_guidance
    # A scale of 0 in the call itself is the velocity of the negative prompt.
    swapped = {"prompt": WAN_NEGATIVE_PROMPT, "negative_prompt": "a dance", "guidance_scale": 1.0}
    torch.testing.assert_close(run(pipeline, guidance_scale=0.0, **quiet), run(pipeline, **swapped, **quiet))


def test_without_a_text_encoder_both_embeddings_are_needed(pipeline: SteadyDancerPipeline) -> None:
    embeds, _ = pipeline.encode_prompt("a dance")
    without = SteadyDancerPipeline(**pipeline.components | {"text_encoder": None, "tokenizer": None})
    with pytest.raises(InputError, match="no text encoder: .*; prompt_embeds is missing"):
        run(without)
    with pytest.raises(InputError, match="no text encoder: .*; negative_prompt_embeds is missing"):
        run(without, prompt="", prompt_embeds=embeds)


def test_an_overridden_decoder_also_writes_the_file(pipeline: SteadyDancerPipeline, tmp_path: Path) -> None:
    class Inverted(SteadyDancerPipeline):
        def decode_chunks(self, latents: torch.Tensor) -> Any:
            yield from (-pixels for pixels in super().decode_chunks(latents))

    inverted = Inverted(**pipeline.components)
    inverted.set_progress_bar_config(disable=True)
    whole = run(inverted, output_type="uint8")[0]
    assert abs(255 - whole.astype(int) - run(pipeline, output_type="uint8")[0]).max() <= 1
    generator = torch.Generator().manual_seed(0)
    pieces = inverted.stream(IMAGE, pose(), "a dance", **SMALL, generator=generator)
    assert np.array_equal(np.concatenate(list(pieces)), whole)


def test_embeddings_give_the_bits_of_their_prompts(pipeline: SteadyDancerPipeline) -> None:
    positive, negative = pipeline.encode_prompt("a dance")
    assert positive.shape[0] == negative.shape[0] == 1 and positive.shape[1] < negative.shape[1]
    given = {"prompt": "", "prompt_embeds": positive, "negative_prompt_embeds": negative}
    assert torch.equal(run(pipeline, **given), run(pipeline))
    torch.testing.assert_close(run(pipeline, prompt="", prompt_embeds=positive), run(pipeline), atol=1e-3, rtol=1e-3)
    without = SteadyDancerPipeline(**pipeline.components | {"text_encoder": None, "tokenizer": None})
    without.set_progress_bar_config(disable=True)
    assert torch.equal(run(without, **given), run(pipeline))
    other, _ = pipeline.encode_prompt("a walk")
    assert not torch.equal(run(pipeline, **given | {"prompt_embeds": other}), run(pipeline))


LONG: dict[str, Any] = {"pose_video": pose(13), "num_frames": 13, "window_frames": 9, "window_overlap": 4}


def two(pipeline: SteadyDancerPipeline, generator: Any, **arguments: Any) -> Any:
    given = {"output_type": "latent", "pose_video": pose()} | SMALL | {"num_inference_steps": 2} | arguments
    return pipeline(IMAGE, prompt="a dance", generator=generator, **given).frames


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (5, 9)]


@pytest.mark.parametrize("longer", [{}, LONG])
def test_two_videos_a_prompt_are_two_calls(pipeline: SteadyDancerPipeline, longer: dict[str, Any]) -> None:
    guided = {"pose_guidance_interval": (0.0, 1.0), **longer}  # each has its own negative pose
    singles = torch.cat([two(pipeline, each, **guided) for each in generators()])
    assert not torch.equal(singles[0], singles[1])
    assert torch.equal(two(pipeline, generators(), num_videos_per_prompt=2, **guided), singles)


def test_every_video_is_decoded_and_one_generator_draws_for_all(pipeline: SteadyDancerPipeline) -> None:
    quiet = {"pose_guidance_scale": 0.0, "num_inference_steps": 1}
    frames = two(pipeline, generators(), num_videos_per_prompt=2, output_type="uint8", **quiet)
    np.testing.assert_array_equal(frames[1], two(pipeline, generators()[1], output_type="uint8", **quiet)[0])
    with pytest.raises(InputError, match="a list of 2 and num_videos_per_prompt is 3"):
        two(pipeline, generators(), num_videos_per_prompt=3)
    both = two(pipeline, generators()[0], num_videos_per_prompt=2, **quiet)
    again = generators()[0]  # two calls in turn
    assert torch.equal(both, torch.cat([two(pipeline, again, **quiet) for _ in range(2)]))
    assert not torch.equal(both[0], both[1])


def test_a_record_has_digests_of_tensors_and_files(pipeline: SteadyDancerPipeline, tmp_path: Path) -> None:
    encode(np.zeros((5, 64, 36, 3), np.uint8), tmp_path / "dance.mp4")
    positive, negative = pipeline.encode_prompt("a dance")
    noise = torch.zeros(1, 16, 2, 6, 4)
    tensors = {"prompt_embeds": positive, "negative_prompt_embeds": negative, "latents": noise}
    driving = {"driving_video": tmp_path / "dance.mp4", "pose_estimator": OneDancer()}
    small = SMALL | {"num_inference_steps": 1}
    record = pipeline.render_to(tmp_path / "video.mp4", IMAGE, **driving, **tensors, **small, seed=0)
    assert record["inputs"].keys() == {"image", "driving_video", *tensors}
    assert record["inputs"]["driving_video"] == content_digest(tmp_path / "dance.mp4")
    assert record["inputs"]["latents"] == input_digest(torch.zeros(1, 16, 2, 6, 4)) != input_digest(noise + 1)
    assert record["settings"]["negative_prompt"] is None and not tensors.keys() & record["settings"].keys()


def test_a_tuple_is_returned_where_no_dict_is_asked_for(pipeline: SteadyDancerPipeline) -> None:
    arguments = SMALL | {"num_inference_steps": 1, "output_type": "latent", "return_dict": False}
    (latents,) = pipeline(IMAGE, pose(), "a dance", **arguments, generator=torch.Generator().manual_seed(0))
    assert torch.equal(latents, run(pipeline, num_inference_steps=1))


def test_noise_that_is_given_is_the_noise(pipeline: SteadyDancerPipeline) -> None:
    quiet = {"pose_guidance_scale": 0.0}  # so that the generator draws the noise alone
    noise = torch.randn(1, 16, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run(pipeline, seed=8, latents=noise, **quiet), run(pipeline, seed=0, **quiet))
    twice = run(pipeline, latents=noise.repeat(2, 1, 1, 1, 1), num_videos_per_prompt=2, **quiet)
    assert torch.equal(twice[0], twice[1])


class Still(SteadyDancerPipeline):
    """Begins at zeros and decodes to numbers."""

    def prepare_latents(self, *arguments: Any, **options: Any) -> torch.Tensor:
        return torch.zeros_like(super().prepare_latents(*arguments, **options))

    def decode_latents(self, latents: torch.Tensor, output_type: str = "np") -> Any:
        return latents.sum().item()


def test_what_a_subclass_overrides_is_used(pipeline: SteadyDancerPipeline) -> None:
    still = Still(**pipeline.components)
    still.set_progress_bar_config(disable=True)
    expected = run(pipeline, latents=torch.zeros(1, 16, 2, 6, 4), pose_guidance_scale=0.0)
    assert run(still, pose_guidance_scale=0.0) == expected.sum().item()


def test_several_videos_are_not_streamed(pipeline: SteadyDancerPipeline) -> None:
    with pytest.raises(InputError, match="num_videos_per_prompt must be 1: call them once per video"):
        pipeline.stream(IMAGE, pose(), num_videos_per_prompt=2)


def test_an_empty_prompt_is_a_prompt(pipeline: SteadyDancerPipeline) -> None:
    assert not torch.equal(run(pipeline, prompt=""), run(pipeline))


def test_one_window_is_the_plain_path(pipeline: SteadyDancerPipeline) -> None:
    for window_frames, window_overlap in ((5, 0), (9, 4)):
        one = run(pipeline, window_frames=window_frames, window_overlap=window_overlap)
        assert torch.equal(one, run(pipeline))


def test_every_window_is_a_clip_that_opens_with_the_image(
    pipeline: SteadyDancerPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    forward = pipeline.transformer.forward

    def recorded(latents: torch.Tensor, *args: Any, **arguments: Any) -> Any:
        calls.append({"latents": latents} | arguments)
        return forward(latents, *args, **arguments)

    monkeypatch.setattr(pipeline.transformer, "forward", recorded)
    out = run(pipeline, **LONG, num_inference_steps=1, guidance_scale=1.0, pose_guidance_scale=0.0)
    assert out.shape[2] == 4
    first, second = calls
    for name, reported in first.items():
        if isinstance(reported, torch.Tensor) and name not in ("latents", "pose_latents"):
            assert second[name] is reported, name
    assert first["image_latents"][0, :4, 0].eq(1).all() and first["image_latents"][0, :4, 1:].eq(0).all()
    frames = draw_pose_condition(pose(13), *IMAGE.shape[:2], AREA_PX)
    for call, pixels in ((first, range(9)), (second, [0, *range(5, 13)])):
        alone = encoders.encode_video(pipeline.vae, frames[list(pixels)], 48, 32)
        assert torch.equal(call["pose_latents"][0], alone)
    noise = torch.randn(1, 16, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first["latents"], noise)
    assert torch.equal(second["latents"], noise[:, :, [0, 2, 1]])  # the frame it left behind comes last


def test_in_pieces_and_in_a_file_it_is_the_same_video(pipeline: SteadyDancerPipeline, tmp_path: Path) -> None:
    whole = run(pipeline, **LONG, output_type="uint8")[0]
    small = SMALL | LONG
    pieces = pipeline.stream(IMAGE, prompt="a dance", **small, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(np.concatenate(list(pieces)), whole)
    record = pipeline.render_to(tmp_path / "long.mp4", IMAGE, prompt="a dance", seed=0, **small)
    encode(whole, tmp_path / "whole.mp4")
    times_s = np.arange(13) / 16
    assert np.array_equal(decode(tmp_path / "long.mp4", times_s), decode(tmp_path / "whole.mp4", times_s))
    assert record["video"]["num_frames"] == 13

    reported = read_provenance(shutil.move(tmp_path / "long.mp4", tmp_path / "elsewhere"))
    assert {**reported, "video": record["video"]} == record == json.loads((tmp_path / "long.json").read_text())
    assert reported["model"] == model_digests(pipeline)
    assert reported["inputs"] == {"image": input_digest(IMAGE), "pose_video": input_digest(pose(13))}
    settings = reported["settings"]
    assert (settings["negative_prompt"], settings["flow_shift"]) == (WAN_NEGATIVE_PROMPT, 5.0)
    assert (reported["seed"], settings["window_overlap"], settings["dtype"]) == (0, 4, "float32")


def test_a_file_is_there_whole_or_not_at_all(
    pipeline: SteadyDancerPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(vae: Any, latents: torch.Tensor) -> Any:
        yield from itertools.islice(encoders.decode_chunks(vae, latents, 1), 1)
        raise RuntimeError("out of memory")

    monkeypatch.setattr("steadydancer.models.pipeline.decode_chunks", some)
    with pytest.raises(RuntimeError, match="out of memory"):
        pipeline.render_to(tmp_path / "video.mp4", IMAGE, pose(), seed=0, **SMALL)
    with pytest.raises(InputError, match=r"must end in \.mp4, not in \.gif"):
        pipeline.render_to(tmp_path / "video.gif", IMAGE, pose(), seed=0, **SMALL)
    assert not list(tmp_path.iterdir())


def test_without_sizes_the_release_rule_decides(pipeline: SteadyDancerPipeline) -> None:
    frames = run(pipeline, height=None, width=None, max_area_px=32 * 48, num_inference_steps=1)
    assert frames.shape == (1, 16, 2, 6, 2)  # √(1536 · 16/9) = 52.3 and √(1536 · 9/16) = 29.4, down to multiples of 16
