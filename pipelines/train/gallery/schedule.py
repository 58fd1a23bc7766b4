"""When and where galleries are made: on other resources while the stage trains, so that no step waits for one.

Ray Train starts `validate` for every report; that one is small, and waits for a worker of its own that loads the
networks. Whatever becomes of that worker, what is told of it is a line of the report. Without Ray (`num_workers=0`)
galleries are made in this process when the stage has been trained.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import TrainConfig
from ..metrics.report import write_run_report
from .folder import checkpoint_folders, gallery_failures, missing_galleries, record_failure, trained_steps

if TYPE_CHECKING:
    from ..engine import ProcessGroup

Render = Callable[[dict[str, Any], int], None]
_MOST_SECONDS_FOR_WEIGHTS = 1800.0  # being written: 33 GB on a slow file system


class RenderingStopped(Exception):
    """The run was asked to stop, so nobody waits for a gallery; the next attempt makes it."""


def report_weights(config: TrainConfig, group: ProcessGroup, steps: int) -> None:
    """Tell Ray Train that the weights after `steps` are there, or soon will be; all ranks call this together."""
    if config.gallery.num_clips == 0 or config.num_workers == 0:
        return
    import ray.train

    if group.rank != 0:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        # A pointer: Ray would copy the weights into a folder of its own.
        (Path(folder) / "pointer.json").write_text(json.dumps({"steps": steps}))
        task = ray.train.ValidationTaskConfig(fn_kwargs={"awaited": steps})
        ray.train.report({}, checkpoint=ray.train.Checkpoint(folder), validation=task)


def ray_validation(config: TrainConfig, settings: dict[str, Any]) -> Any:
    """What Ray Train does for a report; None if there are no galleries."""
    if config.gallery.num_clips == 0 or config.num_workers == 0:
        return None
    from ray.train import ValidationConfig, ValidationTaskConfig

    task = ValidationTaskConfig(fn_kwargs={"settings": settings, "awaited": 0})
    # It waits and does nothing else. A lost process would be the end of the training, so it is to be a small one.
    run: Any = validate  # its named arguments are those of the tasks
    return ValidationConfig(fn=run, task_config=task, ray_remote_kwargs={"num_cpus": 0, "max_retries": 0})


def validate(checkpoint: Any, settings: dict[str, Any], awaited: int) -> dict[str, Any]:
    """Make all galleries that are missing, once the weights after `awaited` steps are written; raises nothing."""
    out, config = Path(settings["out"]), TrainConfig.model_validate(settings["config"])
    deadline = time.monotonic() + _MOST_SECONDS_FOR_WEIGHTS

    def is_there() -> bool:
        return awaited == 0 or awaited in {*trained_steps(out), *checkpoint_folders(out), *gallery_failures(out)}

    while not is_there() and not _stop_requested(out) and time.monotonic() < deadline:
        time.sleep(1)
    made = render_missing(config, settings, render_in_worker)
    return {"galleries": len(made)}


def render_remaining(config: TrainConfig, settings: dict[str, Any], out: Path, address: str | None) -> None:
    """Make what is missing when nothing is trained any more: all of them without Ray, else what a kill left out."""
    if not missing_galleries(out, config, settings["attempt"]):
        return
    if config.num_workers == 0:
        render_missing(config, settings, render_in_process)
        return
    from ...runtime.local_ray import local_ray

    with local_ray(out / ".engine" / "ray", address):
        render_missing(config, settings, render_in_worker)
    shutil.rmtree(out / ".engine", ignore_errors=True)


def render_missing(config: TrainConfig, settings: dict[str, Any], render: Render) -> list[int]:
    """Make the missing galleries one after another, oldest first, and tell of them; the steps that were made."""
    out, made = Path(settings["out"]), []
    for steps in missing_galleries(out, config, settings["attempt"]):
        try:
            render(settings, steps)
            made.append(steps)
        except RenderingStopped:
            break
        except Exception as error:  # whatever it is, the training goes on
            reason = str(getattr(error, "cause", None) or error).strip() or type(error).__name__
            record_failure(out, steps, reason[-1000:], settings["attempt"])
        write_run_report(out)
    return made


def render_in_process(settings: dict[str, Any], steps: int) -> None:
    """Load the networks here, and make one gallery."""
    from .render import render_gallery

    render_gallery(settings, steps)


class Renderer:
    """Lives in a worker of its own, on resources that the training does not have."""

    def is_ready(self) -> bool:
        """Answers when the resources are there."""
        return True

    def render(self, settings: dict[str, Any], steps: int) -> None:
        """Make one gallery."""
        render_in_process(settings, steps)


def render_in_worker(settings: dict[str, Any], steps: int) -> None:
    """Make one gallery in a worker that Ray starts for it where there is room, and that is gone afterwards.

    Raises:
        RenderingStopped: the run was asked to stop.
        TimeoutError: it took longer than it may.
        ray.exceptions.RayError: it failed, or its process was lost.
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
