"""A file is known by its content: replaced under the same name, size and time it is another one."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from steadydancer.datasets import source_content
from steadydancer.datasets.source_content import content_id, content_mismatch, is_unchanged
from steadydancer.datasets.video import VideoError

OLD, NEW = b"the old film" * 100, b"the new film" * 100


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_content, "_known", {})


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every reading of a file for its digest; files count as settled at once."""
    readings: list[int] = []
    file_digest = hashlib.file_digest

    def count(file: object, name: str) -> object:
        readings.append(1)
        return file_digest(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", count)
    monkeypatch.setattr(source_content, "_SETTLED_NS", -1)
    return readings


def test_a_file_that_stays_is_read_once_and_one_that_was_replaced_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings, file = counted(monkeypatch), tmp_path / "a.mp4"
    file.write_bytes(OLD)
    times = file.stat()
    assert [content_id(file) for _ in range(3)] == [digest(OLD)] * 3 and len(readings) == 1
    assert content_mismatch(file, digest(OLD)) is None and is_unchanged(file, digest(OLD))
    assert content_mismatch(file, None) is None  # a row that kept no digest
    # The same name, size and time of writing.
    other = tmp_path / "b.mp4"
    other.write_bytes(NEW)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    assert content_id(file) == digest(NEW) and len(readings) == 2
    words = content_mismatch(file, digest(OLD))
    assert words and str(file) in words and digest(OLD)[:12] in words and digest(NEW)[:12] in words
    assert not is_unchanged(file, digest(OLD))


def test_a_file_that_was_written_over_in_its_place_is_noticed_though_its_time_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tools do that keep times: the same file, size and time of writing; the time of the last change tells."""
    counted(monkeypatch)
    file = tmp_path / "a.mp4"
    file.write_bytes(OLD)
    long_ago_ns = file.stat().st_mtime_ns - 10**12
    os.utime(file, ns=(long_ago_ns, long_ago_ns))
    assert content_id(file) == digest(OLD)
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(NEW)
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    os.utime(file, ns=(long_ago_ns, long_ago_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert content_id(file) == digest(NEW)


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writings within one tick of the clock leave one time: what is so young is not remembered."""
    file = tmp_path / "a.mp4"
    file.write_bytes(OLD)
    changed_ns = file.stat().st_ctime_ns
    monkeypatch.setattr(source_content.time, "time_ns", lambda: changed_ns + 1_900_000_000)
    assert content_id(file) == digest(OLD) and not source_content._known
    monkeypatch.setattr(source_content.time, "time_ns", lambda: changed_ns + 2_100_000_000)
    assert content_id(file) == digest(OLD) and source_content._known


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.mp4", tmp_path):
        with pytest.raises(VideoError, match="unreadable"):
            content_id(path)
        assert not is_unchanged(path, "0" * 64)


def test_no_more_digests_are_kept_than_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    monkeypatch.setattr(source_content, "_MAX_KNOWN", 2)
    for k in range(4):
        (tmp_path / f"{k}").write_bytes(bytes([k]))
        assert content_id(tmp_path / f"{k}") == digest(bytes([k]))
    assert list(source_content._known.values()) == [digest(bytes([2])), digest(bytes([3]))]
