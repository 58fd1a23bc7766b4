"""The scratch folder holds people's videos: nobody but its user reads it."""

import stat
from pathlib import Path

import pytest

from steadydancer.datasets.storage.cache import scratch_dir


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_a_new_scratch_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYDANCER_SCRATCH", str(tmp_path / "new"))
    assert mode(scratch_dir()) == 0o700


def test_the_default_folder_of_an_earlier_version_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEADYDANCER_SCRATCH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "steadydancer").mkdir(mode=0o755)
    assert scratch_dir() == tmp_path / "steadydancer" and mode(scratch_dir()) == 0o700


def test_a_folder_that_was_chosen_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o775)
    monkeypatch.setenv("STEADYDANCER_SCRATCH", str(tmp_path / "shared"))
    assert mode(scratch_dir()) == 0o775
