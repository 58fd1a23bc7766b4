"""The flow `train-steadydancer`: the three stages in order, each from the one before."""

from typing import Any

from prefect import flow

from .. import SteadyDancerError
from ..datasets.storage import Location, location
from . import presets, tasks
from .handover import absolute, absolute_if_here, absolute_preset, announce, publish

STAGES = {1: "action supervision", 2: "condition-decoupled distillation", 3: "motion discontinuity mitigation"}


@flow(name="train-steadydancer")
def train_steadydancer(
    latents: str,
    out: str,
    preset: str = "paper",
    base: str | None = None,
    cluster: str | None = None,
    trigger_next: bool = False,
    pairs: str | None = None,
    truth: str | None = None,
) -> dict[str, Any]:
    """Train stages 1, 2 and 3 into `out/stage1`, `out/stage2` and `out/stage3`.

    Args:
        latents: artifact of `curate-dataset`.
        out: folder of the run.
        preset: tiny, one_gpu, paper, `module:function`, a JSON file or JSON.
        base: Wan 2.1 I2V folder or hub id; None takes the preset's.
        cluster: job server of a Ray cluster, `http://HOST:8265`; None runs on this machine.
        trigger_next: start `render-evaluation` on the last checkpoint, into the same `out`; needs `pairs`.
        pairs: with `trigger_next`, what is rendered: csv or jsonl as `render-evaluation` takes it.
        truth: with `pairs`, folder with `ID.mp4` for every pair that has a truth.

    Returns:
        The records of the three checkpoints.
    """
    if trigger_next and pairs is None:
        raise SteadyDancerError("trigger_next starts render-evaluation, which needs to know what to render: give pairs")
    run = presets.load(preset)
    base = absolute_if_here(base or run.cache.components)
    cached, folder = location(absolute(latents)), location(absolute(out))
    records: dict[str, Any] = {}
    checkpoint: Location | None = None
    for stage in STAGES:
        stage_out = folder / f"stage{stage}"
        records[f"stage{stage}"] = tasks.train(run, stage, cached, base, stage_out, checkpoint, cluster)
        checkpoint = stage_out / "checkpoint"
    keys = ("steps", "loss_before", "loss_after")
    publish("trained-stages", f"Three stages in {folder}", [
        {"stage": f"{stage} {name}", **{key: records[f"stage{stage}"][key] for key in keys}}
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
        announce("checkpoint", checkpoint, cluster, next_parameters)
    return records
