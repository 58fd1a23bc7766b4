"""Plan a conversion from the headers of weight files."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.conversion_output import DTYPES, Conversion, LoraLayout, Target, output_tensor
from ..checkpoints.files import CheckpointError, StoredTensor
from ..checkpoints.folders import part_path
from ..checkpoints.key_maps import config_from_official, official_shape, renamed_to_official
from ..checkpoints.quantisation import Quantisation, require_unquantised
from ..checkpoints.streaming import OutputTensor, unchanged
from ..checkpoints.transformer_files import TransformerFile
from ..lora.export import plan_lora
from ..transformer_loading import empty_transformer, open_transformer
from .quantise import REPORT, ErrorReport, quantised_outputs

WEIGHTS = "diffusion_pytorch_model"


def plan_conversion(
    source: Path,
    target: Target,
    dtype: str | None,
    shard_bytes: int,
    lora_layout: LoraLayout = "diffusers",
    kind: Quantisation | None = None,
) -> Conversion:
    """Plan the conversion of a checkpoint.

    Args:
        source: a transformer in any layout, a pipeline folder, or a training checkpoint.
        target: "diffusers" for a pipeline folder (with encoders if `source` is a released folder), "official" for the
            released names and shapes, "lora" for the adapter of a training checkpoint.
        dtype: dtype of the transformer's or adapter's weights, such as "bfloat16"; None keeps the stored dtype.
        shard_bytes: maximum size of a file.
        lora_layout: names of the adapter's tensors, for "lora".
        kind: quantise the linear layers of the blocks, "int8" or "fp8"; for "diffusers" only.

    Raises:
        CheckpointError: the source is unreadable or incomplete, or cannot be converted to `target`.
    """
    if kind is not None and target != "diffusers":
        raise CheckpointError(
            f"Quantised weights are written in diffusers' layout only: use --as diffusers, not {target}"
        )
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"Unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    if not source.exists():
        raise CheckpointError(f"{source} does not exist; pass a file or folder")
    if source.is_dir() and not part_path(source, "transformer") and (source / "checkpoint").is_dir():
        source = source / "checkpoint"  # folder of a training run
    if target == "lora":
        return plan_lora(source, dtype, lora_layout)
    path = part_path(source, "transformer")
    if path is None:
        raise CheckpointError(f"{source} contains no transformer: expected a folder transformer/ or safetensors files")
    plan = Conversion()
    require_unquantised(path, "converted")
    opened = open_transformer(path)
    plan.sources += opened.checkpoint.files
    tensors = {name: output_tensor(place, shape, dtype) for name, (place, shape) in opened.stored().items()}
    config = json.loads(empty_transformer(opened.kind, opened.config).to_json_string())
    if target == "official":
        if config.get("pose_fusion") == "latent_addition":
            raise CheckpointError(
                f"{source} cannot be written in the official layout: it adds pose latents to image latents, and its "
                "weights would be read as plain Wan; use --as diffusers"
            )
        plan.add_weights(WEIGHTS, _official(tensors, source), shard_bytes, has_index=True)
        plan.texts["config.json"] = official_config(opened, config)
        return plan
    if kind is not None:
        report = ErrorReport(kind)
        tensors = quantised_outputs(tensors, kind, report)
        plan.reports[REPORT] = report.to_json
    plan.add_weights(f"transformer/{WEIGHTS}", tensors, shard_bytes, has_index=False)
    plan.texts["transformer/config.json"] = config
    is_dancer = opened.kind == "steadydancer"
    index: dict[str, Any] = {
        "_class_name": "SteadyDancerPipeline" if is_dancer else "WanImageToVideoPipeline",
        "_diffusers_version": config["_diffusers_version"],
        "transformer": [
            "steadydancer.models.transformer" if is_dancer else "diffusers",
            config["_class_name"],
        ],
    }
    index |= _plan_encoders(plan, source, shard_bytes)
    plan.texts["model_index.json"] = index
    return plan


def official_config(opened: TransformerFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config.json` in Wan's format; arguments missing from it and from the shapes go under "steadydancer"."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    official = {
        "_class_name": "WanModel",
        "_diffusers_version": config["_diffusers_version"],
        "model_type": "i2v",
        "text_len": 512,
        "dim": width,
        "num_heads": config["num_attention_heads"],
        "in_dim": config["in_channels"],
        "out_dim": config["out_channels"],
        **{name: config[name] for name in ("ffn_dim", "freq_dim", "text_dim", "num_layers", "eps")},
    }
    ours = {name: (place, shape) for name, (place, shape) in opened.stored().items()}
    names = renamed_to_official(ours)
    shapes = {names[name]: StoredTensor(Path(), "F32", official_shape(names[name], ours[name][1]), 0) for name in ours}
    read = config_from_official(shapes, config["num_attention_heads"]) | {"eps": config["eps"]}
    defaults = inspect.signature(type(empty_transformer(opened.kind, opened.config)).__init__).parameters
    rest = {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and _plain(read.get(name, defaults[name].default)) != value
    }
    return official | ({"steadydancer": rest} if rest else {})


def _official(tensors: Mapping[str, OutputTensor], source: Path) -> dict[str, OutputTensor]:
    try:
        names = renamed_to_official(tensors)
    except ValueError as error:
        raise CheckpointError(
            f"{source} cannot be written in the official layout: {error}; use --as diffusers"
        ) from error
    return {
        names[name]: OutputTensor(tensor.source, official_shape(names[name], tensor.shape), tensor.dtype)
        for name, tensor in tensors.items()
    }


def _plan_encoders(plan: Conversion, source: Path, shard_bytes: int) -> dict[str, list[str]]:
    """Plan the encoders of a released folder and return their rows of the index; skip those in diffusers' layout."""
    index = {}
    files = {name: part_path(source, name) for name in ("text_encoder", "vae", "image_encoder", "tokenizer")}
    for name, path in files.items():
        if path is None or (path.is_dir() and name != "tokenizer") or path == source / name:
            continue
        if name == "tokenizer":
            plan.copies |= {f"tokenizer/{file.name}": file for file in sorted(path.iterdir()) if file.is_file()}
            index[name] = ["transformers", "AutoTokenizer"]
            continue
        from ..checkpoints.official_encoders import describe

        tensors, config, library = describe(name, path)
        prefix = "model" if library == "transformers" else WEIGHTS
        plan.sources.append(path)
        plan.add_weights(f"{name}/{prefix}", unchanged(tensors), shard_bytes, has_index=False)
        plan.texts[f"{name}/config.json"] = config
        index[name] = [library, config.get("_class_name") or config["architectures"][0]]
    if index:
        from ..components import flow_scheduler

        scheduler = flow_scheduler()
        plan.texts["scheduler/scheduler_config.json"] = json.loads(scheduler.to_json_string())
        index["scheduler"] = ["diffusers", type(scheduler).__name__]
    return index


def _plain(value: Any) -> Any:
    """Convert a tuple to a list, as JSON does."""
    return list(value) if isinstance(value, tuple) else value
