"""The same clips give the same shards, plain webdataset reads them, and the causal autoencoder's frame 0 is one."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from safetensors.torch import load

from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.shards import ShardDataset
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.pipelines.cache import job
from steadydancer.pipelines.cache.config import CacheConfig
from steadydancer.pipelines.runner import Engine, JobStopped

MEMBERS = {"latents", "image_latents", "pose_latents", "image_embeds", "pose_image_embeds", "prompt_embeds"}


@pytest.fixture(scope="module")
def config(components: Path) -> CacheConfig:
    return CacheConfig(
        components=str(components), max_area_px=64 * 64, drawing_area_px=64 * 64, dtype="float32",
        encoder_dtype="float32", packet_size=2,
    )  # fmt: skip


def cache(config: CacheConfig, clips: Path, out: Path) -> dict[str, Any]:
    return job.run(config, clips=clips, out=out, engine=Engine(out / ".engine", in_process=True))


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_two_runs_give_the_same_bytes(config: CacheConfig, curated: Path, cached: Path, tmp_path: Path) -> None:
    cache(config, curated, tmp_path)
    again = files(tmp_path / "latents")
    assert again == files(cached)
    assert len([name for name in again if name.endswith(".tar")]) == 2


def test_the_record_balances_and_names_its_inputs(config: CacheConfig, cached: Path, components: Path) -> None:
    record = Artifact(cached).record()
    assert record["counts"] == {"inputs": 3, "ok": 3, "rejected": 0, "quarantined": 0}
    assert (record["num_frames"], record["fps"], record["buckets"]) == (33, 16.0, [[33, 64, 48]])
    assert record["components"]["path"] == str(components)
    assert set(record["components"]["digests"]) == {"vae", "text_encoder", "tokenizer", "image_encoder"}
    assert record["prompts_given"] == 3
    assert record["bytes"] == sum(path.stat().st_size for path in (cached / "shards").iterdir())


def test_plain_webdataset_reads_what_the_index_finds(cached: Path) -> None:
    ours = ShardDataset(cached)
    shards = [str(path) for path in sorted((cached / "shards").glob("*.tar"))]
    theirs = {sample["__key__"]: sample for sample in wds.WebDataset(shards, shardshuffle=False)}
    assert sorted(theirs) == ours.keys and len(ours) == 3
    for key in ours.keys:
        sample = ours.read(key)
        assert theirs[key]["conditions.safetensors"] == sample["conditions"]
        assert theirs[key]["pose.safetensors"] == sample["pose"]
        assert sample["meta"]["clip_id"] == key and sample["meta"]["source_path"].endswith(".mp4")
        assert len(PoseSequence.from_bytes(sample["pose"])) == 33


def test_tensors_have_the_shapes_the_transformer_is_told(cached: Path) -> None:
    shards = ShardDataset(cached)
    clip = (16, 9, 8, 6)  # 33 frames of 64 × 48
    for key in shards.keys:
        tensors = load(shards.read(key)["conditions"])
        assert set(tensors) == MEMBERS
        for name in ("latents", "image_latents", "pose_latents"):
            assert tensors[name].shape == clip
        assert tensors["image_embeds"].shape == tensors["pose_image_embeds"].shape == (257, 32)
        assert tensors["prompt_embeds"].shape[1] == 64 and 1 < len(tensors["prompt_embeds"]) <= 512
        assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values())


def test_the_image_condition_begins_as_the_clip_does_and_then_is_another(cached: Path) -> None:
    """The autoencoder is causal: frame 0 alone, or followed by anything, has one latent."""
    shards = ShardDataset(cached)
    for key in shards.keys:
        tensors = load(shards.read(key)["conditions"])
        torch.testing.assert_close(tensors["image_latents"][:, :1], tensors["latents"][:, :1], atol=1e-5, rtol=0)
        assert (tensors["image_latents"][:, 1:] - tensors["latents"][:, 1:]).abs().mean() > 0.1


def test_null_conditions_exist_for_each_bucket_and_hold_nobody(cached: Path) -> None:
    shards = ShardDataset(cached)
    (bucket,) = set(shards.bucket.values())
    null = load(shards.null(bucket))
    assert {name: tuple(tensor.shape) for name, tensor in null.items()} == {
        "pose_latents": (16, 9, 8, 6),
        "pose_image_embeds": (257, 32),
        "prompt_embeds": (1, 64),
    }
    told = load(shards.read(shards.keys[0])["conditions"])
    assert not torch.equal(null["pose_latents"], told["pose_latents"])
    assert not torch.equal(null["pose_image_embeds"], told["pose_image_embeds"])


def test_half_precision_halves_the_tensors(config: CacheConfig, curated: Path, cached: Path, tmp_path: Path) -> None:
    cache(config.model_copy(update={"dtype": "bfloat16"}), curated, tmp_path)
    half, full = ShardDataset(tmp_path / "latents"), ShardDataset(cached)
    for key in full.keys:
        rounded, exact = load(half.read(key)["conditions"]), load(full.read(key)["conditions"])
        assert all(torch.equal(rounded[name], exact[name].to(torch.bfloat16)) for name in MEMBERS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_area_px": 96 * 96}, "config.max_area_px: 4096 → 9216"),
        ({"dtype": "bfloat16"}, 'config.dtype: "float32" → "bfloat16"'),
        ({"packet_size": 1}, "packet_size: 2 → 1"),
    ],
)
def test_another_configuration_on_the_same_folder_is_refused(
    config: CacheConfig, curated: Path, cached: Path, change: dict[str, Any], named: str
) -> None:
    before = files(cached)
    with pytest.raises(ArtifactError, match=named):
        cache(config.model_copy(update=change), curated, cached.parent)
    assert files(cached) == before


def test_other_encoders_on_the_same_folder_are_refused(
    config: CacheConfig, curated: Path, cached: Path, components: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(components, tmp_path / "other")
    (other / "text_encoder" / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"components\.text_encoder: "):
        cache(config.model_copy(update={"components": str(other)}), curated, cached.parent)


def test_a_clip_that_broke_since_is_quarantined(config: CacheConfig, dancers: Path, tmp_path: Path) -> None:
    from steadydancer.pipelines.curate import job as curate_job
    from steadydancer.pipelines.curate.config import CurateConfig

    clips = tmp_path / "clips"
    clips.mkdir()
    for file in (dancers / "clips").glob("dancer_*"):
        shutil.copy(file, clips)
    engine = Engine(tmp_path / ".engine", in_process=True)
    small = CurateConfig(
        num_frames=13, max_clips_per_source=1, pose_model="supplied", shot_detector="threshold", text_detector="off"
    )
    curate_job.run(small, clips=str(clips), out=tmp_path, engine=engine)
    (clips / "dancer_0.mp4").write_bytes(b"no longer a video")
    record = cache(config, tmp_path, tmp_path)
    assert record["counts"] == {"inputs": 2, "ok": 1, "rejected": 0, "quarantined": 1}
    index = {row["verdict"]: row for row in Artifact(tmp_path / "latents").read().to_pylist()}
    assert index["quarantined"]["reason"] == "unreadable" and index["quarantined"]["shard"] is None
    assert ShardDataset(tmp_path / "latents").keys == [index["ok"]["clip_id"]]


def test_what_is_missing_is_said_before_anything_is_made(config: CacheConfig, curated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unfinished = tmp_path / "unfinished"
    (unfinished / "clips").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="not finished"):
        cache(config, unfinished, out)
    from steadydancer import SteadyDancerError

    with pytest.raises(SteadyDancerError, match="no folder /nowhere"):
        cache(config.model_copy(update={"components": "/nowhere"}), curated, out)
    with pytest.raises(SteadyDancerError, match="has no vae, no text_encoder"):
        cache(config.model_copy(update={"components": str(unfinished)}), curated, out)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here_is_not_waited_for(config: CacheConfig, curated: Path, tmp_path: Path) -> None:
    with pytest.raises(JobStopped, match=r"cache asks for 1 GPU a worker, and this machine has 0.*tiny"):
        cache(config.model_copy(update={"num_gpus": 1.0}), curated, tmp_path)


def test_the_plan_is_arithmetic(config: CacheConfig, curated: Path, tmp_path: Path) -> None:
    plan = job.plan(config, curated, tmp_path / "out")
    assert (plan["clips"], plan["shards"], plan["shards_done"], plan["finished"]) == (3, 2, 0, False)
    assert plan["latents_gb"] == pytest.approx(3 * 3 * 16 * 9 * 8 * 6 * 4 / 1e9)
    assert plan["components_here"] and not (tmp_path / "out").exists()
    assert np.isfinite(plan["latents_gb"])
