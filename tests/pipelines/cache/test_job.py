"""The same clips give the same shards, plain webdataset reads them, and the causal autoencoder's frame 0 is one."""

import hashlib
import json
import resource
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from safetensors.torch import load

from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.clips import Clips
from steadydancer.datasets.schema import Row
from steadydancer.datasets.shards import ShardDataset
from steadydancer.datasets.shards.encodings import ENCODINGS, fingerprint
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.flows.presets import tiny
from steadydancer.models.cached_conditions import tensors_of
from steadydancer.pipelines.cache import cost, job, steps
from steadydancer.pipelines.cache.accepted_clips import AcceptedClips
from steadydancer.pipelines.cache.config import CacheConfig
from steadydancer.pipelines.cache.verify import verify
from steadydancer.pipelines.common.components import FeatureSizes
from steadydancer.pipelines.common.crop import to_frame
from steadydancer.pipelines.runtime.runner import Engine, JobStopped

MEMBERS = {"latents", "image_latents", "pose_latents", "image_embeds", "pose_image_embeds", "prompt_embeds"}


@pytest.fixture(scope="module")
def config(components: Path) -> CacheConfig:
    return tiny().cache.model_copy(update={"components": str(components), "packet_size": 2})


def cache(config: CacheConfig, clips: Path, out: Path) -> dict[str, Any]:
    return job.run(config, clips=clips, out=out, engine=Engine(out / ".engine", in_process=True))


@pytest.fixture(scope="module")
def short(config: CacheConfig, dancers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curation of two clips of 13 frames and its cache, for tests that make a cache anew: a fifth of the work."""
    from steadydancer.pipelines.curate import job as curate_job
    from steadydancer.pipelines.curate.config import CurateConfig

    out = tmp_path_factory.mktemp("short")
    (out / "videos").mkdir()
    for file in (dancers / "clips").glob("dancer_*"):
        shutil.copy(file, out / "videos")
    small = CurateConfig(
        num_frames=13, max_clips_per_source=1, pose_model="supplied", shot_detector="threshold", text_detector="off"
    )
    curate_job.run(small, clips=str(out / "videos"), out=out, engine=Engine(out / ".engine", in_process=True))
    cache(config, out, out)
    return out


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_two_runs_give_the_same_bytes(config: CacheConfig, short: Path, tmp_path: Path) -> None:
    cache(config, short, tmp_path)
    again = files(tmp_path / "latents")
    assert again == files(short / "latents")
    assert len([name for name in again if name.endswith(".tar")]) == 2  # small as it is, each clip is a shard


def test_the_record_balances_and_names_its_inputs(config: CacheConfig, cached: Path, components: Path) -> None:
    record = Artifact(cached).record()
    assert record["counts"] == {"inputs": 3, "ok": 3, "rejected": 0, "quarantined": 0}
    assert (record["num_frames"], record["fps"], record["buckets"]) == (33, 16.0, [[33, 64, 48]])
    assert record["components"]["path"] == str(components)
    assert set(record["components"]["digests"]) == {"vae", "text_encoder", "tokenizer", "image_encoder"}
    assert record["prompts"] == {"supplied": 3, "captioner": 0, "none": 0} and record["encodings"] == ENCODINGS
    index = Artifact(cached).read().to_pylist()
    assert {row["prompt_from"] for row in index} == {"supplied"}
    weights = record["components"]["digests"]
    assert {row["fingerprint"] for row in index} == {record["fingerprint"]} == {fingerprint(record["config"], weights)}
    for row in index:
        shard = (cached / "shards" / row["shard"]).read_bytes()
        assert (row["shard_bytes"], row["shard_sha256"]) == (len(shard), hashlib.sha256(shard).hexdigest())
    assert record["null"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (cached / "null").iterdir()
    }
    assert record["parts"] == {path.name: files(cached)[path.name] for path in sorted(cached.glob("part-*"))}
    assert record["bytes"] == sum(path.stat().st_size for path in (cached / "shards").glob("*.tar"))


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
    reported = load(shards.read(shards.keys[0])["conditions"])
    assert not torch.equal(null["pose_latents"], reported["pose_latents"])
    assert not torch.equal(null["pose_image_embeds"], reported["pose_image_embeds"])


def test_half_precision_halves_the_tensors(config: CacheConfig, short: Path, tmp_path: Path) -> None:
    cache(config.model_copy(update={"dtype": "bfloat16"}), short, tmp_path)
    half, full = ShardDataset(tmp_path / "latents"), ShardDataset(short / "latents")
    assert len(full) == 2
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


def test_a_source_that_went_or_was_replaced_since_is_quarantined(
    config: CacheConfig, dancers: Path, tmp_path: Path
) -> None:
    """By another video of the same size, which would be encoded under the old id, caption and keypoints."""
    from steadydancer.pipelines.curate import job as curate_job
    from steadydancer.pipelines.curate.config import CurateConfig, Duplicates

    clips = tmp_path / "clips"
    clips.mkdir()
    for file in (dancers / "clips").glob("dancer_*"):
        shutil.copy(file, clips)
        shutil.copy(file, clips / file.name.replace("dancer_1", "another"))
    with (clips / "another.mp4").open("ab") as added:
        added.write(b"\0\0\0\x08free")  # other bytes that show the same
    engine = Engine(tmp_path / ".engine", in_process=True)
    small = CurateConfig(
        num_frames=13,
        max_clips_per_source=1,
        pose_model="supplied",
        shot_detector="threshold",
        text_detector="off",
        duplicates=Duplicates(scope="off"),
    )
    curate_job.run(small, clips=str(clips), out=tmp_path, engine=engine)
    size = (clips / "dancer_1.mp4").stat().st_size
    other = (clips / "dancer_0.mp4").read_bytes()
    if (fill := size - len(other)) >= 8:  # of the same size, if it fits
        other += struct.pack(">I4s", fill, b"free") + bytes(fill - 8)
    (clips / "dancer_1.mp4").write_bytes(other)
    (clips / "dancer_0.mp4").unlink()
    record = cache(config, tmp_path, tmp_path)
    assert record["counts"] == {"inputs": 3, "ok": 1, "rejected": 0, "quarantined": 2}
    names = {row["clip_id"]: Path(row["source_path"]).stem for row in Clips(tmp_path).read().to_pylist()}
    index = {names[row["clip_id"]]: row for row in Artifact(tmp_path / "latents").read().to_pylist()}
    reasons = {name: row["reason"] for name, row in index.items()}
    assert reasons == {"dancer_0": "unreadable", "dancer_1": "source_changed", "another": None}
    assert index["dancer_0"]["shard"] is None and index["dancer_1"]["shard"] is None
    assert ShardDataset(tmp_path / "latents").keys == [index["another"]["clip_id"]]
    verified = verify(tmp_path / "latents")
    assert not verified.findings and verified.without == {"unreadable": 1, "source_changed": 1}


def test_what_is_missing_is_said_before_anything_is_made(config: CacheConfig, curated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unfinished = tmp_path / "unfinished"
    (unfinished / "clips").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="not finished"):
        cache(config, unfinished, out)
    from steadydancer import SteadyDancerError

    with pytest.raises(SteadyDancerError, match="folder /nowhere does not exist"):
        cache(config.model_copy(update={"components": "/nowhere"}), curated, out)
    with pytest.raises(SteadyDancerError, match="has no vae/, no text_encoder/"):
        cache(config.model_copy(update={"components": str(unfinished)}), curated, out)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here_is_not_waited_for(config: CacheConfig, curated: Path, tmp_path: Path) -> None:
    with pytest.raises(JobStopped, match=r"cache needs 1 GPU per worker, but this machine has 0.*tiny"):
        cache(config.model_copy(update={"num_gpus": 1.0}), curated, tmp_path)


def test_the_plan_is_arithmetic(config: CacheConfig, curated: Path, tmp_path: Path) -> None:
    plan = job.plan(config, curated, tmp_path / "out")
    assert (plan["clips"], plan["shards"], plan["shards_done"], plan["finished"]) == (3, 3, 0, False)
    assert plan["cost"]["bytes"]["latents"] == 3 * 16 * 9 * 8 * 6 * 4
    assert plan["cost"]["gpu_hours"]["cache"] > 0  # counted for this autoencoder
    assert plan["cost"]["assumed"]["tflop_per_encode_81x640x640"] < 167 / 20
    assert plan["prompts"] == {"supplied": 3, "from_captioner_or_none": 0}
    assert plan["components_here"] and not (tmp_path / "out").exists()


def test_what_is_estimated_is_what_it_weighs(config: CacheConfig, curated: Path, cached: Path, tmp_path: Path) -> None:
    """Within a percent but for what JSON and tar add, which is much beside tiny latents."""
    estimated = job.plan(config, curated, tmp_path / "out")["cost"]["bytes"]
    actual = dict.fromkeys(estimated, 0)
    shards = ShardDataset(cached)
    for key in shards.keys:
        sample = shards.read(key)
        for name, tensor in load(sample["conditions"]).items():
            actual[name] += tensor.numel() * tensor.element_size()
        actual["pose"] += len(sample["pose"])
    exact = set(actual) - {"total", "per_clip", "container", "prompt_embeds", "pose"}
    assert {name: actual[name] for name in exact} == {name: estimated[name] for name in exact}
    assert estimated["pose"] == pytest.approx(actual["pose"], rel=0.03)
    assert Artifact(cached).record()["bytes"] == pytest.approx(estimated["total"] + 3 * 4096, rel=0.25)


def price(num_clips: int, **changes: Any) -> dict[str, Any]:
    config, widths = CacheConfig(), FeatureSizes()
    shapes = [(81, 640, 640, 4 * 149)] * num_clips
    return cost.estimate_cost(cost.estimate_bytes(config, widths, shapes), widths, **changes)


def test_the_price_of_the_papers_cache_is_that_of_the_arithmetic() -> None:
    """81 frames of 640² are 21 × 80 × 80 × 16 latents; 150 tokens; 3 encodes of 167 TFLOP; 116,000 draws."""
    clip = cost.sample_bytes(81, 640, 640, 150, 2, FeatureSizes())
    by_field = dict(zip(cost.FIELDS, clip, strict=True))
    assert by_field["latents"] == by_field["image_latents"] == by_field["pose_latents"] == 4_300_800
    assert by_field["image_embeds"] == 657_920 and by_field["prompt_embeds"] == 1_228_800
    assert sum(clip) - by_field["pose"] - by_field["container"] == pytest.approx(15.51e6 - 65e3, rel=1e-3)
    paper = price(7338, samples_drawn=116_000)
    assert paper["bytes"]["total"] == pytest.approx(114e9, rel=0.01)
    assert paper["gpu_hours"]["cache"] == pytest.approx(7338 * 5.01 / 3600)
    assert paper["passes"] == pytest.approx(15.8, abs=0.05)
    assert paper["gpu_hours"]["online"] == pytest.approx(161.4, abs=0.1)
    assert paper["cheaper"] == "cache"
    fast = price(7338, samples_drawn=116_000, tflop_per_s=200.0)
    assert fast["gpu_hours"]["cache"] == pytest.approx(paper["gpu_hours"]["cache"] / 2)
    words = cost.format_cost(paper)
    assert "114 GB" in words and "10.2 GPU-hours" in words and "online 161 in 15.8 passes: cache is cheaper" in words


def test_one_pass_is_cheaper_online_and_what_is_not_known_is_null() -> None:
    assert price(1000, samples_drawn=1000)["cheaper"] == "online"
    unknown = price(1000)
    assert unknown["passes"] is None and unknown["gpu_hours"]["online"] is None and unknown["cheaper"] is None
    assert "the same for every pass" in cost.format_cost(unknown)
    # A clip of half the frames at the same size takes half the work.
    halves = cost.estimate_bytes(CacheConfig(), FeatureSizes(), [(81, 640, 640, None)] * 2)
    assert cost.estimate_cost(halves, FeatureSizes())["gpu_hours"]["cache"] == pytest.approx(2 * 3 * 167 / 100 / 3600)


@pytest.mark.parametrize(("size", "megabytes"), [((480, 848), 15.43), ((832, 480), 15.19)])
def test_the_bucket_hardly_matters(size: tuple[int, int], megabytes: float) -> None:
    clip = cost.sample_bytes(81, *size, 150, 2, FeatureSizes())
    assert (sum(clip) - clip[-1] - clip[-2]) / 1e6 == pytest.approx(megabytes - 0.065, rel=2e-3)


def test_the_driver_holds_no_keypoints(curated: Path, config: CacheConfig) -> None:
    accepted = AcceptedClips(curated)
    row = accepted[accepted.ids[0]]
    assert "pose" not in row and row["measured_part"].startswith("part-") and row["fps"] == 16.0
    found = steps.find_pose(row, config, Clips(curated))
    assert hashlib.sha256(found["pose"]).hexdigest().startswith(row["pose_digest"])
    with pytest.raises(ArtifactError, match="other keypoints for .* than the selection recorded"):
        steps.find_pose({**row, "pose_digest": "0" * 16}, config, Clips(curated))


@pytest.fixture(scope="module")
def encoders(config: CacheConfig) -> steps.Encoders:
    return steps.load_encoders(config)


FRAME = (96, 64)
BOX = {"crop_left_px": 10, "crop_top_px": 20, "crop_width_px": 64, "crop_height_px": 96}


@pytest.fixture(scope="module")
def dancer(tmp_path_factory: pytest.TempPathFactory) -> Row:
    """A clip, and beside it the same one with bars: source_path, bars_path."""
    folder = tmp_path_factory.mktemp("bars")
    pose = toy_pose(0, 9, 16)
    frames = draw_dancer(pose, 0, *FRAME)
    framed = np.zeros((9, 96 + 40, 64 + 26, 3), np.uint8)
    framed[:, 20:116, 10:74] = frames
    encode(frames, folder / "plain.mp4", lossless=True)
    encode(framed, folder / "bars.mp4", lossless=True)
    shares = (10 / 90, 20 / 136, 64 / 90, 96 / 136)
    return {
        "clip_id": "c", "source_id": content_digest(folder / "plain.mp4"), "source_path": str(folder / "plain.mp4"),
        "bars_id": content_digest(folder / "bars.mp4"), "prompt": "a dancer",
        "pose_model": "supplied", "start_s": 0.0, "end_s": 0.5, "fps": 16.0, "num_frames": 9, "source_height": 96,
        "source_width": 64, "pose": pose.to_bytes(), "bars_path": str(folder / "bars.mp4"),
        "bars_pose": to_frame(pose, shares).to_bytes(), **dict.fromkeys(BOX),
    }  # fmt: skip


def with_bars(row: Row) -> Row:
    return {**row, "source_path": row["bars_path"], "source_id": row["bars_id"], "pose": row["bars_pose"],
            "source_height": 136, "source_width": 90, **BOX}  # fmt: skip


def test_a_letterboxed_clip_has_the_latents_of_the_clip_without_its_bars(
    config: CacheConfig, encoders: steps.Encoders, dancer: Row
) -> None:
    plain, barred = (steps.encode_clip(row, config, encoders) for row in (dancer, with_bars(dancer)))
    for name in ("height", "width", "image_height", "image_width"):
        assert plain[name] == barred[name]
    assert (plain["image_height"], plain["image_width"]) == FRAME
    ours, theirs = tensors_of(barred["conditions"]), tensors_of(plain["conditions"])
    for name in MEMBERS:  # keypoints went to the whole frame and back: a stroke's edge may differ by a level
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-2 if "pose" in name else 1e-5, rtol=0)
    # The keypoints in the sample are drawn again, over its picture, by pose simulation and galleries.
    kept, alone = (PoseSequence.from_bytes(row["pose"]) for row in (barred, plain))
    np.testing.assert_allclose(kept.body, alone.body, atol=1e-4)
    np.testing.assert_allclose(kept.hands, alone.hands, atol=1e-4)
    # The bars would have been seen.
    seen = steps.encode_clip({**with_bars(dancer), **dict.fromkeys(BOX)}, config, encoders)
    assert (tensors_of(seen["conditions"])["image_embeds"] - theirs["image_embeds"]).abs().mean() > 0.05


def test_keypoints_of_a_letterboxed_clip_land_on_the_same_pixels(config: CacheConfig, dancer: Row) -> None:
    frames, pose = steps.read_picture(dancer, config)
    framed, inside = steps.read_picture(with_bars(dancer), config)
    assert np.array_equal(frames, framed)
    np.testing.assert_allclose(inside.body * FRAME[::-1], pose.body * FRAME[::-1], atol=1e-3)
    # An odd box is cut to even sides, and keypoints follow the cut.
    odd = with_bars(dancer) | {"crop_width_px": 65, "crop_height_px": 97}
    framed, inside = steps.read_picture(odd, config)
    assert framed.shape[1:3] == FRAME
    np.testing.assert_allclose(inside.body * FRAME[::-1], pose.body * FRAME[::-1], atol=1e-3)


def test_a_large_letterboxed_source_is_read_no_larger_than_its_picture_is_needed(config: CacheConfig) -> None:
    row = {"source_height": 1920, "source_width": 1080, **dict.fromkeys(BOX)}
    assert steps.trained_size(row, config) == (80, 48) and steps.decoded_size(row, config) == (160, 90)
    barred = row | {"source_height": 2000, "crop_left_px": 0, "crop_top_px": 40, "crop_width_px": 1080,
                    "crop_height_px": 1920}  # fmt: skip
    assert steps.trained_size(barred, config) == (80, 48) and steps.decoded_size(barred, config) == (166, 90)


# Five numbers of each member of the dancer above, by the version of the code that computes it. Whoever changes what an
# encoder gives raises its version in `datasets/shards/encodings.py`, so that no old cache is trained with it.
NUMBERS: dict[tuple[str, int], tuple[float, ...]] = {
    ("latents", 1): (-0.2579, -0.4987, -0.44, 0.349, 1.3718),
    ("image_latents", 1): (-0.2579, -0.4658, -0.5086, 0.4247, 1.3394),
    ("pose_latents", 1): (-0.8085, -0.6349, -0.459, 0.004, 1.2686),
    ("image_embeds", 1): (-1.1024, 0.9021, 0.148, -0.4533, 0.7853),
    ("pose_image_embeds", 1): (-1.268, 0.7909, -2.0043, -1.2809, 1.2876),
    ("prompt_embeds", 1): (0.2221, -1.2263, -0.2847, 0.6136, 0.7885),
}


def some(tensor: torch.Tensor) -> tuple[float, ...]:
    return tuple(tensor.flatten()[torch.linspace(0, tensor.numel() - 1, 5).long()].tolist())


def test_encodings_are_those_of_their_version(config: CacheConfig, encoders: steps.Encoders, dancer: Row) -> None:
    reported = steps.encode_clip(dancer, config, encoders)
    for name, tensor in tensors_of(reported["conditions"]).items():
        wanted = NUMBERS[name, ENCODINGS[name]]
        assert some(tensor) == pytest.approx(wanted, abs=2e-3), name
    assert (ENCODINGS["pose"], ENCODINGS["caption"]) == (1, 1)


def test_tensors_are_read_without_a_copy_and_damage_is_refused(cached: Path) -> None:
    shards = ShardDataset(cached)
    data = shards.read(shards.keys[0])["conditions"]
    ours, theirs = tensors_of(data), load(data)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    begin = torch.frombuffer(data, dtype=torch.uint8).data_ptr()
    assert all(begin < tensor.data_ptr() < begin + len(data) for tensor in ours.values())
    for broken in (b"", data[:100], b"\x10" + bytes(40)):
        with pytest.raises(ValueError, match="not a safetensors file"):
            tensors_of(broken)


def test_latents_that_are_not_finite_are_quarantined(
    config: CacheConfig, encoders: steps.Encoders, dancer: Row, curated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_video = steps.encode_video
    monkeypatch.setattr(steps, "encode_video", lambda *arguments: encode_video(*arguments) * float("nan"))
    (row,) = steps.stages(config, curated, Clips(curated).record)[1].apply(dancer, config, encoders)
    assert (row["verdict"], row["reason"]) == ("quarantined", "non_finite_latents")
    sample = steps.to_sample({**dict.fromkeys(steps.SCHEMA.names), **row}, config, "mark")
    assert not sample.members and sample.row["prompt_from"] is None and sample.row["fingerprint"] == "mark"


def test_a_file_that_may_not_grow_stops_with_a_sentence_and_the_same_command_goes_on(
    config: CacheConfig, short: Path, tmp_path: Path
) -> None:
    """As a full disk does: the system refuses what is written beyond a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(JobStopped, match=r"cache stopped: File too large .*\n.*free disk space"):
            cache(config, short, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = {path.name for path in (tmp_path / "latents").rglob("*") if path.is_file()}
    assert left == {"plan.json"}
    cache(config, short, tmp_path)
    assert files(tmp_path / "latents") == files(short / "latents")


@pytest.mark.acceptance
@pytest.mark.parametrize("at", ["after a shard", "between null and record"])
def test_a_driver_that_is_killed_goes_on_to_the_same_bytes(
    config: CacheConfig, curated: Path, cached: Path, tmp_path: Path, at: str
) -> None:
    code = f"""
        import os
        from pathlib import Path
        from steadydancer.datasets.artifact import Artifact
        from steadydancer.pipelines.cache import job
        from steadydancer.pipelines.cache.config import CacheConfig
        from steadydancer.pipelines.runtime.runner import Engine
        kill = lambda *_: os.kill(os.getpid(), 9)
        write, written = Artifact.write_part, []
        def kill_at_the_second(self, packet, table):
            if written:  # its shard is there, the part that makes it count is not
                kill()
            write(self, packet, table)
            written.append(packet)
        if {at!r} == "after a shard":
            Artifact.write_part = kill_at_the_second
        else:
            Artifact.commit = kill
        out = Path({str(tmp_path)!r})
        config = CacheConfig.model_validate_json({config.model_dump_json()!r})
        job.run(config, clips=Path({str(curated)!r}), out=out, engine=Engine(out / ".engine", in_process=True))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "latents" / "run.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").glob("part-*")}
    assert len(before) == (1 if at == "after a shard" else 3)
    cache(config, curated, tmp_path)
    assert files(tmp_path / "latents") == files(cached)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.acceptance
def test_a_million_clips_are_planned_in_less_than_2_gb(tmp_path: Path) -> None:
    code = f"""
        import json, resource, sys
        from pathlib import Path
        import numpy as np, pyarrow as pa
        from steadydancer.datasets.artifact import Artifact, plan_packets
        from steadydancer.datasets.storage.atomic import write_json
        from steadydancer.datasets.clips import COLUMNS, PART_ROWS
        from steadydancer.datasets.schema import CLIP_SCHEMA
        from steadydancer.pipelines.cache import job
        from steadydancer.pipelines.cache.config import CacheConfig
        out, num = Path({str(tmp_path)!r}), 1_000_000
        packets = plan_packets(map(str, range(0, num, PART_ROWS)), 1)  # parts as a curation writes them
        ids = pa.array([f"{{i * 2654435761 % 2**64:016x}}" for i in range(num)])
        values = dict(
            clip_id=ids, source_id=ids, source_path=pa.array([f"/videos/{{i:09d}}/clip.mp4" for i in range(num)]),
            prompt=pa.array(["a person dances in a room, and the camera does not move, " * 4] * num),
            verdict=pa.array(["ok"] * num), measured_part=pa.array(["part-0.parquet"] * num), pose_digest=ids,
            width=pa.array(np.full(num, 1080, np.int32)), height=pa.array(np.full(num, 1920, np.int32)),
            num_frames=pa.array(np.full(num, 81, np.int32)), start_s=pa.array(np.zeros(num)),
            end_s=pa.array(np.ones(num)),
        )
        schema = CLIP_SCHEMA.empty_table().select(COLUMNS).schema
        table = pa.table([values.get(f.name, pa.nulls(num, f.type)) for f in schema], schema=schema)
        Artifact(out / "clips").path.mkdir()
        for packet in packets:
            Artifact(out / "clips").write_part(packet, table.slice(int(packet.ids[0]), PART_ROWS))
        write_json(out / "clips" / "run.json", {{"measured": "measured", "config": {{"fps": 16.0}}, "counts": {{}}}})
        if sys.argv[1] == "plan":
            plan = job.plan(CacheConfig(components="/nowhere"), out, out / "cached")
            job.AcceptedClips(out).digest()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps([plan["clips"], plan["shards"], plan["cost"]["bytes"]["total"], peak]))
    """
    script = textwrap.dedent(code)
    subprocess.run([sys.executable, "-c", script, "make"], check=True)
    script = script[: script.index("packets =")] + script[script.index("if sys.argv") :]
    reported = subprocess.run([sys.executable, "-c", script, "plan"], check=True, capture_output=True, text=True)
    clips, shards, total, peak = json.loads(reported.stdout)
    assert clips == 1_000_000 and total == pytest.approx(shards * 1e9, rel=0.02)
    assert peak < 2e9, f"{peak / 1e9:.2f} GB"
