"""Where the networks of a job lie, found before anything starts or is made."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.storage import Location, is_address, location


@dataclass(frozen=True)
class Widths:
    """Sizes that the encoders give their features; those of Wan 2.1 14B unless they were read."""

    latent_channels: int = 16
    image_tokens: int = 257
    image_dim: int = 1280
    text_dim: int = 4096
    is_wan: bool = True
    """whether the autoencoder is of Wan's size, whose operations are known"""


def find_parts(source: str, names: Sequence[str]) -> Location:
    """The absolute folder of a folder or hub id that holds all parts `names`; fetches them from the hub if it must.

    One on a store stays where it is: each machine that loads a part fetches it.

    Raises:
        ComponentsError: there is no such folder, or a part is not in it; the message names it.
    """
    from ...models.checkpoints.folders import require_parts, resolve_folder

    folder = resolve_folder(source, names).resolve()
    require_parts(folder, names)
    return location(source) if is_address(source) else folder


def part_digests(folder: Location, names: Sequence[str]) -> dict[str, str]:
    """sha256 of each of the parts that `find_parts` has found; Wan's own layout has no scheduler to digest."""
    from ...models.checkpoints.folders import part_digest, part_path, resolve_folder

    here = resolve_folder(str(folder), names)
    return {name: part_digest(here, name) for name in names if part_path(here, name)}


def parts_are_local(source: str) -> bool:
    """Whether `find_parts` would look no further than this machine."""
    from ...models.weights import lookup

    return Path(source).is_dir() or lookup.find_hub_id(source) is not None


def captioner_digests(source: str | None) -> dict[str, str]:
    """sha256 of a captioner by its name among a cache's networks; none without one.

    Raises:
        ComponentsError: there is no captioner.
    """
    if source is None:
        return {}
    from ...models.curation.captioner import captioner_digest

    return {"captioner": captioner_digest(source)}


def read_widths(source: str) -> Widths:
    """Sizes of the features that a folder's encoders give, from their configurations; Wan 2.1's where none can be read.

    Wan's own layout has no such configurations, and a hub id that is not on this machine is not asked for them.
    """
    from ...models.weights import lookup

    folder = lookup.find_hub_id(source) or location(source)

    def read(name: str) -> dict[str, Any]:
        file = folder / name / "config.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    vae, text, image = (read(name) for name in ("vae", "text_encoder", "image_encoder"))
    wan = Widths()
    return Widths(
        latent_channels=vae.get("z_dim", wan.latent_channels),
        image_tokens=(image.get("image_size", 224) // image.get("patch_size", 14)) ** 2 + 1,
        image_dim=image.get("width") or image.get("hidden_size") or wan.image_dim,
        text_dim=text.get("d_model", wan.text_dim),
        is_wan=vae.get("base_dim", 96) == 96 and vae.get("z_dim", 16) == 16,
    )
