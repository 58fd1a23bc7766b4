"""The flow `curate-dataset`: curate videos and cache their latents."""

from typing import Any

from prefect import flow

from ..datasets.artifact import Artifact
from ..datasets.clips import Clips
from ..datasets.storage import Location, location
from ..pipelines.common.outcomes import require_usable
from ..pipelines.runtime.after_commit import after_commit
from . import presets, tasks
from .prefect_ui import (
    absolute,
    absolute_if_exists,
    absolute_preset,
    counts_table,
    emit_artifact_event,
    publish,
    publish_page,
    publish_text,
    warn_if_not_shown,
)
from .run_state import ends_cancelled


@flow(name="curate-dataset")
@ends_cancelled
def curate_dataset(
    clips: str,
    out: str,
    preset: str = "paper",
    components: str | None = None,
    cluster: str | None = None,
    in_process: bool = False,
    trigger_next: bool = False,
    pairs: str | None = None,
    truth: str | None = None,
) -> dict[str, Any]:
    """Curate `clips` and cache the accepted ones.

    Args:
        clips: folder, glob or manifest of videos. This and all other paths may be local or `s3://BUCKET/KEY`.
        out: folder for `clips/` and `latents/`; on a cluster, a folder that every node can access.
        preset: tiny, one_gpu, paper, `module:function`, a JSON file or JSON.
        components: Wan 2.1 I2V folder or hub id; None: the preset's.
        cluster: job server of a Ray cluster, `http://HOST:8265`; None: this machine.
        in_process: run without Ray; ignored on a cluster.
        trigger_next: start `train-steadydancer` on these latents, with the same `out`.
        pairs: with `trigger_next`, table of pairs to render after the training; None: do not render.
        truth: with `pairs`, folder with `ID.mp4` for every pair that has a ground truth.

    Returns:
        The records of both artifacts.
    """
    run = presets.load_for_flow(preset)
    components = absolute_if_exists(components or run.cache.components)
    run = presets.change(run, "cache", components=components)
    clips, folder = absolute(clips), location(absolute(out))
    curated = tasks.curate(run, clips, folder, cluster, in_process)
    publish_curation(folder)
    require_usable(Artifact(folder / "clips"), curated["counts"])
    cached = tasks.cache(run, folder, folder, cluster, in_process)
    require_usable(Artifact(folder / "latents"), cached["counts"])
    records = {"clips": curated, "latents": cached}
    with warn_if_not_shown("curated-clips"):
        publish("curated-clips", f"Clips of {clips} and their latents in {folder}", counts_table(folder, records))
    if trigger_next:
        next_parameters = {
            "latents": folder / "latents",
            "out": folder,
            "preset": absolute_preset(preset),
            "base": run.cache.components,
            "cluster": cluster,
            "trigger_next": pairs is not None,
            "pairs": pairs and absolute(pairs),
            "truth": truth and absolute(truth),
        }
        emit_artifact_event("latents", folder / "latents", cluster, next_parameters)
    return records


def publish_curation(folder: Location) -> None:
    """Write the curation report and card, and publish funnel, reasons, card and a link to the report in the UI."""
    from ..pipelines.curate.report.funnel import FUNNEL_COLUMNS, funnel, reasons
    from ..pipelines.curate.report.page import CARD, PAGE, funnel_rows, reason_rows, write_report

    page = folder / PAGE
    with after_commit(f"{page} and {CARD}", f"run `steadydancer report --clips {folder}` to write them"):
        write_report(folder)
        card = (page.parent / CARD).read_text()
        publish_text("clip-card", card.split("---\n", 2)[-1], f"Card of {folder}/clips: {page}")
        publish_page("clip-report", page)
    with warn_if_not_shown("clip-funnel"):
        clips = Clips(folder)
        table = clips.read(FUNNEL_COLUMNS)
        publish("clip-verdicts", f"Verdicts and reasons of {folder}/clips", reason_rows(reasons(table)))
        publish("clip-funnel", f"Rows of {folder}/clips by stage", funnel_rows(funnel(table, clips.record)))
