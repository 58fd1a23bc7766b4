"""Folders of videos as a user names them: whose they are, and whether they have anything to evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass

from ... import SteadyDancerError
from ...datasets.artifact import Artifact, ArtifactError
from ...datasets.artifact_lookup import describe_artifacts
from ...datasets.generated_outputs import kind_of_folder
from ...datasets.sidecars import VIDEO_SUFFIXES
from ...datasets.storage import Location
from ...datasets.storage.files import files_in, folders_in


@dataclass(frozen=True)
class Source:
    """The videos of a method: name as given (None: the folder's), and the folder."""

    name: str | None
    folder: Location

    @property
    def method(self) -> str:
        """The name, or that of the folder."""
        return self.name or self.folder.absolute().name


def require_names(sources: Sequence[Source]) -> None:
    """Refuse folders whose videos would pass for seeds of one method by mistake.

    Raises:
        SteadyDancerError: two folders without a name are called alike, or one is given twice for a method.
    """
    given: dict[str, list[Source]] = {}
    for source in sources:
        given.setdefault(source.method, []).append(source)
    for name, own in given.items():
        places = [str(one.folder.absolute()) for one in own]
        if len({*places}) < len(places):
            twice = max(places, key=places.count)
            raise SteadyDancerError(f"{twice} is given twice for the method {name}: its seeds are different folders")
        if len(own) > 1 and any(one.name is None for one in own):
            raise SteadyDancerError(
                f"{' and '.join(places)} are both called {name}: pass --videos NAME={places[-1]} with another name, or "
                f"with {name} before each of them if they are seeds of one method"
            )


def require_artifact(folder: Location) -> None:
    """Refuse a folder without videos that does not exist, or has nothing that this program wrote.

    Raises:
        ArtifactError: it is such a folder; the message names what it has.
    """
    wanted = "pass a folder with the videos ID.mp4 directly in it, or the --out of `render`"
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise ArtifactError(f"{folder} {what}: {wanted}")
    written = Artifact(folder).committed or (folder / "renders").is_dir() or describe_artifacts(folder)
    if not written:
        found = sorted(one.name for one in (*files_in(folder), *folders_in(folder)))
        names = f"found {', '.join(found[:3])}{', …' if len(found) > 3 else ''}" if found else "it is empty"
        raise ArtifactError(f"{folder} has no video ({names}): {wanted}")


def is_plain_folder(folder: Location) -> bool:
    """Check whether a folder has videos and is not the output of `render`, nor contains it."""
    if Artifact(folder / "renders").committed or kind_of_folder(folder) is not None:
        return False
    return any(file.suffix.lower() in VIDEO_SUFFIXES for file in files_in(folder))
