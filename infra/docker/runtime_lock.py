"""Print requirements.lock without what only development needs (tests, types, docs): what the image installs.

The lock says for each distribution who requires it (`# via`); pyproject.toml says which of ours are for development.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

OURS = "steadydancer (pyproject.toml)"


def entries(lock: str) -> list[tuple[str, str]]:
    """Return name and text of the lock's entries; a name may have several, for different platforms."""
    found = re.findall(r"^(\S.*?)(?=^\S|\Z)", re.sub(r"(?m)^#.*\n", "", lock), re.MULTILINE | re.DOTALL)
    return [(name_of(text), text) for text in found]


def name_of(requirement: str) -> str:
    """Return the normalised name at the beginning of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def wanted(project: dict[str, Any], lock: str) -> list[str]:
    """Return the entries that the distributions for users need, in the lock's order."""
    extras = project["optional-dependencies"]
    users = [*project["dependencies"], *(one for name in extras if name != "dev" for one in extras[name])]
    found = entries(lock)
    parents: dict[str, set[str]] = {}
    for name, text in found:
        listed = re.findall(r"(?m)^\s+# (?:via | {2})(\S.*)$", text)
        parents[name] = parents.get(name, set()) | set(listed)
    needed = {name for name in parents if OURS in parents[name]} & {name_of(one) for one in users}
    while new := {name for name in parents if name not in needed and parents[name] & needed}:
        needed |= new
    return [text for name, text in found if name in needed]


def main() -> None:
    """Print the entries for the files of this folder or of the given one."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    print("".join(wanted(project, (folder / "requirements.lock").read_text())), end="")


if __name__ == "__main__":
    main()
