"""The flow `train-steadydancer`: the three stages in order, each starting from the previous one."""

from typing import Any

from prefect import flow

from .. import SteadyDancerError
from ..datasets.storage import Location, format_location, location
from ..pipelines.runtime.after_commit import after_commit
from ..pipelines.train.metrics.report import STAGES, STAGES_PAGE, stages_markdown, write_stages_report
from . import presets, tasks
from .prefect_ui import (
    absolute,
    absolute_if_exists,
    absolute_preset,
    emit_artifact_event,
    publish,
    publish_page,
    publish_text,
)
from .run_state import ends_cancelled


@flow(name="train-steadydancer")
@ends_cancelled
def train_steadydancer(
    latents: str,
    out: str,
    preset: str = "paper",
    base: str | None = None,
    cluster: str | None = None,
    trigger_next: bool = False,
    pairs: str | None = None,
    truth: str | None = None,
    pick: int | None = None,
) -> dict[str, Any]:
    """Train stages 1, 2 and 3 into `out/stage1`, `out/stage2` and `out/stage3`; finished stages are not run again.

    `out/training.html` is written after each stage, with losses, times and the galleries of all checkpoints.

    Args:
        latents: the artifact `latents` of `curate-dataset`.
        out: folder of the run.
        preset: tiny, one_gpu, paper, `module:function`, a JSON file or JSON.
        base: Wan 2.1 I2V folder or hub id; None: the preset's.
        cluster: job server of a Ray cluster, `http://HOST:8265`; None: this machine.
        trigger_next: start `render-evaluation` on the last checkpoint, with the same `out`; needs `pairs`.
        pairs: with `trigger_next`, the table of pairs for `render-evaluation`.
        truth: with `pairs`, folder with `ID.mp4` for every pair that has a ground truth.
        pick: step of stage 2 from whose weights stage 3 starts, chosen by eye; None: the last step. If stage 3 in `out`
            was started from other weights, it fails; choose another `out`.

    Returns:
        The records of the three checkpoints.

    Raises:
        SteadyDancerError: a parameter is missing, or a stage cannot start; the message states the reason.
        TrainingStopped: a stop was requested; retry the flow run, or start another with the same `out`, to resume.
    """
    if trigger_next and pairs is None:
        raise SteadyDancerError("trigger_next starts render-evaluation, which needs pairs to render: set pairs")
    run = presets.load_for_flow(preset)
    tasks.require_workers(run, cluster, *STAGES)
    base = absolute_if_exists(base or run.cache.components)
    cached, folder = location(absolute(latents)), location(absolute(out))
    records: dict[str, Any] = {}
    checkpoint: Location | None = None
    for stage in STAGES:
        stage_out = folder / f"stage{stage}"
        records[f"stage{stage}"] = tasks.train(run, stage, cached, base, stage_out, checkpoint, cluster)
        publish_training(folder)
        checkpoint = stage_out / "checkpoint"
        if stage == 2 and pick is not None:
            checkpoint = tasks.pick(run, stage_out, pick, cluster)
    keys = ("steps", "loss_before", "loss_after")
    publish("trained-stages", f"Three stages in {folder}", [
        {"stage": f"{stage} {name}", **{key: records[f"stage{stage}"].get(key) for key in keys}}
        for stage, name in STAGES.items()
    ])  # fmt: skip
    if trigger_next and checkpoint is not None:
        next_parameters = {
            "checkpoint": checkpoint,
            "out": folder,
            "preset": absolute_preset(preset),
            "cluster": cluster,
            "pairs": pairs and absolute(pairs),
            "truth": truth and absolute(truth),
        }
        emit_artifact_event("checkpoint", checkpoint, cluster, next_parameters)
    return records


def publish_training(folder: Location) -> None:
    """Write the report of the stages so far, and publish its text and a link to it in the UI."""
    page = None
    with after_commit(f"{folder / STAGES_PAGE}", f"run `steadydancer report --run {folder}` to write it"):
        page = write_stages_report(folder)
    if page is None:
        return
    title = f"Training in {folder}: {format_location(page)}"
    publish_text("training-report", stages_markdown(folder), title)
    publish_page("training-page", page)
