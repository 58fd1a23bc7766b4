"""Frozen components of a pipeline (VAE, encoders, tokenizer): their place and digests, and copying them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...datasets.storage import is_address
from ...models.checkpoints import folders
from .config import TrainConfig
from .run_folder import TrainingRefused

FROZEN = ("vae", "text_encoder", "tokenizer", "image_encoder")


def frozen_parts(config: TrainConfig, base: str | None, cached: dict[str, Any], fetch: bool) -> dict[str, Any]:
    """Return `components` of a checkpoint's record: folder of the frozen components, and digests of those of the cache.

    The folder is the base's if it has all of them, else the one used to cache the clips. The parts of a base in a
    local folder were already compared with the cache's digests (`check_inputs`) and are not read again.

    Args:
        config: the stage.
        base: folder of the base, local or on a store; None if it is not on this machine.
        cached: `components` of the cache's record.
        fetch: whether components on a store may be downloaded to check them.

    Raises:
        TrainingRefused: `config.bundle` is set, and a component is missing or is not the one used for the cache.
    """
    named = [place for place in (base, cached.get("path")) if place]
    whole = [place for place in named if is_address(place) or not folders.missing_parts(place, FROZEN)]
    path = next(iter([*whole, *named]), None)
    digests = {name: digest for name, digest in cached.get("digests", {}).items() if name in FROZEN}
    if config.bundle and path is not None and (fetch or not is_address(path)):
        folder = folders.resolve_folder(path, FROZEN)
        if missing := folders.missing_parts(folder, FROZEN):
            raise TrainingRefused(f"bundle: {path} has no {' and no '.join(missing)} to copy into the checkpoint")
        for name, digest in digests.items() if path != base or is_address(path) else ():
            if folders.part_digest(folder, name) != digest:
                raise TrainingRefused(f"bundle: the {name} in {path} is not the one used to cache the clips")
    return {"path": path, "digests": digests}


def bundle(checkpoint: Path, components: str) -> None:
    """Copy the frozen components into a checkpoint, which becomes a complete pipeline in diffusers' layout.

    Only one component is in memory at a time. The scheduler is the default one.
    """
    from ...models.components import flow_scheduler, load_components, write_model_index
    from ...models.transformer import SteadyDancerTransformer3DModel

    classes: dict[str, type] = {"transformer": SteadyDancerTransformer3DModel}
    for name in (*FROZEN, "scheduler"):
        part = flow_scheduler() if name == "scheduler" else load_components(components, (name,))[name]
        part.save_pretrained(checkpoint / name)
        classes[name] = type(part)
    write_model_index(checkpoint, classes)


def bundle_bytes(config: TrainConfig, components: str | None) -> int:
    """Estimate the bytes of the copies on disk; 0 without `bundle`, or if the components are not on this machine."""
    if not config.bundle or components is None or is_address(components):
        return 0
    paths = [folders.part_path(components, name) for name in FROZEN]
    files = [file for path in paths if path for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())
