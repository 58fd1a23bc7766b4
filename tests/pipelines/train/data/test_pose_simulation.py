"""A simulated pose is drawn and encoded as the cache was, kept under its name, and read back to the same bits."""

import math
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from steadydancer.datasets.skeleton import PoseSequence, simulate_first_motion
from steadydancer.datasets.toydance import toy_pose
from steadydancer.models import encoders
from steadydancer.models.pose_condition import draw_pose_condition
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data.pose_simulation import PoseSimulation, latent_shape, simulated_pose_bytes

BUCKET = (9, 64, 48)
META = {"image_height": 80, "image_width": 60, "drawing_area_px": 96 * 64}
PLAIN = torch.arange(16 * 3 * 8 * 6).reshape(16, 3, 8, 6) / 100


def config(unit: str, target: int) -> TrainConfig:
    return TrainConfig(stage=3, num_frames=9, pose_simulation_unit=unit, pose_simulation_targets=(target,))


def sample() -> dict[str, Any]:
    return {"pose": toy_pose(7, 9, 16, aspect=60 / 80).to_bytes(), "meta": META}


class Encoder:
    """Stands for `encode_video`: one value a latent frame, thirds, and what it was told."""

    def __init__(self) -> None:
        self.reported: list[Any] = []

    def __call__(self, vae: Any, frames: np.ndarray, height: int, width: int) -> torch.Tensor:
        self.reported.append((vae, frames, height, width))
        return torch.arange(3.0).reshape(1, 3, 1, 1).expand(latent_shape(BUCKET)) / 3


def test_keypoints_of_a_later_frame_set_the_pace_and_are_drawn_as_for_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder()
    monkeypatch.setattr(encoders, "encode_video", encoder)
    simulation = PoseSimulation(config("frame", 5), "vae", tmp_path / "poses")
    given = sample()
    made = simulation("clip", 5, given, PLAIN.bfloat16(), BUCKET)
    ((vae, frames, height, width),) = encoder.reported
    moved = simulate_first_motion(PoseSequence.from_bytes(given["pose"]), 5)
    np.testing.assert_array_equal(frames, draw_pose_condition(moved, 80, 60, 96 * 64))
    assert not np.array_equal(frames, draw_pose_condition(PoseSequence.from_bytes(given["pose"]), 80, 60, 96 * 64))
    assert (vae, height, width) == ("vae", 64, 48)
    # Rounded as what the shard holds, handed out in float32.
    assert made.dtype == torch.float32 and made.shape == (16, 3, 8, 6)
    assert made[0, :, 0, 0].tolist() == (torch.arange(3.0) / 3).bfloat16().float().tolist()
    kept = load_file(tmp_path / "poses/clip-5.safetensors")["pose_latents"]
    assert kept.dtype == torch.bfloat16 and torch.equal(kept.float(), made)
    assert [file.name for file in (tmp_path / "poses").iterdir()] == ["clip-5.safetensors"]

    again = PoseSimulation(config("frame", 5), None, tmp_path / "poses")("clip", 5, {}, PLAIN.bfloat16(), BUCKET)
    assert torch.equal(again, made) and len(encoder.reported) == 1
    for key, target in (("clip", 4), ("other", 5)):
        simulation(key, target, given, PLAIN, BUCKET)
    assert len(encoder.reported) == 3
    assert load_file(tmp_path / "poses/other-5.safetensors")["pose_latents"].dtype == torch.float32


def test_latents_take_the_first_step_of_a_longer_way_and_nothing_is_kept(tmp_path: Path) -> None:
    simulation = PoseSimulation(config("latent", 2), None, tmp_path / "poses")
    made = simulation("clip", 2, {}, PLAIN.bfloat16(), BUCKET)
    plain = PLAIN.bfloat16().float()
    assert made.dtype == torch.float32
    torch.testing.assert_close(made[:, 1], plain[:, 0] + (plain[:, 2] - plain[:, 0]) / 2)
    assert torch.equal(made[:, [0, 2]], plain[:, [0, 2]])
    assert not (tmp_path / "poses").exists()


def test_what_was_left_half_written_is_swept_up_after_an_hour(tmp_path: Path) -> None:
    ages = {"fresh": 10, "busy": 3500, "old": 3700}
    for name, seconds in ages.items():
        left = tmp_path / f".{name}-2.abc.tmp"
        left.write_bytes(b"half")
        os.utime(left, (time.time() - seconds,) * 2)
    kept = tmp_path / "clip-2.safetensors"
    kept.write_bytes(b"whole")
    os.utime(kept, (0, 0))
    PoseSimulation(config("frame", 2), None, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {".fresh-2.abc.tmp", ".busy-2.abc.tmp", kept.name}


@pytest.mark.parametrize(
    ("bucket", "shape"), [((81, 640, 384), (16, 21, 80, 48)), ((5, 16, 24), (16, 2, 2, 3)), ((1, 8, 8), (16, 1, 1, 1))]
)
def test_latents_are_a_quarter_as_many_frames_and_an_eighth_as_wide(bucket: Any, shape: Any) -> None:
    assert latent_shape(bucket) == shape


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2), (torch.float32, 4)])
def test_what_is_kept_weighs_as_much_as_its_tensors(dtype: torch.dtype, size: int) -> None:
    stored = save({"pose_latents": PLAIN.to(dtype), "latents": PLAIN.half()})
    bucket = {"a": BUCKET, "b": (5, 16, 24)}
    shards: Any = SimpleNamespace(bucket=bucket, keys=["a", "b"], read=lambda key: {"conditions": stored})
    values = 2 * math.prod((16, 3, 8, 6)) + math.prod((16, 2, 2, 3))
    assert simulated_pose_bytes(config("frame", 5), [("a", 5), ("a", 4), ("b", 2)], shards) == values * size
    assert simulated_pose_bytes(config("frame", 5), [], shards) == 0
    assert simulated_pose_bytes(config("latent", 2), [("a", 2)], shards) == 0
