"""A checkpoint opens as a pipeline: its frozen parts are where its record says, or were copied into it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.flows import presets
from steadydancer.models.checkpoints.folders import ComponentsError
from steadydancer.models.components import load_components, save_components, tiny_components
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.render_record import model_digests
from steadydancer.pipelines.render import job as render_job
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.train import job
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.frozen_components import FROZEN, bundle_bytes, frozen_parts
from steadydancer.pipelines.train.publish import publish_folder
from steadydancer.pipelines.train.run_folder import TrainingRefused


def one_step(cached: Path, **changes: Any) -> TrainConfig:
    settings = Artifact(cached).record()["config"]
    run = presets.change(presets.change(presets.tiny(), "cache", **settings), "stage1", steps=1, num_workers=0,
                         global_batch_size=1, evaluation_samples=0, validation_share=0.4, validation_sigmas=[0.5],
                         validation_every_steps=1, checkpoint_every_steps=1, **changes)  # fmt: skip
    return run.stage(1)


@pytest.fixture(scope="module")
def base(components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of its own, which tests take away and change."""
    return shutil.copytree(components, tmp_path_factory.mktemp("frozen") / "base")


@pytest.fixture(scope="module")
def trained(cached: Path, base: Path) -> Path:
    """A checkpoint that stage 1 has left, without copies."""
    job.run(one_step(cached), latents=cached, base=str(base), out=base.parent / "plain")
    return base.parent / "plain/checkpoint"


@pytest.fixture(scope="module")
def bundled(cached: Path, base: Path) -> Path:
    """The same checkpoint with copies."""
    job.run(one_step(cached, bundle=True), latents=cached, base=str(base), out=base.parent / "bundled")
    return base.parent / "bundled/checkpoint"


@pytest.fixture
def without_base(base: Path) -> Any:
    """What the base is called while a test has hidden it."""
    hidden = base.rename(base.with_name("elsewhere"))
    yield hidden
    hidden.rename(base)


def test_a_checkpoint_opens_with_the_parts_that_its_record_names(trained: Path, base: Path, cached: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == ["lora", "run.json", "transformer"]
    named = json.loads((trained / "run.json").read_text())["components"]
    assert named["path"] == str(base)
    assert named["digests"] == {name: content_digest(base / name) for name in FROZEN}
    assert named["digests"].items() <= Artifact(cached).record()["components"]["digests"].items()
    pipeline = SteadyDancerPipeline.from_pretrained(trained)
    expected = load_components(base, FROZEN) | load_components(trained, ["transformer"])
    assert model_digests(pipeline) == model_digests(SteadyDancerPipeline(**expected, scheduler=pipeline.scheduler))
    assert pipeline.scheduler.config.flow_shift == 5.0


def test_a_bundle_opens_without_the_base_and_is_the_same_pipeline(
    trained: Path, bundled: Path, without_base: Path, base: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(bundled, tmp_path / "moved")
    pipeline = SteadyDancerPipeline.from_pretrained(moved)
    shutil.copytree(trained, tmp_path / "plain")
    record = json.loads((trained / "run.json").read_text())
    record["components"]["path"] = str(without_base)
    (tmp_path / "plain/run.json").write_text(json.dumps(record))
    assert model_digests(pipeline) == model_digests(SteadyDancerPipeline.from_pretrained(tmp_path / "plain"))
    assert not [file for file in moved.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    half = SteadyDancerPipeline.from_pretrained(moved, torch_dtype=torch.bfloat16)
    assert (half.text_encoder.dtype, half.vae.dtype) == (torch.bfloat16, torch.float32)

    with pytest.raises(ComponentsError, match=rf"uses the vae, .* of {base}, according to its run.json. The folder"):
        SteadyDancerPipeline.from_pretrained(trained)
    given = load_components(without_base, FROZEN)
    assert SteadyDancerPipeline.from_pretrained(trained, **given).vae is given["vae"]


@pytest.mark.parametrize("name", ["vae", "tokenizer"])
def test_parts_that_have_changed_since_are_refused(trained: Path, base: Path, tmp_path: Path, name: str) -> None:
    other = shutil.copytree(base, tmp_path / "base")
    if name == "vae":
        save_components({"vae": tiny_components(seed=1)["vae"]}, other)
    else:
        (other / "tokenizer/tokenizer_config.json").write_text("{}")
    copy = shutil.copytree(trained, tmp_path / "checkpoint")
    record = (copy / "run.json").read_text()
    (copy / "run.json").write_text(record.replace(str(base), str(other)))
    with pytest.raises(ComponentsError, match=f"is not the {name} that .*checkpoint was trained with"):
        SteadyDancerPipeline.from_pretrained(copy)
    with pytest.raises(ComponentsError, match="has no transformer/"):
        shutil.rmtree(copy / "transformer")
        SteadyDancerPipeline.from_pretrained(copy)


def test_rendering_takes_the_parts_from_the_bundle(trained: Path, bundled: Path, base: Path) -> None:
    def places(**changes: Any) -> list[str]:
        config = RenderConfig(**changes)
        records = ((folder, json.loads((folder / "run.json").read_text())) for folder in (trained, bundled))
        return [render_job.components_of(config, folder, record) for folder, record in records]

    assert places() == [str(base), str(bundled)]
    assert places(components="mine") == ["mine", "mine"]


@pytest.mark.acceptance
def test_a_picked_checkpoint_is_a_bundle_too(cached: Path, base: Path, tmp_path: Path) -> None:
    gallery = {"num_clips": 1, "every_steps": 1, "num_inference_steps": 1, "guidance_scale": 1.0,
               "pose_guidance_scale": 0.0}  # fmt: skip
    config = one_step(cached, bundle=True, gallery=gallery).model_copy(update={"steps": 2})
    job.run(config, latents=cached, base=str(base), out=tmp_path / "run")
    picked = job.pick(tmp_path / "run", 1)
    assert model_digests(SteadyDancerPipeline.from_pretrained(picked)).keys() >= {"vae", "text_encoder"}
    assert (picked / "model_index.json").is_file()


def test_what_cannot_be_bundled_is_said_before_the_first_step(cached: Path, base: Path, tmp_path: Path) -> None:
    """The base has no encoders, and those that the clips were cached with are gone, or others now."""
    shutil.copytree(base / "transformer", tmp_path / "base/transformer")
    latents, other = shutil.copytree(cached, tmp_path / "latents"), shutil.copytree(base, tmp_path / "encoders")
    record = json.loads((latents / "run.json").read_text())
    record["components"]["path"] = str(other)
    (latents / "run.json").write_text(json.dumps(record))
    inputs = {"latents": latents, "base": str(tmp_path / "base"), "out": tmp_path / "run"}

    (other / "tokenizer/tokenizer_config.json").write_text("{}")
    with pytest.raises(TrainingRefused, match=f"bundle: the tokenizer in {other} is not the one used to cache"):
        job.run(one_step(cached, bundle=True), **inputs)
    shutil.rmtree(other / "text_encoder")
    with pytest.raises(TrainingRefused, match=r"bundle: .*/base has no vae and no text_encoder and"):
        job.run(one_step(cached, bundle=True), **inputs)
    assert not (tmp_path / "run").exists()


def test_a_base_without_encoders_is_helped_out_by_the_cache(cached: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "transformer", tmp_path / "base/transformer")
    config = one_step(cached, bundle=True)
    plan = job.plan(config, latents=cached, base=str(tmp_path / "base"), out=tmp_path / "run")
    assert not plan["refusals"]
    where = Artifact(cached).record()["components"]["path"]
    copied = sum(file.stat().st_size for name in FROZEN for file in (Path(where) / name).rglob("*"))
    assert bundle_bytes(config, where) == copied > 0
    without = job.plan(one_step(cached), latents=cached, base=str(tmp_path / "base"), out=tmp_path / "run")
    assert plan["disk_bytes"]["checkpoint"] == without["disk_bytes"]["checkpoint"] + copied


@pytest.mark.parametrize("whole", [False, True])
def test_it_opens_from_a_store_too(trained: Path, bundled: Path, bucket: str, whole: bool) -> None:
    here = bundled if whole else trained
    publish_folder(here, location(f"{bucket}/run/checkpoint"))
    pipeline = SteadyDancerPipeline.from_pretrained(f"{bucket}/run/checkpoint")
    assert model_digests(pipeline) == model_digests(SteadyDancerPipeline.from_pretrained(here))


def test_a_plan_fetches_nothing_to_look_at_what_will_be_copied(cached: Path) -> None:
    there = {"path": "s3://nowhere/wan", "digests": {"vae": "d"}}
    assert frozen_parts(one_step(cached, bundle=True), None, there, fetch=False) == there
