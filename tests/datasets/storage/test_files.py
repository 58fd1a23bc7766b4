"""Whatever is asked of a folder of this machine and of the same folder on a store has the same answer."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from steadydancer.datasets.storage import Location, atomic, files, location, working_folder
from steadydancer.datasets.storage.atomic import begin_folder, ordered_write
from steadydancer.datasets.storage.copies import copy_atomically, fetch_if_remote
from steadydancer.datasets.storage.tree import tree_of

NAMES = (
    "a.mp4",
    "b.txt",
    ".hidden.mp4",
    "sub/c.MP4",
    "sub/run.json",
    "sub/deep/d.mp4",
    "sub/deep/run.json",
    "é/e.gif",
)


def make(folder: Location, tmp_path: Path) -> Location:
    for number, name in enumerate(NAMES):
        source = tmp_path / f"{number} of {folder.parent.parent.name}"  # of its own: a copy may be a hard link
        source.write_text(name)
        copy_atomically(source, folder / name)
    return folder


@pytest.fixture
def twins(bucket: str, tmp_path: Path) -> tuple[Location, Location]:
    return make(tmp_path / "some/top", tmp_path), make(location(f"{bucket}/some/top"), tmp_path)


def below(folder: Location) -> Callable[[Location], str]:
    return lambda place: files.name_below(place, folder)


def answers(folder: Location, tmp_path: Path) -> dict[str, object]:
    name, tree = below(folder), tree_of(folder)
    places = [folder / one for one in (*NAMES, "none", "sub")]
    with files.range_reader(folder / "sub/run.json") as read, files.opened(folder / "b.txt") as stream:
        return {
            "files_below": sorted(map(name, files.files_below(folder))),
            "files_in": sorted(map(name, files.files_in(folder))),
            "folders_in": sorted(map(name, files.folders_in(folder))),
            "no folders": files.folders_in(folder / "none") + files.files_in(folder / "none"),
            "no names": files.names_in(folder / "none") + files.names_in(folder / "b.txt"),
            "folders_with": sorted(map(name, files.folders_with(folder, ["run.json", "b.txt"]))),
            "total_bytes": files.total_bytes(folder / "sub"),
            "sizes": [files.sizes(places)[place] for place in places],
            "size": files.size(folder / "b.txt"),
            "is_not_empty": [files.is_not_empty(place) for place in (folder, *places)],
            "changed": [files.changed_ns(folder / one) is None for one in ("a.mp4", "none")],
            "relative_path": files.relative_path(folder / "a.mp4", folder / "sub/deep"),
            "range": (read(3, 2), read(0, 100), stream.read(2)),
            "in the way": files.blocking_file(folder / "new/folder"),
            "found": sorted(map(name, tree.find({".mp4", ".gif"}))),
            "globs": [
                sorted(map(name, tree.find({".mp4"}, pattern.split("/"))))
                for pattern in ("*.mp4", "**/*.mp4", "sub/*", "s?b/deep/*", ".h*")
            ],
            "tree": (sorted(map(name, tree.files())), tree.is_file(folder / "sub/c.MP4"), tree.is_file(folder / "sub")),
            "copy": fetch_if_remote(folder / "sub/deep/d.mp4", tmp_path).read_text(),
        }


def test_a_store_answers_as_a_folder_does(twins: tuple[Location, Location], tmp_path: Path) -> None:
    here, there = (answers(folder, tmp_path) for folder in twins)
    assert here == there
    assert here["files_below"] == sorted(NAMES) and here["folders_in"] == ["sub", "é"]
    assert here["sizes"] == [*(len(name.encode()) for name in NAMES), None, None]
    assert here["folders_with"] == ["sub"]
    assert here["found"] == [".hidden.mp4", "a.mp4", "sub/c.MP4", "sub/deep/d.mp4", "é/e.gif"]
    assert here["range"] == (b"/r", b"sub/run.json", b"b.")


def test_what_only_one_of_them_can_do_is_said(twins: tuple[Location, Location]) -> None:
    here, there = twins
    assert (files.needs_download(here), files.needs_download(there)) == (False, True)
    assert [files.exists_locally(one) for one in (here, here / "none", there)] == [True, False, False]
    assert files.relative_path(here, there) is None is files.relative_path(there, here)
    assert files.relative_path(there, location("s3://another/some")) is None
    assert files.blocking_file(here / "a.mp4/x/y") == here / "a.mp4" == files.blocking_file(here / "a.mp4")
    assert files.blocking_file(there / "a.mp4/x") is None
    assert working_folder(here) == here and isinstance(working_folder(there), Path)


def test_a_listing_is_believed_until_its_mark_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed_s = tmp_path.stat().st_mtime
    for age_s, is_known in ((0.0, False), (1.9, False), (2.1, True), (3600.0, True)):
        monkeypatch.setattr(files.time, "time", lambda age_s=age_s: changed_s + age_s)
        assert (files.listing_mark(tmp_path) is not None) == is_known
    mark = files.listing_mark(tmp_path)
    os.utime(tmp_path, (changed_s + 60, changed_s + 60))
    assert files.listing_mark(tmp_path) not in (None, mark)


def test_other_names_of_the_same_file_are_not_other_files(twins: tuple[Location, Location]) -> None:
    here, there = twins
    (here / "link.mp4").symlink_to(here / "a.mp4")  # type: ignore[union-attr]
    assert not files.is_another_file(here / "a.mp4", here / "link.mp4")
    assert files.is_another_file(here / "a.mp4", here / "b.txt")
    assert not files.is_another_file(here / "a.mp4", here / "none")
    assert files.is_another_file(there / "a.mp4", there / "b.txt")


def test_files_are_written_in_order_and_nothing_is_uploaded_after_a_failure(
    twins: tuple[Location, Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: list[str] = []
    upload = atomic.upload_file
    monkeypatch.setattr(atomic, "upload_file", lambda file, place: (uploaded.append(place.name), upload(file, place)))
    for folder in twins:
        with ordered_write(folder / "new", ("video", "record")) as here:
            here.mkdir(exist_ok=True)
            (here / "record").write_text("2")
            (here / "video").write_text("1")
        assert [(folder / "new" / name).read_text() for name in ("video", "record")] == ["1", "2"]
    assert uploaded == ["video", "record"]
    with pytest.raises(OSError, match="full"), ordered_write(twins[1] / "other", ("video",)) as here:
        (here / "video").write_text("1")
        raise OSError("full")
    assert not (twins[1] / "other").exists()


def test_a_folder_is_begun_without_what_was_left_aside_and_removed_whole(twins: tuple[Location, Location]) -> None:
    (twins[0] / "sub/.x.1.tmp.json").write_text("half")  # type: ignore[union-attr]
    for folder in twins:
        begin_folder(folder)
        assert set(files.files_below(folder)) == {folder / name for name in NAMES}
        files.remove_folder(folder, "b.txt")
        assert files.files_below(folder) == []
        files.remove_folder(folder, "b.txt")
    assert not twins[0].exists()
