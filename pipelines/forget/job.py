"""Forget a source: new versions of all that was made of it, without it; then, if asked, an end of the old ones.

Nothing is deleted before the new versions are whole and have been read back. `OUT/forgotten` is what a rerun goes by:
its plan is written first, its record when all new versions are committed, and only then may the old ones go. A
tombstone tells the digest of what was forgotten, why and when, and no name of it.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from ... import __version__
from ...datasets.artifact import PLAN, RECORD, Artifact, ArtifactError, exclusive
from ...datasets.clips import Clips
from ...datasets.finished import finished
from ...datasets.storage import Location, location
from ...datasets.storage.digests import json_digest
from ...datasets.storage.files import files_in, folders_in, remove_folder
from .search import Matches, find_selections, find_source
from .versions import clips_version, export_version, latents_version, rows_version

# What `report` lays beside `clips`: pictures of clips, among them perhaps of the one to forget.
PAGES = ("curation.html", "card.md")


@dataclass(frozen=True)
class Request:
    """What is to be forgotten, and where.

    Args:
        source: id of a source or its beginning, the path of its file, or its origin.
        clips: what `curate --out` and `refilter --out` were given; all of one measuring.
        out: where the new versions are made.
        latents: caches made of these clips.
        exports: exports made of these clips.
        reason: for the tombstone.
        with_copies: forget files too that show the same.
    """

    source: str
    clips: list[Location]
    out: Location
    latents: list[Location] = field(default_factory=list)
    exports: list[Location] = field(default_factory=list)
    reason: str = "asked for"
    with_copies: bool = False

    def digest(self) -> str:
        """Names the request without saying whom it is about."""
        places = [[str(place.absolute()) for place in kind] for kind in (self.clips, self.latents, self.exports)]
        return json_digest([self.source, places, self.with_copies])


def plan(request: Request) -> dict[str, Any]:
    """What `run` would do: whom it means, what is left of each artifact, and what could be deleted afterwards."""
    done = Artifact(request.out / "forgotten")
    if done.committed:
        return {"finished": True, **_same_request(done.record(), request)}
    curations = _curations(request)
    found = find_source(request.source, curations, request.with_copies)
    affected = _affected(request, found)
    return {
        "finished": False,
        "forget": found.ids,
        "files": len(found.forgotten.paths),
        "rows": found.counts,
        "copies_under_other_ids": found.copies,
        "copies_are_forgotten_too": request.with_copies,
        "makes": [str(new) for _, new in _targets(request, affected)],
        "holds_nothing_of_it": [str(place) for place in [*request.latents, *request.exports] if place not in affected],
        "superseded": [str(old) for old, _ in _targets(request, affected)] + [str(curations[0].measured.path)],
    }


def run(request: Request) -> dict[str, Any]:
    """Write the new versions; returns what `OUT/forgotten` says. Goes on where it was stopped. Deletes nothing.

    Raises:
        ArtifactError: something given is not finished, or another selection of the same measuring was not given.
        SteadyDancerError: nobody is meant, or more than one by a prefix.
    """
    done = Artifact(request.out / "forgotten")
    if done.committed:
        return _same_request(done.record(), request)
    start = time.perf_counter()
    curations = _curations(request)
    found = find_source(request.source, curations, request.with_copies)
    affected = _affected(request, found)
    targets = _targets(request, affected)
    with exclusive(request.out):
        if not (done.path / PLAN).is_file():
            _require_empty(request, [new for _, new in targets])
        done.begin({"request": request.digest(), "forgotten": found.ids})
        tombstones = [{"source_id": one, "reason": request.reason, "time": _utc_now()} for one in found.ids]
        measured = Artifact(request.out / "measured")
        rows_version(curations[0].measured, measured, found, "measured")
        for clips, (_, new) in zip(curations, targets, strict=False):
            clips_version(clips, Artifact(new), measured, found, _updated_record(clips.record, found, tombstones))
        new_clips = {str(old): new for old, new in targets[: len(curations)]}
        for place, (old, new) in zip(affected, targets[len(curations) :], strict=True):
            version = latents_version if place in request.latents else export_version
            record = _updated_record(Artifact(old).record(), found, tombstones)
            version(Artifact(old), Artifact(new), found.forgotten, record, new_clips)
        superseded = [
            {"path": str(old.absolute()), "digest": json_digest(Artifact(old).record())} for old, _ in targets
        ]
        return done.commit(
            {
                "kind": "forgotten",
                "version": __version__,
                "request": request.digest(),
                "forgotten": found.ids,
                "tombstones": tombstones,
                "copies": {"forgotten" if request.with_copies else "kept": found.copies},
                "made": [str(new.absolute()) for _, new in targets],
                "superseded": [*superseded, {"path": str(curations[0].measured.path.absolute()), "digest": None}],
                "counts": found.counts,
                "seconds": {"total": time.perf_counter() - start},
            }
        )


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _same_request(record: dict[str, Any], request: Request) -> dict[str, Any]:
    if record["request"] != request.digest():
        raise ArtifactError(f"{request.out} holds what is left after something else was forgotten: give another --out")
    return record


def _require_empty(request: Request, targets: Iterable[Location]) -> None:
    for place in [*targets, request.out / "measured"]:
        if place.exists():
            raise ArtifactError(f"{place} is there already: give another --out for the new versions")


def _curations(request: Request) -> list[Clips]:
    """The curations of a request, of one measuring, and all of it that can be seen from here.

    Raises:
        ArtifactError: they are of several, or another selection of it lies beside them and was not given.
    """
    curations = [Clips(place) for place in request.clips]
    measured = {str(clips.measured.path.absolute().resolve()) for clips in curations}
    if len(measured) > 1:
        raise ArtifactError(f"--clips are of {len(measured)} measurings, {', '.join(sorted(measured))}: one at a time")
    given = {str(clips.artifact.path.absolute().resolve()) for clips in curations}
    missing = sorted(str(place) for place in find_selections(curations) if str(place.absolute().resolve()) not in given)
    if missing:
        raise ArtifactError(
            f"{', '.join(missing)}: also selected of {curations[0].measured.path}, so the source would stay there. "
            "Give them with --clips, too, or delete them"
        )
    return curations


def _affected(request: Request, found: Matches) -> list[Location]:
    """The caches and exports that hold something of whom is to be forgotten."""
    affected = []
    for place, name in [(p, "latents") for p in request.latents] + [(p, "export") for p in request.exports]:
        artifact = finished(place, name)
        if pc.any(found.forgotten.rows(artifact.read(["source_id"]))).as_py():
            affected.append(place)
    return affected


def _targets(request: Request, affected: list[Location]) -> list[tuple[Location, Location]]:
    """(old artifact, new artifact) of the clips, then of what holds something. Several of a kind keep their folder."""
    out: list[tuple[Location, Location]] = []
    kinds = [
        ("clips", request.clips),
        ("latents", [place for place in affected if place in request.latents]),
        ("export", [place for place in affected if place not in request.latents]),
    ]
    for name, places in kinds:
        for place in places:
            old = finished(place, name).path
            out.append((old, request.out / name if len(places) == 1 else request.out / old.parent.name / name))
    names = Counter(str(new) for _, new in out)
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise ArtifactError(f"two of the folders given would become {twice[0]}: forget in one after the other")
    return out


def _updated_record(record: dict[str, Any], found: Matches, tombstones: list[dict[str, Any]]) -> dict[str, Any]:
    """The old record as far as it still holds, with the tombstones."""
    return {
        **found.forgotten.redact(record),
        "version": __version__,
        "forgotten": sorted({*record.get("forgotten", []), *found.ids}),
        "tombstones": [*record.get("tombstones", []), *tombstones],
    }


def delete_superseded(record: dict[str, Any]) -> list[str]:
    """Delete what a finished removal has replaced; goes on where it was stopped. Returns what is left beside it.

    Args:
        record: of `OUT/forgotten`.

    Raises:
        ArtifactError: something else lies there now, or a selection was made meanwhile that the source is still in.
    """
    places = [(location(one["path"]), one["digest"]) for one in record["superseded"]]
    for place, digest in places:
        artifact = Artifact(place)
        if digest and artifact.committed and json_digest(artifact.record()) != digest:
            raise ArtifactError(f"{place} is not what was replaced, it was made anew since: nothing was deleted")
    measured, _ = places[-1]
    own = {str(place) for place, _ in places}
    others = [str(place) for place in find_selections([], measured) if str(place.absolute()) not in own]
    if others:
        raise ArtifactError(f"{', '.join(others)} was selected of {measured} meanwhile: forget it there, too")
    for place, digest in places:
        with exclusive(place.parent):
            for page in PAGES if place.name == "clips" else ():
                (place.parent / page).unlink(missing_ok=True)
            remove_folder(place, RECORD if digest else PLAN)
    return _remaining_files([place for place, _ in places])


def _remaining_files(places: list[Location]) -> list[str]:
    """What a person may want to look at: whatever else lies in the folders of what was deleted."""
    folders = {place.parent for place in places}
    return sorted(
        str(entry) for folder in folders for entry in (*files_in(folder), *folders_in(folder)) if entry.name[0] != "."
    )
