"""The forget job: write new versions of artifacts without a source; delete the old versions only on request.

Nothing is deleted before the new versions are complete and verified. Resuming relies on `OUT/forgotten`: its plan is
written first and its record after all new versions are committed; only then may the old versions be deleted. A
tombstone has the digest of the forgotten source, the reason and the time, but no file name.
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
from ...datasets.artifact_lookup import find_artifact
from ...datasets.clips import Clips
from ...datasets.storage import Location, location
from ...datasets.storage.digests import json_digest
from ...datasets.storage.files import files_in, folders_in, remove_folder
from ...datasets.storage.result_store import ResultStore
from .search import Matches, find_selections, find_source
from .versions import clips_version, export_version, latents_version, rows_version

# Files that `report` writes beside `clips`; they may show the forgotten source.
PAGES = ("curation.html", "card.md")


@dataclass(frozen=True)
class Request:
    """The source to forget, and the artifacts to remove it from.

    Args:
        source: id of a source or its first characters, the path of its file, or its origin.
        clips: folders given to `curate --out` and `refilter --out`; all selections of the same measured rows.
        out: folder in which the new versions are created.
        latents: caches of these clips.
        exports: exports of these clips.
        reason: reason for the tombstone.
        with_copies: also forget other sources with the same content.
        works: folders of kept results of rendering jobs (`render --work`).
    """

    source: str
    clips: list[Location]
    out: Location
    latents: list[Location] = field(default_factory=list)
    exports: list[Location] = field(default_factory=list)
    reason: str = "asked for"
    with_copies: bool = False
    works: list[Location] = field(default_factory=list)

    def digest(self) -> str:
        """Compute a digest that identifies the request without naming the source."""
        places = [[str(place.absolute()) for place in kind] for kind in (self.clips, self.latents, self.exports)]
        works = [[str(place.absolute()) for place in self.works]] if self.works else []
        return json_digest([self.source, places, self.with_copies, *works])


def plan(request: Request) -> dict[str, Any]:
    """Describe what `run` would do: matched sources, affected rows, new versions, and what could be deleted later."""
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
        "kept_results": {str(place): len(ResultStore(place).made_from(found.ids)) for place in request.works},
    }


def run(request: Request) -> dict[str, Any]:
    """Write the new versions; return the record of `OUT/forgotten`. Resumes after a stop. Deletes nothing.

    Raises:
        ArtifactError: an artifact is not finished, or another selection of the same measured rows is missing.
        SteadyDancerError: no source matches, or a prefix matches several.
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
                "works": [str(place.absolute()) for place in request.works],
                "counts": found.counts,
                "seconds": {"total": time.perf_counter() - start},
            }
        )


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _same_request(record: dict[str, Any], request: Request) -> dict[str, Any]:
    if record["request"] != request.digest():
        raise ArtifactError(f"{request.out} contains the result of another forget request: choose another --out")
    return record


def _require_empty(request: Request, targets: Iterable[Location]) -> None:
    for place in [*targets, request.out / "measured"]:
        if place.exists():
            raise ArtifactError(f"{place} already exists: choose another --out for the new versions")


def _curations(request: Request) -> list[Clips]:
    """Open a request's curations and check that they are all selections of one set of measured rows.

    Raises:
        ArtifactError: they select from different measured rows, or another selection next to them was not given.
    """
    curations = [Clips(place) for place in request.clips]
    measured = {str(clips.measured.path.absolute().resolve()) for clips in curations}
    if len(measured) > 1:
        raise ArtifactError(
            f"--clips names selections from {len(measured)} sets of measured rows, {', '.join(sorted(measured))}: "
            "pass selections from one set"
        )
    given = {str(clips.artifact.path.absolute().resolve()) for clips in curations}
    missing = sorted(str(place) for place in find_selections(curations) if str(place.absolute().resolve()) not in given)
    if missing:
        raise ArtifactError(
            f"{', '.join(missing)}: also selected from {curations[0].measured.path}, so the source would remain in it. "
            "Pass it with --clips too, or delete it"
        )
    return curations


def _affected(request: Request, found: Matches) -> list[Location]:
    """Return the caches and exports that contain rows of the forgotten sources."""
    affected = []
    for place, name in [(p, "latents") for p in request.latents] + [(p, "export") for p in request.exports]:
        artifact = find_artifact(place, name)
        if pc.any(found.forgotten.rows(artifact.read(["source_id"]))).as_py():
            affected.append(place)
    return affected


def _targets(request: Request, affected: list[Location]) -> list[tuple[Location, Location]]:
    """Return (old path, new path) of clips, then of affected artifacts; several of a kind keep their folder names."""
    out: list[tuple[Location, Location]] = []
    kinds = [
        ("clips", request.clips),
        ("latents", [place for place in affected if place in request.latents]),
        ("export", [place for place in affected if place not in request.latents]),
    ]
    for name, places in kinds:
        for place in places:
            old = find_artifact(place, name).path
            out.append((old, request.out / name if len(places) == 1 else request.out / old.parent.name / name))
    names = Counter(str(new) for _, new in out)
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise ArtifactError(f"two of the given folders would be written to {twice[0]}: pass one at a time")
    return out


def _updated_record(record: dict[str, Any], found: Matches, tombstones: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the still-valid fields of the old record, with the new tombstones appended."""
    return {
        **found.forgotten.redact(record),
        "version": __version__,
        "forgotten": sorted({*record.get("forgotten", []), *found.ids}),
        "tombstones": [*record.get("tombstones", []), *tombstones],
    }


def delete_superseded(record: dict[str, Any]) -> list[str]:
    """Delete the versions that a finished removal replaced; return the other files in their folders. Resumable.

    Of the kept results of rendering jobs, those that were made from the source are deleted, and those that do not say
    what they were made from: a job computes them again.

    Args:
        record: record of `OUT/forgotten`.

    Raises:
        ArtifactError: an old version was replaced since, or a new selection still contains the source.
    """
    places = [(location(one["path"]), one["digest"]) for one in record["superseded"]]
    for place, digest in places:
        artifact = Artifact(place)
        if digest and artifact.committed and json_digest(artifact.record()) != digest:
            raise ArtifactError(f"{place} was written again after it was replaced, so nothing was deleted")
    measured, _ = places[-1]
    own = {str(place) for place, _ in places}
    others = [str(place) for place in find_selections([], measured) if str(place.absolute()) not in own]
    if others:
        raise ArtifactError(
            f"{', '.join(others)} was selected from {measured} in the meantime: forget the source there too"
        )
    for place, digest in places:
        with exclusive(place.parent):
            for page in PAGES if place.name == "clips" else ():
                (place.parent / page).unlink(missing_ok=True)
            remove_folder(place, RECORD if digest else PLAN)
    for work in map(location, record.get("works", [])):
        with exclusive(work.parent):
            for result in ResultStore(work).made_from(record["forgotten"]):
                result.unlink(missing_ok=True)
    return _remaining_files([place for place, _ in places])


def _remaining_files(places: list[Location]) -> list[str]:
    """List the other files in the folders of the deleted artifacts, for the user to check."""
    folders = {place.parent for place in places}
    return sorted(
        str(entry) for folder in folders for entry in (*files_in(folder), *folders_in(folder)) if entry.name[0] != "."
    )
