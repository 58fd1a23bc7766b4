"""Pairs become videos with their records; a bad pair is kept with its reason and stops nobody else."""

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.provenance import read_provenance
from steadydancer.datasets.schema import Row
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.toydance import load_supplied_pose, save_supplied_pose
from steadydancer.datasets.video import decode, probe
from steadydancer.models import pipeline_inputs
from steadydancer.models.checkpoints.folders import part_digest
from steadydancer.models.pose_condition import draw_pose_condition, released_aspect
from steadydancer.pipelines.render import job
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.runtime.runner import Engine

CONFIG = RenderConfig(
    num_frames=9, max_area_px=64 * 64, drawing_area_px=64 * 64, num_inference_steps=2, dtype="float32",
    pose_model="supplied", pose_guidance_interval=(0.0, 1.0),
)  # fmt: skip


def render(checkpoint: Path, pairs: list[Row], out: Path, config: RenderConfig = CONFIG) -> dict[str, Any]:
    engine = Engine(out / ".engine", in_process=True)
    return job.run(config, checkpoint=checkpoint, pairs=pairs, out=out, engine=engine)


@pytest.fixture(scope="module")
def pairs(dancers: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """One good pair, and pairs that are bad in four ways."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.png").write_text("this is no picture")
    image, driving = dancers / "images" / "pair_0.png", dancers / "driving" / "pair_0.mp4"
    shutil.copy(driving, folder / "nobody.mp4")  # without its keypoints, and no model may look
    return [
        job.pair(image, driving, "A dancer.", "good"),
        job.pair(folder / "text.png", driving, "", "text as image"),
        job.pair(folder / "gone.png", driving, "", "missing image"),
        job.pair(image, folder / "gone.mp4", "", "missing driving"),
        job.pair(image, folder / "nobody.mp4", "", "nobody"),
    ]


@pytest.fixture(scope="module")
def rendered(checkpoint: Path, pairs: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered")
    render(checkpoint, pairs, out)
    return out


def test_bad_pairs_are_kept_with_their_reason_and_the_others_render(rendered: Path) -> None:
    rows = {row["id"]: row for row in Artifact(rendered / "renders").read().to_pylist()}
    assert {name: (row["verdict"], row["reason"]) for name, row in rows.items()} == {
        "good": ("ok", None),
        "text_as_image": ("quarantined", "unreadable_image"),
        "missing_image": ("quarantined", "unreadable_image"),
        "missing_driving": ("quarantined", "unreadable"),
        "nobody": ("quarantined", "no_pose"),
    }
    record = Artifact(rendered / "renders").record()
    assert record["counts"] == {"inputs": 5, "ok": 1, "rejected": 0, "quarantined": 4}
    assert "weights check" in rows["nobody"]["detail"] and "gone.mp4" in rows["missing_driving"]["detail"]
    assert [path.name for path in (rendered / "renders").glob("*.mp4")] == ["good.mp4"]


def test_a_render_is_a_video_that_says_what_made_it(
    rendered: Path, checkpoint: Path, components: Path, pairs: list[Row], tmp_path: Path
) -> None:
    video = rendered / "renders" / "good.mp4"
    info = probe(video)
    assert (info.num_frames, info.height, info.width, info.fps) == (9, 64, 48, 16.0)  # 256 × 192 at 64²
    frames = decode(video, np.arange(9) / 16)
    assert frames.std() > 1  # a picture, not a colour
    record = read_provenance(shutil.copy(video, tmp_path / "renamed.mp4"))
    with av.open(str(video)) as container:
        assert content_digest(checkpoint)[:16] in container.metadata["comment"]
    sidecar = json.loads(video.with_suffix(".json").read_text())
    assert sidecar.pop("video")["sha256"] == content_digest(video)
    assert sidecar == record
    assert record["model"]["checkpoint"] == content_digest(checkpoint)
    assert record["model"]["vae"] == part_digest(components, "vae")
    assert record["inputs"]["image"] == content_digest(pairs[0]["image"])
    assert record["inputs"]["driving"] == content_digest(pairs[0]["driving"])
    assert record["seed"] == CONFIG.seed
    settings = record["settings"]
    assert (settings["prompt"], settings["pose_model"], settings["aligned"]) == ("A dancer.", "supplied", True)
    assert RenderConfig(**settings["config"]) == CONFIG


def test_two_people_as_long_as_the_driving_video_in_two_windows(
    checkpoint: Path, pairs: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[PoseSequence]] = []

    def drawn(people: list[PoseSequence], *args: int) -> np.ndarray:
        seen.append(people)
        return draw_pose_condition(people, *args)

    monkeypatch.setattr(pipeline_inputs, "draw_pose_condition", drawn)
    video = Path(shutil.copy(pairs[0]["driving"], tmp_path / "two.mp4"))
    (one,), fps = load_supplied_pose(Path(pairs[0]["driving"])) or ([], 0)
    other = PoseSequence(one.body + np.array([0.2, 0]), one.body_visible, one.hands)
    save_supplied_pose(video, [one, other], fps)
    config = CONFIG.model_copy(update={"num_frames": None, "window_overlap": 4, "window_frames": 9})
    pair = job.pair(pairs[0]["image"], video, "", "two")
    render(checkpoint, [pair], tmp_path / "both", config)
    (row,) = Artifact(tmp_path / "both" / "renders").read().to_pylist()
    assert (row["verdict"], row["num_frames"]) == ("ok", 13)
    assert read_provenance(tmp_path / "both" / "renders" / "two.mp4")["settings"]["num_people"] == 2
    assert [[len(person) for person in people] for people in seen] == [[9, 9]] * 4  # two windows, each with a negative
    main, second = seen[0]
    # As far beside the main person as before, in picture heights; the image's aspect is that of the release's size.
    apart = 0.2 * (192 / 256) / released_aspect(256, 192)
    np.testing.assert_allclose((second.body - main.body)[0, 1], [apart, 0], atol=1e-6)

    seen.clear()
    render(checkpoint, [pair], tmp_path / "main", config.model_copy(update={"main_person_only": True}))
    assert {len(people) for people in seen} == {1}


def test_the_same_pair_gives_the_same_bytes_and_another_seed_others(
    rendered: Path, checkpoint: Path, pairs: list[Row], tmp_path: Path
) -> None:
    render(checkpoint, pairs[:1], tmp_path / "again")
    render(checkpoint, pairs[:1], tmp_path / "other", CONFIG.model_copy(update={"seed": 1}))
    first, again, other = (
        (folder / "renders" / "good.mp4").read_bytes() for folder in (rendered, tmp_path / "again", tmp_path / "other")
    )
    assert first == again != other


def test_a_finished_folder_takes_neither_other_pairs_nor_other_settings(
    rendered: Path, checkpoint: Path, pairs: list[Row]
) -> None:
    record = Artifact(rendered / "renders").record()
    assert render(checkpoint, pairs, rendered) == record
    with pytest.raises(ArtifactError, match="pairs: "):
        render(checkpoint, pairs[:1], rendered)
    with pytest.raises(ArtifactError, match="config.num_inference_steps: 2 → 3"):
        render(checkpoint, pairs, rendered, CONFIG.model_copy(update={"num_inference_steps": 3}))


def test_a_driving_video_that_is_too_short_says_so(checkpoint: Path, pairs: list[Row], tmp_path: Path) -> None:
    render(checkpoint, pairs[:1], tmp_path, CONFIG.model_copy(update={"num_frames": 17}))
    (row,) = Artifact(tmp_path / "renders").read().to_pylist()
    assert (row["verdict"], row["reason"]) == ("quarantined", "too_short")
    assert "13 frames, but 17 are needed" in row["detail"]


def test_pairs_are_read_from_a_table_and_a_missing_column_is_named(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("image,driving,prompt\na.png,b.mp4,\nsub/c d.png,/abs/e.mp4,words\n")
    assert job.read_pairs(table) == [
        {"id": "a-b", "image": str(tmp_path / "a.png"), "driving": str(tmp_path / "b.mp4"), "prompt": ""},
        {"id": "c_d-e", "image": str(tmp_path / "sub/c d.png"), "driving": "/abs/e.mp4", "prompt": "words"},
    ]
    table.write_text("image,prompt\na.png,words\n")
    with pytest.raises(SteadyDancerError, match=r"row 1: no driving \(columns: image, prompt\)"):
        job.read_pairs(table)


def test_what_is_missing_is_said_before_anything_is_made(checkpoint: Path, pairs: list[Row], tmp_path: Path) -> None:
    out = tmp_path / "out"
    unfinished = tmp_path / "unfinished"
    shutil.copytree(checkpoint, unfinished)
    (unfinished / "run.json").unlink()
    with pytest.raises(ArtifactError, match="not finished"):
        render(unfinished, pairs, out)
    with pytest.raises(SteadyDancerError, match="folder /nowhere does not exist"):
        render(checkpoint, pairs, out, CONFIG.model_copy(update={"components": "/nowhere"}))
    with pytest.raises(SteadyDancerError, match="several pairs have the id"):
        render(checkpoint, [pairs[0], pairs[0]], out)
    assert not out.exists()


def test_the_plan_counts_evaluations(checkpoint: Path, pairs: list[Row], tmp_path: Path) -> None:
    plan = job.plan(RenderConfig(), pairs, checkpoint, tmp_path / "out")
    assert plan["evaluations_a_video"] == 91  # 40 steps, two branches, and 11 steps inside (0.1, 0.4) a third
    long = job.plan(RenderConfig(num_frames=161), pairs, checkpoint, tmp_path / "out")
    assert (long["windows_a_video"], long["evaluations_a_video"]) == (3, 273)  # 20 + 20 latent frames, 5 shared
    unknown = job.plan(RenderConfig(num_frames=None), pairs, checkpoint, tmp_path / "out")
    assert unknown["windows_a_video"] is unknown["evaluations_a_video"] is None
    assert (plan["pairs"], plan["finished"], plan["components_here"]) == (5, False, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 80}, "num_frames must be 4k"),
        ({"window_frames": 80}, "window_frames must be 4k"),
        ({"window_overlap": 6}, "multiple of 4 below window_frames"),
        ({"window_overlap": 80}, "multiple of 4 below window_frames"),
        ({"pose_guidance_interval": (0.4, 0.1)}, "0 <= low < high <= 1"),
        ({"seed": 2**64}, "less than 18446744073709551616"),  # more than a generator takes
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RenderConfig(**fields)
