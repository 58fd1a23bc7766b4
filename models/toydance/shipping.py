"""Write components, pose networks and checkpoints in the form in which the package ships them: in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.artifact import RECORD
from ...datasets.storage.atomic import atomic_folder, write_json
from ...datasets.storage.digests import content_digest
from ...datasets.storage.files import total_bytes
from ..components import flow_scheduler, load_components
from . import CHECKPOINTS
from .base import FLOW_SHIFT
from .fitting import CURVE

FITTED = ("vae", "text_encoder", "tokenizer", "image_encoder", "transformer")
MAX_BYTES = 40_000_000
CURVES, CURVE_STEPS = "curves", 50
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


def ship(fitted: Path, stages: Path, out: Path) -> int:
    """Write the whole folder that the package ships, and return its size in bytes.

    Args:
        fitted: the folder that the fits wrote, with `components` in half precision, `pose/onnx` and their curves.
        stages: the folder with the training runs of `CHECKPOINTS`.
        out: folder to write; replaced if it exists.

    Raises:
        ValueError: the folder would have more than 40 MB.
    """
    with atomic_folder(out) as aside:
        for name in FITTED:
            shutil.copytree(fitted / "components" / name, aside / name)
            _forget_place(aside / name / "config.json")
        flow_scheduler(FLOW_SHIFT).save_pretrained(aside / "scheduler")
        (aside / "pose").mkdir()
        for file in sorted((fitted / "pose" / "onnx").glob("*.onnx")):
            halve_weights(file, aside / "pose" / file.name)
        for name in CHECKPOINTS:
            ship_checkpoint(stages / name / "checkpoint", aside / name)
        ship_curves(fitted, stages, aside / CURVES)
        size = total_bytes(aside)
        if size > MAX_BYTES:
            raise ValueError(f"the folder has {size / 1e6:.1f} MB, but the package ships at most {MAX_BYTES / 1e6:.0f}")
    return size


def _forget_place(config: Path) -> None:
    """Remove the folder that diffusers writes into the configuration of a component that it loaded."""
    if config.is_file():
        fields = json.loads(config.read_text())
        if fields.pop("_name_or_path", None) is not None:
            write_json(config, fields)


def ship_curves(fitted: Path, stages: Path, out: Path) -> None:
    """Write the curve of each fit and of each stage as `out/NAME.jsonl`, stages as means over `CURVE_STEPS` steps."""
    out.mkdir()
    for file in sorted(fitted.glob(f"**/{CURVE}")):
        shutil.copyfile(file, out / f"{file.parent.name}.jsonl")
    for name in CHECKPOINTS:
        rows = [json.loads(line) for line in (stages / name / "metrics.jsonl").read_text().splitlines()]
        with (out / f"{name}.jsonl").open("w") as lines:
            for begin in range(0, len(rows), CURVE_STEPS):
                part = rows[begin : begin + CURVE_STEPS]
                measured = {key: value for row in part for key, value in row.items() if key.startswith("validation_")}
                loss = float(np.mean([row["loss"] for row in part]))
                lines.write(json.dumps({"step": part[-1]["step"] + 1, "loss": loss, **measured}) + "\n")


def halve_weights(file: Path, out: Path) -> None:
    """Write an ONNX file whose float32 weights are stored in half precision; it computes in float32. Needs `onnx`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(file)
    casts = []
    for weight in [one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT]:
        name = weight.name
        half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half")
        weight.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    for k, node in enumerate(casts):
        model.graph.node.insert(k, node)
    onnx.checker.check_model(model)
    onnx.save(model, out)
