"""The flow `render-evaluation`: render pairs with a checkpoint and score them."""

from collections import Counter
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact

from ..datasets.artifact import Artifact
from ..datasets.storage import location
from ..datasets.storage.files import file_url
from ..pipelines.common.outcomes import format_reasons, format_truths, require_usable
from . import presets, tasks
from .prefect_ui import absolute, absolute_if_exists, counts_table, publish, warn_if_not_shown


@flow(name="render-evaluation")
def render_evaluation(
    checkpoint: str,
    pairs: str,
    out: str,
    truth: str | None = None,
    preset: str = "paper",
    components: str | None = None,
    cluster: str | None = None,
    in_process: bool = False,
) -> dict[str, Any]:
    """Render `pairs` and score them.

    Args:
        checkpoint: folder `checkpoint` of a training stage.
        pairs: csv, json, jsonl or parquet with columns `image`, `driving` and optionally `prompt`, `id`.
        out: folder for `renders/`, `metrics/` and `report.html`.
        truth: folder with `ID.mp4` for every pair that has a ground truth.
        preset: tiny, one_gpu, paper, `module:function`, a JSON file or JSON.
        components: Wan 2.1 I2V folder or hub id; None: the one in the checkpoint's record.
        cluster: job server of a Ray cluster, `http://HOST:8265`; None: this machine.
        in_process: run without Ray; ignored on a cluster.

    Returns:
        The records of both artifacts.
    """
    run = presets.change(presets.load(preset), "render", components=components and absolute_if_exists(components))
    trained, table, folder = (location(absolute(place)) for place in (checkpoint, pairs, out))
    truth_folder = location(absolute(truth)) if truth else None
    rendered = tasks.render(run, trained, table, folder, cluster, in_process)
    require_usable(Artifact(folder / "renders"), rendered["counts"])
    scored = tasks.evaluate(run, folder, truth_folder, folder, cluster, in_process)
    require_usable(Artifact(folder / "metrics"), scored["counts"])
    records = {"renders": rendered, "metrics": scored}
    with warn_if_not_shown("rendered-videos"):
        publish("rendered-videos", f"Videos of {table} in {folder}", counts_table(folder, records))
    publish("scores", f"Metrics of {folder}. {format_truths(scored.get('truths'))}", scores_table(scored))
    report = folder / "report.html"
    if link := file_url(report):
        with warn_if_not_shown("report"):
            create_link_artifact(key="report", link=link, link_text=str(report))
    return records


def scores_table(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per metric: its mean, the number of videos, and why others have no value."""
    missing = record.get("missing", {})
    return [
        {"metric": name, **mean, "without a value": format_reasons(Counter(missing.get(name, {})))}
        for name, mean in record["means"].items()
    ]
