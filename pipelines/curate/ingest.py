"""What a curation begins with: the videos of a folder, a glob or a manifest, and what the manifest says of them."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ...datasets.artifact import ArtifactError
from ...datasets.manifest import SUFFIXES, read_columns
from ...datasets.object_store import ObjectPath, fits, listing, matching
from ...datasets.storage import Location, location, named
from ...datasets.video_file import VIDEO_SUFFIXES

# Column of a row → columns of a manifest that say it.
MANIFEST_COLUMNS = {"origin": ("source",), "licence": ("licence", "license"), "prompt": ("prompt",)}
SCHEMA = pa.schema([(name, pa.string()) for name in ("source_path", *MANIFEST_COLUMNS)])
_DIGEST_ROWS = 10_000


def read_sources(clips: str) -> pa.Table:
    """Sources and what is known of them before they are opened, a row each: `SCHEMA`, sorted by `source_path`, unique.

    Args:
        clips: a folder (searched through, links to folders too), a glob, a manifest (csv, jsonl or parquet with a
            column `path` and, if wanted, `source`, `licence`, `prompt`), or one video; here or on a store. A manifest
            may name what lies elsewhere.

    Returns:
        Absolute places, because workers and later jobs may run in other folders; null where a manifest says nothing.
        A folder that may not be looked into is itself a row: what it holds is not dropped in silence.

    Raises:
        SteadyDancerError: nothing is there, nothing looks like a video, or a manifest contradicts itself.
    """
    place = location(clips)
    if place.suffix in SUFFIXES and place.is_file():
        return _of_manifest(place)
    found = _places(place, clips)
    if not found:
        if not place.exists() and not glob.has_magic(clips):
            raise ArtifactError(f"{clips} does not exist: give a folder, a glob or a manifest of videos")
        raise ArtifactError(f"{clips} holds no video (looked for {' '.join(sorted(VIDEO_SUFFIXES))})")
    paths = pa.array(sorted(found), pa.string())
    nothing = pa.nulls(len(paths), pa.string())
    return pa.table([paths, *[nothing] * len(MANIFEST_COLUMNS)], schema=SCHEMA)


def list_sources(clips: str) -> list[str]:
    """The column `source_path` of `read_sources`."""
    return [str(path) for path in read_sources(clips)["source_path"].to_pylist()]


def sources_digest(sources: pa.Table) -> str:
    """sha256 of all that `read_sources` says."""
    digest = hashlib.sha256()
    for batch in sources.combine_chunks().to_batches(max_chunksize=_DIGEST_ROWS):
        digest.update(json.dumps(batch.to_pydict(), ensure_ascii=True).encode())
    return digest.hexdigest()


def _places(place: Location, clips: str) -> set[str]:
    if isinstance(place, ObjectPath):
        if place.is_dir():
            return {str(one.path) for one in listing(place) if _looks_like_video(one.path)}
        matches: list[Location] = [place] if place.is_file() else list(matching(place))
    elif place.is_dir():
        return {named(found) for found in _walk(place.absolute())}
    else:
        matches = [place] if place.exists() else list(_glob(place.absolute()))
    if matches == [place] and not _looks_like_video(place):
        raise ArtifactError(f"{clips} is no folder, no manifest ({', '.join(sorted(SUFFIXES))}) and no video")
    return {named(found.absolute()) for found in matches if _looks_like_video(found)}


def _glob(pattern: Path) -> Iterator[Path]:
    if "**" not in pattern.parts:
        # A pattern may be absolute, which Path.glob refuses.
        return map(Path, glob.iglob(str(pattern)))  # noqa: PTH207
    # Here `glob` would follow a link to a folder above it again and again.
    fixed = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    folder, wanted = Path(*pattern.parts[:fixed]), list(pattern.parts[fixed:])
    below = _walk(folder) if folder.is_dir() else iter(())
    return (found for found in below if fits(list(found.relative_to(folder).parts), wanted))


def _looks_like_video(place: Location) -> bool:
    return place.suffix.lower() in VIDEO_SUFFIXES


def _walk(top: Path) -> Iterator[Path]:
    """Whatever is named like a video, and folders that cannot be read; each folder once, by its own name if it can be.

    What is named like a video and is none (a folder, a pipe, a link into nowhere) is left to who opens it.

    Raises:
        OSError: `top` cannot be read.
    """
    folders, links = [top], list[Path]()
    seen = set[tuple[int, int]]()
    while folders or links:
        # Linked folders after all others: a link back up then finds that its folder was looked into before.
        folder = folders.pop() if folders else links.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda one: one.name, reverse=True)
        except OSError:
            if folder == top:
                raise
            yield folder
            continue
        for one in inside:
            if _looks_like_video(Path(one.name)):
                yield folder / one.name
            if one.is_dir(follow_symlinks=False):
                folders.append(folder / one.name)
            elif one.is_symlink() and (folder / one.name).is_dir():
                links.append(folder / one.name)


def _of_manifest(path: Location) -> pa.Table:
    names = [name for several in MANIFEST_COLUMNS.values() for name in several]
    table = read_columns(path, "path", tuple(names))
    columns = [table["path"]]
    for several in MANIFEST_COLUMNS.values():
        said = [_or_null(pc.utf8_trim_whitespace(table[name])) for name in several]
        columns.append(pc.coalesce(*said))
    return _unique(pa.table(columns, schema=SCHEMA).sort_by("source_path"), path)


def _or_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, pa.scalar("", pa.string())), pa.scalar(None, pa.string()), column)


def _unique(table: pa.Table, manifest: Location) -> pa.Table:
    """Rows that name one place made one row.

    Raises:
        ArtifactError: they say different things of it.
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
                    f"{manifest} names {row['source_path']} twice, with {name} {str(first[name])[:60]!r} and "
                    f"{str(value)[:60]!r}: keep one row of it"
                )
            first[name] = first[name] or value
    rows = pa.Table.from_pylist(list(merged.values()), schema=SCHEMA)
    return pa.concat_tables([table.filter(pc.invert(twice)), rows]).sort_by("source_path")
