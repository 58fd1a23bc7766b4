"""What a batch holds, number by number: every tensor of every sample tells whose it is and what it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from steadydancer.datasets.artifact import Artifact, ArtifactError, Packet
from steadydancer.datasets.sampler import StepSampler
from steadydancer.datasets.shards import Sample, null_path, sample_members, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data import batches
from steadydancer.pipelines.train.data.batches import TrainingData
from steadydancer.pipelines.train.data.draws import SampleDraws, draw_batch, draw_evaluation, draw_validation, noise
from steadydancer.pipelines.train.data.split import split
from steadydancer.pipelines.train.run_folder import NonFiniteError

WIDE, TALL = (9, 32, 48), (9, 48, 32)
# Eight sources of two clips each; sizes differ within a source.
BUCKETS = {f"clip{i:02d}": TALL if i % 4 == 3 else WIDE for i in range(16)}
NAMES = ("latents", "image_latents", "pose_latents", "image_embeds", "pose_image_embeds", "prompt_embeds")
CPU = torch.device("cpu")


def value(name: str, sample: int) -> float:
    """A number of its own for each tensor, exact in bfloat16."""
    return NAMES.index(name) * 32 + sample


def tensors(bucket: tuple[int, int, int], sample: int, sign: float = 1.0) -> dict[str, torch.Tensor]:
    clip = (16, 3, bucket[1] // 8, bucket[2] // 8)
    shapes = {
        **dict.fromkeys(NAMES[:3], clip),
        **dict.fromkeys(NAMES[3:5], (257, 8)),
        "prompt_embeds": (2 + sample % 3, 8),
    }
    return {name: torch.full(shape, sign * value(name, sample)).bfloat16() for name, shape in shapes.items()}


def null_of(bucket: tuple[int, int, int]) -> int:
    """The null conditions of a size are numbered as samples of their own, below zero."""
    return 20 if bucket == WIDE else 21


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batches") / "latents"
    samples = []
    for i, (key, bucket) in enumerate(BUCKETS.items()):
        hands = np.full((9, 2, 21, 2), -1, np.float32)
        pose = PoseSequence(np.full((9, 18, 2), 0.5, np.float32), np.ones((9, 18), bool), hands, None)
        size = dict(zip(("num_frames", "height", "width"), bucket, strict=True))
        meta = {"image_height": size["height"], "image_width": size["width"], "drawing_area_px": 64 * 64}
        row = {"clip_id": key, "source_id": f"source{i // 2}", "verdict": "ok", **size}
        samples.append(Sample(row, sample_members(meta, save(tensors(bucket, i)), pose.to_bytes())))
    write_shard(folder, Packet("shard", tuple(BUCKETS)), samples)
    (folder / "null").mkdir()
    for bucket in (WIDE, TALL):
        null_path(folder, bucket).write_bytes(save(tensors(bucket, null_of(bucket), -1.0)))  # type: ignore[union-attr]
    counts = {"inputs": 16, "ok": 16, "rejected": 0, "quarantined": 0}
    Artifact(folder).commit({"counts": counts, "encodings": ENCODINGS, "config": {"dtype": "bfloat16"}})
    return folder


def config(**changes: Any) -> TrainConfig:
    values = {
        "stage": 1, "num_frames": 9, "steps": 20, "seed": 3, "global_batch_size": 4, "num_workers": 1, "use_gpu": False,
        "text_dropout": 0.5, "pose_dropout": 0.5, "validation_share": 0.3, "pose_simulation_targets": (2, 3),
        "evaluation_samples": 16, "validation_clips": 3, "validation_sigmas": (0.25, 0.75), "trackers": (),
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


def constant_value(tensor: torch.Tensor) -> float:
    """The one number that a tensor is full of."""
    (number,) = set(tensor.flatten().tolist())
    return float(number)


@pytest.mark.parametrize(("keys", "bucket"), [(("clip02", "clip00", "clip05"), WIDE), (("clip07", "clip03"), TALL)])
def test_every_tensor_is_the_samples_own_or_the_null_ones_where_that_was_drawn(
    latents: Path, keys: tuple[str, ...], bucket: tuple[int, int, int]
) -> None:
    """Text and pose dropped apart and together; the image never; sigma and noise by sample."""
    dropped = [(False, False), (True, False), (False, True)]
    rows = [SampleDraws(key, 0.25 * (i + 1), 100 + i, *dropped[i]) for i, key in enumerate(keys)]
    batch = TrainingData(latents, config()).load(rows, CPU)
    length = max(2 + int(key[4:]) % 3 for key in keys)
    length = max(length, 2 + null_of(bucket) % 3)
    for i, row in enumerate(rows):
        sample, null = int(row.key[4:]), null_of(bucket)
        assert constant_value(batch.latents[i]) == value("latents", sample)
        assert constant_value(batch.conditions.image_latents[i, 4:]) == value("image_latents", sample)
        assert constant_value(batch.conditions.image_embeds[i]) == value("image_embeds", sample)
        for name in ("pose_latents", "pose_image_embeds"):
            whole = -value(name, null) if row.pose_dropped else value(name, sample)
            assert constant_value(getattr(batch.conditions, name)[i]) == whole, name
        text = -value("prompt_embeds", null) if row.text_dropped else value("prompt_embeds", sample)
        words = 2 + (null if row.text_dropped else sample) % 3
        assert batch.conditions.prompt_embeds[i].shape[0] == length
        assert constant_value(batch.conditions.prompt_embeds[i, :words]) == text
        assert not batch.conditions.prompt_embeds[i, words:].any()
        assert constant_value(batch.null.pose_latents[i]) == -value("pose_latents", null)
        assert constant_value(batch.null.pose_image_embeds[i]) == -value("pose_image_embeds", null)
        assert batch.null.prompt_embeds is not None
        assert constant_value(batch.null.prompt_embeds[i]) == -value("prompt_embeds", null)
        assert torch.equal(batch.noise[i], noise(row, (16, 3, bucket[1] // 8, bucket[2] // 8)))
    assert batch.sigma.tolist() == [row.sigma for row in rows]
    mask = batch.conditions.image_latents[:, :4]
    assert (mask[:, :, 0] == 1).all() and not mask[:, :, 1:].any()
    held = [batch.latents, batch.noise, batch.sigma, batch.conditions.prompt_embeds, batch.null.pose_latents]
    assert {tensor.dtype for tensor in held} == {torch.float32}
    assert batch.conditions.reference_latents is None and batch.conditions.reference_pose_latents is None


def test_order_draws_and_fixed_samples_are_those_of_the_split(latents: Path) -> None:
    """Sources of two clips: the fixed samples of training and of validation come from their own side."""
    stage = config()
    data = TrainingData(latents, stage)
    sides = split(data.shards, stage)
    assert data.split == sides and len(sides.validation) == 2 * len(sides.sources) > 2
    taken = {row.key for step in range(data.sampler.steps_per_epoch) for row in data.draws(step)}
    assert taken == set(sides.training)
    order = StepSampler({key: BUCKETS[key] for key in sides.training}, 4, seed=3)
    assert [data.sampler.batch(step) for step in range(8)] == [order.batch(step) for step in range(8)]
    for step in (0, 5):
        assert data.draws(step) == draw_batch(stage, step, data.sampler.batch(step))
        assert len({BUCKETS[row.key] for row in data.draws(step)}) == 1
    assert data.evaluation_draws() == draw_evaluation(stage, sides.training)
    assert data.validation_draws() == draw_validation(stage, sides.validation)


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)])
def test_shares_and_micro_batches_are_the_global_batch_in_its_order(
    latents: Path, world_size: int, accumulation: int
) -> None:
    data = TrainingData(latents, config(num_workers=world_size, gradient_accumulation=accumulation))
    alone = TrainingData(latents, config()).draws(6)
    together = []
    for rank in range(world_size):
        share = data.share(6, rank, world_size)
        assert share.draws == alone and len(share.micro_batches) == accumulation
        for rows, batch in share.micro_batches:
            assert len(rows) == len(batch.sigma) == 4 // (world_size * accumulation)
            assert [constant_value(latent) for latent in batch.latents] == [
                value("latents", int(row.key[4:])) for row in rows
            ]
            assert batch.sigma.tolist() == pytest.approx([row.sigma for row in rows])
            together += rows
    assert together == alone


def test_a_simulated_pose_takes_the_place_of_the_cached_one_alone(latents: Path) -> None:
    asked: list[Any] = []

    def simulate(key: str, target: int, sample: Any, pose_latents: torch.Tensor, bucket: Any) -> torch.Tensor:
        asked.append((key, target, sorted(sample), constant_value(pose_latents), bucket))
        return pose_latents.float() + 0.5

    data = TrainingData(latents, config(stage=3), simulate)  # type: ignore[arg-type]
    rows = [SampleDraws("clip04", 0.5, 1, pose_target=3), SampleDraws("clip05", 0.5, 2)]
    batch = data.load(rows, CPU)
    assert asked == [("clip04", 3, ["conditions", "meta", "pose"], value("pose_latents", 4), WIDE)]
    assert [constant_value(pose) for pose in batch.conditions.pose_latents] == [
        value("pose_latents", 4) + 0.5,
        value("pose_latents", 5),
    ]
    assert [constant_value(clip) for clip in batch.latents] == [value("latents", 4), value("latents", 5)]
    with pytest.raises(ValueError, match="pose simulation was drawn for sample clip04, but `pose_simulation` is None"):
        TrainingData(latents, config(stage=3)).load(rows, CPU)


def test_a_sample_is_looked_at_once_and_its_null_conditions_are_read_once_a_size(
    latents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, read, looked = TrainingData(latents, config()), [], []
    monkeypatch.setattr(data.shards, "null", lambda bucket, one=data.shards.null: (read.append(bucket), one(bucket))[1])
    fits = batches._fits
    monkeypatch.setattr(batches, "_fits", lambda shape, wanted: (looked.append(shape), fits(shape, wanted))[1])
    rows = [SampleDraws("clip00", 0.5, 1), SampleDraws("clip01", 0.5, 2)]
    for _ in range(2):
        data.load(rows, CPU)
        data.load([SampleDraws("clip03", 0.5, 3)], CPU)
    assert read == [WIDE, TALL] and len(looked) == 3 * len(NAMES)


def cut(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:, :-1].contiguous()


def not_finite(tensor: torch.Tensor) -> torch.Tensor:
    spoilt = tensor.clone()
    spoilt.view(-1)[-1] = float("inf")
    return spoilt


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_of_another_shape_or_with_infinity_is_named_each_time(
    latents: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data = TrainingData(latents, config())
    clip, image = dict.fromkeys(NAMES[:3], (16, 3, 4, 6)), dict.fromkeys(NAMES[3:5], (257, 8))
    wanted = {**clip, **image, "prompt_embeds": (None, 8)}
    for change, error, words in (
        (cut, ArtifactError, "its index and null"),
        (lambda tensor: tensor[None], ArtifactError, f"expected {wanted[name]}"),
        (not_finite, NonFiniteError, f"{name} has values that are not finite"),
    ):
        given = tensors(WIDE, 1)
        given[name] = change(given[name])
        sample = {"conditions": save(given), "meta": {}, "pose": b""}
        monkeypatch.setattr(data.shards, "read", lambda key, sample=sample: sample)
        for _ in range(2):
            with pytest.raises(error, match=rf"shard\.tar: sample clip01: {name} .*") as constant_value:
                data.load([SampleDraws("clip01", 0.5, 1)], CPU)
            assert words in str(constant_value.value)
    given = tensors(WIDE, 1)
    del given[name]
    monkeypatch.setattr(data.shards, "read", lambda key: {"conditions": save(given), "meta": {}, "pose": b""})
    with pytest.raises(ArtifactError, match=f"sample clip01: {name} has shape None, expected"):
        data.load([SampleDraws("clip01", 0.5, 1)], CPU)
    monkeypatch.setattr(data.shards, "read", lambda key: {"conditions": b"torn", "meta": {}, "pose": b""})
    with pytest.raises(ArtifactError, match=r"shard\.tar: sample clip01: 4 bytes are not a safetensors file"):
        data.load([SampleDraws("clip01", 0.5, 1)], CPU)


@pytest.mark.parametrize("name", ["pose_latents", "pose_image_embeds", "prompt_embeds"])
def test_null_conditions_that_are_missing_or_not_finite_are_named(
    latents: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for change in (lambda given: given.pop(name), lambda given: given.update({name: not_finite(given[name])})):
        given = tensors(WIDE, 20)
        change(given)
        data = TrainingData(latents, config())
        monkeypatch.setattr(data.shards, "null", lambda bucket, given=given: save(given))
        with pytest.raises(ArtifactError, match=rf"null/9x32x48\.safetensors: {name} is missing or not finite"):
            data.load([SampleDraws("clip01", 0.5, 1)], CPU)
    data, given = TrainingData(latents, config()), tensors(WIDE, 20)
    given["pose_latents"] = cut(given["pose_latents"])
    monkeypatch.setattr(data.shards, "null", lambda bucket: save(given))
    with pytest.raises(ArtifactError, match=r"pose_latents has shape \(16, 2, 4, 6\), expected \(16, 3, 4, 6\)"):
        data.load([SampleDraws("clip01", 0.5, 1)], CPU)
