"""The flow `train-steadydancer`: the three stages in order, each from the one before."""

from pathlib import Path
from typing import Any

from prefect import flow

from . import presets, tasks
from .handover import announce, publish

STAGES = {1: "action supervision", 2: "condition-decoupled distillation", 3: "motion discontinuity mitigation"}


@flow(name="train-steadydancer")
def train_steadydancer(
    latents: str,
    out: str,
    preset: str = "paper",
    base: str | None = None,
    cluster: str | None = None,
    trigger_next: bool = False,
) -> dict[str, Any]:
    """Train stages 1, 2 and 3 into `out/stage1`, `out/stage2` and `out/stage3`.

    Args:
        latents: artifact of `curate-dataset`.
        out: folder of the run.
        preset: tiny, one_gpu, paper, `module:function`, a JSON file or JSON.
        base: Wan 2.1 I2V folder or hub id; None takes the preset's.
        cluster: job server of a Ray cluster, `http://HOST:8265`; None runs on this machine.
        trigger_next: emit the event that starts `render-evaluation` on the last checkpoint.

    Returns:
        The records of the three checkpoints.
    """
    run = presets.load(preset)
    folder = Path(out)
    records: dict[str, Any] = {}
    checkpoint = None
    for stage in STAGES:
        records[f"stage{stage}"] = tasks.train(
            run, stage, Path(latents), base or run.cache.components, folder / f"stage{stage}", checkpoint, cluster
        )
        checkpoint = folder / f"stage{stage}" / "checkpoint"
    keys = ("steps", "loss_before", "loss_after")
    publish("trained-stages", f"Three stages in {out}", [
        {"stage": f"{stage} {name}", **{key: records[f"stage{stage}"][key] for key in keys}}
        for stage, name in STAGES.items()
    ])  # fmt: skip
    if trigger_next and checkpoint is not None:
        announce("checkpoint", checkpoint, cluster, {"checkpoint": checkpoint, "out": out, "preset": preset})
    return records
