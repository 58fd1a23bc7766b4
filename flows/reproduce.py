"""The flow `reproduce`: all jobs, from raw clips to scored videos."""

from contextlib import nullcontext
from typing import Any

from prefect import flow

from ..datasets.storage import location, state_folder
from ..pipelines.runtime.local_ray import local_ray
from ..pipelines.train.metrics.report import STAGES
from . import presets, tasks
from .curate import curate_dataset
from .prefect_ui import absolute, absolute_if_exists
from .render import render_evaluation
from .run_state import ends_cancelled
from .train import train_steadydancer


@flow(name="reproduce")
@ends_cancelled
def reproduce(
    clips: str,
    pairs: str,
    out: str,
    truth: str | None = None,
    preset: str = "paper",
    components: str | None = None,
    cluster: str | None = None,
    in_process: bool = False,
) -> dict[str, Any]:
    """Curate, train the three stages, render and score. Arguments are those of the three flows."""
    run, folder = presets.load_for_flow(preset), location(absolute(out))
    tasks.require_workers(run, cluster, *STAGES)
    run = presets.change(run, "cache", components=absolute_if_exists(components or run.cache.components))
    config, checkpoint = run.model_dump_json(), str(folder / "stage3" / "checkpoint")
    # One Ray for all jobs, because starting it takes longer than a small job.
    with nullcontext() if cluster or in_process else local_ray(state_folder(folder) / "ray"):
        curated = curate_dataset(clips, out, config, cluster=cluster, in_process=in_process)
        trained = train_steadydancer(str(folder / "latents"), out, config, cluster=cluster)
        rendered = render_evaluation(checkpoint, out, pairs, truth, config, cluster=cluster, in_process=in_process)
    return {**curated, **trained, **rendered}
