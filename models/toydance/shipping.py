"""Write a checkpoint of a training stage in the form in which the package ships it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...datasets.artifact import RECORD
from ...datasets.storage.atomic import atomic_folder, write_json
from ...datasets.storage.digests import content_digest
from ..components import load_components

KEPT = ("kind", "stage", "seed", "config", "steps", "loss_before", "loss_after", "validation_loss", "code_version")


def ship_checkpoint(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Write the transformer of a checkpoint in half precision, and its record without paths; return the record.

    Training and rendering read `out` like the checkpoint, if they are given the base and the components.

    Args:
        checkpoint: folder `checkpoint` of a training run.
        out: folder to write.
    """
    record = json.loads((checkpoint / RECORD).read_text())
    shipped = {name: record[name] for name in KEPT if name in record}
    for name in ("latents", "base", "parent", "components"):
        entry = record.get(name)
        shipped[name] = entry and {key: value for key, value in entry.items() if key not in ("path", "source")}
    for name in ("base", "components"):  # read by jobs that are given no other place
        shipped[name] = {"source": "toydance", "path": None, **(shipped[name] or {})}
    network = load_components(checkpoint, ("transformer",), kind="steadydancer")["transformer"]
    with atomic_folder(out) as aside:
        network.half().save_pretrained(aside / "transformer")
        shipped["digest"] = content_digest(aside / "transformer")
        write_json(aside / RECORD, shipped)
    return shipped
