"""Schedule galleries on other resources while the stage trains, so that no training step waits for them.

Ray Train starts `validate` for every report of weights; it is a small task that waits for a separate worker, which
loads the networks. If that worker fails, the failure is recorded and training continues. Without Ray (`num_workers=0`)
galleries are rendered in this process after the stage is trained.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import TrainConfig
from .gallery.folder import checkpoint_folders, gallery_failures, missing_galleries, record_failure, trained_steps
from .metrics.report import write_run_report

if TYPE_CHECKING:
    from .engine import ProcessGroup

Render = Callable[[dict[str, Any], int], None]
_MAX_WRITE_S = 1800.0  # to write the weights: 33 GB on a slow file system


class RenderingStopped(Exception):
    """A stop of the run was requested while a gallery was rendered; the next start renders it."""


def report_weights(config: TrainConfig, group: ProcessGroup, steps: int) -> None:
    """Report to Ray Train that the weights after `steps` are written or being written; all ranks call this together."""
    if config.gallery.num_clips == 0 or config.num_workers == 0:
        return
    import ray.train

    if group.rank != 0:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        # Only a pointer: Ray would copy the weights to its own storage.
        (Path(folder) / "pointer.json").write_text(json.dumps({"steps": steps}))
        task = ray.train.ValidationTaskConfig(fn_kwargs={"awaited": steps})
        ray.train.report({}, checkpoint=ray.train.Checkpoint(folder), validation=task)


def ray_validation(config: TrainConfig, settings: dict[str, Any]) -> Any:
    """Build Ray Train's validation config, which renders galleries; None if there are none."""
    if config.gallery.num_clips == 0 or config.num_workers == 0:
        return None
    from ray.train import ValidationConfig, ValidationTaskConfig

    task = ValidationTaskConfig(fn_kwargs={"settings": settings, "awaited": 0})
    # The task only waits. If its process were lost, training would end, so it must be small.
    run: Any = validate  # its keyword arguments come from the tasks
    return ValidationConfig(fn=run, task_config=task, ray_remote_kwargs={"num_cpus": 0, "max_retries": 0})


def validate(checkpoint: Any, settings: dict[str, Any], awaited: int) -> dict[str, Any]:
    """Render all missing galleries once the weights after `awaited` steps are written; never raises."""
    out, config = Path(settings["out"]), TrainConfig.model_validate(settings["config"])
    deadline = time.monotonic() + _MAX_WRITE_S

    def are_written() -> bool:
        return awaited == 0 or awaited in {*trained_steps(out), *checkpoint_folders(out), *gallery_failures(out)}

    while not are_written() and not _stop_requested(out) and time.monotonic() < deadline:
        time.sleep(1)
    made = render_missing(config, settings, render_in_worker)
    return {"galleries": len(made)}


def render_remaining(config: TrainConfig, settings: dict[str, Any], out: Path, address: str | None) -> None:
    """Render the galleries that are still missing after training: all without Ray, else interrupted ones."""
    if not missing_galleries(out, config, settings["attempt"]):
        return
    if config.num_workers == 0:
        render_missing(config, settings, render_in_process)
        return
    from ..runtime.local_ray import local_ray

    with local_ray(out / ".engine" / "ray", address):
        render_missing(config, settings, render_in_worker)
    shutil.rmtree(out / ".engine", ignore_errors=True)


def render_missing(config: TrainConfig, settings: dict[str, Any], render: Render) -> list[int]:
    """Render the missing galleries, oldest first, and update the report; return the rendered steps."""
    out, made = Path(settings["out"]), []
    for steps in missing_galleries(out, config, settings["attempt"]):
        try:
            render(settings, steps)
            made.append(steps)
        except RenderingStopped:
            break
        except Exception as error:  # a failed gallery must not stop training
            reason = str(getattr(error, "cause", None) or error).strip() or type(error).__name__
            record_failure(out, steps, reason[-1000:], settings["attempt"])
        write_run_report(out)
    return made


def render_in_process(settings: dict[str, Any], steps: int) -> None:
    """Render one gallery in this process."""
    from .gallery.render import render_gallery

    render_gallery(settings, steps)


class Renderer:
    """Ray actor that renders galleries on resources that training does not use."""

    def is_ready(self) -> bool:
        """Return when the actor has its resources."""
        return True

    def render(self, settings: dict[str, Any], steps: int) -> None:
        """Render one gallery."""
        render_in_process(settings, steps)


def render_in_worker(settings: dict[str, Any], steps: int) -> None:
    """Render one gallery in a Ray worker that is started for it and stopped afterwards.

    Raises:
        RenderingStopped: a stop of the run was requested.
        TimeoutError: rendering took longer than `gallery.max_seconds`.
        ray.exceptions.RayError: rendering failed, or its process was lost.
    """
    import ray

    config, out = TrainConfig.model_validate(settings["config"]), Path(settings["out"])
    needs = {"num_gpus": config.gallery.num_gpus} if config.use_gpu else {"num_cpus": 1}
    renderer: Any = ray.remote(Renderer).options(**needs).remote()
    try:
        _result(renderer.is_ready.remote(), out, None)
        _result(renderer.render.remote(settings, steps), out, config.gallery.max_seconds)
    finally:
        ray.kill(renderer)


def _result(reference: Any, out: Path, max_seconds: float | None) -> Any:
    import ray

    began = time.monotonic()
    while not ray.wait([reference], timeout=1.0)[0]:
        if _stop_requested(out):
            raise RenderingStopped
        if max_seconds is not None and time.monotonic() - began > max_seconds:
            raise TimeoutError(f"not finished within max_seconds = {max_seconds:g}")
    return ray.get(reference)


def _stop_requested(out: Path) -> bool:
    return (out / "state" / "stop").exists()
