"""Names of files: never too long, told apart, and those that fit stay as they are."""

import os
from pathlib import Path

import pytest

from steadydancer.datasets.file_names import aside_of, file_stem
from steadydancer.datasets.storage.atomic import write_json


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pair_0", "pair_0"),
        ("a b/c:d", "a_b_c_d"),
        (" take 1 ", "take_1"),
        ("舞蹈-é.v2", "舞蹈-é.v2"),
        ("../../etc/passwd", "_._.._etc_passwd"),
        (".hidden", "_hidden"),
        ("?", "_"),
        ("x" * 230, "x" * 230),
    ],
)
def test_what_fits_is_only_made_safe(text: str, name: str) -> None:
    assert file_stem(text) == name


@pytest.mark.parametrize("letter", ["x", "é", "舞", "\U00020000"])
def test_what_is_too_long_is_cut_by_bytes_and_told_apart(letter: str, tmp_path: Path) -> None:
    names = {file_stem(letter * 240 + end) for end in ("", "a", "b")}
    assert len(names) == 3
    for name in names:
        assert 225 <= len(name.encode()) <= 230 and name.startswith(letter * 50)
        assert file_stem(name) == name
        write_json(tmp_path / f"{name}.json", {})  # with the hidden name it is written under
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(names)


def test_the_hidden_name_fits_whatever_the_file_is_called(tmp_path: Path) -> None:
    for name in ("a.json", "y" * 250 + ".json", "舞" * 83 + ".mp4"):
        aside = aside_of(tmp_path / name)
        assert aside.name.startswith(".") and aside.name.endswith(f".{os.getpid()}.tmp{Path(name).suffix}")
        assert len(os.fsencode(aside.name)) <= 255
        assert aside_of(tmp_path / name, keeps_suffix=False).suffix == ".tmp"
    assert aside_of(tmp_path / "a.json").name == f".a.{os.getpid()}.tmp.json"
    assert aside_of(tmp_path / ("y" * 250 + "a.mp4")) != aside_of(tmp_path / ("y" * 250 + "b.mp4"))
    write_json(tmp_path / ("y" * 250 + ".json"), {})
