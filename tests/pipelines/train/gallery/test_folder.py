import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.shards import Sample, null_path, sample_members, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.video import decode, frame_times_s
from steadydancer.models import pipeline
from steadydancer.models.components import load_components, save_components, tiny_components
from steadydancer.models.encoders import decode_latents
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.pages.curves import BASE, TOP, WIDTH, draw_curves
from steadydancer.pipelines.runtime.local_ray import local_ray
from steadydancer.pipelines.train import gallery_schedule as schedule
from steadydancer.pipelines.train import job, publish, weights_writer
from steadydancer.pipelines.train.config import GalleryConfig, TrainConfig
from steadydancer.pipelines.train.data.batches import TrainingData
from steadydancer.pipelines.train.gallery import folder as gallery
from steadydancer.pipelines.train.gallery import kept_weights
from steadydancer.pipelines.train.gallery import render as gallery_render
from steadydancer.pipelines.train.metrics import report
from steadydancer.pipelines.train.metrics_file import PARTS, read_rows
from steadydancer.pipelines.train.resume.stop import TrainingStopped
from steadydancer.pipelines.train.run_folder import TrainingRefused

FRAMES, SIDE, IMAGE_DIM, TEXT_DIM = 5, 32, 16, 16
T, LATENT = (FRAMES - 1) // 4 + 1, SIDE // 8
SHOWN = {"num_clips": 1, "every_steps": 2, "num_inference_steps": 2, "pose_guidance_scale": 0.0}


def micro(stage: int = 1, shown: dict | None = SHOWN, **changes) -> TrainConfig:
    values = {
        "stage": stage, "num_frames": FRAMES, "steps": 5, "seed": 3, "learning_rate": 1e-2 if stage != 2 else 1e-3,
        "warmup_steps": 0, "global_batch_size": 2, "num_workers": 0, "use_gpu": False, "dtype": "float32",
        "lora_rank": 2, "lora_alpha": 2, "pose_simulation_targets": (2,), "checkpoint_every_steps": 2,
        "evaluation_samples": 0, "validation_share": 0.3, "validation_clips": 2, "validation_sigmas": (0.5,),
        "validation_every_steps": 2, "trackers": (), "gradient_checkpointing": False,
    }  # fmt: skip
    return TrainConfig(**{**values, "gallery": GalleryConfig(**(shown or {})), **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """A micro base model and a cache of five clips made for it."""
    root = tmp_path_factory.mktemp("world")
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16}
    parts = tiny_components(
        seed=0,
        transformer=sizes,
        image_encoder={"width": IMAGE_DIM, "num_layers": 1},
        text_encoder={"d_model": TEXT_DIM, "num_layers": 1},
    )
    save_components({name: parts[name] for name in ("transformer", "vae")}, root / "base")
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def conditions() -> dict[str, torch.Tensor]:
        names = ("latents", "image_latents", "pose_latents")
        embeds = {name: random(257, IMAGE_DIM) for name in ("image_embeds", "pose_image_embeds")}
        return {**{name: random(16, T, LATENT, LATENT) for name in names}, **embeds,
                "prompt_embeds": random(3, TEXT_DIM)}  # fmt: skip

    keys, samples = [f"clip{i}" for i in range(5)], []
    for i, key in enumerate(keys):
        points = 0.2 + 0.5 * np.random.default_rng(i).random((FRAMES, 18, 2)).astype(np.float32)
        pose = PoseSequence(points, np.ones((FRAMES, 18), bool), np.full((FRAMES, 2, 21, 2), -1, np.float32), None)
        row = {"clip_id": key, "verdict": "ok", "num_frames": FRAMES, "height": SIDE, "width": SIDE}
        meta = {"clip_id": key, "image_height": SIDE, "image_width": SIDE, "drawing_area_px": 64 * 64}
        samples.append(Sample(row, sample_members(meta, save(conditions()), pose.to_bytes())))
    (packet,) = plan_packets(keys, 5)
    write_shard(root / "latents", packet, samples)
    null = null_path(root / "latents", (FRAMES, SIDE, SIDE))
    null.parent.mkdir()
    null.write_bytes(save(conditions()))
    Artifact(root / "latents").commit(
        {
            "counts": {"inputs": 5, "ok": 5, "rejected": 0, "quarantined": 0},
            "components": {"digests": {"vae": content_digest(root / "base" / "vae")}},
            "encodings": ENCODINGS,
        }
    )
    return {"latents": root / "latents", "base": root / "base"}


def train(world, config: TrainConfig, out: Path, parent: Path | None = None) -> dict:
    return job.run(config, latents=world["latents"], base=str(world["base"]), out=out, from_checkpoint=parent)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Path:
    """Stage 1 with galleries after 2, 4 and 5 steps; no test changes it."""
    out = tmp_path_factory.mktemp("run") / "stage1"
    train(world, micro(), out)
    return out


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "transformer/diffusion_pytorch_model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def videos(out: Path) -> dict[int, bytes]:
    return {steps: next((out / "gallery" / f"step-{steps:06d}").glob("*.mp4")).read_bytes()
            for steps in report.gallery_steps(out)}  # fmt: skip


def gallery_settings(world, out: Path, config: TrainConfig) -> dict:
    return {"config": config.model_dump(mode="json"), "latents": str(world["latents"]), "out": str(out),
            "base": str(world["base"]), "from_checkpoint": None, "record": {}, "attempt": "another"}  # fmt: skip


def test_every_checkpoint_has_a_gallery_of_the_same_validation_clips(world, run):
    data = TrainingData(world["latents"], micro())
    (key,) = gallery_render.gallery_keys(data, micro())
    assert key in data.split.validation
    records = gallery.gallery_records(run, [2, 4, 5])
    assert {steps: record["clips"] for steps, record in records.items()} == {2: [key], 4: [key], 5: [key]}
    assert {(record["fps"], record["fps_assumed"]) for record in records.values()} == {(16, True)}  # no cache says it
    shown = videos(run)
    assert list(shown) == [2, 4, 5] and len(set(shown.values())) == 3  # the weights differ, and nothing else does
    video = run / "gallery" / "step-000002" / f"{key}.mp4"
    assert decode(video, frame_times_s(video)).shape == (FRAMES, SIDE, SIDE, 3)
    assert {file.name for file in (run / "gallery/clips").iterdir()} == {f"{key}-{n}" for n in gallery.REFERENCE_MEDIA}
    assert not list((run / "trained").glob("step-000005"))  # those are the checkpoint's


def test_the_page_shows_all_galleries_side_by_side(run):
    page = (run / "report.html").read_text()
    for name in ("clips", "step-000002", "step-000004", "step-000005"):
        assert f'src="gallery/{name}/' in page
    for place in [part.split('"')[0] for part in page.split('src="')[1:]]:
        assert (run / place).is_file()
    measured = [row["validation_loss"] for row in read_rows(run) if "validation_loss" in row]
    assert f"2 steps\nvalidation loss {measured[0]:.4g}" in page
    assert all(f"<b>{title}</b>" in page for title in ("loss", "mean over σ", "shares of a step", "seconds per step"))
    assert "could not be rendered" not in page


def test_galleries_change_nothing_in_the_training(world, run, tmp_path):
    train(world, micro(shown=None), tmp_path)
    measured = {"seconds", "samples_per_second", "memory_bytes", "mfu", *(f"{part}_share" for part in PARTS)}
    rows = [[{k: v for k, v in row.items() if k not in measured} for row in read_rows(out)]
            for out in (run, tmp_path)]  # fmt: skip
    assert rows[0] == rows[1] and equal(weights(run / "checkpoint"), weights(tmp_path / "checkpoint"))
    assert not (tmp_path / "gallery").exists() and not (tmp_path / "trained").exists()


def test_what_is_missing_is_made_again_to_the_bit_and_what_is_there_is_left(world, run, tmp_path):
    out = shutil.copytree(run, tmp_path / "stage1")
    before, made = videos(out), (out / "gallery/step-000004/run.json").stat().st_mtime_ns
    shutil.rmtree(out / "gallery/step-000002")
    shutil.rmtree(out / "gallery/step-000005")
    assert train(world, micro(), out)["already_finished"]
    assert videos(out) == before and (out / "gallery/step-000004/run.json").stat().st_mtime_ns == made


def test_other_settings_make_other_galleries_of_the_same_run(world, run, tmp_path):
    out = shutil.copytree(run, tmp_path / "stage1")
    assert train(world, micro(shown={**SHOWN, "seed": 1}), out)["already_finished"]
    ours, theirs = videos(out), videos(run)
    assert ours.keys() == theirs.keys() and all(ours[steps] != theirs[steps] for steps in ours)


def test_a_kill_leaves_no_half_gallery_and_the_next_attempt_makes_it(world, run, tmp_path, monkeypatch):
    out = shutil.copytree(run, tmp_path / "stage1")
    shutil.rmtree(out / "gallery/step-000004")
    settings = gallery_settings(world, out, micro(shown={**SHOWN, "num_clips": 2}))
    original, calls = gallery_render.render_clip, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(gallery_render, "render_clip", killed)
    with pytest.raises(KeyboardInterrupt):
        gallery_render.render_gallery(settings, 4)
    assert len(calls) == 2 and not list((out / "gallery").glob("*step-000004*"))
    monkeypatch.undo()
    (out / "gallery/.step-000004-0.tmp").mkdir()  # a kill that nothing could follow
    gallery_render.render_gallery(settings, 4)
    assert len(list((out / "gallery/step-000004").glob("*.mp4"))) == 2
    assert not list((out / "gallery").glob(".*"))


def test_a_render_that_fails_is_told_and_the_training_goes_on(world, run, tmp_path, monkeypatch):
    original = gallery_render.render_gallery

    def fails(settings, steps):
        if steps == 4:
            raise RuntimeError("CUDA out of memory, <says> the card")
        original(settings, steps)

    monkeypatch.setattr(gallery_render, "render_gallery", fails)
    assert train(world, micro(), tmp_path / "run")["steps"] == 5
    page = (tmp_path / "run/report.html").read_text()
    assert "could not be rendered" in page and "CUDA out of memory, &lt;says&gt; the card" in page
    assert list(videos(tmp_path / "run")) == [2, 5]
    monkeypatch.undo()
    assert train(world, micro(), tmp_path / "run")["already_finished"]
    assert videos(tmp_path / "run") == videos(run)
    assert "could not be rendered" not in (tmp_path / "run/report.html").read_text()


def test_weights_that_find_no_room_are_told_and_the_training_goes_on(world, tmp_path, monkeypatch):
    def full(weights, file):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(weights_writer, "save_file", full)
    assert train(world, micro(), tmp_path)["steps"] == 5
    assert list(videos(tmp_path)) == [5]
    assert set(gallery.gallery_failures(tmp_path)) == {2, 4}
    assert "could not be written: [Errno 28]" in gallery.gallery_failures(tmp_path)[2]["reason"]
    assert not list((tmp_path / "trained").iterdir())
    monkeypatch.undo()

    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(weights_writer.shutil, "disk_usage", lambda folder: disk._replace(free=1000))
    writer = weights_writer.TrainedWriter(tmp_path, None, gallery_settings(world, tmp_path, micro()))
    writer._write(tmp_path / "trained/step-000004", {"weight": torch.zeros(10)}, 4)
    assert "the next training state, 0.00 GB free" in gallery.gallery_failures(tmp_path)[4]["reason"]


@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.acceptance)])
def test_a_picked_step_is_the_checkpoint_of_a_run_that_ended_there(world, run, tmp_path, stage):
    """With LoRA under ZeRO-2, and with all parameters under ZeRO-3."""
    config = micro(stage, zero_stage=stage + 1)
    parent, long, short = None if stage == 1 else run, tmp_path / "long", tmp_path / "short"
    if stage == 1:
        shutil.copytree(run, long)
    else:
        train(world, micro(2, zero_stage=3, steps=3), long, parent)
    train(world, micro(stage, steps=2, shown=None, zero_stage=stage + 1), short, parent)
    before, picked = videos(long)[2], kept_weights.pick(long, 2)
    assert picked == kept_weights.pick(long, 2) == long / "checkpoint-000002"
    ours, theirs = (json.loads((place / "run.json").read_text()) for place in (picked, short / "checkpoint"))
    same = ("steps", "stage", "base", "parent", "latents", "digest")
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert content_digest(picked / "transformer") == ours["digest"] and (picked / "lora").exists() == (stage == 1)

    shutil.rmtree(long / "gallery/step-000002")  # made again, of the checkpoint this time, it is the same
    schedule.render_missing(config, gallery_settings(world, long, config), schedule.render_in_process)
    assert videos(long)[2] == before
    if stage == 1:
        train(world, micro(2, shown=None, steps=1), tmp_path / "next", picked)


def test_a_step_that_is_not_kept_cannot_be_picked(run):
    with pytest.raises(TrainingRefused, match=r"^steps: .* no weights for step 3; steps with weights: 2, 4, 5$"):
        kept_weights.pick(run, 3)


def test_a_network_in_bfloat16_is_rounded_as_its_checkpoint_is(world, tmp_path):
    config = micro(shown=SHOWN, dtype="bfloat16", steps=3, validation_share=0.3)
    # oneDNN leaves weight gradients of a bfloat16 convolution over two frames unwritten (docs/log.md).
    with torch.backends.mkldnn.flags(enabled=False):
        train(world, config, tmp_path)
    kept = kept_weights.network_at(tmp_path, 2, torch.device("cpu")).state_dict()
    kept_weights.pick(tmp_path, 2)
    loaded = kept_weights.network_at(tmp_path, 2, torch.device("cpu")).state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.bfloat16, torch.float32}
    assert equal(kept, loaded)


def test_a_network_that_knows_the_answer_renders_the_clip_itself(world, monkeypatch):
    """v = (x − data) / σ leads from any noise to the data, whatever the guidance, if all branches agree."""
    config = micro(shown={**SHOWN, "num_inference_steps": 4, "pose_guidance_scale": 1.0,
                          "num_clips": 1})  # fmt: skip
    data = TrainingData(world["latents"], config)
    (key,) = gallery_render.gallery_keys(data, config)
    clip, _ = gallery_render._clip(key, data, torch.device("cpu"), 0)
    reported: list[dict] = []

    def oracle(transformer, branches, **_):
        reported.append(branches)
        return lambda latents, timestep, branch: (latents - clip.latents) / (timestep.view(-1, 1, 1, 1, 1) / 1000)

    monkeypatch.setattr(pipeline, "branch_velocity", oracle)
    vae = load_components(world["base"], ["vae"])["vae"]
    network = SteadyDancerTransformer3DModel.from_wan(load_components(world["base"], ["transformer"])["transformer"])
    renderer = gallery_render.gallery_pipeline(network, vae, config)
    frames = gallery_render.render_clip(key, data, renderer, config)
    truth = decode_latents(vae, clip.latents[0])
    assert np.abs(frames.astype(int) - truth.astype(int)).max() <= 1
    (branches,) = reported
    assert torch.equal(branches["negative_text"].prompt_embeds, clip.null.prompt_embeds)
    assert not torch.equal(branches["negative_pose"].pose_latents, clip.conditions.pose_latents)
    again = gallery_render.render_clip(key, data, renderer, config)
    assert np.array_equal(frames, again)
    assert torch.equal(reported[1]["negative_pose"].pose_latents, branches["negative_pose"].pose_latents)


def test_more_clips_than_are_measured_are_refused():
    with pytest.raises(ValueError, match=r"gallery.num_clips 3 must be at most validation_clips 2"):
        micro(shown={"num_clips": 3})


def test_a_line_goes_through_its_points_and_a_gap_is_no_point():
    x = np.array([0.0, 1.0, 2.0, 3.0])
    drawing = draw_curves([(x, np.array([0.0, 1.0, np.nan, 4.0]))])
    high, quarter = TOP, BASE - (BASE - TOP) / 4
    assert f'd="M0.0 {BASE:.1f}L{WIDTH / 3:.1f} {quarter:.1f}L{WIDTH:.1f} {high:.1f}"' in drawing
    assert "not measured" in draw_curves([(x[:0], x[:0])])
    many = draw_curves([(np.arange(1000.0), np.tile([0.0, 2.0], 500))], floor=0.0)  # the mean is 1, the band 0 to 2
    assert ">step 0<" in many and ">999<" in many
    middle = (TOP + BASE) / 2
    assert many.count(f" {middle:.1f}L") > 50 and f" {TOP:.1f}L" in many and f" {BASE:.1f}L" in many


def test_a_run_on_a_store_has_its_galleries_there_and_uploads_each_once(run, bucket, tmp_path, monkeypatch):
    out, here = location(f"{bucket}/galleries/stage1"), shutil.copytree(run, tmp_path / "stage1")
    publish.publish(here, out)
    there = report.gallery_steps(out)
    assert there == [2, 4, 5] and (out / "report.html").is_file()
    assert gallery.gallery_records(out, there) == gallery.gallery_records(run, there)
    uploaded: list[str] = []
    original = publish.copy_atomically
    monkeypatch.setattr(
        publish, "copy_atomically", lambda file, place: (uploaded.append(place.name), original(file, place))
    )
    publish.publish(here, out)
    assert set(uploaded) == {"start.json", "metrics.jsonl", "report.html"}
    page = report.write_stages_report(out.parent, [1])
    assert 'src="stage1/gallery/step-000004/' in page.read_text()

    monkeypatch.setattr(job, "run_folder", lambda place: here)
    picked = job.pick(out, 2)
    assert picked == out / "checkpoint-000002" == job.find_checkpoint(out, 2)
    assert json.loads((picked / "run.json").read_text())["steps"] == 2
    assert job.pick(out, 5) == out / "checkpoint" == job.find_checkpoint(out, 5)  # the last one is there
    with pytest.raises(TrainingRefused, match="has no checkpoint for step 4"):
        job.find_checkpoint(out, 4)


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
def test_galleries_are_made_beside_the_training_which_waits_for_none(world, tmp_path):
    """Ray Train's asynchronous validation: one worker trains, another renders, and whatever becomes of it is told."""
    out, slow = tmp_path / "run", {"num_workers": 1, "global_batch_size": 32, "gradient_accumulation": 16}
    shown = {**SHOWN, "every_steps": 100}
    first = out / gallery.gallery_name(100) / "run.json"
    with local_ray(tmp_path / "ray"), ThreadPoolExecutor(1) as thread:
        training = thread.submit(train, world, micro(steps=100_000, shown=shown, **slow), out)
        seen = len(read_rows(out)) if _comes(first.exists, training) else 0
        assert _comes(lambda: len(read_rows(out)) > seen + 3, training)  # it goes on all the while
        (out / "state/stop").touch()
        with pytest.raises(TrainingStopped):
            training.result(timeout=120)

        steps = gallery.trained_steps(out)[-1] + 101
        hasty = micro(steps=steps, shown={**shown, "max_seconds": 1e-3}, **slow)
        assert train(world, hasty, out)["steps"] == steps
        reported, there = gallery.gallery_failures(out), report.gallery_steps(out)
        assert steps in reported and 100 in there and not set(there) & set(reported)
        assert all("max_seconds" in failure["reason"] for failure in reported.values())

        assert train(world, micro(steps=steps, shown=shown, **slow), out)["already_finished"]
        assert report.gallery_steps(out) == [*gallery.trained_steps(out), steps] and not gallery.gallery_failures(out)
    made = videos(out)[100]
    shutil.rmtree(out / gallery.gallery_name(100))
    gallery_render.render_gallery(gallery_settings(world, out, micro(shown=shown)), 100)
    assert videos(out)[100] == made


def _comes(true: Callable[[], bool], training: Future) -> bool:
    deadline = time.monotonic() + 400
    while not true():
        assert not training.done() and time.monotonic() < deadline, training.done() and training.result()
        time.sleep(0.2)
    return True
