"""Where the networks of a job lie, found before anything starts or is made."""

from collections.abc import Sequence
from pathlib import Path

from ..datasets.storage import Location, is_address, location


def find_parts(source: str, names: Sequence[str]) -> Location:
    """The absolute folder of a folder or hub id that holds all parts `names`; fetches them from the hub if it must.

    One on a store stays where it is: each machine that loads a part fetches it.

    Raises:
        ComponentsError: there is no such folder, or a part is not in it; the message names it.
    """
    from ..models.folders import ComponentsError, missing_parts, resolve_folder

    folder = resolve_folder(source, names).resolve()
    missing = missing_parts(folder, names)
    if missing:
        raise ComponentsError(
            f"{source} has no {', no '.join(missing)}: give --components a folder in diffusers' layout or in Wan's own "
            "(`steadydancer weights check` says what is needed)"
        )
    return location(source) if is_address(source) else folder


def part_digests(folder: Location, names: Sequence[str]) -> dict[str, str]:
    """sha256 of each of the parts that `find_parts` has found; Wan's own layout has no scheduler to digest."""
    from ..models.folders import part_digest, part_path, resolve_folder

    here = resolve_folder(str(folder), names)
    return {name: part_digest(here, name) for name in names if part_path(here, name)}


def parts_are_here(source: str) -> bool:
    """Whether `find_parts` would look no further than this machine."""
    from ..models import weights

    return Path(source).is_dir() or any(row.hub_id == source and weights.find(row) for row in weights.CATALOGUE)
