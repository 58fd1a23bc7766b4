"""The mode of a rendering job: checked before packets start, applied to the pipeline of each worker."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ...datasets.storage import Location, is_address
from ...datasets.storage.digests import content_digest
from ...models.checkpoints.transformer_files import TransformerFile
from ...models.mode_requirements import Machine, check_checkpoint, check_lora, check_machine, this_machine
from ...models.modes import apply_mode
from .config import RenderConfig

if TYPE_CHECKING:
    import torch

    from ...models.pipeline import SteadyDancerPipeline

_log = logging.getLogger(__name__)

Device: TypeAlias = "str | torch.device"


def report_kept(config: RenderConfig) -> None:
    """Log the settings that the mode would change, but which were set to something else."""
    mode = config.rendering_mode
    for name, value in config.kept_settings.items():
        its_own = mode.settings[name]
        _log.warning("mode %s: %s stays %s, as configured (the mode's: %s)", mode.name, name, value, its_own)


def check(
    config: RenderConfig, checkpoint: Location | str, machine: Machine | None = None, fetch: bool = False
) -> None:
    """Check that the mode can run with a checkpoint on a machine, from headers.

    Args:
        config: settings.
        checkpoint: the checkpoint's folder.
        machine: where workers run; None: not known, such as the machines of a cluster.
        fetch: also read a checkpoint on a store, as workers do, which load it.

    Raises:
        ModeError: the mode cannot be used; one sentence.
        CheckpointError: the checkpoint or the few-step LoRA is unreadable, or does not fit.
    """
    mode = config.rendering_mode
    check_lora(mode, config.distilled_lora)
    if machine is not None:
        check_machine(mode, machine)
    opened = _open(str(checkpoint), fetch)
    if opened is not None:
        check_checkpoint(mode, opened, machine or Machine("cpu"), config.dtype, _lora(config))


def _open(checkpoint: str, fetch: bool) -> TransformerFile | None:
    """Open the transformer of a checkpoint; None if it has no weights here, which loading reports."""
    if is_address(checkpoint) and not fetch:
        return None
    from ...models.checkpoints.folders import part_path, resolve_folder
    from ...models.transformer_loading import open_transformer

    folder = resolve_folder(checkpoint, ("transformer",)) if is_address(checkpoint) else Path(checkpoint)
    path = part_path(folder, "transformer")
    has_weights = path is not None and (path.is_file() or any(path.glob("*.safetensors")))
    return open_transformer(path) if path is not None and has_weights else None


def describe(config: RenderConfig) -> dict[str, Any]:
    """Describe the mode for `--dry-run`: what it changes, and what it would change but was set otherwise."""
    return {**config.rendering_mode.to_record(), "kept": config.kept_settings}


def lora_digests(config: RenderConfig) -> dict[str, str]:
    """Return `{"distilled_lora": sha256}`; empty without a few-step LoRA."""
    lora = _lora(config)
    return {} if lora is None else {"distilled_lora": content_digest(lora)}


def device_to_load_on(config: RenderConfig, device: Device, name: str = "transformer") -> Device:
    """Return where a worker that computes on `device` loads a component; the autoencoder is never offloaded."""
    return "cpu" if config.rendering_mode.offloads and name != "vae" else device


def place(config: RenderConfig, device: Device, name: str, part: Any) -> Any:
    """Return a component loaded on `device_to_load_on`, as the mode uses it: encoders offloaded, autoencoder tiled."""
    from ...models import mode_parts

    mode = config.rendering_mode
    if mode.offloads and name in mode_parts.ENCODERS:
        mode_parts.offload_layers(part, device)
    if mode.tiles_autoencoder and name == "vae":
        mode_parts.tile(part)
    return part


def apply(config: RenderConfig, pipeline: SteadyDancerPipeline, checkpoint: str, device: Device) -> None:
    """Check the mode on a worker's own machine, apply it to the pipeline, and log what was applied.

    Raises:
        ModeError: as for `check`.
        CheckpointError: as for `check`.
    """
    check(config, checkpoint, this_machine(config.num_gpus), fetch=True)
    applied = apply_mode(pipeline, config.rendering_mode, device=device, distilled_lora=_lora(config))
    _log.info("applied: %s", applied)


def _lora(config: RenderConfig) -> Path | None:
    if config.distilled_lora is None:
        return None
    from ...models.lora.loading import resolve_adapter

    return resolve_adapter(config.distilled_lora)
