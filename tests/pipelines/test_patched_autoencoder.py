"""Every job works with an autoencoder that has a patch size, stored in half precision: cache, train, bundle, render."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.shards import ShardDataset
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.video import decode
from steadydancer.flows import presets
from steadydancer.models.components import load_components, save_components, tiny_components
from steadydancer.models.encoders import decode_latents
from steadydancer.models.inference.encoder_memory import encoding_bytes, encoding_flops
from steadydancer.models.metrics import autoencoder_ceiling
from steadydancer.models.toydance.autoencoder import SIZES
from steadydancer.pipelines.cache import job as cache_job
from steadydancer.pipelines.cache.config import CacheConfig
from steadydancer.pipelines.common.components import read_feature_sizes
from steadydancer.pipelines.render import job as render_job
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.runtime.runner import Engine
from steadydancer.pipelines.train import flops
from steadydancer.pipelines.train import job as train_job
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.networks import load_pose_simulation
from steadydancer.pipelines.train.preflight import footprint
from steadydancer.pipelines.train.preflight.base import vae_config

TINY = SIZES | {"base_dim": 8, "dim_mult": [1, 2, 2]}


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patched") / "components"
    components = tiny_components(seed=0, vae=TINY)
    save_components(components | {"vae": components["vae"].half()}, folder)
    return folder


@pytest.fixture(scope="module")
def config(patched: Path) -> CacheConfig:
    return presets.tiny().cache.model_copy(update={"components": str(patched), "packet_size": 4})


@pytest.fixture(scope="module")
def latents(config: CacheConfig, curated: Path, patched: Path) -> Path:
    out = patched.parent / "cached"
    cache_job.run(config, clips=curated, out=out, engine=Engine(out / ".engine", in_process=True))
    return out / "latents"


@pytest.fixture(scope="module")
def bundled(latents: Path, patched: Path) -> Path:
    """The checkpoint of one step, with copies of the components."""
    cached_with = Artifact(latents).record()["config"]
    run = presets.change(presets.tiny(), "cache", **cached_with)
    small = {"steps": 1, "num_workers": 0, "global_batch_size": 1, "evaluation_samples": 0, "bundle": True}
    run = presets.change(run, "stage1", **small)
    train_job.run(run.stage(1), latents=latents, base=str(patched), out=patched.parent / "stage1")
    return patched.parent / "stage1/checkpoint"


def test_the_cache_holds_what_the_autoencoder_gives_and_says_which(latents: Path, patched: Path) -> None:
    record = Artifact(latents).record()
    assert record["components"]["digests"]["vae"] == content_digest(patched / "vae")
    shards = ShardDataset(latents)
    vae = load_components(patched, ("vae",))["vae"]
    for key in shards.keys:
        num_frames, height, width = shards.bucket[key]
        conditions = load(shards.read(key)["conditions"])
        for name in ("latents", "image_latents", "pose_latents"):
            assert conditions[name].shape == (16, (num_frames - 1) // 4 + 1, height // 8, width // 8)
            assert decode_latents(vae, conditions[name]).shape == (num_frames, height, width, 3)


def test_a_change_of_the_configuration_alone_is_another_autoencoder(
    config: CacheConfig, latents: Path, curated: Path, patched: Path
) -> None:
    file, out = patched / "vae/config.json", latents.parent
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"latents_std": [2.0] * 16}))
    try:
        with pytest.raises(Exception, match="components"):
            cache_job.run(config, clips=curated, out=out, engine=Engine(out / ".engine", in_process=True))
    finally:
        file.write_text(before)


def test_the_price_of_the_cache_is_that_of_this_autoencoder(
    config: CacheConfig, latents: Path, curated: Path, patched: Path, tmp_path: Path
) -> None:
    cost = cache_job.plan(config, curated, tmp_path, samples_drawn=30)["cost"]
    shards = ShardDataset(latents)
    stored = json.loads((patched / "vae/config.json").read_text())
    sizes = read_feature_sizes(str(patched))
    assert sizes.vae_config == stored and sizes.latent_channels == 16
    counted = 3 * sum(encoding_flops(*shards.bucket[key], TINY) for key in shards.keys)
    assert cost["gpu_hours"]["cache"] == pytest.approx(counted / 1e14 / 3600, rel=1e-9)
    assert cost["gpu_hours"]["online"] == pytest.approx(10 * cost["gpu_hours"]["cache"])
    # Wan's encoder needs 5 MFLOP for each pixel of each frame; this one has a twelfth of its channels on a quarter of
    # its positions, one block of two, and no level of full size.
    per_pixel = 167e12 / (81 * 640 * 640)
    pixels = sum(np.prod(shards.bucket[key]) for key in shards.keys)
    assert per_pixel / 2000 < counted / 3 / pixels < per_pixel / 200
    assert f"{cost['gpu_hours']['cache']:.3g} GPU-hours" in cost["in_a_line"]
    stored = sum(load(shards.read(key)["conditions"])["latents"].nbytes for key in shards.keys)
    assert cost["bytes"]["latents"] == stored


def test_the_memory_of_stage_3_is_that_of_this_autoencoder(patched: Path, components: Path) -> None:
    clip, config = (33, 64, 64), TrainConfig(stage=3)
    read = vae_config(config, str(patched), fetch=False)
    assert {name: read[name] for name in TINY} == TINY
    memory = footprint.gpu_memory(config, flops.count(config, {}, read), clip)["pose_encoder"]
    assert memory == encoding_bytes(*clip, TINY) < encoding_bytes(*clip) / 20
    assert vae_config(TrainConfig(stage=3, pose_simulation_unit="latent"), str(patched), fetch=False) == {}
    assert vae_config(TrainConfig(stage=1), str(patched), fetch=False) == {}


def test_simulated_poses_are_encoded_as_the_cached_ones(latents: Path, patched: Path, tmp_path: Path) -> None:
    shards = ShardDataset(latents)
    key = shards.keys[0]
    sample = shards.read(key)
    cached = load(sample["conditions"])["pose_latents"]
    simulation: Any = load_pose_simulation(TrainConfig(stage=3), str(patched), tmp_path, torch.device("cpu"))
    simulated = simulation(key, 8, sample, cached, shards.bucket[key])
    torch.testing.assert_close(simulated[:, 0], cached[:, 0], atol=1e-5, rtol=1e-5)  # the reference's pose is kept
    assert not torch.allclose(simulated[:, 1], cached[:, 1], atol=1e-3)
    unchanged = simulation(key, 1, sample, cached, shards.bucket[key])  # the next pose replaced by itself
    torch.testing.assert_close(unchanged, cached, atol=1e-5, rtol=1e-5)


def test_a_bundle_has_the_same_autoencoder_and_renders_the_same_video(
    bundled: Path, patched: Path, dancers: Path, tmp_path: Path
) -> None:
    copy, base = (json.loads((folder / "vae/config.json").read_text()) for folder in (bundled, patched))
    assert {name: copy[name] for name in base if not name.startswith("_")} == {
        name: value for name, value in base.items() if not name.startswith("_")
    }
    states = [load_components(folder, ("vae",))["vae"].state_dict() for folder in (bundled, patched)]
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())

    pairs = [render_job.pair(dancers / "images/pair_0.png", dancers / "driving/pair_0.mp4", "A dancer.", "one")]
    videos = []
    for name, components in (("bundle", None), ("components", str(patched))):
        settings = RenderConfig(num_frames=9, max_area_px=64 * 64, drawing_area_px=64 * 64, num_inference_steps=1,
                                dtype="float32", pose_model="supplied", components=components)  # fmt: skip
        engine = Engine(tmp_path / name / ".engine", in_process=True)
        record = render_job.run(settings, checkpoint=bundled, pairs=pairs, out=tmp_path / name, engine=engine)
        assert record["counts"]["ok"] == 1
        videos.append(decode(tmp_path / name / "renders/one.mp4", np.arange(9) / 16))
    np.testing.assert_array_equal(videos[0], videos[1])
    vae = load_components(patched, ("vae",))["vae"]
    assert 0 < autoencoder_ceiling(vae, videos[0][0]) < 100
