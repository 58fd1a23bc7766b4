"""Tables that people write: what they mean, and what is said when they are wrong."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.manifest import read_columns, read_manifest
from steadydancer.datasets.storage import format_location, join
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file


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
        ("a.csv", "", "contains no rows"),
        ("a.csv", "path\n", "contains no rows"),
        ("a.csv", "file\na.mp4\n", r"a\.csv, row 1: no path \(columns: file\)"),
        ("a.csv", "path,note\na.mp4,1\n,2\n", "row 2: no path"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"path": 3}\n', "row 2: no path"),
        ("a.jsonl", '"a.mp4"\n', 'row 1: "a.mp4" is not a JSON object'),
        ("a.jsonl", "path\na.mp4\n", "cannot be read as jsonl: Expecting value"),
        ("a.jsonl", '{"path": "gs://bucket/a.mp4"}\n', "gs://… is not supported"),
        ("a.jsonl", '{"path": "s3://key:secret@bucket/a.mp4"}\n', "must not contain credentials"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(tmp_path: Path, name: str, text: str, words: str) -> None:
    file = manifest(tmp_path, name, text)
    with pytest.raises(SteadyDancerError, match=words) as reported:
        read_manifest(file, ("path",))
    with pytest.raises(SteadyDancerError, match=words):
        read_columns(file, "path", ("licence",))
    assert "secret" not in str(reported.value)


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
        upload_file(tmp_path / name, there)
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
        assert rows == [{"path": format_location(join(tmp_path, name).absolute()), "x": name, "not there": None}
                        for name in names]  # fmt: skip


def test_a_row_that_has_too_few_or_too_many_values_is_refused_and_shown(tmp_path: Path) -> None:
    for line in ("b.mp4", "b.mp4,a dancer, in red"):  # a comma without quotes would cut a prompt
        file = manifest(tmp_path, "a.csv", f"path,prompt\na.mp4,x\n{line}\n")
        with pytest.raises(
            SteadyDancerError, match=r"a\.csv cannot be read as csv: .*Expected 2 columns, got [13]: b.mp4"
        ):
            read_columns(file, "path", ("prompt",))


ALIASES = {"path": ("video", "file_name"), "prompt": ("caption", "text"), "licence": ("license",)}
TABLES: dict[str, tuple[str, str | bytes, list[dict[str, str | None]] | str]] = {
    "aliases": ("a.csv", "video,caption,License\na.mp4,She dances.,CC0\n",
                [{"path": "a.mp4", "prompt": "She dances.", "licence": "CC0"}]),
    "capitals and blanks": ("A.CSV", " Path , PROMPT\n a.mp4 , She \n", [{"path": "a.mp4", "prompt": "She "}]),
    "hyphens": ("a.jsonl", '{"file-name": "a.mp4", "Text": "x"}\n', [{"path": "a.mp4", "prompt": "x"}]),
    "jsonl in capitals": ("a.JSONL", '{"path": "a.mp4"}\n', [{"path": "a.mp4"}]),
    "quotes after a blank": ("a.csv", 'path, prompt\na.mp4, "one, two"\n', [{"path": "a.mp4", "prompt": "one, two"}]),
    "a line break in quotes": ("a.csv", 'path,prompt\na.mp4,"one\ntwo"\n', [{"path": "a.mp4", "prompt": "one\ntwo"}]),
    "rows of other columns": ("a.jsonl", '{"path": "a.mp4", "text": "x"}\n{"video": "b.mp4", "prompt": "y"}\n',
                              [{"path": "a.mp4", "prompt": "x"}, {"path": "b.mp4", "prompt": "y"}]),
    "one of two is empty": ("a.csv", "path,prompt,caption\na.mp4,,x\nb.mp4,y,\n",
                            [{"path": "a.mp4", "prompt": "x"}, {"path": "b.mp4", "prompt": "y"}]),
    "two agree": ("a.csv", "path,prompt,text\na.mp4,x, x\n", [{"path": "a.mp4", "prompt": "x"}]),
    "two agree but for a blank": ("a.jsonl", '{"path": "a.mp4", "prompt": "x ", "text": "x"}\n',
                                  [{"path": "a.mp4", "prompt": "x "}]),
    "its own name decides": ("a.csv", "caption,path,prompt,licence,License\ny,a.mp4,x,CC0,MIT\n",
                             [{"path": "a.mp4", "prompt": "x", "licence": "CC0"}]),
    "its own name decides beside what is no text": (
        "a.jsonl", '{"caption": ["y", "z"], "text": true, "path": "a.mp4", "prompt": "x"}\n',
        [{"path": "a.mp4", "prompt": "x"}]),
    "two contradict each other": ("a.csv", "path,text,caption\na.mp4,x,x\nb.mp4,x,y\n",
                                  "row 2: columns 'text' and 'caption' both give the prompt, but differ: 'x' and 'y'"),
    "one name twice": ("a.csv", "path,prompt,prompt\na.mp4,x,y\n", "both give the prompt, but differ"),
    "two spellings": ("a.csv", "path,license,License\na.mp4,CC0,MIT\n", "both give the licence, but differ"),
    "a path has its own name": ("a.csv", "video,path,file_name\nx.mp4,sub/a.mp4,a.mp4\n", [{"path": "sub/a.mp4"}]),
    "a path twice": ("a.csv", "path,Path\na.mp4,b.mp4\n", "both give the path, but differ"),
    "two paths": ("a.csv", "video,file_name\nx.mp4,y.mp4\n", "both give the path, but differ"),
    "a caption's file": ("a.csv", "path,caption,prompt\na.mp4,videos/a.TXT,x\nb.mp4,b.txt,\n",
                         [{"path": "a.mp4", "prompt": "x"}, {"path": "b.mp4", "prompt": ""}]),
    "numbers": ("a.jsonl", '{"path": "a.mp4", "prompt": 7, "licence": 4.0}\n{"path": "b.mp4", "prompt": 0.5}\n',
                [{"path": "a.mp4", "prompt": "7", "licence": "4"}, {"path": "b.mp4", "prompt": "0.5"}]),
    "nothing": ("a.jsonl", '{"path": "a.mp4", "prompt": null, "licence": NaN}\n', [{"path": "a.mp4"}]),
    "a list": ("a.jsonl", '{"path": "a.mp4"}\n{"path": "a.mp4", "text": ["x"]}\n', r"row 2: text is not text: \['x'\]"),
    "a boolean": ("a.jsonl", '{"path": "a.mp4", "prompt": true}\n', r"row 1: prompt is not text: True \(bool\)"),
    "no end": ("a.jsonl", '{"path": "a.mp4", "prompt": 1e999}\n', "row 1: prompt is not text: inf"),
    "an object": ("a.jsonl", '{"path": "a.mp4", "prompt": {"en": "x"}}\n', "row 1: prompt is not text"),
    "half a letter": ("a.jsonl", '{"path": "a.mp4", "prompt": "abc\\ud83d"}\n', "row 1: prompt has an unpaired.* 3"),
    "half a letter in a path": ("a.jsonl", '{"path": "\\ud83d.mp4"}\n', "row 1: path has an unpaired.* 0"),
    "UTF-16": ("a.csv", "path,prompt\na.mp4,à l’été\n".encode("utf-16"), [{"path": "a.mp4", "prompt": "à l’été"}]),
    "UTF-16 jsonl": ("a.jsonl", '{"path": "舞.mp4"}\n'.encode("utf-16"), [{"path": "舞.mp4"}]),
    "cp1252": ("a.csv", "path,note\na.mp4,caf\xe9\n".encode("cp1252"), r"read as csv: byte 19 \(0xe9\) is not UTF-8"),
    "cp1252 jsonl": ("a.jsonl", '{"path": "caf\xe9.mp4"}\n'.encode("cp1252"), r"as jsonl: byte 13 \(0xe9\)"),
    "too many values": ("a.csv", "path,prompt\na.mp4,a dancer, in red\n", r"Expected 2 columns, got 3: a\.mp4,a danc"),
    "blank lines": ("a.csv", "\n\npath\n\na.mp4\n\n", [{"path": "a.mp4"}]),
    "rows of nothing": ("a.csv", "path,prompt\na.mp4,x\n,\n  \n , \nb.mp4,y\n,\n",
                        [{"path": "a.mp4", "prompt": "x"}, {"path": "b.mp4", "prompt": "y"}]),
    "semicolons": ("a.csv", b"\xef\xbb\xbfpath;caption;License\r\na,1.mp4;She turns, slowly.;CC0\r\n;;\r\n",
                   [{"path": "a,1.mp4", "prompt": "She turns, slowly.", "licence": "CC0"}]),
    "tabs": ("a.csv", "path\tcaption\na.mp4\tShe turns; slowly, twice.\n".encode("utf-16"),
             [{"path": "a.mp4", "prompt": "She turns; slowly, twice."}]),
    "semicolons in values": ("a.csv", "path,caption\na;1.mp4,one; two\n", [{"path": "a;1.mp4", "prompt": "one; two"}]),
    "no path": ("a.csv", "path,prompt\n  ,x\n", "row 1: no path"),
    "a path that is a number": ("a.jsonl", '{"path": 3}\n',
             r"row 1: no path \(columns: path; path is 3, which is not a path\)"),
    "json": ("a.JSON", '\n [\n{"file_name": "a.mp4", "text": "x"},\n{"path": "b.mp4"}]\n',
             [{"path": "a.mp4", "prompt": "x"}, {"path": "b.mp4"}]),
    "lines of json": ("a.json", '{"path": "a.mp4"}\n{"path": "b.mp4"}\n', [{"path": "a.mp4"}, {"path": "b.mp4"}]),
    "json that is cut short": ("a.json", '[{"path": "a.mp4"},\n', "cannot be read as json: Expecting value"),
    "no rows in json": ("a.json", "[]", "contains no rows"),
    "other things in json": ("a.json", '["a.mp4"]', 'row 1: "a.mp4" is not a JSON object'),
    "a list of rows": ("a.jsonl", '[{"path": "a.mp4"}]\n', r'row 1: \[\{"path": "a.mp4"\}\] is not a JSON object'),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_both_readers_say_the_same_of_every_table(tmp_path: Path, case: str) -> None:
    name, text, wanted = TABLES[case]
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    others = ("prompt", "licence")
    if isinstance(wanted, str):
        said = []
        for read in (lambda: read_manifest(file, ("path",), others, ALIASES),
                     lambda: read_columns(file, "path", others, ALIASES)):  # fmt: skip
            with pytest.raises(SteadyDancerError, match=wanted) as reported:
                read()
            said.append(str(reported.value))
        assert said[0] == said[1]
        return
    rows = [{"licence": None, "prompt": None, **row, "path": f"{tmp_path}/{row['path']}"} for row in wanted]
    assert read_columns(file, "path", others, ALIASES).to_pylist() == rows
    small = read_manifest(file, ("path",), others, ALIASES)
    assert [{name: row.get(name) for name in ("path", *others)} for row in small] == rows


def test_values_of_a_parquet_table_are_text_by_the_same_rule(tmp_path: Path) -> None:
    import datetime
    import decimal

    columns = {
        "path": ["a.mp4", " b.mp4 "],
        "whole": [1, None],
        "broken": [0.5, float("nan")],
        "large": [3.0, 1e22],
        "day": [datetime.date(2026, 1, 2), None],
        "money": [decimal.Decimal("1.50"), None],
        "bytes": ["é".encode(), None],
        "not read": [["x"], None],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    names = ("whole", "broken", "large", "day", "money", "bytes")
    rows = [
        {"path": f"{tmp_path}/a.mp4", "whole": "1", "broken": "0.5", "large": "3", "day": "2026-01-02", "money": "1.50",
         "bytes": "é"},
        {"path": f"{tmp_path}/b.mp4", **dict.fromkeys(names), "large": "1" + 22 * "0"},
    ]  # fmt: skip
    assert read_columns(tmp_path / "a.parquet", "path", names).to_pylist() == rows
    small = read_manifest(tmp_path / "a.parquet", ("path",), names)
    assert small == [{**row, "not read": more} for row, more in zip(rows, (["x"], None), strict=True)]
    with pytest.raises(SteadyDancerError, match=r"row 1: not read is not text: \['x'\] \(list\)"):
        read_columns(tmp_path / "a.parquet", "path", ("not read",))


def test_a_file_that_is_really_called_so_keeps_its_blanks(tmp_path: Path) -> None:
    (tmp_path / "a.mp4 ").write_text("")
    file = manifest(tmp_path, "a.jsonl", '{"path": "a.mp4 "}\n{"path": "b.mp4 "}\n')
    paths = [f"{tmp_path}/a.mp4 ", f"{tmp_path}/b.mp4"]
    assert [row["path"] for row in read_manifest(file, ("path",))] == paths
    assert read_columns(file, "path", ())["path"].to_pylist() == paths


def test_columns_that_nobody_reads_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = (
        "".join(f'{{"path": "{k}.mp4", "Captoin": "x", "fps": 1}}\n' for k in range(3)) + '{"path": "c", "seed": 1}\n'
    )
    file = manifest(tmp_path, "a.jsonl", rows)
    said = (
        f"{file}: ignored columns: 'Captoin', 'fps', 'seed'. Columns that are read: path or video or file_name; "
        "prompt or caption or text; licence or license"
    )
    for read in (lambda: read_manifest(file, ("path",), ("prompt", "licence"), ALIASES),
                 lambda: read_columns(file, "path", ("prompt", "licence"), ALIASES)):  # fmt: skip
        caplog.clear()
        read()
        assert [record.getMessage() for record in caplog.records] == [said]
    caplog.clear()
    read_columns(file, "path", (), ALIASES, known=("Captoin", "fps", "seed", "path"))
    read_columns(manifest(tmp_path, "b.csv", "path,prompt\na.mp4,x\n"), "path", ("prompt",), ALIASES)
    assert not caplog.records
    read_columns(file, "path", (), ALIASES, known=("Captoin", "fps", "seed", "another"))  # not all of them are there
    assert len(caplog.records) == 1


def test_what_differs_from_the_own_name_of_a_column_is_named_as_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_columns(manifest(tmp_path, "a.csv", "text,path,prompt\nx,a.mp4,x \n,b.mp4,x\n"), "path", ("prompt",), ALIASES)
    assert not caplog.records
    read_columns(manifest(tmp_path, "b.csv", "path,prompt,text\na.mp4,x,y\n"), "path", ("prompt",), ALIASES)
    assert "ignored columns: 'text'. Columns that are read:" in caplog.text


def test_a_long_table_is_read_in_pieces_and_each_row_once(tmp_path: Path) -> None:
    file = manifest(tmp_path, "a.csv", "path,prompt\n" + "".join(f"{k}.mp4,number {k}\n" for k in range(25_001)))
    table = read_columns(file, "path", ("prompt",))
    assert table["prompt"].to_pylist() == [f"number {k}" for k in range(25_001)]
    assert table["path"].to_pylist() == [f"{tmp_path}/{k}.mp4" for k in range(25_001)]
