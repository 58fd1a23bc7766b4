"""The flow `reproduce`: the whole road, raw clips to scored videos."""

from pathlib import Path
from typing import Any

from prefect import flow

from . import presets
from .curate import curate_dataset
from .render import render_evaluation
from .train import train_steadydancer


@flow(name="reproduce")
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
    """Curate, train the three stages, render and score; the arguments are those of the three flows."""
    run = presets.change(presets.load(preset), "cache", components=components)
    config, folder = run.model_dump_json(), Path(out)
    curated = curate_dataset(clips, out, config, cluster=cluster, in_process=in_process)
    trained = train_steadydancer(str(folder / "latents"), out, config, cluster=cluster)
    checkpoint = str(folder / "stage3" / "checkpoint")
    rendered = render_evaluation(checkpoint, pairs, out, truth, config, cluster=cluster, in_process=in_process)
    return {**curated, **trained, **rendered}
