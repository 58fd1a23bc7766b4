"""Base model of a run: find it, compute its digest and read its configuration, without loading weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....datasets.storage import Location, is_address, location
from ....datasets.storage.files import needs_download
from ....models.checkpoints import folders
from ....models.weights import lookup
from ....models.weights.hub import hub_file
from ..config import TrainConfig
from ..run_folder import TrainingRefused


def find_base(config: TrainConfig, base: str | None, parent: dict[str, Any] | None, fetch: bool) -> dict[str, Any]:
    """Find source, path and digest of the base; without `base`, the one that the parent's record names.

    Path and digest are None if it is not on this machine and `fetch` is off.

    Raises:
        TrainingRefused: no base is given, parts of it are missing, or it differs from the parent's.
        ComponentsError: it cannot be found.
    """
    if base is None and parent is not None:
        base = parent["base"]["path"] or parent["base"]["source"]
    if base is None:
        raise TrainingRefused("base: stage 1 requires --base, a Wan 2.1 I2V folder or hub id")
    names = ["transformer"] + ["vae"] * _encodes_poses(config)
    folder = _local_folder(base, names, fetch)
    if folder is None:
        return {"source": str(base), "path": None, "digest": None}
    missing = folders.missing_parts(folder, names)
    if missing:
        raise TrainingRefused(
            f"base: {folder} has no {' and no '.join(missing)}: expected a pipeline folder in diffusers' or Wan's "
            "layout"
        )
    digest = folders.part_digest(folder, "transformer")
    if parent is not None and parent["base"]["digest"] != digest:
        raise TrainingRefused(
            f"base: {base} has a different transformer (digest {digest[:12]}…) from the base that the checkpoint "
            f"was trained from ({parent['base']['digest'][:12]}…, {parent['base']['path']})"
        )
    # A base on a store keeps its address: each machine downloads it.
    return {"source": str(base), "path": str(base) if is_address(base) else str(folder), "digest": digest}


def constructor_arguments(source: Location | str, fetch: bool) -> dict[str, Any]:
    """Read the transformer's constructor arguments from the headers in a pipeline's folder.

    With `fetch` off, only `config.json` of a remote base is read. Without one in diffusers' format the result is empty,
    which means Wan 14B, the size of all bases in the catalogue.

    Raises:
        CheckpointError: the weights are quantised, or unreadable.
    """
    from ....models.checkpoints.quantisation import require_unquantised
    from ....models.checkpoints.transformer_files import transformer_config

    if not fetch and _is_remote(str(source)):
        return _remote_arguments(str(source))
    folder = folders.resolve_folder(str(source), ("transformer",))
    path = folders.part_path(folder, "transformer") or folder
    require_unquantised(path, "trained")
    return transformer_config(path)


def vae_config(config: TrainConfig, source: Location | str, fetch: bool) -> dict[str, Any]:
    """Read the configuration of the base's VAE if the stage encodes simulated poses with it.

    The result is empty, which means Wan 2.1's, in Wan's own layout, and if the stage does not use the VAE.
    """
    if not _encodes_poses(config):
        return {}
    if not fetch and _is_remote(str(source)):
        from_catalogue = any(row.hub_id == str(source) for row in lookup.CATALOGUE)
        text = None if from_catalogue else _read_remote(str(source), "vae/config.json")
    else:
        file = folders.resolve_folder(str(source), ("vae",)) / "vae" / "config.json"
        text = file.read_bytes() if file.is_file() else None
    return dict(json.loads(text)) if text is not None else {}


def _encodes_poses(config: TrainConfig) -> bool:
    return config.stage == 3 and config.pose_simulation_unit == "frame"


def _local_folder(base: str, names: list[str], fetch: bool) -> Path | None:
    """Return the local folder of a base; None if it is remote and `fetch` is off."""
    if not fetch and _is_remote(base):
        return None
    return folders.resolve_folder(base, names).resolve()


def _is_remote(place: str) -> bool:
    """Return whether a base is on a store or the hub and not on this machine."""
    if is_address(place):
        return needs_download(location(place))
    return folders.is_hub_id(place) and not Path(place).exists() and lookup.find_source(place) is None


def _remote_arguments(place: str) -> dict[str, Any]:
    """Read `config.json` in diffusers' format from a store or the hub; empty for bases in the catalogue."""
    if any(row.hub_id == place for row in lookup.CATALOGUE):
        return {}
    for name in ("transformer/config.json", "config.json"):
        text = _read_remote(place, name)
        config = json.loads(text) if text is not None else {}
        if "num_attention_heads" in config:
            return {name: value for name, value in config.items() if not name.startswith("_")}
    return {}


def _read_remote(place: str, name: str) -> bytes | None:
    if is_address(place):
        try:
            return (location(place) / name).read_bytes()
        except FileNotFoundError:
            return None
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return hub_file(place, name).read_bytes()
    except LocalEntryNotFoundError as error:  # not cached, and no network
        raise TrainingRefused(f"base: {place} is not a folder, and the model hub cannot be reached: {error}") from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # the hub client raises its own, requests', httpx's and OS errors
        raise TrainingRefused(
            f"base: {place} is not a folder, and cannot be read from the model hub ({type(error).__name__})"
        ) from error
