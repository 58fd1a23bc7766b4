"""Digests are compared with what others wrote: their bytes are told here by hand."""

import hashlib
import os

import pytest

from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.digests import content_digest, differences, format_differences, json_digest
from steadydancer.datasets.storage.s3 import upload_file


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_json_digest_is_of_sorted_names_without_blanks():
    value = {"b": [1, 2.5, None, True], "a": {"é": "x y"}}
    assert json_digest(value) == sha256(b'{"a":{"\\u00e9":"x y"},"b":[1,2.5,null,true]}')
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1}) != json_digest({"a": 2, "b": 1})
    assert json_digest([1, 2]) == json_digest((1, 2)) != json_digest([2, 1])


@pytest.fixture
def folder(tmp_path):
    """Two levels, a hidden file, and names whose order by text and by depth differ."""
    for name, data in {"b/x.txt": b"1", "a": b"22", "b.txt": b"", ".hidden": b"no", "b/.lock": b"no"}.items():
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_bytes(data)
    return tmp_path / "top"


# Visible files alone, by their names part for part: `b/x.txt` stands before `b.txt`.
OF_FOLDER = json_digest([["a", sha256(b"22")], ["b/x.txt", sha256(b"1")], ["b.txt", sha256(b"")]])


def test_a_file_is_named_by_its_bytes_and_a_folder_by_its_visible_files(folder):
    assert content_digest(folder / "a") == sha256(b"22") and content_digest(str(folder / "b.txt")) == sha256(b"")
    assert content_digest(folder) == OF_FOLDER
    os.utime(folder / "a", (0, 0))
    (folder / "empty").mkdir()
    (folder / ".other").write_bytes(b"no")
    assert content_digest(folder) == OF_FOLDER
    (folder / "b" / "x.txt").write_bytes(b"2")
    assert content_digest(folder) != OF_FOLDER


def test_what_lies_on_a_store_has_the_digest_of_its_folder(folder, bucket):
    top = location(bucket) / "some" / "top"
    for file in folder.rglob("*"):
        if file.is_file():
            upload_file(file, top / file.relative_to(folder).as_posix())
    upload_file(folder / "a", location(bucket) / "some" / "topmost")
    assert content_digest(top) == content_digest(f"{bucket}/some/top") == OF_FOLDER
    assert content_digest(top / "a") == sha256(b"22")
    with pytest.raises(FileNotFoundError) as reported:
        content_digest(location(bucket) / "some" / "to")
    assert reported.value.filename.endswith("/some/to")


def test_there_is_no_digest_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        content_digest(tmp_path / "none")


def test_differences_are_told_leaf_by_leaf():
    old = {"same": 1, "gone": 2, "deep": {"x": 1, "y": [1, 2], "z": {"k": None}}, "kind": {"a": 1}}
    new = {"same": 1, "deep": {"x": 1, "y": [1, 3], "z": {"k": "é"}}, "kind": 5, "added": False}
    assert list(differences(old, new)) == [
        "added: null → false",
        "deep.y: [1, 2] → [1, 3]",
        'deep.z.k: null → "é"',
        "gone: 2 → null",
        'kind: {"a": 1} → 5',
    ]
    assert list(differences(old, old)) == [] and list(differences({"a": {"b": 1}}, {"a": {"b": 2}}, "top")) == [
        "top.a.b: 1 → 2"
    ]
    # A value of 60 signs is told in full, a longer one is cut.
    assert list(differences("x" * 58, "x" * 59, "long")) == [f'long: "{"x" * 58}" → "{"x" * 59}…']


def test_the_first_differences_are_lines():
    old, new = {f"field{k}": 0 for k in range(9)}, {f"field{k}": k for k in range(9)}
    assert format_differences(old, new, 2) == "  field1: 0 → 1\n  field2: 0 → 2"
    assert format_differences(old, new).count("\n") == 7
    assert format_differences(old, old) == ""
