"""Whose a sidecar is: its own by the full name; by the stem only where nobody else may claim it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from steadydancer.datasets.sidecars import CAPTION, KEYPOINTS, candidates, sidecar, sidecar_note
from steadydancer.datasets.storage import local_copy
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.datasets.toydance import save_supplied_pose, toy_pose

FOLDERS: dict[str, tuple[list[str], dict[str, str | None]]] = {
    "alone": (["a.mp4", "a.txt"], {"a.mp4": "a.txt"}),
    "full name": (["a.mp4", "a.mp4.txt"], {"a.mp4": "a.mp4.txt"}),
    "full name first": (["a.mp4", "a.txt", "a.mp4.txt"], {"a.mp4": "a.mp4.txt"}),
    "another stem": (["a.mp4", "ab.txt", "a.v1.mp4"], {"a.mp4": None, "a.v1.mp4": None}),
    "two videos": (["a.mp4", "a.mov", "a.txt"], {"a.mp4": None, "a.mov": None}),
    "each its own": (["a.mp4", "a.mov", "a.mp4.txt", "a.mov.txt"], {"a.mp4": "a.mp4.txt", "a.mov": "a.mov.txt"}),
    "one has its own": (["a.mp4", "a.mov", "a.txt", "a.mov.txt"], {"a.mp4": "a.txt", "a.mov": "a.mov.txt"}),
    "video and cover": (["a.mp4", "a.jpg", "a.txt"], {"a.mp4": "a.txt", "a.jpg": None}),
    "video and preview": (["a.mp4", "a.gif", "a.txt"], {"a.mp4": "a.txt", "a.gif": None}),
    "gif and image": (["a.gif", "a.png", "a.txt"], {"a.gif": "a.txt", "a.png": None}),
    "two images": (["a.png", "a.jpg", "a.txt"], {"a.png": None, "a.jpg": None}),
    "image alone": (["a.png", "a.txt", "a.json", "a.wav"], {"a.png": "a.txt"}),
    "video with its own": (["a.mp4", "a.png", "a.txt", "a.mp4.txt"], {"a.mp4": "a.mp4.txt", "a.png": "a.txt"}),
    "three": (["a.mp4", "a.mov", "a.webm", "a.txt"], {"a.mp4": None, "a.mov": None, "a.webm": None}),
    "capitals": (["A.MP4", "A.TXT"], {"A.MP4": "A.TXT"}),
    "capitals by the full name": (["A.MP4", "A.MP4.TXT", "A.MOV"], {"A.MP4": "A.MP4.TXT", "A.MOV": None}),
    "two spellings": (["a.mp4", "a.MP4", "a.txt"], {"a.mp4": None, "a.MP4": None}),
    "a name is a stem": (["a.mp4", "a.mp4.mov", "a.mp4.txt"], {"a.mp4": "a.mp4.txt", "a.mp4.mov": None}),
    "dots": (["a.b.mp4", "a.b.txt", "a.mp4"], {"a.b.mp4": "a.b.txt", "a.mp4": None}),
    "demo's of old": (
        ["0123456789abcdef.mp4", "0123456789abcdef.png", "0123456789abcdef.txt"],
        {"0123456789abcdef.mp4": "0123456789abcdef.txt", "0123456789abcdef.png": "0123456789abcdef.txt"},
    ),
}


def spelled(name: str, kind: str) -> str:
    """The caption's name as that of the other kind."""
    return name.removesuffix(".txt") + kind if name.endswith(".txt") else (
        name.removesuffix(".TXT") + kind.upper() if name.endswith(".TXT") else name
    )  # fmt: skip


@pytest.fixture(params=["settled", "just changed"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[str]], Path]:
    """A folder with these files, each with its name in it."""

    def make(names: list[str]) -> Path:
        for name in names:
            (tmp_path / name).write_text(name)
        if request.param == "settled":
            os.utime(tmp_path, (1e9, 1e9))
        return tmp_path

    return make


@pytest.mark.parametrize("kind", [CAPTION, KEYPOINTS])
@pytest.mark.parametrize("case", FOLDERS)
def test_whose_a_sidecar_is(made: Callable[[list[str]], Path], case: str, kind: str) -> None:
    names, wanted = FOLDERS[case]
    names = [spelled(name, kind) for name in names]
    folder = made(names)
    for media, name in wanted.items():
        found = sidecar(folder / media, kind)
        assert (found and found.name) == (name and spelled(name, kind)), media
        lies_there = spelled(f"{Path(media).stem}.txt", kind) in names
        assert (sidecar_note(folder / media) is not None) == (name is None and lies_there), media
        if found:
            assert found in candidates(folder / media)


def test_what_is_not_taken_is_said_with_the_name_that_it_should_have(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mov", "a.txt", "b.mp4", "b.png", "b.pose.safetensors"):
        (tmp_path / name).write_text("")
    assert sidecar_note(tmp_path / "a.mp4") == (
        "a.txt was ignored: several files in the folder are named a; to assign it to this file, name it a.mp4.txt"
    )
    assert sidecar_note(tmp_path / "b.png") == (
        "b.pose.safetensors was ignored: it belongs to the video of that name; "
        "to assign it to this file, name it b.png.pose.safetensors"
    )
    assert sidecar_note(tmp_path / "b.mp4") is None


@pytest.mark.parametrize("length", [236, 240, 251])
def test_a_name_that_leaves_no_room_for_a_sidecars_has_none(tmp_path: Path, length: int) -> None:
    video, image = (tmp_path / ("x" * length + suffix) for suffix in (".mp4", ".png"))
    for file in (video, image):
        file.write_text("")
    assert sidecar(video, KEYPOINTS) is None and sidecar_note(video) is None
    (tmp_path / ("x" * length + ".txt")).write_text("dances")
    assert sidecar(video, CAPTION) == tmp_path / ("x" * length + ".txt")
    assert sidecar(image, CAPTION) is None and sidecar_note(image)
    if length + len(KEYPOINTS) <= 255:
        save_supplied_pose(video, [toy_pose(0, 2)], 16)  # by the stem: the full name would be too long
        assert sidecar(video, KEYPOINTS) == tmp_path / ("x" * length + KEYPOINTS)


def test_another_name_of_the_same_file_is_no_other_file(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "a.mov").symlink_to("a.mp4")
    (tmp_path / "a.webm").symlink_to("nowhere")
    (tmp_path / "a.mkv").mkdir()
    assert sidecar(tmp_path / "a.mp4", CAPTION) == tmp_path / "a.txt"
    assert sidecar(tmp_path / "a.mov", CAPTION) == tmp_path / "a.txt"


def test_a_folder_that_changes_is_looked_at_anew(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.txt"):
        (tmp_path / name).write_text("")
    os.utime(tmp_path, (1e9, 1e9))
    assert sidecar(tmp_path / "a.mp4", CAPTION) is not None
    (tmp_path / "a.mov").write_text("")
    assert sidecar(tmp_path / "a.mp4", CAPTION) is None
    (tmp_path / "a.mov").unlink()
    assert sidecar(tmp_path / "a.mp4", CAPTION) is not None


def test_a_folder_that_was_just_changed_is_not_known_by_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within a tick of the file system's clock have one time."""
    for name in ("a.mp4", "a.txt"):
        (tmp_path / name).write_text("")
    now = time.time_ns()
    monkeypatch.setattr(time, "time", lambda: now / 1e9)  # however long the test takes
    for more, wanted in ((None, tmp_path / "a.txt"), ("a.mov", None)):
        if more:
            (tmp_path / more).write_text("")
        os.utime(tmp_path, ns=(now, now))
        assert sidecar(tmp_path / "a.mp4", CAPTION) == wanted


@pytest.mark.parametrize("case", ["full name first", "two videos", "one has its own", "video with its own", "capitals"])
def test_a_copy_from_a_store_has_the_same_sidecars(bucket: str, tmp_path: Path, case: str) -> None:
    names, wanted = FOLDERS[case]
    for name in names:
        (tmp_path / name).write_text(name)
        upload_file(tmp_path / name, ObjectPath.parse(f"{bucket}/clips/{name}"))
    for media, name in wanted.items():
        place = ObjectPath.parse(f"{bucket}/clips/{media}")
        assert sidecar(place, CAPTION) == (name and place.with_name(name))
        with local_copy(place) as here:
            assert here.name == media and here.read_text() == media
            found = sidecar(here, CAPTION)
            assert (found and found.read_text()) == name
            assert sidecar_note(here) == sidecar_note(tmp_path / media)


def test_a_copy_has_its_keypoints_although_its_caption_may_be_anothers(bucket: str, tmp_path: Path) -> None:
    """`a.mov` claims the caption, and not the keypoints, of which it has some by its full name."""
    for name in ("a.mp4", "a.mov", "a.txt", "a.pose.safetensors", "a.mov.pose.safetensors"):
        (tmp_path / name).write_text(name)
        upload_file(tmp_path / name, ObjectPath.parse(f"{bucket}/clips/{name}"))
    for media, name in (("a.mp4", "a.pose.safetensors"), ("a.mov", "a.mov.pose.safetensors")):
        with local_copy(ObjectPath.parse(f"{bucket}/clips/{media}")) as here:
            for place in (here, tmp_path / media):
                keypoints = sidecar(place, KEYPOINTS)
                assert keypoints and keypoints.read_text() == name
                assert sidecar(place, CAPTION) is None
                assert (sidecar_note(place) or "").startswith("a.txt was ignored")


def test_a_file_whose_name_is_no_text_has_the_same_sidecars(tmp_path: Path) -> None:
    stem = os.fsdecode(b"caf\xe9")
    for name in (f"{stem}.mp4", f"{stem}.mov", f"{stem}.txt", f"{stem}.mp4.pose.safetensors"):
        (tmp_path / name).write_text("x" if name.endswith("txt") else "keypoints")
    with local_copy(tmp_path / f"{stem}.mp4") as here:
        assert sidecar(here, CAPTION) is None and sidecar_note(here)
        keypoints = sidecar(here, KEYPOINTS)
        assert keypoints and keypoints.read_text() == "keypoints"
    with local_copy(tmp_path / f"{stem}.mov") as here:
        assert sidecar(here, CAPTION) is None and sidecar(here, KEYPOINTS) is None
