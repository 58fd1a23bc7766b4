"""Tables that people write: what they mean, and what is said when they are wrong."""

from pathlib import Path

import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.manifest import read_manifest, require_local


def manifest(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_paths_are_relative_to_the_file_and_other_columns_stay(tmp_path: Path) -> None:
    file = manifest(tmp_path, "a.csv", 'path,prompt\nsub/a b.mp4,"one, two"\n/abs/舞蹈.mp4,\n')
    assert read_manifest(file, ("path",)) == [
        {"path": str(tmp_path / "sub/a b.mp4"), "prompt": "one, two"},
        {"path": "/abs/舞蹈.mp4", "prompt": ""},
    ]


def test_csv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    csv = manifest(tmp_path, "a.csv", "\ufeffimage,driving\r\nx.png,y.mp4\r\n")  # as spreadsheets write it
    jsonl = manifest(tmp_path, "a.jsonl", '{"image": "x.png", "driving": "y.mp4"}\n\n')
    assert read_manifest(csv, ("image", "driving")) == read_manifest(jsonl, ("image", "driving"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "holds no rows"),
        ("a.csv", "path\n", "holds no rows"),
        ("a.csv", "file\na.mp4\n", r"a\.csv, row 1: no path \(columns: file\)"),
        ("a.csv", "path,note\na.mp4,1\n,2\n", "row 2: no path"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"path": 3}\n', "row 2: no path"),
        ("a.jsonl", '"a.mp4"\n', 'row 1: "a.mp4" is no object'),
        ("a.jsonl", "path\na.mp4\n", "cannot be read as jsonl: Expecting value"),
        ("a.jsonl", '{"path": "s3://bucket/a.mp4"}\n', "s3://bucket/a.mp4: object stores are not supported yet"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(SteadyDancerError, match=words):
        read_manifest(manifest(tmp_path, name, text), ("path",))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(SteadyDancerError, match="cannot be read as csv"):
        read_manifest(tmp_path / "a.csv", ("path",))


def test_addresses_are_told_from_paths() -> None:
    require_local("C:/clips")
    require_local("odd:name/a.mp4")
    with pytest.raises(SteadyDancerError, match="not supported yet"):
        require_local("gs://bucket/clips")
