"""Whole configurations, as functions. Importing this module loads pydantic and nothing heavier.

A preset is also any `module:function` that returns a `Run`, a JSON file that `--print-config` wrote, or that JSON.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import SteadyDancerError
from ..datasets.storage import is_address
from ..datasets.text import read_text
from ..pipelines.cache.config import CacheConfig
from ..pipelines.curate.config import CurateConfig
from ..pipelines.evaluate.config import EvaluateConfig
from ..pipelines.render.config import RenderConfig
from ..pipelines.train.config import GalleryConfig, TrainConfig

WAN_480P = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"


class Run(BaseModel):
    """The configuration of the whole road, one model a job."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    curate: CurateConfig
    cache: CacheConfig
    stage1: TrainConfig
    stage2: TrainConfig
    stage3: TrainConfig
    render: RenderConfig
    evaluate: EvaluateConfig

    def stage(self, number: int) -> TrainConfig:
        """The configuration of training stage 1, 2 or 3."""
        return {1: self.stage1, 2: self.stage2, 3: self.stage3}[number]

    @property
    def samples_drawn(self) -> int:
        """How many cached samples the three stages read: what a cache's price is weighed against."""
        return sum(stage.steps * stage.global_batch_size for stage in (self.stage1, self.stage2, self.stage3))


def paper() -> Run:
    """The paper's numbers: 81 frames, 640² to train and 768² to render, 12,000 / 2,000 / 500 steps, 8 GPUs.

    What the paper leaves open has the defaults of the configurations, each with its source.
    """
    return Run(
        curate=CurateConfig(num_frames=81),
        cache=CacheConfig(components=WAN_480P, max_area_px=640 * 640, num_gpus=1),
        stage1=TrainConfig(stage=1, steps=12_000, learning_rate=1e-4, zero_stage=2, num_workers=8, global_batch_size=8),
        stage2=TrainConfig(
            stage=2,
            steps=2_000,
            learning_rate=1e-6,
            zero_stage=3,
            num_workers=8,
            global_batch_size=8,
            offload_optimizer=True,
            gallery=GalleryConfig(num_clips=4),  # this stage's checkpoint is chosen by eye (paper)
        ),
        stage3=TrainConfig(stage=3, steps=500, learning_rate=1e-4, zero_stage=2, num_workers=8, global_batch_size=8),
        render=RenderConfig(max_area_px=1024 * 576, num_gpus=1),
        evaluate=EvaluateConfig(),
    )


def one_gpu() -> Run:
    """The paper's recipe on one GPU of 80 GB or more: the same global batch, gathered in eight micro-batches.

    Stage 2 trains all 16 B parameters and needs about 262 GB for weights, gradients and optimizer state, with
    `offload_optimizer` mostly in host memory; `train --dry-run` says whether this machine has it.
    """
    run = paper()
    alone = {"num_workers": 1, "gradient_accumulation": 8}
    return run.model_copy(
        update={f"stage{n}": TrainConfig(**{**run.stage(n).model_dump(), **alone}) for n in (1, 2, 3)}
    )


def tiny() -> Run:
    """Minutes on two CPU cores: 33 frames at 64², tiny components, training in this process. What `demo` runs."""
    components = "runs/demo/components"
    small: dict[str, Any] = {
        "num_frames": 33, "num_workers": 0, "use_gpu": False, "zero_stage": 2, "dtype": "float32",
        "gradient_checkpointing": False, "global_batch_size": 4, "warmup_steps": 5, "lora_rank": 16, "lora_alpha": 16,
        "checkpoint_every_steps": 25, "evaluation_samples": 8,
    }  # fmt: skip
    return Run(
        curate=CurateConfig(
            num_frames=33,
            packet_size=4,
            num_score_frames=4,
            max_clips_per_source=4,
            shot_detector="threshold",
            text_detector="off",
        ),
        cache=CacheConfig(
            components=components,
            max_area_px=64 * 64,
            drawing_area_px=64 * 64,
            dtype="float32",
            encoder_dtype="float32",
            packet_size=8,
        ),
        stage1=TrainConfig(stage=1, steps=40, learning_rate=2e-3, **small),
        stage2=TrainConfig(stage=2, steps=20, learning_rate=1e-4, **small),
        stage3=TrainConfig(stage=3, steps=20, learning_rate=5e-4, **small),
        render=RenderConfig(
            num_frames=33,
            max_area_px=64 * 64,
            drawing_area_px=64 * 64,
            num_inference_steps=10,
            dtype="float32",
        ),
        evaluate=EvaluateConfig(),
    )


PRESETS: dict[str, Callable[[], Run]] = {"tiny": tiny, "one_gpu": one_gpu, "paper": paper}


def load(preset: str) -> Run:
    """The configuration that `preset` names.

    Args:
        preset: a name in `PRESETS`, `module:function`, the path of a JSON file, or JSON itself.

    Raises:
        SteadyDancerError: there is no such preset, or a field is wrong; the message names the field.
    """
    try:
        if preset in PRESETS:
            return PRESETS[preset]()
        if preset.lstrip().startswith("{"):
            return Run.model_validate_json(preset)
        if preset.lower().endswith(".json") or is_address(preset):
            return Run.model_validate_json(read_text(preset))
        if ":" in preset:
            run = _call(*preset.split(":", 1))
            # Anew: `model_copy` checks nothing.
            return Run.model_validate(run.model_dump() if isinstance(run, Run) else run)
    except ValidationError as error:
        raise SteadyDancerError(explain(error, preset if len(preset) < 80 else "the preset")) from error
    except SteadyDancerError:
        raise
    except (OSError, ImportError, AttributeError, ValueError) as error:
        raise SteadyDancerError(f"preset {preset} cannot be read: {error}") from error
    raise SteadyDancerError(
        f"no preset is called {preset}; there are {', '.join(PRESETS)}, module:function, or FILE.json"
    )


def _call(module: str, function: str) -> Any:
    # A module in the current folder may be meant; last in line, it hides no library.
    sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)()
    finally:
        sys.path.pop()


def explain(error: ValidationError, source: str) -> str:
    """A validation error as lines of `field: what is wrong (what came)`."""
    lines = []
    for e in error.errors():
        given = "" if isinstance(e["input"], dict) else f" (got {str(e['input'])[:60]})"
        lines.append(f"  {'.'.join(map(str, e['loc'])) or e['type']}: {e['msg'].removeprefix('Value error, ')}{given}")
    return f"{source} is not a valid configuration:\n" + "\n".join(lines[:8])


def change(run: Run, job: str, **fields: Any) -> Run:
    """A run with some fields of one job set; fields that are None are left as they are. Validated anew."""
    given = {name: value for name, value in fields.items() if value is not None}
    data = run.model_dump()
    data[job].update(given)
    try:
        return Run.model_validate(data)
    except ValidationError as error:
        raise SteadyDancerError(explain(error, "this command")) from error
