"""The trained weights of some steps, kept so that a person can look at what they do and choose among them.

OUT/trained/step-NNNNNN/ holds `trained.safetensors`, what the stage trains and nothing else: with LoRA the adapters and
the new modules in float32, in stage 2 the whole network in the compute dtype. A checkpoint is made of just that, so the
checkpoint of any of these steps can be made later, to the bit as if the stage had ended there (`pick`).
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...datasets.artifact import RECORD
from ...datasets.digests import content_digest
from ...datasets.whole_files import write_json
from ...models.components import load_components
from ...models.diffusers_internals import kept_in_float32
from ...models.folders import resolve_folder
from ...models.lora import save_trained
from .checkpoint import TrainingRefused
from .config import TrainConfig
from .engine import Workers
from .frozen import bundle
from .gallery import checkpoint_folders, tell_failure, trained_folder, trained_steps
from .networks import load_student, torch_dtype
from .renders import offer

WEIGHTS = "trained.safetensors"


class TrainedWriter:
    """Keeps trained weights of some steps; they are gathered at once and written by a thread while training goes on.

    What goes wrong in writing is told where the gallery would be, and stops nothing.

    Args:
        out: folder of the run, shared by all ranks.
        team: the ranks.
        settings: those of `train_loop`; with them the weights can be understood later.
    """

    def __init__(self, out: Path, team: Workers, settings: dict[str, Any]) -> None:
        self._out, self._team, self._settings = out, team, settings
        self._config = TrainConfig.model_validate(settings["config"])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trained")
        self._writing: Future[None] | None = None

    def __enter__(self) -> TrainedWriter:
        """Nothing is under way yet; Ray Train is told of what an interrupted attempt left to be rendered."""
        offer(self._config, self._team, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is under way."""
        self._thread.shutdown(wait=True)

    def keep(self, engine: Any, steps: int) -> None:
        """If a gallery is due, gather the trained weights after `steps`, begin to write them and say so to Ray Train.

        All ranks call this. What is kept already stays: a run that was killed since comes to the same weights.
        """
        gallery, is_first = self._config.gallery, self._team.rank == 0
        if gallery.num_clips == 0 or steps == 0 or steps % gallery.every_steps or steps >= self._config.steps:
            return
        folder = trained_folder(self._out, steps)
        if not self._team.any(is_first and not (folder / RECORD).exists()):
            return
        if self._writing is not None:
            wait_for([self._writing])  # two of them need not fit into this machine; what went wrong was told
        weights = gather_trained(engine, kept_dtype(self._config), is_first)
        if is_first:
            self._writing = self._thread.submit(self._write, folder, weights, steps)
        offer(self._config, self._team, steps)

    def _write(self, folder: Path, weights: dict[str, torch.Tensor], steps: int) -> None:
        aside = folder.with_name(f".{folder.name}.tmp")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            self._refuse_without_room(weights)
            save_file(weights, aside / WEIGHTS)
            write_json(aside / RECORD, {"steps": steps, "settings": self._settings})
            aside.rename(folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            tell_failure(self._out, steps, f"its weights were not kept: {error}", self._settings["attempt"])

    def _refuse_without_room(self, weights: dict[str, torch.Tensor]) -> None:
        """The next engine state goes before: without it the training would stop."""
        newest = max((self._out / "state").glob("step-*"), default=None)
        reserved = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file()) if newest else 0
        needed, free = sum(weight.nbytes for weight in weights.values()), shutil.disk_usage(self._out).free
        if needed + reserved > free:
            raise OSError(
                f"{needed / 1e9:.2f} GB to write and {reserved / 1e9:.2f} GB for the next engine state, "
                f"{free / 1e9:.2f} GB free"
            )


def kept_dtype(config: TrainConfig) -> torch.dtype:
    """Adapters are merged in float32; all other weights go into the checkpoint in the compute dtype."""
    return torch.float32 if config.trains_lora else torch_dtype(config)


def gather_trained(engine: Any, dtype: torch.dtype, is_first: bool) -> dict[str, torch.Tensor]:
    """The trained weights, whole, in host memory, one after another; all ranks call this, the first one gets them."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, weight in engine.module.named_parameters():
        if weight.requires_grad:
            whole = safe_get_full_fp32_param(weight)
            if is_first:
                weights[name] = torch.empty(whole.shape, dtype=dtype).copy_(whole.detach())
    return weights


def network_at(out: Path, steps: int, device: torch.device) -> Any:
    """The transformer with the weights of the run in `out` after `steps`, as it is loaded for rendering.

    Raises:
        TrainingRefused: they are not kept.
    """
    checkpoint = checkpoint_folders(out).get(steps)
    if checkpoint is not None:
        config = TrainConfig.model_validate(json.loads((checkpoint / RECORD).read_text())["config"])
        loaded = load_components(checkpoint, ("transformer",), torch_dtype(config), device, kind="steadydancer")
        return loaded["transformer"]
    config, student, weights, _ = _read(out, steps)
    student.load_state_dict(weights, assign=True)
    if config.trains_lora:
        student.fuse_lora(safe_fusing=True)  # as a checkpoint is merged: the other way rounds otherwise
        student.unload_lora()
    kept = {*kept_in_float32(student)}
    for name, weight in student.named_parameters():  # rounded as a checkpoint is, and then as one is loaded
        weight.data = weight.data.to(torch_dtype(config))
        if kept & set(name.split(".")):
            weight.data = weight.data.float()
    student.disable_gradient_checkpointing()
    return student.to(device).eval()


def pick(out: Path, steps: int) -> Path:
    """Make the checkpoint of the run in `out` after `steps`, OUT/checkpoint-NNNNNN; the folder, also if it is there.

    The next stage, `render` and `SteadyDancerPipeline.from_pretrained` take it as they take OUT/checkpoint.

    Raises:
        TrainingRefused: the weights of that step are not kept; the message names those that are.
    """
    there = checkpoint_folders(out).get(steps)
    if there is not None:
        return there
    config, student, weights, record = _read(out, steps)
    place = out / f"checkpoint-{steps:06d}"
    aside = out / f".{place.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    write_parts(aside, config, student, weights, record)
    told = {"steps": steps, "loss_before": None, "loss_after": None, "picked": True}
    write_json(aside / RECORD, {**record, **told, "digest": content_digest(aside / "transformer")})
    aside.rename(place)
    return place


def write_parts(
    folder: Path, config: TrainConfig, network: Any, weights: dict[str, torch.Tensor], record: dict[str, Any]
) -> None:
    """What a checkpoint holds beside its record: transformer, the stage's adapter, and copies if they are asked for."""
    lora = folder / "lora" if config.trains_lora else None
    save_trained(network, weights, folder / "transformer", lora, torch_dtype(config))
    if config.bundle:
        bundle(folder, record["components"]["path"])


def _read(out: Path, steps: int) -> tuple[TrainConfig, Any, dict[str, torch.Tensor], dict[str, Any]]:
    """(configuration, network with its adapters, all its weights after `steps`, what a record says of the run)."""
    folder = trained_folder(out, steps)
    if not (folder / RECORD).exists():
        kept = ", ".join(map(str, sorted({*trained_steps(out), *checkpoint_folders(out)})))
        raise TrainingRefused(f"steps: {out} keeps no weights of {steps} steps, but of: {kept or 'none'}")
    settings = json.loads((folder / RECORD).read_text())["settings"]
    config = TrainConfig.model_validate(settings["config"])
    parent = settings["from_checkpoint"] and resolve_folder(settings["from_checkpoint"], ("transformer",))
    student = load_student(config, settings["base"], parent, torch.device("cpu"))
    trained = load_file(folder / WEIGHTS)
    if wrong := trained.keys() ^ {name for name, weight in student.named_parameters() if weight.requires_grad}:
        raise TrainingRefused(f"{folder} holds other trained weights than this version trains: {min(wrong)}")
    return config, student, {**student.state_dict(), **trained}, settings["record"]
