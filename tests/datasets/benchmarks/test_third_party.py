"""Scores of other programs arrive as they are written; what is wrong is refused alone, with its place and reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.benchmarks import BenchmarkError, ScoreRow, read_judge_table, read_vbench_results
from steadydancer.datasets.benchmarks.third_party import JUDGE, VBENCH


def vbench(tmp_path: Path, results: Any) -> Path:
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path / "results.json"


def video(name: str, value: Any) -> dict[str, Any]:
    return {"video_path": f"/videos/{name}.mp4", "video_results": value}


def test_vbench_values_per_video_and_set(tmp_path: Path) -> None:
    file = vbench(
        tmp_path,
        {
            "subject_consistency": [0.95, [video("a", 0.9), video("b-0", 1)]],
            "imaging_quality": [0.61, [video("a", 61.5)]],
            "dynamic_degree": [1.0, [video("a", True)]],
            "aesthetic_quality": 0.5,
        },
    )
    found = read_vbench_results(file, "ours", {"a", "b"})
    assert found.refused == () and found.rows == (
        ScoreRow("ours", None, "subject_consistency", 0.95, VBENCH, "0..1"),
        ScoreRow("ours", "a", "subject_consistency", 0.9, VBENCH, "0..1"),
        ScoreRow("ours", "b", "subject_consistency", 1.0, VBENCH, "0..1"),
        ScoreRow("ours", None, "imaging_quality", 0.61, VBENCH, "0..1"),
        ScoreRow("ours", "a", "imaging_quality", 61.5, VBENCH, "0..100"),
        ScoreRow("ours", None, "dynamic_degree", 1.0, VBENCH, "0..1"),
        ScoreRow("ours", "a", "dynamic_degree", 1.0, VBENCH, "0..1"),
        ScoreRow("ours", None, "aesthetic_quality", 0.5, VBENCH, "0..1"),
    )


def test_an_id_that_ends_in_a_number_is_not_cut(tmp_path: Path) -> None:
    file = vbench(tmp_path, {"x": [0.5, [video("pair-1", 0.1), video("pair-1-0", 0.2), video("my pair #2", 0.3)]]})
    found = read_vbench_results(file, "m", {"pair-1", "pair", "my_pair_2"})
    assert [(row.video, row.value) for row in found.rows[1:]] == [("pair-1", 0.1), ("my_pair_2", 0.3)]
    assert found.refused == (("x, video 2", "x of pair-1 was given before"),)


def test_bad_vbench_entries_are_refused_one_by_one(tmp_path: Path) -> None:
    entries = [video("a", float("nan")), {"video_results": 1}, video("z", 0.5), video("b", None), "b", video("c", 0.7)]
    found = read_vbench_results(vbench(tmp_path, {"x": ["high", entries], "y": []}), "m", {"a", "b", "c"})
    assert [(row.video, row.value) for row in found.rows] == [("c", 0.7)]
    assert found.refused == (
        ("x", "'high' is not a finite number"),
        ("x, video 1", "'nan' is not a finite number"),
        ("x, video 2", "no video_path"),
        ("x, video 3", "/videos/z.mp4 belongs to no pair"),
        ("x, video 4", "empty"),
        ("x, video 5", "no video_path"),
        ("y", "'[]' is not a finite number"),
    )


@pytest.mark.parametrize("text", ["[]", "{}", "3", "{", "\x00\x01"])
def test_what_is_no_vbench_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(BenchmarkError, match="VBench's result json"):
        read_vbench_results(tmp_path / "r.json", "m")


def judge(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    (tmp_path / "judge.csv").write_bytes(text.encode(encoding))
    return tmp_path / "judge.csv"


def test_a_judges_table_with_methods(tmp_path: Path) -> None:
    file = judge(tmp_path, "Pair ID,method,motion,identity,why\np1.mp4,ours,4,5,good\np1,theirs,3,2.5,\np2,,1,2,x\n\n")
    found = read_judge_table(file, "unnamed", {"p1", "p2"})
    assert found.refused == () and found.ignored_columns == ("why",)
    assert found.rows == (
        ScoreRow("ours", "p1", "motion", 4, JUDGE),
        ScoreRow("ours", "p1", "identity", 5, JUDGE),
        ScoreRow("theirs", "p1", "motion", 3, JUDGE),
        ScoreRow("theirs", "p1", "identity", 2.5, JUDGE),
        ScoreRow("unnamed", "p2", "motion", 1, JUDGE),
        ScoreRow("unnamed", "p2", "identity", 2, JUDGE),
    )


def test_decimal_commas_and_utf16(tmp_path: Path) -> None:
    found = read_judge_table(judge(tmp_path, "video;motion\n a ;4,5\nb;-1,25\n", "utf-16"), "m", source="board")
    assert [(row.video, row.value, row.source) for row in found.rows] == [("a", 4.5, "board"), ("b", -1.25, "board")]


def test_bad_rows_of_a_judge_are_refused_one_by_one(tmp_path: Path) -> None:
    text = "video,method,motion,identity\na,m,4,n/a\n,m,1,1\nz,m,1,1\na,m,5,2\nb,,1,1\nb,m,1,1,1\nb,m,inf\nc,m,1,2\n"
    found = read_judge_table(judge(tmp_path, text), None, {"a", "b", "c"})
    assert [(row.video, row.metric, row.value) for row in found.rows] == [
        ("a", "motion", 4), ("a", "identity", 2), ("c", "motion", 1), ("c", "identity", 2),
    ]  # fmt: skip
    assert found.refused == (
        ("row 1, identity", "'n/a' is not a finite number"),
        ("row 2", "no video"),
        ("row 3", "z belongs to no pair"),
        ("row 4, motion", "motion of a was given before"),
        ("row 5", "no method"),
        ("row 6", "5 values for 4 columns; put text with a , in quotes"),
        ("row 7, motion", "'inf' is not a finite number"),
        ("row 7, identity", "empty"),
    )


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("clip,motion\na,1\n", "a column for the video"),
        ("video,motion\na,1\n", "a column for the method"),
        ("video,method,motion\n", "rows"),
        ("", "a column for the video"),
    ],
)
def test_a_table_without_the_columns_is_refused(tmp_path: Path, text: str, lacks: str) -> None:
    with pytest.raises(BenchmarkError, match=lacks):
        read_judge_table(judge(tmp_path, text))


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="cannot be read as csv"):
        read_judge_table(judge(tmp_path, "vidéo,motion\n", "cp1252"), "m")
