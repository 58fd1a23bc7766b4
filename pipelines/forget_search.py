"""Whom a request to forget means: sources, their files, and the copies of them under other ids."""

import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from .. import SteadyDancerError
from ..datasets.artifact import count_verdicts
from ..datasets.clips import Clips
from ..datasets.removal import Forgotten
from ..datasets.storage import is_address

SHORTEST_PREFIX = 6
KEYS = ["source_id", "source_path", "origin", "clip_id", "duplicate_group", "verdict"]


@dataclass(frozen=True)
class Found:
    """Whom a request means.

    Args:
        forgotten: sources and files.
        ids: for tombstones: source ids, and of files that could not be read the id of their row.
        copies: ids of other sources that show the same.
        groups: new names for groups of copies that are named after who is forgotten.
        counts: their rows by verdict, in the first of the curations.
    """

    forgotten: Forgotten
    ids: list[str]
    copies: list[str]
    groups: dict[str, str]
    counts: dict[str, int]


def find(source: str, curations: list[Clips], with_copies: bool = False) -> Found:
    """Whom a request means.

    Args:
        source: id of a source or its beginning, the path of its file, or its origin.
        curations: where they are looked for.
        with_copies: other sources that show the same are meant, too.

    Raises:
        SteadyDancerError: nobody, or by a prefix more than one.
    """
    tables = [clips.read(KEYS) for clips in curations]
    table = pa.concat_tables(tables)
    hit = _matching(table, source)
    ids = set(table.filter(hit)["source_id"].drop_null().to_pylist())
    unread = table.filter(pc.and_(hit, pc.is_null(table["source_id"])))
    theirs = Forgotten(frozenset(ids), frozenset(unread["source_path"].to_pylist()))
    groups = table.filter(theirs.rows(table))["duplicate_group"].drop_null().unique()
    members = table.filter(pc.fill_null(pc.is_in(table["duplicate_group"], groups.cast(pa.string())), False))
    copies = sorted(set(members["source_id"].drop_null().to_pylist()) - ids)
    if with_copies:
        ids |= set(copies)
    theirs = Forgotten(frozenset(ids), theirs.paths)
    mask = theirs.rows(table)
    paths = frozenset(table.filter(mask)["source_path"].to_pylist())
    removed = tables[0].filter(theirs.rows(tables[0]))
    return Found(
        Forgotten(frozenset(ids), paths),
        sorted(ids | set(unread["clip_id"].to_pylist())),
        copies,
        _renamed(table, mask),
        count_verdicts(len(removed), removed["verdict"].to_pylist()),
    )


def _matching(table: pa.Table, source: str) -> pa.ChunkedArray:
    path = source if is_address(source) else str(Path(source).absolute())
    masks = [
        pc.is_in(table["source_path"], pa.array([source, path])),
        pc.equal(table["origin"], source),
    ]
    if re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", source):
        masks.append(pc.starts_with(table["source_id"], source))
        ids = table.filter(pc.fill_null(masks[-1], False))["source_id"].unique().to_pylist()
        if len(ids) > 1:
            raise SteadyDancerError(
                f"{source} is the beginning of {len(ids)} source ids, {min(ids)} and others: give more"
            )
    for mask in masks:
        if pc.any(mask).as_py():
            return pc.fill_null(mask, False)
    raise SteadyDancerError(
        f"no source here is {source}: give a source_id or {SHORTEST_PREFIX} or more of its first digits, the path of "
        "its file as it was curated, or its origin"
    )


def _renamed(table: pa.Table, gone: pa.ChunkedArray) -> dict[str, str]:
    """A group of copies is named after one of its sources or clips; it gets another's name if that one is forgotten."""
    theirs, rest = table.filter(gone), table.filter(pc.invert(gone))
    names = {}
    for column in ("source_id", "clip_id"):
        named = set(theirs["duplicate_group"].to_pylist()) & set(theirs[column].to_pylist()) - {None}
        for group, member in zip(rest["duplicate_group"].to_pylist(), rest[column].to_pylist(), strict=True):
            if group in named:
                names[group] = min(member, names.get(group, member))
    return names
