"""Paths with a name before them, as commands and flows take them: `NAME=PATH`."""

from ..datasets.storage import location


def split_name(text: str, is_file: bool = False) -> tuple[str | None, str]:
    """Return (name or None, path). A path that contains `=` exists as it is, or follows a name.

    Args:
        text: `NAME=PATH` or `PATH`.
        is_file: whether the path is a file, not a folder.

    Raises:
        ValueError: the name or the path is empty.
    """
    name, mark, path = text.partition("=")
    if not mark or "/" in name or ("://" not in path and _exists(text, is_file)):
        return None, text
    if not (name and path):
        raise ValueError(f"{text!r}: pass NAME=PATH, or PATH")
    return name, path


def _exists(text: str, is_file: bool) -> bool:
    place = location(text)
    return place.is_file() if is_file else place.is_dir()
