"""Where a pipeline's parts lie: a folder in diffusers' layout, or a repository of the model hub. No torch here."""

import re
from collections.abc import Iterable
from pathlib import Path

from .. import SteadyDancerError
from . import weights

NAMES = ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "scheduler")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class ComponentsError(SteadyDancerError):
    """A part of the pipeline is missing or unreadable; the message says which one and what to do."""


def resolve_folder(source: str | Path, names: Iterable[str] = NAMES) -> Path:
    """The local folder of a folder or hub id; fetches those parts (safetensors, never pickles) if it must.

    Raises:
        ComponentsError: there is no such folder, and no such repository within reach.
    """
    if Path(source).is_dir():
        return Path(source)
    for row in weights.CATALOGUE:
        if row.hub_id == str(source) and (found := weights.find(row)):
            return found
    remedy = "Give a folder, or see `steadydancer weights check` for what is missing and where it is looked for."
    if not _HUB_ID.fullmatch(str(source)):
        raise ComponentsError(f"There is no folder {source}. {remedy}")
    from huggingface_hub import snapshot_download

    wanted = [f"{name}/*.{kind}" for name in names for kind in ("safetensors", "json", "model", "txt")]
    try:
        return Path(snapshot_download(str(source), allow_patterns=["model_index.json", *wanted]))
    except Exception as error:  # the hub's client raises its own, requests', httpx's and the system's errors
        raise ComponentsError(
            f"{source} is no folder, and cannot be had from the model hub ({type(error).__name__}). {remedy}"
        ) from error
