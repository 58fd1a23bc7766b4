"""Check a pipeline's folder before anything is loaded from it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from .checkpoints.folders import ComponentsError, require_parts
from .components import check_vae_config


def check_folder(folder: Path, names: Collection[str]) -> None:
    """Check that a folder in diffusers' layout has the components `names` and a SteadyDancer; loads nothing.

    Raises:
        ComponentsError: a component is missing, or the transformer or the autoencoder is another model.
    """
    require_parts(folder, names)
    config = folder / "transformer" / "config.json"
    kind = json.loads(config.read_text()).get("_class_name") if config.is_file() else None
    if "transformer" in names and kind != "SteadyDancerTransformer3DModel":
        raise ComponentsError(
            f"{folder / 'transformer'} contains {f'a {kind}' if kind else 'no config.json'}, not a "
            "SteadyDancerTransformer3DModel: pass the folder of a trained or converted SteadyDancer model, or "
            "initialise one from Wan with `SteadyDancerTransformer3DModel.from_wan`."
        )
    if "vae" in names:
        check_vae_config(folder / "vae")
