"""What a curation begins with: the videos of a folder, a glob or a manifest."""

import glob

from ...datasets.artifact import ArtifactError
from ...datasets.manifest import SUFFIXES, read_manifest
from ...datasets.object_store import ObjectPath, listing, matching
from ...datasets.storage import Location, location

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "mp4",
        "m4v",
        "mov",
        "mkv",
        "webm",
        "avi",
        "gif",
        "mpg",
        "mpeg",
        "ts",
        "mts",
        "wmv",
        "flv",
        "3gp",
        "ogv",
    )
)


def list_sources(clips: str) -> list[str]:
    """Sources of a folder (searched through), a glob, or a manifest (csv, jsonl, parquet with a column `path`).

    All three may lie on a store, and a manifest may name what lies elsewhere. Absolute paths, sorted: workers and later
    jobs may run in other folders.

    Raises:
        SteadyDancerError: nothing is there, or nothing that looks like a video.
    """
    path = location(clips)
    if path.is_dir():
        below = (one.path for one in listing(path)) if isinstance(path, ObjectPath) else path.rglob("*")
        found = [str(p) for p in below if p.suffix.lower() in VIDEO_SUFFIXES]
    elif path.suffix in SUFFIXES and path.is_file():
        found = [row["path"] for row in read_manifest(path, ("path",))]
    elif path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        found = [clips]
    elif path.is_file():
        raise ArtifactError(f"{clips} is no folder, no manifest ({', '.join(sorted(SUFFIXES))}) and no video")
    else:
        found = [name for name in _matches(path) if location(name).suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        if not path.exists() and not glob.has_magic(clips):
            raise ArtifactError(f"{clips} does not exist: give a folder, a glob or a manifest of videos")
        raise ArtifactError(f"{clips} holds no video (looked for {' '.join(sorted(VIDEO_SUFFIXES))})")
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ArtifactError(f"{name!a} is no name in UTF-8, and tables hold no others: rename it") from None
    return sorted({str(location(name).absolute()) for name in found})


def _matches(pattern: Location) -> list[str]:
    if isinstance(pattern, ObjectPath):
        return list(map(str, matching(pattern)))
    return glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - a pattern may be absolute; Path.glob refuses that
