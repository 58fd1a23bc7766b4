"""Named modes of rendering: what each changes, as data, and how it is applied to a loaded pipeline.

    exact                 nothing is approximated; the default
    fast, fast:THRESHOLD  blocks are skipped while the first one changes little (First Block Cache)
    fast:distilled        a few-step LoRA such as LightX2V's: 4 steps without guidance
    low_memory[:BLOCKS]   weights stored in float8 and, on a GPU, loaded block by block; BLOCKS of them stay there; one
                          guidance branch after another, and a tiled autoencoder

A mode changes only settings that are at their default: what a preset, a file or an option sets differently wins, and
the job reports it. This module imports torch only when a mode is applied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import SteadyDancerError

if TYPE_CHECKING:
    import torch

    from .pipeline import SteadyDancerPipeline

MODE_NAMES = ("exact", "fast", "low_memory")
DEFAULT_THRESHOLD = 0.1  # of First Block Cache, the relative change of the first block's residual; a choice
DISTILLED = "distilled"
_SPELLINGS = "exact, fast, fast:THRESHOLD (such as fast:0.2), fast:distilled, low_memory or low_memory:BLOCKS"


class ModeError(SteadyDancerError, ValueError):
    """A mode is unknown, or this checkpoint or machine cannot run it; one sentence states why and what to do."""


@dataclass(frozen=True)
class Mode:
    """What a mode changes. Everything off is `exact` without compilation.

    Attributes:
        name: as given, such as "fast:0.2".
        settings: fields of the rendering configuration and their values.
        cache_threshold: threshold of First Block Cache; None: no step cache.
        needs_distilled_lora: whether a few-step LoRA is added to the transformer.
        storage_dtype: dtype in which the linear layers of the blocks are stored between uses; None: that of computing.
        offloads: whether, on a GPU, weights stay in host memory and are loaded when they are used.
        num_resident_blocks: blocks that stay on the GPU when the others are offloaded.
        compiles_blocks: whether blocks are compiled, on a GPU.
        tiles_autoencoder: whether pictures above 256 pixels a side are encoded and decoded in overlapping tiles.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    cache_threshold: float | None = None
    needs_distilled_lora: bool = False
    storage_dtype: Literal["float8_e4m3fn"] | None = None
    offloads: bool = False
    num_resident_blocks: int = 0
    compiles_blocks: bool = False
    tiles_autoencoder: bool = False

    def to_record(self) -> dict[str, Any]:
        """Return all fields in JSON's types."""
        return asdict(self)


def get_mode(text: str) -> Mode:
    """Return the mode with a name and, after a colon, its strength.

    Raises:
        ModeError: the name is unknown, or the strength is not one of this mode.
    """
    name, _, strength = text.partition(":")
    if name == "exact" and text == name:
        # A compiled block computes the same operations; on a GPU their rounding differs from eager blocks'.
        return Mode(text, compiles_blocks=True)
    if name == "fast" and strength == DISTILLED:
        # The student was distilled from guided velocities; it is sampled without guidance of either kind.
        sampling = {"num_inference_steps": 4, "guidance_scale": 1.0, "pose_guidance_scale": 0.0}
        return Mode(text, sampling, needs_distilled_lora=True, compiles_blocks=True)
    if name == "fast" and (threshold := _number(strength or str(DEFAULT_THRESHOLD))) is not None and text != "fast:":
        # Not compiled: each step decides on the host whether the other blocks run.
        return Mode(text, cache_threshold=threshold)
    if name == "low_memory" and (text == name or strength.isdecimal()):
        # Branches together would keep two more clips of tokens; loading blocks for each is hidden behind computing.
        settings = {"branch_evaluation": "sequential"}
        return Mode(
            text,
            settings,
            storage_dtype="float8_e4m3fn",
            offloads=True,
            num_resident_blocks=int(strength or 0),
            tiles_autoencoder=True,
        )
    raise ModeError(f"unknown mode {text!r}: use {_SPELLINGS}")


def apply_mode(
    pipeline: SteadyDancerPipeline,
    mode: Mode,
    *,
    device: str | torch.device = "cpu",
    distilled_lora: str | Path | None = None,
) -> dict[str, Any]:
    """Apply a mode to a loaded pipeline, in place, and return what was applied: some parts depend on the machine.

    Args:
        pipeline: with its components on `device`, or on the CPU for a mode that offloads.
        mode: from `get_mode`; its `settings` are arguments of the call and not applied here.
        device: where the pipeline computes.
        distilled_lora: file of the few-step LoRA, for a mode that needs it.

    Raises:
        ModeError: the mode needs a LoRA and none is given, or the network has no blocks to cache.
        CheckpointError: the LoRA does not fit.
    """
    from . import mode_parts

    transformer: Any = pipeline.transformer
    applied: dict[str, Any] = {"mode": mode.name}
    if mode.needs_distilled_lora:
        if distilled_lora is None:
            raise ModeError(lora_needed(mode))
        applied["distilled_lora"] = mode_parts.add_distilled_lora(transformer, distilled_lora)
    if mode.storage_dtype is not None:
        applied["storage"] = mode_parts.store_in(transformer, mode.storage_dtype)
    if mode.cache_threshold is not None:
        mode_parts.cache_first_block(transformer, mode.cache_threshold)
        applied["first_block_cache"] = mode.cache_threshold
    if mode.offloads:
        applied["offload"] = mode_parts.offload(pipeline, device, mode.num_resident_blocks)
    if mode.tiles_autoencoder and pipeline.vae is not None:
        applied["tiled_autoencoder"] = mode_parts.tile(pipeline.vae)
    if mode.compiles_blocks:
        applied["compiled_blocks"] = mode_parts.compile_blocks(transformer, device)
    return applied


def lora_needed(mode: Mode) -> str:
    """Return the sentence that asks for the LoRA of a mode that needs one."""
    return (
        f"mode {mode.name} needs a few-step LoRA for this transformer, such as LightX2V's for Wan 2.1 I2V 14B: pass "
        "its file or OWNER/NAME/FILE on a hub with --distilled-lora (`distilled_lora`), or use fast, which needs none"
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
