"""The stages of a rendering job, run one after another on one pair, with networks that a test brings."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.schema import Row
from steadydancer.pipelines.render import write
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.render.denoise import denoise_pair
from steadydancer.pipelines.render.encode import encode_pair
from steadydancer.pipelines.render.motion import MotionTools, find_motion, read_image, read_motion
from steadydancer.pipelines.render.rows import rows_of
from steadydancer.pipelines.render.task import CheckpointTask, RenderTask

DIGESTS = {"checkpoint": "c0", "vae": "f1"}
_numbers = itertools.count()


@dataclass
class Told:
    """What reaches the pipeline and the writer of the video."""

    video: Path
    image: np.ndarray
    people: Any
    prompt: str
    settings: dict[str, Any]


class Networks:
    """Stands for `Components` and `Denoiser`: the parts of one pipeline."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def get(self, place: CheckpointTask, name: str) -> Any:
        return getattr(self.pipeline, name)

    def of(self, name: str) -> Any:
        return self.pipeline


def new_task(config: RenderConfig, folder: Path) -> RenderTask:
    """A task with an empty work folder."""
    place = CheckpointTask("", "", DIGESTS, str(folder / "out"))
    return RenderTask(config, {"": place}, str(folder / f"work-{next(_numbers)}"))


def row_of(pair: Row, config: RenderConfig) -> Row:
    (row,) = rows_of([pair], config).values()
    return {**row, "checkpoint": ""}


def render_without_networks(pair: Row, config: RenderConfig, estimator: Any) -> tuple[Row, Told]:
    """Find the motion and write the record of the video, without encoding, denoising and decoding."""
    task = new_task(config, Path(pair["image"]).parent)
    row = find_motion(row_of(pair, config), task, MotionTools(estimator, {}))
    assert isinstance(row, dict)
    row["latents"] = "latents/0"
    task.store.put(row["latents"], {"latents": np.zeros((1, 16, 3, 6, 8), np.float32)})
    people, _ = read_motion(task.store, row["motion"])
    written: dict[str, Any] = {}

    def write_video(frames: Any, path: Path, record: Any, fps: float, sound: Any, **coding: Any) -> dict[str, Any]:
        written.update(video=path, settings={**record, "fps": fps, "sound": sound, **coding})
        return {"video": {"height": 48, "width": 64, "num_frames": len(people[0])}}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(write, "write_video", write_video)
        row = write.write_pair(row, task, Networks(None))
    assert isinstance(row, dict)
    image = read_image(Path(pair["image"])).pixels
    return row, Told(written["video"], image, people, row["prompt"], written["settings"])


def render_with_networks(
    pair: Row, config: RenderConfig, pipeline: Any, estimator: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    """Run all stages; return (frames as they go to the video's encoder, the record)."""
    task, networks = new_task(config, Path(pair["image"]).parent), Networks(pipeline)
    written: list[Any] = []

    def write_video(frames: Any, path: Path, record: Any, *_: Any, **__: Any) -> dict[str, Any]:
        written.extend([np.concatenate(list(frames)), record])
        num_frames, height, width, _ = written[0].shape
        return {"video": {"height": height, "width": width, "num_frames": num_frames}}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(write, "write_video", write_video)
        row: Any = find_motion(row_of(pair, config), task, MotionTools(estimator, {}))
        for stage in (encode_pair, denoise_pair, write.write_pair):
            row = stage(row, task, networks)
    frames, record = written
    return frames, record


@pytest.fixture
def without_networks() -> Any:
    """Function (pair, config, estimator) → (row, what reaches the pipeline and the writer)."""
    return render_without_networks


@pytest.fixture
def with_networks() -> Any:
    """Function (pair, config, pipeline, estimator) → (frames, record)."""
    return render_with_networks
