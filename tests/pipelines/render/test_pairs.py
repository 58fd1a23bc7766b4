"""Tables of pairs: what they may say, and what is said of them before anything is rendered."""

import json
from pathlib import Path
from typing import Any

import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.storage import location
from steadydancer.pipelines.render import job
from steadydancer.pipelines.render.config import RenderConfig


def table(tmp_path: Path, *rows: dict[str, Any], name: str = "pairs.jsonl") -> Path:
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / name


PAIR = {"image": "ref.png", "driving": "d.mp4"}


@pytest.mark.parametrize(
    ("more", "name", "prompt"),
    [
        ({}, "ref-d", ""),
        ({"id": 1, "prompt": 7}, "1", "7"),
        ({"id": 1.0}, "1", ""),
        ({"id": None, "prompt": None}, "ref-d", ""),
        ({"id": " take 1 ", "prompt": " x "}, "take_1", " x "),
        ({"pair_id": "a", "caption": "x"}, "a", "x"),
        ({"ID": "a", "Text": "\ufeff"}, "a", ""),
        ({"id": "  "}, "ref-d", ""),
    ],
)
def test_what_a_row_says(tmp_path: Path, more: dict[str, Any], name: str, prompt: str) -> None:
    assert job.read_pairs(table(tmp_path, {**PAIR, **more})) == [
        {"id": name, "image": f"{tmp_path}/ref.png", "driving": f"{tmp_path}/d.mp4", "prompt": prompt}
    ]


@pytest.mark.parametrize(
    ("image", "driving"),
    [("ref", "driving_video"), ("reference_image", "Driving"), ("Reference", "driving_path"), ("image_path", "motion")],
)
def test_image_and_driving_have_other_names_too(tmp_path: Path, image: str, driving: str) -> None:
    (tmp_path / "pairs.CSV").write_text(f" {image} , {driving} ,prompt\n ref.PNG , d.MP4 ,she dances\n")
    assert job.read_pairs(tmp_path / "pairs.CSV") == [
        job.pair(tmp_path / "ref.PNG", tmp_path / "d.MP4", "she dances")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([PAIR, {**PAIR, "id": ["x"]}], r"pairs\.jsonl, row 2: id is not text: \['x'\] \(list\)"),
        ([{**PAIR, "prompt": ["x", "y"]}], "row 1: prompt is not text"),
        ([{**PAIR, "id": True}], "row 1: id is not text: True"),
        ([{**PAIR, "pair_id": {}}], "row 1: pair_id is not text"),
        ([{"id": "a", "driving": "d.mp4"}], r"row 1: no image \(columns: id, driving\)"),
        ([{"image": 5, "driving": "d.mp4"}],
         r"row 1: no image \(columns: image, driving; image is 5, which is not a path\)"),
        ([PAIR, {"image": "x.png", "pose_video": "d.mp4"}], r"row 2: no driving \(columns: image, pose_video\)"),
        ([{**PAIR, "id": "a"}, {**PAIR, "id": "b"}, {**PAIR, "id": "a"}], "the id a: rows of .*s.jsonl 1 and 3\n"),
        ([{**PAIR, "id": "take 1"}, {**PAIR, "id": "take/1"}], r"take_1 \(the file name of 'take 1', 'take/1'\): .* 1"),
        ([{**PAIR, "prompt": "x"}, {**PAIR, "prompt": "y"}], "the id ref-d: .* 1 and 2\ngive each pair its own id"),
        ([{**PAIR, "id": 1}, {**PAIR, "id": "1"}], "the id 1: .* 1 and 2\n"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_the_row(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(SteadyDancerError, match=words):
        job.read_pairs(table(tmp_path, *rows))


def test_pairs_given_from_python_are_looked_at_before_anything_else(tmp_path: Path) -> None:
    """By the plan, which is the dry run, and by the run: there is no checkpoint here, which comes later."""
    pairs = [job.pair("a.png", "d.mp4"), job.pair("b.png", "d.mp4", name="a d"), job.pair("b.png", "d.mp4", name="a?d")]
    with pytest.raises(SteadyDancerError, match="several pairs have the id a_d: pairs 2 and 3\n"):
        job.plan(RenderConfig(), pairs, tmp_path / "none", tmp_path)
    with pytest.raises(SteadyDancerError, match="several pairs have the id a_d: pairs 2 and 3\n"):
        job.run(RenderConfig(), checkpoint=tmp_path / "none", pairs=pairs, out=tmp_path, engine=None)  # type: ignore[arg-type]
    with pytest.raises(SteadyDancerError, match="a pair's prompt is not text"):
        job.pair("a.png", "d.mp4", ["x"])


def test_names_that_are_too_long_together_are_cut_and_told_apart(tmp_path: Path) -> None:
    a, b = "dance_by_the_river_" * 7, "舞" * 60
    first, second = job.pair(f"{b}.png", f"{a}.mp4"), job.pair(f"{b}.png", f"{a}2.mp4")
    assert first["id"] != second["id"] and first["id"].startswith(f"{b}-dance_by")
    for row in (first, second):
        assert len(row["id"].encode()) <= 230
    assert job.pair(f"{b}.png", f"{a}.mp4") == first
    assert first["image"].endswith(f"/{b}.png") and location(first["driving"]).stem == a
