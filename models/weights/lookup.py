"""Find the pretrained weights that a preset needs, and download the smaller ones.

Does not import torch, so that `steadydancer weights list|check|fetch` start quickly.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ... import SteadyDancerError
from .catalogue import CATALOGUE, Weight, local_folder, shipped_folder
from .downloads import download, require_digest

_SAFETENSORS_INDEX = "*.safetensors.index.json"
_WHEEL = "mediapipe==0.10.21"  # the last release that contains the models
_WHEEL_OPTIONS = (
    *("--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"),
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
)
BLAZEPOSE_FILES: dict[str, tuple[str, str]] = {
    # name in the weights folder: (member of the wheel, sha256)
    "pose_detection.tflite": (
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    ),
    "pose_landmark_full.tflite": (
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
}


class WeightsError(SteadyDancerError):
    """Weights are missing, incomplete or not the expected ones. The message states what to do."""


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
    """Return (weights, whether they were found, their folder or the searched places) for all that a preset uses.

    Raises:
        WeightsError: the catalogue lists no weights for the preset.
    """
    rows = [row for row in CATALOGUE if preset_name in row.presets]
    if not rows:
        known = sorted({preset for row in CATALOGUE for preset in row.presets})
        raise WeightsError(f"No weights are listed for the preset {preset_name!r}: choose from {', '.join(known)}.")
    found = [(row, find(row)) for row in rows]
    return [(row, folder is not None, str(folder) if folder else row.search_locations) for row, folder in found]


def find_hub_id(hub_id: str) -> Path | None:
    """Return the local folder of the catalogue's weights with this hub id; None if not found."""
    return next((found for row in CATALOGUE if row.hub_id == hub_id and (found := find(row))), None)


def fetch(name: str) -> Path:
    """Return the folder of the weights `name`; download them first if they are not on this machine.

    Only sets of single files are downloaded. For repositories of tens of gigabytes, use the hub's own tools.

    Raises:
        WeightsError: the name is unknown, the weights are a whole repository, or the download failed.
    """
    row = weight(name)
    folder = find(row)
    if folder is not None:
        return folder
    if row.shipped is not None:
        raise WeightsError(f"{name} not found in {row.search_locations}: {row.remedy}.")
    if row.hub_id is None and row.sources is None:
        return fetch_blazepose()
    where = f"Its folder is {local_folder(row)}"
    if not row.files:
        raise WeightsError(f"{name} is a whole repository, which `fetch` does not download. {where}: {row.remedy}.")
    try:
        return _from_sources(row) if row.hub_id is None else _from_hub(row, row.hub_id)
    except Exception as error:  # offline, refused, moved, disk full: the remedy is the same
        raise WeightsError(f"{name} could not be downloaded ({error}). {where}: {row.remedy}.") from error


def _from_hub(row: Weight, hub_id: str) -> Path:
    from huggingface_hub import hf_hub_download

    for file in row.files:
        path = hf_hub_download(hub_id, file)
        require_digest(Path(path), (row.sha256 or {}).get(file))
    return Path(path.removesuffix(row.files[-1]))


def _from_sources(row: Weight) -> Path:
    """Download each file that is missing next to its place, check it, and put it there."""
    folder = local_folder(row)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        for file, source in (row.sources or {}).items():
            if not (folder / file).is_file():
                path = download(source, Path(scratch))
                require_digest(path, (row.sha256 or {}).get(file))
                path.replace(folder / file)
    return folder


def fetch_blazepose() -> Path:
    """Download BlazePose's two files to `weights_dir()` if they are not there, and return their folder.

    They are extracted from a Python package, so any package index that pip is configured for can be used.

    Raises:
        WeightsError: the package cannot be downloaded, or contains other files than expected.
    """
    folder = local_folder(weight("blazepose"))
    if all(_sha256(folder / name) == digest for name, (_, digest) in BLAZEPOSE_FILES.items()):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        archive = _download_wheel(Path(scratch))
        with zipfile.ZipFile(archive) as wheel:
            for name, (member, digest) in BLAZEPOSE_FILES.items():
                extracted = Path(scratch) / name
                extracted.write_bytes(wheel.read(member))
                if _sha256(extracted) != digest:
                    raise WeightsError(
                        f"{member} in {archive.name} is not the expected file (its sha256 differs): check the package "
                        f"index that pip uses, or put the file into {folder}."
                    )
        for name in BLAZEPOSE_FILES:
            (Path(scratch) / name).replace(folder / name)
    return folder


def _download_wheel(into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(into), *_WHEEL_OPTIONS, _WHEEL]
    result = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
    archives = list(into.glob("*.whl"))
    if result.returncode != 0 or not archives:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(
            f"BlazePose could not be downloaded: pip cannot download {_WHEEL} ({last_line}). Run the command on a "
            f"machine with a package index, or put {' and '.join(BLAZEPOSE_FILES)} into "
            f"{local_folder(weight('blazepose'))}."
        )
    return archives[0]


def _cached_snapshots(row: Weight) -> list[Path]:
    if row.hub_id is None:
        return []
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    snapshots = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=row.hub_id, repo_type="model") / "snapshots"
    return sorted(snapshots.iterdir()) if snapshots.is_dir() else []


def _is_complete(folder: Path, row: Weight) -> bool:
    if row.name == "blazepose":
        return all(_sha256(folder / name) == digest for name, (_, digest) in BLAZEPOSE_FILES.items())
    if row.files:
        return all((folder / name).is_file() for name in row.files)
    # An interrupted download leaves an index without some of the files that it lists.
    shards = [
        index.parent / shard
        for index in folder.rglob(_SAFETENSORS_INDEX)
        for shard in json.loads(index.read_text())["weight_map"].values()
    ]
    return bool(shards) and all(shard.is_file() for shard in shards)


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
