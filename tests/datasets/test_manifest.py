"""Tables that people write: what they mean, and what is said when they are wrong."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.manifest import read_columns, read_manifest
from steadydancer.datasets.object_store import ObjectPath, put
from steadydancer.datasets.storage import join, named


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
        ("a.jsonl", '{"path": "gs://bucket/a.mp4"}\n', "the stores that can be read are s3://"),
        ("a.jsonl", '{"path": "s3://key:secret@bucket/a.mp4"}\n', "carries no credentials"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(tmp_path: Path, name: str, text: str, words: str) -> None:
    file = manifest(tmp_path, name, text)
    with pytest.raises(SteadyDancerError, match=words) as told:
        read_manifest(file, ("path",))
    with pytest.raises(SteadyDancerError, match=words):
        read_columns(file, "path", ("licence",))
    assert "secret" not in str(told.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(SteadyDancerError, match="cannot be read as csv"):
        read_manifest(tmp_path / "a.csv", ("path",))


def test_csv_jsonl_and_parquet_say_the_same_wherever_they_lie(bucket: str, tmp_path: Path) -> None:
    rows = [{"path": "sub/a b.mp4", "licence": "CC-BY\u2028 4.0"}, {"path": "s3://other/b.mp4", "licence": ""}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    manifest(tmp_path, "a.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    manifest(tmp_path, "a.csv", "path,licence\n" + "".join(f"{row['path']},{row['licence']}\n" for row in rows))
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        there = ObjectPath.parse(f"{bucket}/lists/{name}")
        put(tmp_path / name, there)
        for file, first in ((tmp_path / name, f"{tmp_path}/sub/a b.mp4"), (there, f"{bucket}/lists/sub/a b.mp4")):
            assert read_manifest(file, ("path",)) == [{**rows[0], "path": first}, rows[1]]
            assert read_columns(file, "path", ("licence",)).to_pylist() == read_manifest(file, ("path",))


NAMES = [
    *("a.mp4", "b/c d.mp4", "./a.mp4", "b//c.mp4", "b/", "../up.mp4", "b/./c.mp4", ".hidden", "a?b=c.mp4", "a\nb"),
    *("/abs/a.mp4", "/abs//a.mp4", "/abs/../a.mp4", "a..b/..c.mp4", "…/舞蹈.mp4"),
    *("s3://bucket/k/a.mp4", "s3://bucket/k/../a.mp4", "s3://bucket/", "s3://bucket//k"),
    *("file:///data/caf%E9.mp4", "file:///data/a%20b.mp4"),
]


def test_a_million_names_mean_what_one_name_means(tmp_path: Path) -> None:
    """The short way of `read_columns` against `join`, for tables of one kind of names and for a mixed one."""
    for number, names in enumerate((NAMES, *([name] for name in NAMES))):
        file = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"path": pa.array(names).dictionary_encode(), "x": names}), file)
        rows = read_columns(file, "path", ("x", "not there")).to_pylist()
        assert rows == [{"path": named(join(tmp_path, name).absolute()), "x": name, "not there": None}
                        for name in names]  # fmt: skip


def test_a_row_that_has_too_few_or_too_many_values_is_refused_and_shown(tmp_path: Path) -> None:
    for line in ("b.mp4", "b.mp4,a dancer, in red"):  # a comma without quotes would cut a prompt
        file = manifest(tmp_path, "a.csv", f"path,prompt\na.mp4,x\n{line}\n")
        with pytest.raises(
            SteadyDancerError, match=r"a\.csv cannot be read as csv: .*Expected 2 columns, got [13]: b.mp4"
        ):
            read_columns(file, "path", ("prompt",))
