"""Print a CycloneDX 1.6 list of the Python distributions and Debian packages of this system, as JSON."""

import importlib.metadata
import json
import re
import shutil
import subprocess
from typing import Any


def python_packages() -> list[dict[str, Any]]:
    """Return the installed Python distributions, by name."""
    found = {}
    for one in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        found[name] = component(name, one.version, f"pkg:pypi/{name}@{one.version}")
    return [found[name] for name in sorted(found)]


def debian_packages() -> list[dict[str, Any]]:
    """Return the installed Debian packages, by name; none on another system."""
    if shutil.which("dpkg-query") is None:
        return []
    words = ["dpkg-query", "--show", "--showformat", "${binary:Package}\t${Version}\t${Architecture}\n"]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    rows = sorted(line.split("\t") for line in listed.splitlines())
    return [
        component(name.partition(":")[0], version, f"pkg:deb/debian/{name.partition(':')[0]}@{version}?arch={machine}")
        for name, version, machine in rows
    ]


def component(name: str, version: str, url: str) -> dict[str, Any]:
    """Return one entry of the list."""
    return {"type": "library", "name": name, "version": version, "purl": url.replace("+", "%2B"), "bom-ref": url}


def main() -> None:
    """Print the list."""
    listed: dict[str, Any] = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    print(json.dumps({**listed, "components": python_packages() + debian_packages()}, indent=1))


if __name__ == "__main__":
    main()
