"""Which pretrained weights each preset needs, where they are looked for, and how the smaller ones are fetched.

No torch here: `steadydancer weights list|check|fetch` must answer at once.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .. import SteadyDancerError

APACHE = "Apache-2.0"
_SAFETENSORS_INDEX = "*.safetensors.index.json"
_WHEEL = "mediapipe==0.10.21"  # the last release that carries its models inside
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
    """Weights are missing, incomplete or not what they should be; the message says what to do."""


@dataclass(frozen=True)
class Weight:
    """One row of the catalogue.

    Attributes:
        name: what `steadydancer weights` calls it.
        purpose: what it is for, in a few words.
        presets: presets that use it.
        hub_id: repository on the model hub; None where it comes out of a Python package.
        num_bytes: size, or None where it is not known to us.
        size_note: what `num_bytes` counts.
        licence: licence of the weights.
        is_optional: True where the preset runs without it, doing less.
        files: files that make it up, relative to its folder; empty for a whole repository.
    """

    name: str
    purpose: str
    presets: tuple[str, ...]
    hub_id: str | None
    num_bytes: int | None
    size_note: str
    licence: str = APACHE
    is_optional: bool = False
    files: tuple[str, ...] = ()

    @property
    def looked_for(self) -> str:
        """The places that `find` tries, for people."""
        folder = _local_folder(self)
        return str(folder) if self.hub_id is None else f"{folder}, then the model hub's cache ({self.hub_id})"

    @property
    def remedy(self) -> str:
        """What to do where it is missing, for people."""
        if self.hub_id is None:
            return f"run `steadydancer weights fetch {self.name}`"
        command = " ".join(["hf download", self.hub_id, *self.files])
        return f"put it there, or run `{command}` where there is a network"


CATALOGUE: tuple[Weight, ...] = (
    Weight(
        "wan-480p",
        "base model, text and image encoders and autoencoder, trained at 480p",
        ("one_gpu", "paper"),
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        32_789_757_568,
        "the transformer alone in bfloat16",
    ),
    Weight(
        "wan-720p",
        "the same, trained at 720p",
        ("one_gpu", "paper"),
        "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
        32_789_757_568,
        "the transformer alone in bfloat16",
        is_optional=True,
    ),
    Weight(
        "steadydancer",
        "the released model, for rendering without training",
        ("one_gpu", "paper"),
        "MCG-NJU/SteadyDancer-14B",
        32_793_437_472,
        "the transformer alone in bfloat16",
        is_optional=True,
    ),
    Weight(
        "dwpose",
        "whole-body keypoints (DWPose-l 384x288, ONNX)",
        ("one_gpu", "paper"),
        "yzd-v/DWPose",
        134_399_116,
        "the file",
        files=("dw-ll_ucoco_384.onnx",),
    ),
    Weight(
        "yolox",
        "finds the persons for DWPose, and the animals (YOLOX-l, ONNX)",
        ("one_gpu", "paper"),
        "yzd-v/DWPose",
        216_746_733,
        "the file",
        files=("yolox_l.onnx",),
    ),
    Weight(
        "animal",
        "keypoints of animals (ViTPose-b trained on APT-36K, ONNX)",
        ("one_gpu", "paper"),
        "JunkyByte/easy_ViTPose",
        None,
        "not known",
        is_optional=True,
        files=("onnx/apt36k/vitpose-b-apt36k.onnx",),
    ),
    Weight(
        "blazepose",
        "body keypoints of one person on a CPU (pose detector and full landmark model)",
        ("tiny", "one_gpu", "paper"),
        None,
        9_399_558,
        "both files",
        files=tuple(BLAZEPOSE_FILES),
    ),
)


def weights_dir() -> Path:
    """Folder of weights kept on this machine: $STEADYDANCER_WEIGHTS, else inside the Python environment."""
    chosen = os.environ.get("STEADYDANCER_WEIGHTS")
    return Path(chosen) if chosen else Path(sys.prefix) / "share" / "steadydancer"


def weight(name: str) -> Weight:
    """The catalogue's row of that name; raises WeightsError naming the known ones."""
    for row in CATALOGUE:
        if row.name == name:
            return row
    raise WeightsError(f"No weights are called {name!r}; known: {', '.join(row.name for row in CATALOGUE)}.")


def find(row: Weight) -> Path | None:
    """The folder that holds `row` completely, or None. Looks on this machine only."""
    for folder in (_local_folder(row), *_cached_snapshots(row)):
        if _is_complete(folder, row):
            return folder
    return None


def check(preset_name: str) -> list[tuple[Weight, bool, str]]:
    """(weights, whether they are here, where they lie or were looked for) for all that a preset uses.

    Raises:
        WeightsError: no weights are listed for a preset of that name.
    """
    rows = [row for row in CATALOGUE if preset_name in row.presets]
    if not rows:
        known = sorted({preset for row in CATALOGUE for preset in row.presets})
        raise WeightsError(f"No weights are listed for the preset {preset_name!r}; known: {', '.join(known)}.")
    found = [(row, find(row)) for row in rows]
    return [(row, folder is not None, str(folder) if folder else row.looked_for) for row, folder in found]


def fetch(name: str) -> Path:
    """The folder of the weights of that name, downloaded first if they are not here.

    Only sets of single files: whole repositories of tens of gigabytes are left to the hub's own tools.

    Raises:
        WeightsError: no weights have that name, they are a whole repository, or they cannot be fetched.
    """
    row = weight(name)
    folder = find(row)
    if folder is not None:
        return folder
    if row.hub_id is None:
        return fetch_blazepose()
    if not row.files:
        raise WeightsError(f"{name} is a whole repository: {row.remedy}.")
    from huggingface_hub import hf_hub_download

    try:
        for file in row.files:
            path = hf_hub_download(row.hub_id, file)
    except Exception as error:  # offline, refused, moved, disk full: the remedy is the same
        raise WeightsError(f"{name} could not be downloaded ({error}): {row.remedy}.") from error
    return Path(path.removesuffix(row.files[-1]))


def fetch_blazepose() -> Path:
    """Put BlazePose's two files under `weights_dir()` and return their folder; does nothing if they are there.

    They are taken out of a Python package, so any package index that pip is set up for will do.

    Raises:
        WeightsError: the package cannot be fetched, or holds other files than expected.
    """
    folder = _local_folder(weight("blazepose"))
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
                    raise WeightsError(f"{member} in {archive.name} is not the expected file (its sha256 differs).")
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
            f"BlazePose could not be fetched: pip cannot download {_WHEEL} ({last_line}). Fetch it where there is a "
            f"package index, or put {' and '.join(BLAZEPOSE_FILES)} into {_local_folder(weight('blazepose'))}."
        )
    return archives[0]


def _local_folder(row: Weight) -> Path:
    return weights_dir() / (row.name if row.hub_id is None else row.hub_id.split("/")[-1])


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
    # A download that was broken off leaves an index without some of the files it lists.
    shards = [
        index.parent / shard
        for index in folder.rglob(_SAFETENSORS_INDEX)
        for shard in json.loads(index.read_text())["weight_map"].values()
    ]
    return bool(shards) and all(shard.is_file() for shard in shards)


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
