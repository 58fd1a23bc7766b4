"""Sources of a curation: the videos of a folder, a glob or a manifest, and the metadata in the manifest."""

import glob
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...datasets.artifact import ArtifactError
from ...datasets.artifact_lookup import describe_artifacts
from ...datasets.exports import LINE_FIELDS
from ...datasets.generated_outputs import GeneratedOutputs
from ...datasets.manifest import SUFFIXES, read_columns
from ...datasets.sidecars import VIDEO_SUFFIXES
from ...datasets.storage import Location, format_location, location
from ...datasets.storage.files import name_below
from ...datasets.storage.tree import tree_of
from ...datasets.text import strip_column

# Column of a manifest → its names in musubi-tuner, DiffSynth-Studio, VideoX-Fun, finetrainers and Hugging Face's
# datasets. `source` becomes the column `origin` of a row.
MANIFEST_COLUMNS = {
    "source": ("origin",),
    "licence": ("license",),
    "prompt": ("caption", "captions", "text", "video_caption"),
}
PATH_COLUMNS = ("video", "video_path", "video_file", "file", "file_path", "filepath", "file_name", "filename",
                "media_path", "clip", "clip_path", "source_path")  # fmt: skip
SCHEMA = pa.schema([(name, pa.string()) for name in ("source_path", "origin", "licence", "prompt")])
_DIGEST_ROWS = 10_000
MAX_SHOWN, MAX_NAMED = 4, 100  # folders of skipped videos: on the terminal, in a record


@dataclass(frozen=True)
class SkippedOutputs:
    """Videos in the given folder that are not sources because this program made them.

    Attributes:
        folders: folder of an artifact (renders, an export, a gallery, …) → number of videos.
    """

    folders: dict[str, int]

    def __len__(self) -> int:
        return sum(self.folders.values())

    def record(self) -> dict[str, Any]:
        """Return the entry for a record and a plan."""
        return {"files": len(self), "folders": dict(list(self.folders.items())[:MAX_NAMED])}

    def __str__(self) -> str:
        named = [f"{number} in {folder}" for folder, number in self.folders.items()]
        more = f" and {len(named) - MAX_SHOWN} more folders" if len(named) > MAX_SHOWN else ""
        return (
            f"skipping {len(self)} videos that this program wrote: {', '.join(named[:MAX_SHOWN])}{more} (to "
            "curate them, pass their folder itself, or a manifest)"
        )


@dataclass(frozen=True)
class Sources:
    """Sources of a curation: their `table` (see `find_sources`), and the videos that were `left_out`."""

    table: pa.Table
    left_out: SkippedOutputs


def read_sources(clips: str) -> pa.Table:
    """Return the table of `find_sources`."""
    return find_sources(clips).table


def find_sources(clips: str) -> Sources:
    """Find the sources and their metadata without opening them: `SCHEMA`, sorted by `source_path`, unique.

    Videos below a given folder that this program wrote (renders, exports, galleries, …) are skipped: see
    `generated_outputs`. A path that is passed itself, listed in a manifest or spelled out in a glob is always a source.

    Args:
        clips: a folder (searched recursively, following links), a glob, a manifest (csv, json, jsonl or parquet with a
            column `path` and optionally `source`, `licence`, `prompt`, or their usual synonyms), or one video; local
            or on a store. A manifest may list paths anywhere.

    Returns:
        Absolute paths, because workers and later jobs may run in other folders; null where a manifest has no value.
        A folder without read permission becomes a row itself, so that its content is not dropped silently.

    Raises:
        SteadyDancerError: `clips` does not exist or holds no video, or a manifest contradicts itself.
    """
    place = location(clips)
    if place.suffix.lower() in SUFFIXES and place.is_file():
        return Sources(_of_manifest(place), SkippedOutputs({}))
    found, left_out = _places(place, clips)
    if not found:
        if left_out:
            raise ArtifactError(f"{clips} contains no videos except those that this program wrote: {left_out}")
        if not place.exists() and not glob.has_magic(clips):
            raise ArtifactError(f"{clips} does not exist: pass a folder, a glob or a manifest of videos")
        if (kind := describe_artifacts(place)) is not None:
            raise ArtifactError(
                f"{clips} contains {kind} written by this program and no videos: pass a folder of videos"
            )
        raise ArtifactError(f"{clips} contains no videos (looked for {' '.join(sorted(VIDEO_SUFFIXES))})")
    paths = pa.array(sorted(found), pa.string())
    nothing = pa.nulls(len(paths), pa.string())
    return Sources(pa.table([paths, *[nothing] * len(MANIFEST_COLUMNS)], schema=SCHEMA), left_out)


def list_sources(clips: str) -> list[str]:
    """Return the column `source_path` of `read_sources`."""
    return [str(path) for path in read_sources(clips)["source_path"].to_pylist()]


def sources_digest(sources: pa.Table) -> str:
    """Return the sha256 of the table of `read_sources`."""
    digest = hashlib.sha256()
    for batch in sources.combine_chunks().to_batches(max_chunksize=_DIGEST_ROWS):
        digest.update(json.dumps(batch.to_pydict(), ensure_ascii=True).encode())
    return digest.hexdigest()


def _places(place: Location, clips: str) -> tuple[set[str], SkippedOutputs]:
    place = place.absolute()
    fixed, wanted = place, list[str]()
    if not place.is_dir():
        if place.exists():
            if not looks_like_video(place):
                raise ArtifactError(f"{clips} is not a folder, a manifest ({', '.join(sorted(SUFFIXES))}) or a video")
            return {format_location(place)}, SkippedOutputs({})
        fixed, wanted = _split(place)
    below = tree_of(fixed)
    products = GeneratedOutputs(
        fixed, below.is_file, lambda folder: _is_named(name_below(folder, fixed).split("/"), wanted)
    )
    kept, left_out = products.without(below.find(VIDEO_SUFFIXES, wanted))
    return set(map(format_location, kept)), SkippedOutputs(left_out)


def _split(pattern: Location) -> tuple[Location, list[str]]:
    """Split a glob into its fixed folder and the parts after it; a name without a star is the last part."""
    folder, wanted = pattern.parent, [pattern.name]
    while glob.has_magic(str(folder)):
        folder, wanted = folder.parent, [folder.name, *wanted]
    return folder, wanted


def _is_named(parts: list[str], wanted: list[str]) -> bool:
    """Check whether a glob names a folder literally, not by a star."""
    if "**" in wanted:
        # `**` matches any number of folders: compare with the literal parts after the last one.
        return parts[-1] in wanted[len(wanted) - wanted[::-1].index("**") :]
    return len(parts) <= len(wanted) and parts[-1] == wanted[len(parts) - 1]


def looks_like_video(place: Location) -> bool:
    """Check the suffix of a path; the content is checked when the file is opened."""
    return place.suffix.lower() in VIDEO_SUFFIXES


def _of_manifest(path: Location) -> pa.Table:
    names = {"path": PATH_COLUMNS, **MANIFEST_COLUMNS}
    table = read_columns(path, "path", tuple(MANIFEST_COLUMNS), names, known=LINE_FIELDS)
    columns = [table["path"], *(_or_null(strip_column(table[name])) for name in MANIFEST_COLUMNS)]
    return _unique(pa.table(columns, schema=SCHEMA).sort_by("source_path"), path)


def _or_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, pa.scalar("", pa.string())), pa.scalar(None, pa.string()), column)


def _unique(table: pa.Table, manifest: Location) -> pa.Table:
    """Merge rows with the same path.

    Raises:
        ArtifactError: their values differ.
    """
    paths = table["source_path"].combine_chunks()
    repeats = pc.equal(paths[1:], paths[:-1])
    if not pc.any(repeats).as_py():
        return table
    twice = pc.is_in(paths, value_set=pc.filter(paths[1:], repeats))
    merged: dict[str, dict[str, str | None]] = {}
    for row in table.filter(twice).to_pylist():
        first = merged.setdefault(row["source_path"], row)
        for name, value in row.items():
            if None not in (value, first[name]) and value != first[name]:
                raise ArtifactError(
                    f"{manifest} lists {row['source_path']} twice, with {name} {str(first[name])[:60]!r} and "
                    f"{str(value)[:60]!r}: keep one of the rows"
                )
            first[name] = first[name] or value
    rows = pa.Table.from_pylist(list(merged.values()), schema=SCHEMA)
    return pa.concat_tables([table.filter(pc.invert(twice)), rows]).sort_by("source_path")
