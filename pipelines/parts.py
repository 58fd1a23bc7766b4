"""Where the networks of a job lie, found before anything starts or is made."""

from collections.abc import Sequence
from pathlib import Path

from ..datasets.manifest import require_local


def find_parts(source: str, names: Sequence[str]) -> Path:
    """The absolute folder of a folder or hub id that holds all parts `names`; fetches them from the hub if it must.

    Raises:
        ComponentsError: there is no such folder, or a part is not in it; the message names it.
    """
    require_local(source)
    from ..models.folders import ComponentsError, resolve_folder

    folder = resolve_folder(source, names).resolve()
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise ComponentsError(
            f"{folder} has no {', no '.join(missing)}: give --components a folder in diffusers' layout "
            "(`steadydancer weights check` says what is needed)"
        )
    return folder


def parts_are_here(source: str) -> bool:
    """Whether `find_parts` would look no further than this machine."""
    from ..models import weights

    return Path(source).is_dir() or any(row.hub_id == source and weights.find(row) for row in weights.CATALOGUE)
