"""Tables of pairs: what they may say, and what is said of them before anything is rendered."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.storage import location
from steadydancer.pipelines.render import job
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.render.rows import largest_first, rows_of, sizes_of


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


@pytest.mark.parametrize(
    ("more", "terms"),
    [
        ({"seed": 7, "licence": " CC BY ", "consent": "yes"}, {"seed": 7, "licence": "CC BY", "consent": "yes"}),
        ({"seed": "18446744073709551615", "license": "x"}, {"seed": 2**64 - 1, "licence": "x"}),
        ({"seed": 3.0, "consent": True}, {"seed": 3, "consent": "yes"}),
        ({"consent": False}, {"consent": "no"}),
        ({"consent": 0}, {"consent": "no"}),
        ({"Consent": " NO "}, {"consent": "no"}),
        ({"consent": "withdrawn"}, {"consent": "no"}),
        ({"seed": "", "licence": None, "consent": " "}, {}),
    ],
)  # fmt: skip
def test_a_row_may_say_seed_licence_and_consent(tmp_path: Path, more: dict[str, Any], terms: dict[str, Any]) -> None:
    (row,) = job.read_pairs(table(tmp_path, {**PAIR, **more}))
    assert {name: row[name] for name in row if name not in ("id", "image", "driving", "prompt")} == terms


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_every_kind_of_table_says_the_same(tmp_path: Path, kind: str) -> None:
    rows = [
        {"pair_id": name, "image": f"{name}.png", "driving": "d.mp4", "prompt": "x", "seed": 5, "licence": "l",
         "consent": consents}
        for name, consents in (("a", True), ("b", False))
    ]  # fmt: skip
    file = tmp_path / f"pairs.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif kind == "csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        file.write_text("\n".join(lines))
    else:
        file.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    assert job.read_pairs(file) == [
        job.pair(tmp_path / "a.png", tmp_path / "d.mp4", "x", "a", seed=5, licence="l", consent="yes"),
        job.pair(tmp_path / "b.png", tmp_path / "d.mp4", "x", "b", seed=5, licence="l", consent="no"),
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seed": "x"}, "row 2: a pair's seed is 'x', but must be a whole number from 0"),
        ({"seed": -1}, "row 2: a pair's seed is '-1'"),
        ({"seed": 2**64}, "row 2: a pair's seed is '18446744073709551616'"),
        ({"seed": True}, "row 2: seed is not text: True"),
        ({"consent": "perhaps"}, "row 2: a pair's consent is 'perhaps', but must be yes or no, or empty"),
        ({"consent": ["yes"]}, "row 2: consent is not text"),
    ],
)
def test_terms_that_cannot_be_are_refused_with_the_row(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(SteadyDancerError, match=words):
        job.read_pairs(table(tmp_path, {**PAIR, "id": "a"}, {**PAIR, **more}))


def test_pairs_that_do_not_state_consent_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job.read_pairs(table(tmp_path, {**PAIR, "id": "a"}, {**PAIR, "id": "b", "consent": "no"}))
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'pairs.jsonl'}: 1 of 2 pairs do not say whether the people they show consent "
        "(column `consent`, yes or no)"
    ]
    caplog.clear()
    job.read_pairs(table(tmp_path, {**PAIR, "consent": "yes"}))
    assert not caplog.records


def test_the_largest_videos_come_first_and_equal_sizes_follow_one_another(tmp_path: Path) -> None:
    sizes, pairs = {"a": (64, 64), "b": (64, 128), "c": (64, 64), "d": (96, 64), "e": (64, 128)}, []
    for name, (height, width) in sizes.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((height, width, 3), np.uint8))
        pairs.append(job.pair(tmp_path / f"{name}.png", "d.mp4", name=name))
    pairs.append(job.pair(tmp_path / "gone.png", "d.mp4", name="gone"))
    config = RenderConfig(num_frames=5, max_area_px=64 * 64)
    found = sizes_of(pairs, config)
    assert found["a"] == 64 * 64 * 5 and found["b"] == found["e"] and found["gone"] == 0
    rows = rows_of(pairs, config)
    order = largest_first([(key,) for key in rows], rows, found)
    names = [list(rows)[k] for k in order]
    assert names == sorted(rows, key=lambda key: -found[key]) and names[-1] == "gone"


def test_names_of_checkpoints_are_those_of_their_folders(tmp_path: Path) -> None:
    assert job.name_checkpoints([(None, tmp_path)]) == {"": tmp_path}
    assert job.name_checkpoints([("a", tmp_path)]) == {"a": tmp_path}
    given = [("a", tmp_path), (None, tmp_path / "run" / "checkpoint"), (None, tmp_path / "other")]
    assert list(job.name_checkpoints(given)) == ["a", "run", "other"]
    with pytest.raises(SteadyDancerError, match="are both called run: pass --checkpoint NAME="):
        job.name_checkpoints([(None, tmp_path / "run"), (None, tmp_path / "x" / "run" / "checkpoint")])
    for wrong in ("work", "a b", "renders"):
        with pytest.raises(SteadyDancerError, match="cannot be the name of a checkpoint's folder"):
            job.name_checkpoints([(wrong, tmp_path), ("b", tmp_path)])


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
