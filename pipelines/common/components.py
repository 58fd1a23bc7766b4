"""The networks of a job: their folders, digests and feature sizes, resolved before the job starts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...datasets.storage import Location, is_address, location

# The arguments of Wan 2.1's autoencoder that decide its operations; the defaults of diffusers' class.
_WAN_VAE: dict[str, Any] = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "is_residual": False,
    "in_channels": 3,
    "patch_size": None,
}


@dataclass(frozen=True)
class FeatureSizes:
    """Sizes of the encoders' features; the defaults are those of Wan 2.1 14B."""

    latent_channels: int = 16
    image_tokens: int = 257
    image_dim: int = 1280
    text_dim: int = 4096
    vae_config: dict[str, Any] = field(default_factory=dict, hash=False)
    """configuration of the autoencoder, whose operations are counted; empty for Wan 2.1's, whose count is known"""


def find_parts(source: str, names: Sequence[str]) -> Location:
    """Return the absolute folder with all components `names`; download a hub id if needed.

    An address on an object store is returned as it is: each machine that loads a component downloads it.

    Raises:
        ComponentsError: the folder does not exist or lacks a component; the message names it.
    """
    from ...models.checkpoints.folders import require_parts, resolve_folder

    folder = resolve_folder(source, names).resolve()
    require_parts(folder, names)
    return location(source) if is_address(source) else folder


def part_digests(folder: Location, names: Sequence[str]) -> dict[str, str]:
    """Compute the sha256 of each component that `find_parts` found; Wan's own layout has no scheduler."""
    from ...models.checkpoints.folders import part_digest, part_path, resolve_folder

    local = resolve_folder(str(folder), names)
    return {name: part_digest(local, name) for name in names if part_path(local, name)}


def parts_are_local(source: str) -> bool:
    """Check whether `find_parts` needs no download."""
    from ...models.weights import lookup

    return Path(source).is_dir() or lookup.find_source(source) is not None


def captioner_digests(source: str | None) -> dict[str, str]:
    """Return `{"captioner": sha256}`, or an empty dict if `source` is None.

    Raises:
        ComponentsError: `source` does not contain a captioner.
    """
    if source is None:
        return {}
    from ...models.curation.captioner import captioner_digest

    return {"captioner": captioner_digest(source)}


def read_feature_sizes(source: str) -> FeatureSizes:
    """Read the feature sizes of a folder's encoders from their configurations; Wan 2.1's sizes where they are missing.

    Wan's own layout has no such configurations. A hub id that is not on this machine is not downloaded for them.
    """
    from ...models.weights import lookup

    folder = lookup.find_source(source) or location(source)

    def read(name: str) -> dict[str, Any]:
        file = folder / name / "config.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    vae, text, image = (read(name) for name in ("vae", "text_encoder", "image_encoder"))
    wan = FeatureSizes()
    return FeatureSizes(
        latent_channels=vae.get("z_dim", wan.latent_channels),
        image_tokens=(image.get("image_size", 224) // image.get("patch_size", 14)) ** 2 + 1,
        image_dim=image.get("width") or image.get("hidden_size") or wan.image_dim,
        text_dim=text.get("d_model", wan.text_dim),
        vae_config={} if all(vae.get(name, value) == value for name, value in _WAN_VAE.items()) else vae,
    )
