"""The flow `curate-dataset`: raw clips to latents."""

from pathlib import Path
from typing import Any

from prefect import flow

from . import presets, tasks
from .handover import announce, counts_table, publish, require_usable


@flow(name="curate-dataset")
def curate_dataset(
    clips: str,
    out: str,
    preset: str = "paper",
    components: str | None = None,
    cluster: str | None = None,
    in_process: bool = False,
    trigger_next: bool = False,
) -> dict[str, Any]:
    """Curate `clips` and cache what is accepted.

    Args:
        clips: folder, glob or manifest of videos.
        out: folder for `clips/` and `latents/`; on a cluster, one that every node sees.
        preset: tiny, one_gpu, paper, `module:function`, a JSON file or JSON.
        components: Wan 2.1 I2V folder or hub id; None takes the preset's.
        cluster: job server of a Ray cluster, `http://HOST:8265`; None runs on this machine.
        in_process: run without Ray.
        trigger_next: emit the event that starts `train-steadydancer` on these latents.

    Returns:
        The records of both artifacts.
    """
    run = presets.change(presets.load(preset), "cache", components=components)
    folder = Path(out)
    curated = tasks.curate(run, clips, folder, cluster, in_process)
    require_usable(curated, folder / "clips")
    cached = tasks.cache(run, folder, folder, cluster, in_process)
    require_usable(cached, folder / "latents")
    records = {"clips": curated, "latents": cached}
    publish("curated-clips", f"Clips of {clips} and their latents in {out}", counts_table(records))
    if trigger_next:
        announce(
            "latents",
            folder / "latents",
            cluster,
            {"latents": folder / "latents", "out": out, "preset": preset, "base": run.cache.components},
        )
    return records
