"""Published layouts of benchmarks, recognised by the names of their files alone.

| layout | files |
|---|---|
| `table` | `pairs.*` or `metadata.*` with columns image, driving, and optionally prompt, id, truth, kinds |
| `realisdance` | `ref/NAME.png`, `gt/NAME.mp4`, `smpl/`, `hamer/`, `prompt/NAME.txt` |
| `frames` | `NAME/images/*.png` or `NAME/*.png`, optionally `NAME_reference.png` (TikTok) |
| `clips` | `NAME.mp4`, optionally `NAME_reference.png` (TikTok) |
| `stems` | images and videos of equal names, or a folder for each video with its images (X-Dance) |
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..sidecars import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from .file_lists import by_folder, by_stem, is_image, is_video, listed, nearest, only

TABLES = ("pairs", "metadata")
TABLE_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet"})
TRUTH_FOLDERS = ("truth", "truths", "gt", "ground_truth")
MIN_SEQUENCE_FRAMES = 5
_REFERENCE = "_reference"
_PICTURES = ("images", "frames")
_BESIDE = ("masks", "densepose", "dwpose", "pose", "poses")


@dataclass(frozen=True)
class Draft:
    """A pair by the names of its files relative to the folder; of `frames`, `driving` is a folder of images.

    `has_own_reference`: no image is named, a frame of the driving video is the reference.
    """

    name: str
    image: str | None
    driving: str | None
    prompt: str | None = None
    truth: str | None = None
    has_own_reference: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Pairs of a layout, the frames of its image sequences, and remarks."""

    layout: str
    drafts: tuple[Draft, ...]
    sequences: dict[str, tuple[str, ...]]
    remarks: tuple[str, ...] = ()


def find_tables(names: Sequence[str]) -> list[str]:
    """Return the names of the tables of pairs: the ones called `pairs`, else those called `metadata`."""
    for stem in TABLES:
        found = [
            name
            for name in names
            if PurePosixPath(name).stem.lower() == stem and PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES
        ]
        if found:
            return sorted(found)
    return []


def realisdance(names: Sequence[str]) -> Found | None:
    """Recognise `ref/` beside `gt/` or `smpl/`, at the top or in one subfolder."""
    folders = by_folder(names)
    tops = [
        top
        for folder in folders
        if PurePosixPath(folder).name == "ref"
        for top in [PurePosixPath(folder).parent]
        if str(top / "gt") in folders or str(top / "smpl") in folders
    ]
    if len(tops) != 1:
        return None
    role = {
        name: by_stem(folders.get(str(tops[0] / name), []), kinds)
        for name, kinds in (("ref", IMAGE_SUFFIXES), ("gt", VIDEO_SUFFIXES), ("smpl", VIDEO_SUFFIXES),
                            ("prompt", {".txt"}))
    }  # fmt: skip
    if not role["ref"]:
        return None
    drafts = []
    for name in sorted(role["ref"].keys() | role["gt"].keys() | role["smpl"].keys()):
        image, truth, smpl, prompt = (only(role[one].get(name, []), name) for one in ("ref", "gt", "smpl", "prompt"))
        problems = [f"{one}/ has no file of this name" for one, file in (("ref", image), ("gt", truth)) if not file]
        if not truth and smpl:
            problems.append("driven by the rendered body in smpl/, as the copy has no driving video")
        drafts.append(Draft(name, image, truth or smpl, prompt, truth, False, tuple(problems)))
    return Found("realisdance", tuple(drafts), {})


def frames(names: Sequence[str]) -> Found | None:
    """Recognise folders of numbered images: `NAME/images/*.png` or `NAME/*.png`."""
    folders = by_folder(names)
    sequences = {
        folder: tuple(sorted(images, key=_number))
        for folder, files in folders.items()
        if _is_sequence(PurePosixPath(folder)) and len(images := _frames_of(files)) >= MIN_SEQUENCE_FRAMES
    }
    if not sequences or any(is_video(name) for name in names):
        return None
    references = _references(names)
    drafts = []
    for folder in sorted(sequences):
        path = PurePosixPath(folder)
        name = path.parent.name if path.name in _PICTURES else path.name
        drafts.append(Draft(name, references.get(name), folder, None, folder, name not in references))
    _require_unique(drafts)
    return Found("frames", tuple(drafts), sequences)


def clips(names: Sequence[str], is_named: bool) -> Found | None:
    """Recognise videos with `NAME_reference.png` beside them; without, only if the benchmark was named."""
    videos = [name for name in names if is_video(name)]
    references = _references(names)
    if not videos or not (is_named or any(PurePosixPath(video).stem in references for video in videos)):
        return None
    drafts = []
    for video in sorted(videos):
        name = PurePosixPath(video).stem
        drafts.append(Draft(name, references.get(name), video, None, video, name not in references))
    _require_unique(drafts)
    return Found("clips", tuple(drafts), {})


def stems(names: Sequence[str]) -> Found | None:
    """Pair images and videos by name, or each folder's video with all its images."""
    truths = {name for name in names if PurePosixPath(name).parent.name in TRUTH_FOLDERS}
    images = [name for name in names if is_image(name) and name not in truths]
    videos = [name for name in names if is_video(name) and name not in truths]
    if not images or not videos:
        return None
    pairs = _pairs_in_folders(images, videos) or _pairs_by_stem(images, videos)
    if not pairs:
        return None
    texts = by_stem([name for name in names if PurePosixPath(name).suffix.lower() == ".txt"], {".txt"})
    of_truth = by_stem(sorted(truths), VIDEO_SUFFIXES)
    drafts = []
    for name, image, video in pairs:
        by_name = texts.get(PurePosixPath(image).stem) or texts.get(name) or texts.get(PurePosixPath(video).stem) or []
        drafts.append(Draft(name, image, video, nearest(by_name, image), only(of_truth.get(name, []), name)))
    used = {file for _, image, video in pairs for file in (image, video)}
    alone = sorted({*images, *videos} - used)
    remarks = (f"{len(alone)} files belong to no pair: {listed(alone)}",) if alone else ()
    _require_unique(drafts)
    return Found("stems", tuple(drafts), {}, remarks)


LAYOUTS: dict[str, Callable[[Sequence[str]], Found | None]] = {
    "realisdance": realisdance,
    "frames": frames,
    "clips": lambda names: clips(names, is_named=False),
    "stems": stems,
}
"""Layouts without a table, in the order in which they are tried."""


def _pairs_in_folders(images: list[str], videos: list[str]) -> list[tuple[str, str, str]]:
    """Pair each folder's only video with every image of it; empty unless all folders are of that form."""
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for kind, names in enumerate((images, videos)):
        for name in names:
            groups[str(PurePosixPath(name).parent)][kind].append(name)
    if len(groups) < 2 or any(len(video) != 1 or not image for image, video in groups.values()):
        return []
    return [
        (f"{PurePosixPath(folder).name}-{PurePosixPath(image).stem}", image, video[0])
        for folder, (some, video) in sorted(groups.items())
        for image in sorted(some)
    ]


def _pairs_by_stem(images: list[str], videos: list[str]) -> list[tuple[str, str, str]]:
    """Pair images with the video of their stem, or of the longest stem that theirs starts with (`DRIVER_ref2.png`)."""
    videos_by_stem = by_stem(videos, VIDEO_SUFFIXES)
    pairs = []
    for image in sorted(images):
        stem = PurePosixPath(image).stem
        starts = [one for one in videos_by_stem if stem == one or stem.startswith((f"{one}_", f"{one}-"))]
        if starts:
            video = max(starts, key=len)
            pairs.append((stem, image, only(videos_by_stem[video], video) or ""))
    return pairs


def _require_unique(drafts: Sequence[Draft]) -> None:
    by_name: dict[str, list[str]] = defaultdict(list)
    for draft in drafts:
        by_name[draft.name].append(draft.image or draft.driving or "")
    for name, files in by_name.items():
        only(sorted(files), name)


def _is_sequence(folder: PurePosixPath) -> bool:
    """Exclude the top, a folder of pictures at the top, and the masks and body maps beside a sequence's pictures."""
    return folder.name not in ("", *_BESIDE) and (folder.name not in _PICTURES or folder.parent.name != "")


def _frames_of(files: Sequence[str]) -> list[str]:
    """Return the images of a folder if all of them are numbered, else none."""
    images = [name for name in files if is_image(name)]
    return images if all(re.search(r"\d+$", PurePosixPath(name).stem) for name in images) else []


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", PurePosixPath(name).stem)
    return int(digits[0]) if digits else 0, name


def _references(names: Sequence[str]) -> dict[str, str]:
    """Return name of a sequence or clip → its reference image, `NAME_reference.png`."""
    return {
        PurePosixPath(name).stem.removesuffix(_REFERENCE): name
        for name in names
        if PurePosixPath(name).stem.endswith(_REFERENCE) and is_image(name)
    }
