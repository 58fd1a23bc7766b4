"""The finished artifact of a kind at a place that a person gives: the artifact itself, or the OUT that holds it."""

from .artifact import PLAN, RECORD, Artifact, ArtifactError
from .own_products import kind_of_folder
from .storage import Location, location
from .storage.files import folders_with

# Kind → the folder of OUT in which it lies is called the same; what is to be given for it.
GIVEN = {
    "clips": "what `curate --out` or `refilter --out` was given",
    "latents": "OUT/latents of `cache --out OUT`",
    "checkpoint": "OUT/checkpoint of `train --out OUT`, or what `convert` made",
    "renders": "what `render --out` was given",
    "metrics": "what `evaluate --out` was given",
    "export": "what `export --out` was given",
}
# Kinds as a sentence says that they lie somewhere.
WORDS = {"checkpoint": "a checkpoint", "export": "an export", "conversion": "a converted checkpoint",
         "forgotten": "the record of a removal"}  # fmt: skip
_ALSO = {"checkpoint": frozenset({"conversion"})}  # other kinds that serve as one
_MOST_NAMED = 6


def finished(place: Location, kind: str) -> Artifact:
    """The finished artifact of this kind, one of `GIVEN`, at a place or in it.

    Raises:
        ArtifactError: there is none; the message says what is there, what is wanted, and what to give.
    """
    wanted = f"give {GIVEN[kind]}"
    if place.is_file():
        raise ArtifactError(f"{place} is a file; a folder with {WORDS.get(kind, kind)} is wanted: {wanted}")
    artifact = Artifact(place)
    if not artifact.committed and (place / kind).is_dir():
        artifact = Artifact(place / kind)
    if artifact.committed:
        found = artifact.record().get("kind", kind)
        if found != kind and found not in _ALSO.get(kind, ()):
            raise ArtifactError(f"{artifact.path} holds {WORDS.get(found, found)}, no {kind}: {wanted}")
        return artifact
    if not place.exists():
        raise ArtifactError(f"{place} does not exist: {wanted}")
    here = kind_of_folder(artifact.path)
    if here is not None and here != kind:
        raise ArtifactError(f"{artifact.path} holds {WORDS.get(here, here)}, not finished, and no {kind}: {wanted}")
    others = kinds_in(place) if here is None and artifact.path == place else []
    if others and kind not in others:
        raise ArtifactError(f"{place} holds {_listed(others)}, no {kind}: {wanted}")
    if here is None and artifact.path == place:
        raise ArtifactError(
            f"{place} is not finished (no {RECORD} in it), and it holds no {kind} of this program: {wanted}"
        )
    artifact.record()  # says that it is not finished
    raise AssertionError("a record that is not there was read")


def kinds_in(folder: Location) -> list[str]:
    """The kinds of artifacts that lie in a folder's own folders, finished or not, in order."""
    folders = sorted(folders_with(folder, (RECORD, PLAN)), key=str)
    kinds = {kind_of_folder(one) for one in folders[:_MOST_NAMED]}
    return sorted(kind for kind in kinds if kind)


def describe_artifacts(place: Location | str) -> str | None:
    """The kind of the artifact at a place, or kinds of those in it, in words; None where there is none of ours."""
    folder = location(place)
    if not folder.is_dir():
        return None
    kind = kind_of_folder(folder)
    return WORDS.get(kind, kind) if kind else _listed(kinds_in(folder)) or None


def _listed(kinds: list[str]) -> str:
    return " and ".join(WORDS.get(kind, kind) for kind in kinds)
