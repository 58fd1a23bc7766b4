"""Find the components of a pipeline in a folder (diffusers' layout or Wan's own) or a hub repository, without torch.

diffusers' layout has one subfolder per component. Wan's own layout, which the release uses, has the transformer's
safetensors at the top, the three encoders as `.pth` files next to them, and the tokenizer in `google/umt5-xxl`. A
checkpoint of a training stage contains only the transformer; its `run.json` gives the folder and the digests of the
other components, which are not trained.
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
from ..weights.download import WeightsError
from ..weights.hub import hub_folder

NAMES = ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "scheduler")
_OFFICIAL_FILES = {"text_encoder": "models_t5*", "vae": "*VAE*", "image_encoder": "models_clip*"}
_OFFICIAL_TOKENIZER = "google/umt5-xxl"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class ComponentsError(SteadyDancerError):
    """A component of the pipeline is missing or unreadable; the message states which one and what to do."""


def is_hub_id(text: str) -> bool:
    """Check whether a text has the form `OWNER/NAME` of a hub id; a relative path of two parts also has it."""
    return _HUB_ID.fullmatch(text) is not None


def part_path(folder: str | Path, name: str) -> Path | None:
    """Find a component in a pipeline folder: its subfolder, or its file in Wan's own layout; None if it is missing.

    A transformer in Wan's own layout, or one given alone, is `folder` itself: a folder with safetensors files, or one
    such file.
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
    """List the components that a folder lacks. Wan's own layout has no scheduler, so it is not reported for it."""
    is_pipeline = (Path(folder) / "model_index.json").is_file()
    return [name for name in names if part_path(folder, name) is None and (name != "scheduler" or is_pipeline)]


def require_parts(folder: str | Path, names: Iterable[str] = NAMES) -> None:
    """Check that a folder has the components.

    Raises:
        ComponentsError: components are missing; the message names them.
    """
    missing = missing_parts(folder, names)
    if missing:
        raise ComponentsError(
            f"{folder} has no {'/, no '.join(missing)}/: it is not a pipeline folder in the layout of diffusers or of "
            "Wan. `steadydancer weights check` lists missing weights and where they are looked up."
        )


def part_folders(folder: str | Path, names: Iterable[str] = NAMES) -> dict[str, Path]:
    """Find the folder of each component: `folder`, or the one in a checkpoint's record for those that it lacks.

    Raises:
        ComponentsError: a component is in neither folder, or differs from the one used in training.
    """
    folder, names = Path(folder), tuple(names)
    missing = [name for name in missing_parts(folder, names) if name != "transformer"]
    record = json.loads((folder / RECORD).read_text()) if missing and (folder / RECORD).is_file() else {}
    named = record.get("components") or record.get("base") or {}
    place = named.get("path") or named.get("source")
    if not place:
        require_parts(folder, names)
        return dict.fromkeys(names, folder)
    require_parts(folder, [name for name in names if name not in missing])
    try:
        other = resolve_folder(place, missing)
        require_parts(other, missing)
    except ComponentsError as error:
        raise ComponentsError(
            f"{folder} uses the {', '.join(missing)} of {place}, according to its {RECORD}. {error}"
        ) from error
    for name in missing:
        wanted = named.get("digests", {}).get(name)
        if wanted and (digest := part_digest(other, name)) != wanted:
            raise ComponentsError(
                f"{part_path(other, name)} is not the {name} that {folder} was trained with (digest {digest[:12]}…, "
                f"expected {wanted[:12]}… from {RECORD})"
            )
    return {name: other if name in missing else folder for name in names}


def part_digest(folder: str | Path, name: str) -> str:
    """Compute the sha256 of a component from its subfolder, its file, or the files of a top-level transformer.

    Raises:
        ComponentsError: the component is missing.
    """
    path = part_path(folder, name)
    if path is None:
        raise ComponentsError(f"{folder} has no {name}")
    if path != Path(folder) or path.is_file():
        return content_digest(path)
    files = [file for pattern in ("*.safetensors", "config.json") for file in sorted(path.glob(pattern))]
    return json_digest([[file.name, content_digest(file)] for file in files])


def resolve_folder(source: str | Path, names: Iterable[str] = NAMES) -> Path:
    """Return the local folder (or file) of a path, store address or hub id, downloading the components if needed.

    `toydance` is the folder of the package's own components.

    The encoders of Wan's own layout are downloaded as published, in `.pth`, and read as tensors only.

    Raises:
        ComponentsError: there is no such folder, and no such repository can be reached.
    """
    names = tuple(names)
    local = local_folder(location(source), _hub_patterns(names))
    if local.exists():
        return local
    if (found := lookup.find_source(str(source))) and not missing_parts(found, names):
        return found
    remedy = "Pass a folder, or list missing weights and where they are looked up with `steadydancer weights check`."
    if not is_hub_id(str(source)):
        raise ComponentsError(f"The folder {source} does not exist. {remedy}")
    try:
        return hub_folder(str(source), _hub_patterns(names))
    except WeightsError as error:
        raise ComponentsError(str(error)) from error
    except Exception as error:  # the hub client raises its own errors and those of requests, httpx and the system
        raise ComponentsError(
            f"{source} is not a folder and cannot be downloaded from the model hub ({type(error).__name__}). {remedy}"
        ) from error


def _hub_patterns(names: Iterable[str]) -> list[str]:
    patterns = ["model_index.json", RECORD]
    for name in names:
        patterns += [f"{name}/*.{kind}" for kind in ("safetensors", "json", "model", "txt")]
        if name == "transformer":  # `*` also matches subfolders in these patterns, so list the names
            patterns += ["config.json", "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.json"]
        if name == "tokenizer":
            patterns += [f"{_OFFICIAL_TOKENIZER}/*"]
        if name in _OFFICIAL_FILES:
            patterns += [f"{_OFFICIAL_FILES[name]}.pth"]
    return patterns
