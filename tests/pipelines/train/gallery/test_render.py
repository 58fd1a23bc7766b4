"""What a gallery shows: which clips, with which settings, seeds and negative poses, and what stands beside them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from steadydancer.datasets.sampler import draw_seed
from steadydancer.datasets.skeleton import PoseSequence, perturb
from steadydancer.datasets.toydance import toy_pose
from steadydancer.datasets.video import decode, frame_times_s, probe
from steadydancer.models.components import tiny_components
from steadydancer.models.negative_pose import Perturbation
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.pose_condition import draw_pose_condition
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.train.config import GalleryConfig, TrainConfig
from steadydancer.pipelines.train.gallery import render as gallery_render
from steadydancer.pipelines.train.gallery.folder import clip_name
from steadydancer.pipelines.train.run_folder import TrainingRefused

NUM_FRAMES, HEIGHT, WIDTH = 5, 48, 32
META = {"image_height": 60, "image_width": 40, "drawing_area_px": 96 * 64}  # drawn at another size than rendered
DEVICE = torch.device("cpu")


def config(**changes: Any) -> TrainConfig:
    shown = {"num_clips": 2, "num_inference_steps": 7, "guidance_scale": 3.5, "pose_guidance_scale": 0.8, "seed": 21}
    return TrainConfig(stage=1, flow_shift=2.5, gallery=GalleryConfig(**(shown | changes)), use_gpu=False)


def dancer(key: str) -> PoseSequence:
    return PoseSequence.from_bytes(toy_pose(ord(key[0]), NUM_FRAMES, 16, aspect=40 / 60).to_bytes())


class Data:
    """Stands for `TrainingData` of a few clips: loads what says what was asked for."""

    def __init__(self, *keys: str) -> None:
        self.keys, self.asked = keys, []
        self.shards = SimpleNamespace(
            bucket=dict.fromkeys(keys, (NUM_FRAMES, HEIGHT, WIDTH)),
            read=lambda key: {"pose": dancer(key).to_bytes(), "meta": META},
            record={"fps": 12},
        )

    def validation_draws(self) -> list[Any]:
        return [SimpleNamespace(key=key) for key in self.keys for _ in range(2)]

    def load(self, draws: Any, device: torch.device) -> Any:
        (draw,) = draws
        self.asked.append(draw)
        assert (draw.sigma, draw.text_dropped, draw.pose_dropped, draw.pose_target) == (1.0, False, False, None)
        conditions = SimpleNamespace(pose_latents=torch.full((1, 2), 5.0))
        null = SimpleNamespace(prompt_embeds="empty prompt")
        latents = torch.full((1, 2), float(ord(draw.key[0])))
        return SimpleNamespace(conditions=conditions, null=null, noise=torch.full((1, 2), 3.0), latents=latents)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The networks are left out; what they are told is kept."""
    seen: dict[str, Any] = {"encoded": []}

    def encode_video(vae: Any, frames: np.ndarray, height: int, width: int) -> torch.Tensor:
        seen["encoded"].append((frames, height, width))
        return torch.full((2,), 9.0)

    def decode_latents(vae: Any, latents: torch.Tensor) -> np.ndarray:
        grey = np.arange(NUM_FRAMES, dtype=np.uint8)[:, None, None, None] * 20
        frames = np.broadcast_to(grey, (NUM_FRAMES, HEIGHT, WIDTH, 3)).copy()
        frames[0, :, :] = (200, 120, float(latents.flatten()[0]))
        return frames

    for made in (encode_video, decode_latents):
        monkeypatch.setattr(gallery_render, made.__name__, made)

    class Pipeline:
        """Stands for the pipeline without text and image encoders."""

        device = DEVICE

        def __init__(self, transformer: Any, vae: Any, config: TrainConfig) -> None:
            seen["made of"], self.vae = (transformer, vae, config), vae

        def denoise(self, noise: torch.Tensor, *conditions: Any, **settings: Any) -> torch.Tensor:
            seen["denoise"] = (noise, *conditions, settings)
            return torch.tensor([[60.0], [70.0]])

        def decode_latents(self, latents: torch.Tensor, output_type: str) -> list[np.ndarray]:
            assert output_type == "uint8"
            return [decode_latents(self.vae, each) for each in latents]

    monkeypatch.setattr(gallery_render, "gallery_pipeline", Pipeline)
    return seen


def clip_of(key: str, data: Any, config: TrainConfig) -> Any:
    return gallery_render.render_clip(key, data, gallery_render.gallery_pipeline("network", "vae", config), config)


def test_the_first_clips_of_the_validation_are_shown_each_once() -> None:
    data: Any = Data("c", "a", "b")
    assert gallery_render.gallery_keys(data, config()) == ["c", "a"]
    assert gallery_render.gallery_keys(data, config(num_clips=8)) == ["c", "a", "b"]
    nothing: Any = Data()
    with pytest.raises(TrainingRefused, match="holds out no source"):
        gallery_render.gallery_keys(nothing, config())


def test_a_clip_is_rendered_with_the_gallerys_settings_and_its_own_seed(recorded: dict[str, Any]) -> None:
    data: Any = Data("a", "b")
    frames = clip_of("b", data, config())
    seed = draw_seed(21, 0, 0, "gallery/b")
    assert [(draw.key, draw.noise_seed) for draw in data.asked] == [("b", seed)]
    noise, (positive,), prompt, ((negative,),), settings = recorded["denoise"]
    assert recorded["made of"] == ("network", "vae", config()) and noise.flatten().tolist() == [3, 3]
    assert settings == {
        "num_inference_steps": 7, "flow_shift": 2.5, "guidance_scale": 3.5, "pose_guidance_scale": 0.8,
    }  # fmt: skip
    # The negative pose: the clip's own keypoints, perturbed by draws from the same seed, drawn as for the cache.
    draws = Perturbation.draw(NUM_FRAMES, torch.Generator().manual_seed(seed))
    ((drawn, height, width),) = recorded["encoded"]
    perturbed = perturb(dancer("b"), draws.scale, draws.aspect)
    np.testing.assert_array_equal(drawn, draw_pose_condition(perturbed, 60, 40, 96 * 64))
    assert (height, width) == (HEIGHT, WIDTH)
    assert (positive.pose_latents.tolist(), prompt, negative.tolist()) == ([[5, 5]], "empty prompt", [[9, 9]])
    assert frames[0, 0, 0].tolist() == [200, 120, 60]  # of the first sample of the batch


def test_without_guidance_by_the_pose_none_is_perturbed(recorded: dict[str, Any]) -> None:
    data: Any = Data("a")
    clip_of("a", data, config(pose_guidance_scale=0.0))
    *_, ((negative,),), settings = recorded["denoise"]
    assert recorded["encoded"] == [] and negative.tolist() == [[5, 5]]
    assert settings["pose_guidance_scale"] == 0


def test_beside_the_renders_lie_the_image_the_pose_and_the_clip_made_once(
    recorded: dict[str, Any], tmp_path: Path
) -> None:
    data: Any = Data("a")
    vae: Any = SimpleNamespace(device=DEVICE)
    gallery_render.write_reference_media(tmp_path, "a", data, vae, 12)
    image = cv2.imread(str(tmp_path / clip_name("a", "reference.png")))[..., ::-1]
    assert image.shape == (HEIGHT, WIDTH, 3) and image[5, 5].tolist() == [200, 120, 97]
    for name in ("pose.mp4", "truth.mp4"):
        info = probe(tmp_path / clip_name("a", name))
        assert (info.num_frames, info.height, info.width, info.fps) == (NUM_FRAMES, HEIGHT, WIDTH, 12.0)
    truth = tmp_path / clip_name("a", "truth.mp4")
    greys = decode(truth, frame_times_s(truth))[1:].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(greys, [20, 40, 60, 80], atol=2)
    pose = decode(tmp_path / clip_name("a", "pose.mp4"), np.arange(NUM_FRAMES) / 12)
    drawn = gallery_render.resize_frames(draw_pose_condition(dancer("a"), 60, 40, 96 * 64), HEIGHT, WIDTH)
    assert np.corrcoef(pose.mean(axis=-1).ravel(), drawn.mean(axis=-1).ravel())[0, 1] > 0.95
    before = truth.stat().st_mtime_ns
    gallery_render.write_reference_media(tmp_path, "a", data, vae, 12)
    assert truth.stat().st_mtime_ns == before and len(data.asked) == 1
    truth.unlink()
    gallery_render.write_reference_media(tmp_path, "a", data, vae, 12)
    assert truth.is_file()


def test_a_gallery_is_of_the_weights_after_its_steps_and_says_what_it_shows(
    recorded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, asked = Data("a", "b", "c"), []
    monkeypatch.setattr(gallery_render, "TrainingData", lambda latents, config: data)
    monkeypatch.setattr(
        gallery_render, "load_components", lambda base, names, device: {"vae": SimpleNamespace(device=device)}
    )
    monkeypatch.setattr(gallery_render, "network_at", lambda out, steps, device: asked.append(steps) or "network")
    place = tmp_path / "gallery/step-000040"
    place.mkdir(parents=True)
    (place / "z.mp4").write_bytes(b"of other settings")
    (tmp_path / "gallery/failed-000040.json").write_text("{}")
    settings = {"config": config().model_dump(mode="json"), "out": str(tmp_path), "latents": str(tmp_path), "base": "x"}
    gallery_render.render_gallery(settings, 40)
    assert asked == [40]
    assert {file.name for file in place.iterdir()} == {"a.mp4", "b.mp4", "run.json"}
    assert probe(place / "a.mp4").fps == 12
    record = json.loads((place / "run.json").read_text())
    assert record.pop("seconds") >= 0
    assert record == {
        "steps": 40, "fps": 12, "clips": ["a", "b"], "size": [NUM_FRAMES, HEIGHT, WIDTH],
        "settings": {
            "num_clips": 2, "num_inference_steps": 7, "guidance_scale": 3.5, "pose_guidance_scale": 0.8, "seed": 21,
        },
    }  # fmt: skip
    assert not (tmp_path / "gallery/failed-000040.json").exists()
    assert {draw.key for draw in data.asked} == {"a", "b"}


class Overheard(SteadyDancerPipeline):
    """Keeps what the loop was given and what it gave."""

    def denoise(self, *arguments: Any, **settings: Any) -> torch.Tensor:
        self.loop = (arguments, super().denoise(*arguments, **settings))
        return self.loop[1]


@pytest.mark.parametrize("pose_guidance_scale", [0.8, 0.0])
def test_equal_conditions_and_noise_give_the_pipelines_latents_and_frames(
    monkeypatch: pytest.MonkeyPatch, pose_guidance_scale: float
) -> None:
    parts = tiny_components(transformer={"num_layers": 1})
    torch.manual_seed(0)
    transformer = SteadyDancerTransformer3DModel.from_wan(parts.pop("transformer")).eval()
    transformer.patch_embedding_fuse.weight.data.normal_(std=0.3)
    pipeline = Overheard(transformer=transformer, **parts)
    pipeline.set_progress_bar_config(disable=True)
    settings = config(pose_guidance_scale=pose_guidance_scale)
    seed = draw_seed(21, 0, 0, "gallery/b")
    noise = torch.randn(1, 16, 2, 6, 4, generator=torch.Generator().manual_seed(1))
    image = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    frames = pipeline(
        image, dancer("b"), "a dance", "stills", latents=noise, generator=torch.Generator().manual_seed(seed),
        height=HEIGHT, width=WIDTH, num_frames=NUM_FRAMES, drawing_area_px=META["drawing_area_px"],
        num_inference_steps=7, flow_shift=2.5, guidance_scale=3.5, pose_guidance_scale=pose_guidance_scale,
        output_type="uint8",
    ).frames[0]  # fmt: skip
    (_, (conditions,), negative_prompt_embeds, *_), latents = pipeline.loop

    class Cached(Data):
        """The clip's conditions, as a cache would have kept them."""

        def load(self, draws: Any, device: torch.device) -> Any:
            null = SimpleNamespace(prompt_embeds=negative_prompt_embeds)
            return SimpleNamespace(conditions=conditions, null=null, noise=noise)

    monkeypatch.setattr(gallery_render, "SteadyDancerPipeline", Overheard)
    data: Any = Cached("b")
    gallery: Any = gallery_render.gallery_pipeline(transformer, pipeline.vae, settings)
    shown = gallery_render.render_clip("b", data, gallery, settings)
    assert torch.equal(gallery.loop[1], latents)
    np.testing.assert_array_equal(shown, frames)
