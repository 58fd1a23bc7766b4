"""Find the finished artifact of a kind in a folder from the user: the artifact itself, or the OUT that contains it."""

from .artifact import PLAN, RECORD, Artifact, ArtifactError
from .generated_outputs import kind_of_folder
from .storage import Location, location
from .storage.files import folders_with

# Kind, which is also the artifact's folder name in OUT → the folder that a user should give.
EXPECTED = {
    "clips": "the --out of `curate` or `refilter`",
    "latents": "OUT/latents of `cache --out OUT`",
    "checkpoint": "OUT/checkpoint of `train --out OUT`, or the output of `convert`",
    "renders": "the --out of `render`",
    "metrics": "the --out of `evaluate`",
    "export": "the --out of `export`",
}
# Kinds as they are called in messages.
WORDS = {"checkpoint": "a checkpoint", "export": "an export", "conversion": "a converted checkpoint",
         "forgotten": "the record of a removal"}  # fmt: skip
_ALSO = {"checkpoint": frozenset({"conversion"})}  # other kinds that serve as one
_MAX_NAMED = 6


def find_artifact(place: Location, kind: str) -> Artifact:
    """Return the finished artifact of a kind, one of `EXPECTED`, at a location or in it.

    Raises:
        ArtifactError: there is none; the message states what was found, what is needed, and what to give.
    """
    name, wanted = WORDS.get(kind, kind), f"pass {EXPECTED[kind]}"
    if place.is_file():
        raise ArtifactError(f"{place} is a file, but a folder with {name} is needed: {wanted}")
    artifact = Artifact(place)
    if not artifact.committed and (place / kind).is_dir():
        artifact = Artifact(place / kind)
    if artifact.committed:
        found = artifact.record().get("kind", kind)
        if found != kind and found not in _ALSO.get(kind, ()):
            raise ArtifactError(f"{artifact.path} contains {WORDS.get(found, found)}, not {name}: {wanted}")
        return artifact
    if not place.exists():
        raise ArtifactError(f"{place} does not exist: {wanted}")
    unfinished = kind_of_folder(artifact.path)
    if unfinished is not None and unfinished != kind:
        other = WORDS.get(unfinished, unfinished)
        raise ArtifactError(f"{artifact.path} contains {other} (not finished), not {name}: {wanted}")
    others = kinds_in(place) if unfinished is None and artifact.path == place else []
    if others and kind not in others:
        raise ArtifactError(f"{place} contains {_listed(others)}, not {name}: {wanted}")
    if unfinished is None and artifact.path == place:
        raise ArtifactError(
            f"{place} is not finished (it has no {RECORD}) and contains no {kind} written by this program: {wanted}"
        )
    artifact.record()  # raises the error for an artifact that is not finished
    raise AssertionError("read a record that does not exist")


def kinds_in(folder: Location) -> list[str]:
    """List the kinds of the artifacts in a folder's direct subfolders, finished or not, in order."""
    folders = sorted(folders_with(folder, (RECORD, PLAN)), key=str)
    kinds = {kind_of_folder(one) for one in folders[:_MAX_NAMED]}
    return sorted(kind for kind in kinds if kind)


def describe_artifacts(place: Location | str) -> str | None:
    """Describe the kind of the artifact at a location, or the kinds of those in it; None if there are none."""
    folder = location(place)
    if not folder.is_dir():
        return None
    kind = kind_of_folder(folder)
    return WORDS.get(kind, kind) if kind else _listed(kinds_in(folder)) or None


def _listed(kinds: list[str]) -> str:
    return " and ".join(WORDS.get(kind, kind) for kind in kinds)
