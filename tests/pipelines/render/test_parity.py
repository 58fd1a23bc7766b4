"""The command and the Python pipeline give the same frames, before they are encoded, for the same files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from steadydancer.datasets import driving_poses
from steadydancer.datasets.schema import Row
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.toydance import toy_pose
from steadydancer.datasets.video import decode, encode
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.pipeline_inputs import DrivingError, InputError
from steadydancer.models.pose.track import PoseTrack
from steadydancer.pipelines.render import job
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.render.write import PIPELINE_ARGUMENTS
from steadydancer.pipelines.runtime.stage import BadClip

FPS, NUM_FRAMES, HEIGHT, WIDTH = 24, 13, 60, 90
LEGS = [9, 10, 12, 13]
CONFIG = RenderConfig(
    on_missing_reference="keep",
    num_frames=5, max_area_px=64 * 48, drawing_area_px=64 * 64, num_inference_steps=3, dtype="float32", seed=7,
    pose_model="looker",
)  # fmt: skip


class Looker:
    """Finds dancers who move with the brightness of the pixels, so that every change of what it is shown is seen."""

    name, counts_people = "looker", True

    def __init__(self, num_people: int = 1, late: int = 0, hidden: Any = ()) -> None:
        self.num_people, self.late, self.hidden = num_people, late, list(hidden)

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        tracks = []
        for seed in range(7, 7 + self.num_people):
            pose = toy_pose(seed, len(frames), FPS, aspect=frames.shape[2] / frames.shape[1])
            bright = frames.reshape(len(frames), -1).astype(np.float64).mean(axis=1) / 255
            body, visible = pose.body + 0.2 * bright[:, None, None], pose.body_visible.copy()
            if len(frames) == 1:
                visible[:, self.hidden] = False
            elif seed == 7:
                visible[: self.late] = False
            body = np.where(visible[..., None], body, -1)
            tracks.append(PoseTrack(PoseSequence(body, visible, pose.hands), visible.astype(np.float32)))
        return tracks


@pytest.fixture
def pipeline(small_pipeline: SteadyDancerPipeline) -> SteadyDancerPipeline:
    return small_pipeline


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Row:
    folder, random = tmp_path_factory.mktemp("pair"), np.random.default_rng(0)
    cv2.imwrite(str(folder / "me.png"), random.integers(0, 256, (70, 50, 3), dtype=np.uint8))
    small = random.integers(0, 256, (NUM_FRAMES, HEIGHT // 6, WIDTH // 6, 3), dtype=np.uint8)
    encode(small.repeat(6, axis=1).repeat(6, axis=2), folder / "dance.mp4", FPS)
    return job.pair(folder / "me.png", folder / "dance.mp4", "A dancer.", "one")


@pytest.fixture(autouse=True)
def small_side(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(driving_poses, "POSE_SIDE_PX", 64)  # less than the driving video's
    yield


@pytest.fixture
def by_command(with_networks: Any) -> Any:
    """(frames as they go to the encoder, the record's settings) of the render job's own stages."""

    def render(pair: Row, pipeline: SteadyDancerPipeline, estimator: Looker, config: RenderConfig) -> Any:
        frames, record = with_networks(pair, config, pipeline, estimator)
        return frames, record["settings"]

    return render


def by_python(pair: Row, pipeline: SteadyDancerPipeline, estimator: Looker, config: RenderConfig, **given: Any) -> Any:
    driving = {"driving_video": pair["driving"], "driving_fps": config.driving_fps} | given
    return pipeline(
        Image.open(pair["image"]),
        prompt=pair["prompt"],
        **driving,
        pose_estimator=estimator,
        main_person_only=config.main_person_only,
        on_missing_reference=config.on_missing_reference,
        **{name: getattr(config, name) for name in PIPELINE_ARGUMENTS},
        generator=torch.Generator().manual_seed(config.seed),
        output_type="uint8",
    ).frames[0]


CASES: dict[str, tuple[Looker, dict[str, Any]]] = {
    "one person": (Looker(), {}),
    "two people": (Looker(2), {}),
    "two people, of whom the main one counts": (Looker(2), {"main_person_only": True}),
    "two people, of whom the first comes late": (Looker(2, late=2), {}),
    "a reference to the hips": (Looker(hidden=LEGS), {}),
    "an image with nobody in it": (Looker(hidden=range(18)), {}),
    "another rate, in windows": (Looker(), {"num_frames": 9, "window_frames": 5, "window_overlap": 0,
                                            "driving_fps": 20.0}),
    "windows that open with the tail": (Looker(), {"num_frames": 9, "window_frames": 5, "window_overlap": 0,
                                                   "window_opening": "tail"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_command_and_the_pipeline_give_the_same_frames(
    pair: Row, pipeline: SteadyDancerPipeline, case: str, by_command: Any
) -> None:
    estimator, update = CASES[case]
    config = CONFIG.model_copy(update=update)
    frames, settings = by_command(pair, pipeline, estimator, config)
    np.testing.assert_array_equal(frames, by_python(pair, pipeline, estimator, config))
    assert settings["on_missing_reference"] == "keep"
    assert settings["aligned"] is (case != "an image with nobody in it")
    # The people are seen in the frames.
    all_of_three = config.model_copy(update={"main_person_only": False})
    other, _ = by_command(pair, pipeline, Looker(3), all_of_three)
    assert not np.array_equal(frames, other)


def test_frames_that_an_estimator_need_not_see_smaller_may_be_given_as_they_are(
    pair: Row, pipeline: SteadyDancerPipeline, by_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving_poses, "POSE_SIDE_PX", WIDTH)
    clip = decode(pair["driving"], np.arange(NUM_FRAMES) / FPS)
    frames, _ = by_command(pair, pipeline, Looker(2), CONFIG)
    np.testing.assert_array_equal(frames, by_python(pair, pipeline, Looker(2), CONFIG, driving_video=clip))


def test_what_one_refuses_the_other_refuses(
    pair: Row, pipeline: SteadyDancerPipeline, by_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = CONFIG.model_copy(update={"on_missing_reference": "raise"})
    for estimator, config in ((Looker(hidden=range(18)), refusing), (Looker(late=NUM_FRAMES), CONFIG)):
        with pytest.raises(BadClip, match="no_pose"):
            by_command(pair, pipeline, estimator, config)
        with pytest.raises(DrivingError):
            by_python(pair, pipeline, estimator, config)


@pytest.mark.parametrize(("length", "num_frames"), [(4, 5), (3, None)])
def test_both_refuse_a_file_that_is_too_short(
    pipeline: SteadyDancerPipeline, tmp_path: Path, by_command: Any, length: int, num_frames: int | None
) -> None:
    cv2.imwrite(str(tmp_path / "me.png"), np.zeros((70, 50, 3), np.uint8))
    encode(np.zeros((length, HEIGHT, WIDTH, 3), np.uint8), tmp_path / "short.mp4", FPS)
    short = job.pair(tmp_path / "me.png", tmp_path / "short.mp4", "A dancer.", "one")
    config = CONFIG.model_copy(update={"num_frames": num_frames})
    with pytest.raises(BadClip, match=f"has {length} frames, but 5 are needed"):
        by_command(short, pipeline, Looker(), config)
    with pytest.raises(InputError, match=f"short.mp4 has {length} frames, but 5 are needed"):
        by_python(short, pipeline, Looker(), config)
