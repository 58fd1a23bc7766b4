"""Frame models see the frames of the pose estimator, once, and what they write stays with the clip."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import RECORD, Artifact, ArtifactError
from steadydancer.datasets.clips import COLUMNS, Clips
from steadydancer.datasets.video import decode
from steadydancer.flows.presets import tiny
from steadydancer.pipelines.curate import clip_frames, job, refilter
from steadydancer.pipelines.curate.frame_models import GROUP, annotate, annotated_schema, find_frame_models
from steadydancer.pipelines.forget import job as forget
from steadydancer.pipelines.runtime.runner import Engine, JobStopped

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "mean_colours.py"
CONFIG = tiny().curate.model_copy(update={"pose_model": "supplied", "packet_size": 2, "frame_models": ("colours",)})


def register(folder: Path, entries: dict[str, str], package: str = "annotators") -> None:
    """Install a package as pip would: what it registers lies in a folder beside it."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in entries.items())]
    (about / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    register(folder, {"colours": "mean_colours:MeanColours"})
    shutil.copy(EXAMPLE, folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, "mean_colours", raising=False)
    return folder


def curate(clips: Path, out: Path, **options: Any) -> dict[str, Any]:
    config = CONFIG.model_copy(update=options.pop("config", {}))
    return job.run(config, clips=str(clips), out=out, engine=Engine(out / ".engine", in_process=True), **options)


def accepted(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Artifact(out / "clips").read().to_pylist()
    return [row for row in rows if row["verdict"] == "ok"]


def test_annotations_are_of_the_clips_own_frames_and_stay_through_every_new_version(
    dancers: Path, curated: Path, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = dancers / "clips"
    asked: list[str] = []
    monkeypatch.setattr(clip_frames, "decode", lambda path, *args: asked.append(path) or decode(path, *args))
    record = curate(videos, tmp_path / "out")
    assert record["frame_models"] == {"colours": "1"} and len(asked) == len(set(asked))  # one decode of each clip
    rows = accepted(tmp_path / "out")
    found = {row["clip_id"]: row for row in Clips(tmp_path / "out").annotations("colours", rows)}
    assert len(found) == len(rows) > 1
    for row in rows:
        frames = decode(row["source_path"], row["start_s"] + np.arange(33) / 16, row["height"], row["width"])
        colours = frames.mean(axis=(1, 2)) / 255
        one = found[row["clip_id"]]
        np.testing.assert_allclose(one["colours_rgb"], colours.mean(axis=0), atol=1e-4)
        assert one["colours_brightest_s"] == colours.sum(axis=1).argmax() / 16
    # Nothing else changes: verdicts and scores are those of a curation without.
    plain, ours = (Artifact(folder / "clips").read(["clip_id", "verdict", "reason", "pose_motion", "pose_digest"])
                   for folder in (curated, tmp_path / "out"))  # fmt: skip
    assert sorted(plain.to_pylist(), key=str) == sorted(ours.to_pylist(), key=str)
    assert Artifact(tmp_path / "out" / "clips").read().schema.names == COLUMNS

    asked.clear()
    curate(videos, tmp_path / "again", parent=tmp_path / "out")
    again = {
        row["clip_id"]: row for row in Clips(tmp_path / "again").annotations("colours", accepted(tmp_path / "again"))
    }
    assert {clip_id: again[clip_id] for clip_id in found} == found and not set(asked) & {r["source_path"] for r in rows}
    stricter = refilter.change_selection(record, {"gates": {"max_persons": 5}})
    refilter.run(stricter, clips=tmp_path / "out", out=tmp_path / "strict")
    kept = Clips(tmp_path / "strict").annotations("colours", accepted(tmp_path / "strict"))
    assert {row["clip_id"]: row for row in kept}.items() >= found.items()
    with pytest.raises(ArtifactError, match="has no annotations of captions; its frame models: colours"):
        Clips(tmp_path / "out").annotations("captions", rows)
    with pytest.raises(ArtifactError, match="has no annotations of colours; its frame models: none"):
        Clips(curated).annotations("colours", rows)

    # Who is forgotten loses what was written about him; the others keep theirs.
    gone, *others = rows
    forget.run(forget.Request(gone["source_id"], [tmp_path / "out", tmp_path / "strict"], tmp_path / "new"))
    left = Clips(tmp_path / "new" / "out")
    assert {row["clip_id"]: row for row in left.annotations("colours", accepted(tmp_path / "new" / "out"))} == {
        row["clip_id"]: found[row["clip_id"]] for row in others if row["source_id"] != gone["source_id"]
    }
    with pytest.raises(ArtifactError, match=f"no row of {gone['clip_id']}"):
        left.annotations("colours", [gone | {"measured_part": part} for part in left.measured.parts()][:1])


def test_another_version_is_no_parent_and_no_rest_of_a_run(
    dancers: Path, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = shutil.copytree(dancers / "clips", tmp_path / "videos")
    for name in ("static", "dark", "cut_short", "cut_long", "two_people", "truncated"):
        (clips / f"{name}.mp4").unlink()
    curate(clips, tmp_path / "out")
    (model,) = find_frame_models(["colours"]).values()
    monkeypatch.setattr(model, "version", "2")
    with pytest.raises(ArtifactError, match='different settings:\n  frame_models.colours: "1" → "2"'):
        curate(clips, tmp_path / "new", parent=tmp_path / "out")
    (tmp_path / "out" / "clips" / RECORD).unlink()
    with pytest.raises(ArtifactError, match='frame_models.colours: "1" → "2"'):
        curate(clips, tmp_path / "out")


def test_a_name_that_nobody_registered_is_refused_before_anything_is_measured(
    dancers: Path, installed: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        SteadyDancerError, match=rf"captions is registered 0 times.*colours \(.*entry points of {GROUP}"
    ):
        job.plan(CONFIG.model_copy(update={"frame_models": ("captions",)}), str(dancers / "clips"), tmp_path / "out")
    with pytest.raises(ValueError, match="frame_models must be different, got colours, colours"):
        type(CONFIG)(frame_models=("colours", "colours"))
    register(installed, {"colours": "other:Other"}, "others")
    with pytest.raises(SteadyDancerError, match="colours is registered 2 times"):
        find_frame_models(["colours"])
    broken = {"gone": "no_such_module:X", "lost": "mean_colours:Lost", "none": "mean_colours:pa"}
    register(installed, broken, "broken")
    for name, words in {
        "gone": "cannot be imported: No module",
        "lost": "cannot be imported",
        "none": "expected a class",
    }.items():
        with pytest.raises(SteadyDancerError, match=rf"frame_models: {name} \({broken[name]}\).*{words}"):
            find_frame_models([name])
    register(installed, {"camera": "clashing:Model"}, "clashing")
    (installed / "clashing.py").write_text(
        "import pyarrow as pa\nclass Model:\n    version, columns = '1', pa.schema([('motion', pa.int8())])\n"
    )
    with pytest.raises(SteadyDancerError, match="motion of camera would be camera_motion, which exists already"):
        annotated_schema(["camera"])


class Wrong:
    """Returns what it is told to."""

    version, columns = "1", pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32(), 2))])

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def annotate(self, frames: Tensor, fps: float) -> dict[str, Any]:
        return self.values


def test_columns_and_types_are_those_that_were_declared() -> None:
    frames = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)

    def row(**values: Any) -> dict[str, Any]:
        return annotate({"mine": Wrong(values)}, frames, 16.0)  # type: ignore[dict-item]

    assert row(text=None, vector=np.float32([1, 2])) == {"mine_text": None, "mine_vector": [1.0, 2.0]}
    for values, words in (
        ({"text": "a"}, r"mine returned \['text'\], expected \['text', 'vector'\]"),
        ({"text": 3, "vector": None}, "returned a text that is no string"),
        ({"text": "a", "vector": [1.0, 2.0, 3.0]}, "returned a vector that is no fixed_size_list"),
    ):
        with pytest.raises(TypeError, match=words):
            row(**values)


def test_a_model_that_fails_stops_the_job_and_names_the_clip_and_the_line(
    dancers: Path, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model,) = find_frame_models(["colours"]).values()
    monkeypatch.setattr(model, "annotate", lambda self, frames, fps: {"rgb": 1 / 0})
    with pytest.raises(JobStopped, match="stage `pose` failed on clip .*\n  ZeroDivisionError"):
        curate(dancers / "clips", tmp_path / "out")
