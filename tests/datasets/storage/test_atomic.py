"""Files and folders appear under their names when they are whole, and never before."""

import os
import threading
from pathlib import Path

import pytest

from steadydancer.datasets.storage.atomic import atomic_folder, atomic_write, write_once


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_folder_appears_when_its_block_ends(tmp_path):
    place = tmp_path / "run" / "checkpoint"
    left = place.with_name(".checkpoint.tmp")
    left.mkdir(parents=True)
    (left / "of-a-killed-process").touch()
    with atomic_folder(place) as aside:
        assert aside == left and not list(aside.iterdir()) and not place.exists()
        (aside / "transformer").mkdir()
        (aside / "transformer" / "weights").write_bytes(b"abc")
    assert names_in(tmp_path / "run") == {"checkpoint", "checkpoint/transformer", "checkpoint/transformer/weights"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_whose_block_fails_leaves_the_old_one(tmp_path, error):
    place = tmp_path / "checkpoint"
    place.mkdir()
    (place / "old").touch()
    retired = []
    with pytest.raises(error), atomic_folder(place, retire=lambda: retired.append(1)) as aside:
        (aside / "new").touch()
        raise error
    assert names_in(tmp_path) == {"checkpoint", "checkpoint/old"} and not retired


def test_the_old_folder_is_retired_when_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    place, events = tmp_path / "checkpoint", []
    place.mkdir()
    (place / "old").touch()
    original = os.fsync
    monkeypatch.setattr("os.fsync", lambda descriptor: (events.append("synced"), original(descriptor)))

    def retire():
        events.append("retired")
        place.rename(tmp_path / "checkpoint-1")

    with atomic_folder(place, retire=retire) as aside:
        (aside / "inner").mkdir()
        (aside / "a").touch()
        (aside / "inner" / "b").touch()
    assert events == ["synced", "synced", "retired"]
    assert names_in(tmp_path) == {
        "checkpoint-1",
        "checkpoint-1/old",
        *(f"checkpoint{x}" for x in ("", "/a", "/inner", "/inner/b")),
    }
    with atomic_folder(tmp_path / "other", flush=False) as aside:
        (aside / "a").touch()
    assert len(events) == 3


def test_the_first_of_several_writers_wins(tmp_path):
    place = tmp_path / "poses" / "key.safetensors"
    contents = [bytes([k]) * 100_000 for k in range(8)]
    threads = [threading.Thread(target=write_once, args=(place, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = place.read_bytes()
    assert first in contents and names_in(tmp_path / "poses") == {place.name}
    write_once(place, b"another")
    assert place.read_bytes() == first and names_in(tmp_path / "poses") == {place.name}


def test_an_error_that_takes_no_file_name_stays_what_it_is(tmp_path):
    """PyAV's errors are OSErrors whose `filename` cannot be set."""
    from av.error import PermissionError as Denied

    with pytest.raises(Denied, match="denied"), atomic_write(tmp_path / "a.mp4"):
        raise Denied(13, "denied")
    assert not names_in(tmp_path)


def test_an_error_without_a_file_name_gets_the_files(tmp_path):
    with pytest.raises(OSError, match="full") as raised, atomic_write(tmp_path / "a" / "x.json"):
        raise OSError(28, "the disk is full")
    assert raised.value.filename == str(tmp_path / "a" / "x.json")
    assert list((tmp_path / "a").iterdir()) == []
