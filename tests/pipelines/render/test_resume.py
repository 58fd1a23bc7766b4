"""A job that is killed finishes with each step done once and the same bytes; what is encoded is encoded once."""

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.schema import Row
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.storage import result_store
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.storage.result_store import ResultStore
from steadydancer.datasets.toydance import toy_pose
from steadydancer.models import encoders
from steadydancer.models.pose.track import PoseTrack
from steadydancer.pipelines.render import denoise, encode, job, motion
from steadydancer.pipelines.render.artifacts import RenderArtifacts
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.runtime.runner import Engine

CONFIG = RenderConfig(
    num_frames=5, max_area_px=64 * 64, drawing_area_px=64 * 64, num_inference_steps=1, dtype="float32",
    pose_model="supplied", pose_guidance_interval=(0.0, 1.0), num_seeds=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def pairs(dancers: Path) -> list[Row]:
    image, driving = dancers / "images" / "pair_0.png", dancers / "driving" / "pair_0.mp4"
    return [job.pair(image, driving, prompt, prompt) for prompt in ("one", "two")]


def render(checkpoint: Path, pairs: list[Row], out: Path, config: RenderConfig = CONFIG) -> dict[str, Any]:
    engine = Engine(out / ".engine", in_process=True)
    return job.run(config, checkpoint=checkpoint, pairs=pairs, out=out, engine=engine)


def contents(out: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in (out / "renders").glob("*.[mj][ps]*") if file.stem not in KEPT_APART
    }


KEPT_APART = ("plan", "run")  # these name the folder, and how long it took


def die() -> None:
    os.kill(os.getpid(), 9)


def dying_at_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The video is written, its part is not."""
    monkeypatch.setattr(RenderArtifacts, "write_packet", lambda *_: die())


def dying_in_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the second video's latents are on disk, under another name."""
    save, number = result_store.save_file, iter(range(100))

    def half(arrays: Any, path: Path, **more: Any) -> None:
        save(arrays, path, **more)
        if "latents" in str(path) and next(number) == 0:
            path.write_bytes(path.read_bytes()[:-100])
            die()

    monkeypatch.setattr(result_store, "save_file", half)


def dying_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latents are kept, and no video is made of them."""
    denoise_pair, number = denoise.denoise_pair, iter(range(100))

    def dying(*arguments: Any) -> Row:
        row = denoise_pair(*arguments)
        if next(number) == 1:
            die()
        return row

    from steadydancer.pipelines.render import steps

    monkeypatch.setattr(steps, "denoise_pair", dying)


def test_a_job_killed_three_times_does_each_step_once_and_gives_the_same_bytes(
    checkpoint: Path, pairs: list[Row], tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def attempt(prepare: Callable[[pytest.MonkeyPatch], None]) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            put = ResultStore.put

            def logged(self: ResultStore, key: str, *arguments: Any) -> None:
                put(self, key, *arguments)
                with log.open("a") as file:
                    file.write(f"{key}\n")

            monkeypatch.setattr(ResultStore, "put", logged)
            prepare(monkeypatch)
            render(checkpoint, pairs, tmp_path / "killed")

    context = multiprocessing.get_context("fork")
    finished = []
    for prepare in (dying_at_a_part, dying_in_a_result, dying_before_it_is_written):
        process = context.Process(target=attempt, args=(prepare,))
        process.start()
        process.join()
        assert process.exitcode == -9, prepare.__name__
        finished.append(len(list((tmp_path / "killed/renders").glob("part-*"))))
    assert finished == [0, 1, 2]
    attempt(lambda monkeypatch: None)

    computed = Counter(log.read_text().split())
    assert set(computed.values()) == {1}
    kinds = Counter(key.split("/")[0] for key in computed)
    assert kinds == {
        "motion": 1, "text": 2, "image": 1, "image_condition": 1, "pose": 1, "negative_pose": 2, "latents": 4,
    }  # fmt: skip
    record = render(checkpoint, pairs, tmp_path / "whole")
    assert record["counts"] == {"inputs": 4, "ok": 4, "rejected": 0, "quarantined": 0}
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 8
    rows = [Artifact(tmp_path / name / "renders").read().to_pylist() for name in ("killed", "whole")]
    assert rows[0] == rows[1]


class Estimator:
    """Finds one dancer, and counts how often it is asked."""

    name, counts_people = "counting", True
    asked: ClassVar[Counter[int]] = Counter()

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        self.asked[len(frames)] += 1
        pose: PoseSequence = toy_pose(3, len(frames), 16, aspect=1.0)
        return [PoseTrack(pose, pose.body_visible.astype(np.float32))]


def test_seeds_and_checkpoints_share_what_is_estimated_and_encoded(
    checkpoint: Path, components: Path, dancers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pairs with one driving video, two seeds and two checkpoints: eight videos."""
    other = tmp_path / "other" / "checkpoint"
    other.mkdir(parents=True)
    for name in ("transformer", "run.json"):
        (other / name).symlink_to(checkpoint / name)
    (other / "more.txt").write_text("another content")
    calls: Counter[str] = Counter()

    def counting(module: Any, name: str, size: Callable[..., int] = lambda *_: 1) -> None:
        function = getattr(module, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **more)

        monkeypatch.setattr(module, name, counted)

    for module, names in {
        encoders: ("encode_prompt", "encode_image", "encode_image_condition"),
        encode: ("encode_pose_windows", "encode_negative_windows"),
        denoise: ("sample", "load_denoiser"),
    }.items():
        for name in names:
            counting(module, name)
    monkeypatch.setattr(motion, "load_pose_estimator", lambda name: Estimator())
    Estimator.asked.clear()
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((64, 64, 3), 90, np.uint8))
    driving = dancers / "driving" / "pair_0.mp4"
    pairs = [
        job.pair(dancers / "images" / "pair_0.png", driving, "one", "one", seed=7),
        job.pair(tmp_path / "grey.png", driving, "two", "two"),
    ]
    config = CONFIG.model_copy(update={"pose_model": "counting"})
    given: dict[str, Any] = {"pairs": pairs, "engine": Engine(tmp_path / ".engine", in_process=True)}
    checkpoints = job.name_checkpoints([("first", checkpoint), (None, other)])
    records = job.run_checkpoints(config, checkpoints=checkpoints, out=tmp_path / "out", **given)
    assert {name: record["counts"]["ok"] for name, record in records.items()} == {"first": 4, "other": 4}
    assert Estimator.asked == {5: 1, 1: 2}  # the driving video, and each image
    assert calls == {
        "encode_prompt": 2, "encode_image": 4,  # the first frame of each pose too
        "encode_image_condition": 2, "encode_pose_windows": 2,
        "encode_negative_windows": 4, "sample": 8, "load_denoiser": 2,
    }  # fmt: skip
    rows = Artifact(tmp_path / "out/other/renders").read().to_pylist()
    assert {(row["id"], row["seed_index"]): row["seed"] for row in rows} == {
        ("one", 0): 7, ("one", 1): 8, ("two", 0): CONFIG.seed, ("two", 1): CONFIG.seed + 1,
    }  # fmt: skip
    assert len({(tmp_path / "out/other/renders" / row["video"]).read_bytes() for row in rows}) == 4
    # What is kept says which files it was made from.
    store = ResultStore(tmp_path / "out/work")
    of_grey = Counter(place.parent.name for place in store.made_from([content_digest(tmp_path / "grey.png")]))
    assert of_grey == {
        "poses": 1, "motion": 1, "image": 1, "image_condition": 1, "pose": 1, "negative_pose": 2, "latents": 4,
    }  # fmt: skip
    of_dance = Counter(place.parent.name for place in store.made_from([content_digest(driving)]))
    assert of_dance == {"poses": 1, "motion": 2, "pose": 2, "negative_pose": 4, "latents": 8}
    assert store.made_from(["another"]) == []
    # Another run with the kept results changes the coding of the videos, and computes nothing.
    calls.clear()
    again = config.model_copy(update={"crf": 30})
    job.run(again, checkpoint=other, out=tmp_path / "more", work=tmp_path / "out/work", **given)
    assert not calls and Estimator.asked == {5: 1, 1: 2}


def test_one_of_several_seeds_is_the_video_of_that_seed_alone(
    checkpoint: Path, pairs: list[Row], tmp_path: Path
) -> None:
    render(checkpoint, pairs[:1], tmp_path / "two")
    alone = CONFIG.model_copy(update={"num_seeds": 1, "seed": CONFIG.seed + 1})
    render(checkpoint, pairs[:1], tmp_path / "alone", alone)
    names = ("two/renders/one-1.mp4", "alone/renders/one.mp4")
    records = [json.loads((tmp_path / name).with_suffix(".json").read_text()) for name in names]
    assert records[0]["seed"] == records[1]["seed"] == CONFIG.seed + 1
    latents = [{file.name for file in (tmp_path / name / "work/latents").iterdir()} for name in ("two", "alone")]
    assert latents[1] < latents[0]


def test_a_pair_that_does_not_consent_is_refused_before_anything_is_computed(
    checkpoint: Path, pairs: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("nothing may be loaded for it")

    for name in ("load_pose_estimator", "read_image"):
        monkeypatch.setattr(motion, name, refuse)
    refused = [pair | {"consent": "no"} for pair in pairs]
    record = render(checkpoint, refused, tmp_path / "none")
    assert record["counts"] == {"inputs": 4, "ok": 0, "rejected": 4, "quarantined": 0}
    assert record["consent"] == {"given": 0, "refused": 2, "not_stated": 0}
    assert not (tmp_path / "none/work").exists()
    rows = Artifact(tmp_path / "none/renders").read().to_pylist()
    assert {row["reason"] for row in rows} == {"no_consent"} and {row["consent"] for row in rows} == {"no"}
    monkeypatch.undo()
    mixed = [refused[0], pairs[1] | {"consent": "yes", "licence": "CC0"}]
    record = render(checkpoint, mixed, tmp_path / "mixed", CONFIG.model_copy(update={"packet_size": 4}))
    assert record["counts"] == {"inputs": 4, "ok": 2, "rejected": 2, "quarantined": 0}
    assert record["consent"] == {"given": 1, "refused": 1, "not_stated": 0}


def test_a_pair_whose_sampling_fails_is_recorded_and_the_others_render(
    checkpoint: Path, pairs: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = denoise.load_denoiser

    def failing(*arguments: Any) -> Any:
        pipeline = load(*arguments)

        def call(*, generator: Any, **given: Any) -> Any:
            if generator.initial_seed() == CONFIG.seed + 1:
                raise FloatingPointError("step 0: the velocity is not finite")
            return pipeline(generator=generator, **given)

        call.process_group = None  # type: ignore[attr-defined]
        return call

    monkeypatch.setattr(denoise, "load_denoiser", failing)
    record = render(checkpoint, pairs[:1], tmp_path)
    assert record["counts"] == {"inputs": 2, "ok": 1, "rejected": 0, "quarantined": 1}
    rows = {row["seed_index"]: row for row in Artifact(tmp_path / "renders").read().to_pylist()}
    assert (rows[1]["reason"], rows[1]["detail"]) == ("not_finite", "step 0: the velocity is not finite")
    assert rows[0]["verdict"] == "ok"
