"""Search for the sources of a forget request (with their files and copies), and for selections that contain them."""

import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ... import SteadyDancerError
from ...datasets.artifact import ArtifactError, count_verdicts
from ...datasets.clips import Clips
from ...datasets.storage import Location, is_address
from ...datasets.storage.files import folders_in
from .removal import Forgotten, Mask

SHORTEST_PREFIX = 6
COLUMNS = ["source_id", "source_path", "origin", "clip_id", "duplicate_group", "verdict"]


@dataclass(frozen=True)
class Matches:
    """Sources that match a request.

    Args:
        forgotten: sources and files to remove.
        ids: ids for tombstones: source ids, or the row's id for files that could not be read.
        copies: ids of other sources with the same content.
        groups: new names for groups of copies that are named after a forgotten source.
        counts: their rows by verdict, in the first curation.
    """

    forgotten: Forgotten
    ids: list[str]
    copies: list[str]
    groups: dict[str, str]
    counts: dict[str, int]


def find_source(source: str, curations: list[Clips], with_copies: bool = False) -> Matches:
    """Find the sources that match a request.

    Args:
        source: id of a source or its first characters, the path of its file, or its origin.
        curations: curations to search.
        with_copies: include other sources with the same content.

    Raises:
        SteadyDancerError: no source matches, or a prefix matches several.
    """
    tables = [clips.read(COLUMNS) for clips in curations]
    table = pa.concat_tables(tables)
    hit = _matching(table, source)
    ids = set(_texts(table.filter(hit), "source_id"))
    unread = table.filter(pc.and_(hit, pc.is_null(table["source_id"])))
    matched = Forgotten(frozenset(ids), frozenset(_texts(unread, "source_path")))
    groups = sorted(set(_texts(table.filter(matched.rows(table)), "duplicate_group")))
    members: Mask = pc.is_in(table["duplicate_group"], pa.array(groups, pa.string()))
    copies = sorted(set(_texts(table.filter(members), "source_id")) - ids)
    if with_copies:
        ids |= set(copies)
    matched = Forgotten(frozenset(ids), matched.paths)
    mask = matched.rows(table)
    paths = frozenset(_texts(table.filter(mask), "source_path"))
    removed = tables[0].filter(matched.rows(tables[0]))
    return Matches(
        Forgotten(frozenset(ids), paths),
        sorted(ids | set(_texts(unread, "clip_id"))),
        copies,
        _new_group_names(table.filter(mask), Forgotten(frozenset(ids), paths).remaining(table)),
        count_verdicts(len(removed), _texts(removed, "verdict")),
    )


def _texts(table: pa.Table, column: str) -> list[str]:
    """Return the values of a column that are not null."""
    return [value for value in table[column].to_pylist() if value is not None]


def _matching(table: pa.Table, source: str) -> Mask:
    path = source if is_address(source) else str(Path(source).absolute())
    masks: list[Mask] = [
        pc.is_in(table["source_path"], pa.array([source, path])),
        pc.is_in(table["origin"], pa.array([source])),
    ]
    if re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", source):
        masks.append(pc.fill_null(pc.starts_with(table["source_id"], source), pa.scalar(False)))
        ids = set(_texts(table.filter(masks[-1]), "source_id"))
        if len(ids) > 1:
            raise SteadyDancerError(
                f"{len(ids)} source ids start with {source}, {min(ids)} and others: use more characters"
            )
    for mask in masks:
        if pc.any(mask).as_py():
            return mask
    raise SteadyDancerError(
        f"no source matches {source}: pass a source_id or at least its first {SHORTEST_PREFIX} characters, the path of "
        "its file as it was curated, or its origin"
    )


def _new_group_names(removed: pa.Table, rest: pa.Table) -> dict[str, str]:
    """Return new names for groups of copies named after a forgotten source or clip: the id of a remaining member."""
    names: dict[str, str] = {}
    for column in ("source_id", "clip_id"):
        named = set(_texts(removed, "duplicate_group")) & set(_texts(removed, column))
        for group, member in zip(rest["duplicate_group"].to_pylist(), rest[column].to_pylist(), strict=True):
            if group in named and member is not None:
                names[group] = min(member, names.get(group, member))
    return names


def find_selections(curations: list[Clips], measured: Location | None = None) -> list[Location]:
    """Find finished selections of the same measured rows, in the neighbouring folders and among parents."""
    measured = measured or curations[0].measured.path
    folders = [measured.parent, *folders_in(measured.parent), *folders_in(measured.parent.parent)]
    candidates = {str(folder / "clips"): folder / "clips" for folder in folders}
    for clips in curations:
        if clips.parent is not None:
            candidates[str(clips.parent)] = clips.parent
    selections = filter(None, map(_selection, candidates.values()))
    wanted = str(measured.absolute().resolve())
    found = [clips.artifact.path for clips in selections if str(clips.measured.path.absolute().resolve()) == wanted]
    return list({str(place.absolute().resolve()): place for place in found}.values())


def _selection(place: Location) -> Clips | None:
    """Open the finished clips at a path; None if there are none, or they are not readable."""
    try:
        return Clips(place)
    except (ArtifactError, PermissionError, ValueError):
        return None
