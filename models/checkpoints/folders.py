"""Where a pipeline's parts lie: a folder in diffusers' layout or in Wan's own, or a hub repository. No torch here.

diffusers' layout has a subfolder a part. Wan's own (the layout of the release) has the transformer's safetensors at the
top, the three encoders as `.pth` files beside them, and the tokenizer in `google/umt5-xxl`. A checkpoint of a training
stage has the transformer alone: its `run.json` names the folder of the other parts, which no stage trains, and their
digests.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ... import SteadyDancerError
from ...datasets.artifact import RECORD
from ...datasets.storage import local_folder, location
from ...datasets.storage.digests import content_digest, json_digest
from ..weights import lookup

NAMES = ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "scheduler")
_OFFICIAL_FILES = {"text_encoder": "models_t5*", "vae": "*VAE*", "image_encoder": "models_clip*"}
_OFFICIAL_TOKENIZER = "google/umt5-xxl"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class ComponentsError(SteadyDancerError):
    """A part of the pipeline is missing or unreadable; the message says which one and what to do."""


def is_hub_id(text: str) -> bool:
    """Whether a text is written like a hub's `OWNER/NAME`; a relative path of two parts is, too."""
    return _HUB_ID.fullmatch(text) is not None


def part_path(folder: str | Path, name: str) -> Path | None:
    """Where a part lies in a pipeline's folder: its subfolder, or in Wan's own layout its file; None: nowhere.

    The transformer of Wan's own layout, and one that is given alone, is `folder` itself: a folder with safetensors, or
    one such file.
    """
    folder = Path(folder)
    if (folder / name).is_dir():
        return folder / name
    if name == "transformer":
        return folder if folder.is_file() or any(folder.glob("*.safetensors")) else None
    if name == "tokenizer":
        return folder / _OFFICIAL_TOKENIZER if (folder / _OFFICIAL_TOKENIZER).is_dir() else None
    found = sorted(folder.glob(_OFFICIAL_FILES[name])) if name in _OFFICIAL_FILES else []
    return next((file for file in found if file.suffix in (".pth", ".safetensors")), None)


def missing_parts(folder: str | Path, names: Iterable[str] = NAMES) -> list[str]:
    """Those of the parts that are not there. Wan's own layout has no scheduler, and none is missed in it."""
    is_pipeline = (Path(folder) / "model_index.json").is_file()
    return [name for name in names if part_path(folder, name) is None and (name != "scheduler" or is_pipeline)]


def require_parts(folder: str | Path, names: Iterable[str] = NAMES) -> None:
    """Refuse a folder that lacks one of the parts.

    Raises:
        ComponentsError: it does; the message names what is missing.
    """
    missing = missing_parts(folder, names)
    if missing:
        raise ComponentsError(
            f"{folder} has no {'/, no '.join(missing)}/: it is no pipeline's folder, neither in diffusers' layout nor "
            "in Wan's own. `steadydancer weights check` says what is missing and where it is looked for."
        )


def part_folders(folder: str | Path, names: Iterable[str] = NAMES) -> dict[str, Path]:
    """The folder that each part is in: `folder`, or the one that a checkpoint's record names for parts it lacks.

    Raises:
        ComponentsError: a part is in neither, or is another than the checkpoint was trained with.
    """
    folder, names = Path(folder), tuple(names)
    missing = [name for name in missing_parts(folder, names) if name != "transformer"]
    record = json.loads((folder / RECORD).read_text()) if missing and (folder / RECORD).is_file() else {}
    named = record.get("components") or record.get("base") or {}
    if not named.get("path"):
        require_parts(folder, names)
        return dict.fromkeys(names, folder)
    require_parts(folder, [name for name in names if name not in missing])
    try:
        there = resolve_folder(named["path"], missing)
        require_parts(there, missing)
    except ComponentsError as error:
        raise ComponentsError(
            f"{folder} takes its {', '.join(missing)} from {named['path']}, as its {RECORD} says. {error}"
        ) from error
    for name in missing:
        wanted = named.get("digests", {}).get(name)
        if wanted and (digest := part_digest(there, name)) != wanted:
            raise ComponentsError(
                f"{part_path(there, name)} is another {name} than {folder} was trained with ({RECORD} says "
                f"{wanted[:12]}…, it is {digest[:12]}…)"
            )
    return {name: there if name in missing else folder for name in names}


def part_digest(folder: str | Path, name: str) -> str:
    """sha256 of a part: of its subfolder as `content_digest` takes it; in Wan's own layout, of the files it is made of.

    Raises:
        ComponentsError: the part is not there.
    """
    path = part_path(folder, name)
    if path is None:
        raise ComponentsError(f"{folder} has no {name}")
    if path != Path(folder) or path.is_file():
        return content_digest(path)
    files = [file for pattern in ("*.safetensors", "config.json") for file in sorted(path.glob(pattern))]
    return json_digest([[file.name, content_digest(file)] for file in files])


def resolve_folder(source: str | Path, names: Iterable[str] = NAMES) -> Path:
    """The local folder (or file) of a folder, file or hub id; fetches those parts from the hub or a store if it must.

    Of Wan's own layout the encoders are fetched as they are published, in `.pth`, and read as tensors only.

    Raises:
        ComponentsError: there is no such folder, and no such repository within reach.
    """
    names = tuple(names)
    here = local_folder(location(source), _hub_patterns(names))
    if here.exists():
        return here
    for row in lookup.CATALOGUE:
        if row.hub_id == str(source) and (found := lookup.find(row)) and not missing_parts(found, names):
            return found
    remedy = "Give a folder, or see `steadydancer weights check` for what is missing and where it is looked for."
    if not is_hub_id(str(source)):
        raise ComponentsError(f"There is no folder {source}. {remedy}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=_hub_patterns(names)))
    except Exception as error:  # the hub's client raises its own, requests', httpx's and the system's errors
        raise ComponentsError(
            f"{source} is no folder, and cannot be had from the model hub ({type(error).__name__}). {remedy}"
        ) from error


def _hub_patterns(names: Iterable[str]) -> list[str]:
    patterns = ["model_index.json", RECORD]
    for name in names:
        patterns += [f"{name}/*.{kind}" for kind in ("safetensors", "json", "model", "txt")]
        if name == "transformer":  # `*` also stands for folders there, so the names are spelled out
            patterns += ["config.json", "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.json"]
        if name == "tokenizer":
            patterns += [f"{_OFFICIAL_TOKENIZER}/*"]
        if name in _OFFICIAL_FILES:
            patterns += [f"{_OFFICIAL_FILES[name]}.pth"]
    return patterns
