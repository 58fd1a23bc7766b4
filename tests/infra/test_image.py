"""The image can be built: its commands run here, in an empty environment, and what is in it is what the lock says."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
LINES = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text())).splitlines()
INFRA = DOCKERFILE.parent
OF_THE_MACHINE = ("apt-get", "useradd")  # they need a machine of their own, and Debian's mirrors


def locked(lock: str | None = None) -> dict[str, str]:
    """Name → version of the distributions that the lock, or a part of it, has for this machine."""
    found = {}
    lock = (ROOT / "requirements.lock").read_text() if lock is None else lock
    for text in re.findall(r"^([A-Za-z0-9][^\\\n]*==[^\\\n]*?)\s*\\?$", lock, re.M):
        entry = Requirement(text)
        if entry.marker is None or entry.marker.evaluate():
            found[str(canonicalize_name(entry.name))] = next(iter(entry.specifier)).version
    return found


def test_the_list_of_what_is_installed_is_the_lock() -> None:
    script = ROOT / "infra" / "docker" / "sbom.py"
    answer = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, check=True)
    listed = json.loads(answer.stdout)
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    python = {one["name"]: one["version"] for one in listed["components"] if one["purl"].startswith("pkg:pypi/")}
    assert python.pop("steadydancer")
    assert python == locked()
    debian = [one for one in listed["components"] if one["purl"].startswith("pkg:deb/debian/")]
    assert bool(debian) == (shutil.which("dpkg-query") is not None)
    references = [one["bom-ref"] for one in listed["components"]]
    assert len(references) == len(set(references))
    assert any("sbom.py >" in line for line in LINES)


def runtime_lock() -> str:
    """Return the packages of the lock that the image installs."""
    command = [sys.executable, "-P", INFRA / "runtime_lock.py", ROOT]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_image_has_what_users_install_and_nothing_for_development_alone() -> None:
    """The lock's comments give the same set as the metadata of what is installed here."""
    kept, everything = locked(runtime_lock()), {**locked(), "steadydancer": ""}
    assert kept.items() <= everything.items()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted: set[tuple[str, str]] = {("steadydancer", extra) for extra in extras if extra != "dev"} | {
        ("steadydancer", "")
    }
    done: set[tuple[str, str]] = set()
    while new := wanted - done:
        done |= new
        for name, extra in new:
            for text in (importlib.metadata.requires(name) or []) if name in everything else []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    wanted |= {(str(canonicalize_name(needed.name)), one) for one in ("", *needed.extras)}
    # What the lock leaves out (pyproject.toml, tool.uv) is required by metadata alone.
    assert {name for name, _ in done} & set(everything) - {"steadydancer"} == set(kept)
    assert not {"pytest", "mypy", "moto", "mkdocs", "uv"} & set(kept)


def test_every_file_that_a_command_of_the_image_reads_was_copied_before() -> None:
    copied: set[str] = set()
    for line in LINES:
        if line.startswith("COPY "):
            copied |= {Path(word).name for word in line.split()[1:-1]}
        for name in re.findall(
            r"\b(requirements\.lock|sbom\.py|runtime_lock\.py)\b", line if line.startswith("RUN ") else ""
        ):
            assert name in copied, line


def commands() -> list[str]:
    """The shell commands of the image, in order, without those of the machine."""
    found = []
    for line in LINES:
        if line.startswith("RUN "):
            parts = [part for part in line.removeprefix("RUN ").split(" && ") if not part.startswith(OF_THE_MACHINE)]
            found.append(" && ".join(part for part in parts if not part.startswith("rm -rf /var")))
    return [one for one in found if one]


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the image is for x86-64")
def test_the_commands_of_the_image_run_in_an_empty_environment(tmp_path: Path) -> None:
    """All but those for the machine; needs a package index, and 8 GB unless uv's cache is on the same disk."""
    place, environment = tmp_path / "opt", tmp_path / "env"
    place.mkdir()
    for line in LINES:
        if line.startswith("COPY "):
            *sources, target = line.split()[1:]
            for source in sources:
                path = ROOT / source
                if path.is_dir():
                    shutil.copytree(path, place / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(path, place / path.name)
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, environment], check=True)
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_", "HOME"))}
    path = f"{environment / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    env = kept | {"PATH": path, "VIRTUAL_ENV": str(environment), "PYTHONSAFEPATH": "1", "UV_LINK_MODE": "hardlink"}
    for command in commands():
        # The environment stands in for the image's own Python; with the cache the packages are not fetched again.
        here = command.replace(" --system", "").replace("uv pip install --no-cache ", "uv pip install ")
        here = here.replace("/opt/steadydancer/", f"{place}/")
        done = subprocess.run(["sh", "-c", here], cwd=place, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    python = environment / "bin" / "python"
    ray = subprocess.run(
        [python, "-P", "-c", "import ray; print(ray.__version__)"], env=env, capture_output=True, text=True
    )
    assert ray.stdout.strip() == locked()["ray"]
    listed = json.loads((place / "sbom.cdx.json").read_text())["components"]
    python_packages = {one["name"]: one["version"] for one in listed if one["purl"].startswith("pkg:pypi/")}
    of_the_base = {"pip", "setuptools", "wheel", "steadydancer"}
    kept = locked(runtime_lock())
    assert {name: one for name, one in python_packages.items() if name not in of_the_base} == {
        name: one for name, one in kept.items() if name not in of_the_base
    }
    assert python_packages["setuptools"] == kept["setuptools"] and python_packages["steadydancer"]
