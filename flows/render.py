"""The flow `render-evaluation`: render pairs with a checkpoint and score them, beside other methods if given."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from .. import SteadyDancerError
from ..datasets.artifact import Artifact
from ..datasets.storage import Location, location
from ..pipelines.common.outcomes import require_usable
from ..pipelines.evaluate.imported import ScoreFile, kept_scores
from ..pipelines.evaluate.report.evaluation import read_evaluation
from ..pipelines.evaluate.report.page import PAGE, results_of, summary_text
from ..pipelines.evaluate.report.results import ALL_PAIRS, Result
from ..pipelines.evaluate.report.tables import interval, judges_text
from ..pipelines.evaluate.sources import Source
from ..pipelines.render.job import folder_of, name_checkpoints
from . import presets, tasks
from .named_paths import split_name
from .prefect_ui import (
    absolute,
    absolute_if_exists,
    absolute_name,
    counts_table,
    publish,
    publish_page,
    warn_if_not_shown,
)
from .run_state import ends_cancelled


@flow(name="render-evaluation")
@ends_cancelled
def render_evaluation(
    checkpoint: str | list[str],
    out: str,
    pairs: str | None = None,
    truth: str | None = None,
    preset: str = "paper",
    components: str | None = None,
    cluster: str | None = None,
    in_process: bool = False,
    benchmark: str | None = None,
    videos: list[str] | None = None,
    scores: list[str] | None = None,
) -> dict[str, Any]:
    """Render `pairs`, or all pairs of a benchmark, and score them.

    A flow that was interrupted is resumed by running it again: both jobs keep what is finished.

    Args:
        checkpoint: folder `checkpoint` of a training stage; or several, each `NAME=DIR` or `DIR`, which are methods of
            one evaluation.
        out: folder for `renders/` (of several checkpoints `NAME/renders/`), `metrics/`, `report.html`, `report.csv` and
            `report.tex`.
        pairs: csv, json, jsonl or parquet with columns `image`, `driving` and optionally `prompt`, `pair_id`, `seed`,
            `licence`, `consent`.
        truth: folder with `ID.mp4` for every pair that has a ground truth.
        preset: tiny, one_gpu, paper, `module:function`, a JSON file or JSON.
        components: Wan 2.1 I2V folder or hub id; None: the one in the checkpoint's record.
        cluster: job server of a Ray cluster, `http://HOST:8265`; None: this machine.
        in_process: run without Ray; ignored on a cluster.
        benchmark: instead of `pairs`, a benchmark by name or folder, or `NAME=FOLDER`: its pairs, with ground truth.
        videos: videos of other methods that are scored beside the renders, each `NAME=DIR` or `DIR`.
        scores: scores of other programs that are shown beside these, each `METHOD=FILE` or `FILE`.

    Returns:
        The records of both artifacts; `renders` of several checkpoints by name.

    Raises:
        SteadyDancerError: neither `pairs` nor `benchmark` is given, or both; or a job cannot start.
    """
    if (pairs is None) == (benchmark is None):
        raise SteadyDancerError(f"set pairs or benchmark, one of them: they are {pairs!r} and {benchmark!r}")
    run = presets.load_for_flow(preset)
    run = presets.change(run, "render", components=components and absolute_if_exists(components))
    folder = location(absolute(out))
    given = [checkpoint] if isinstance(checkpoint, str) else checkpoint
    is_one = len(given) == 1  # its folder may have any name, also with `=`
    trained = name_checkpoints([(None, location(absolute(each))) if is_one else _named(each, False) for each in given])
    table, truth_folder = (location(absolute(place)) if place else None for place in (pairs, truth))
    named = benchmark and absolute_name(benchmark)
    others = [Source(*_named(one, False)) for one in videos or ()]
    files = [ScoreFile(*_named(one, True)) for one in scores or ()]
    if is_one:
        rendered = tasks.render(run, trained[""], table, folder, cluster, in_process, named)
    else:
        rendered = tasks.render(run, trained, table, folder, cluster, in_process, named)
        others = [Source(name, folder_of(folder, name)) for name in trained] + others
    by_name = {"": rendered} if is_one else rendered
    for name, record in by_name.items():
        require_usable(Artifact(folder_of(folder, name) / "renders"), record["counts"])
    renders = folder if is_one else None
    scored = tasks.evaluate(run, renders, truth_folder, folder, cluster, in_process, named, others, files)
    require_usable(Artifact(folder / "metrics"), scored["counts"])
    records = {"renders": rendered, "metrics": scored}
    shown = {f"{name}/renders" if name else "renders": record for name, record in by_name.items()}
    with warn_if_not_shown("rendered-videos"):
        publish(
            "rendered-videos",
            f"Videos of {table or named} in {folder}",
            counts_table(folder, {**shown, "metrics": scored}),
        )
    publish_scores(folder)
    return records


def _named(text: str, is_file: bool) -> tuple[str | None, Location]:
    name, place = split_name(text, is_file)
    return name, location(absolute(place))


def publish_scores(folder: Location) -> None:
    """Publish the results of an evaluation as a table in the UI, and a link to its page."""
    with warn_if_not_shown("scores"):
        evaluation = read_evaluation(Artifact(folder / "metrics"))
        table = scores_table(results_of(evaluation, kept_scores(folder)))
        publish("scores", f"Metrics of {folder} (page: {folder / PAGE}). {summary_text(evaluation)}", table)
    publish_page("report", folder / PAGE)


def scores_table(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one row per method and metric over all pairs: its value, and what a reader needs to judge it."""
    return [
        {
            "method": one.method or "render",
            "origin": " ".join(filter(None, (one.origin, one.source))),
            "metric": one.metric,
            "value": one.value,
            "95 %": "" if one.low is None or one.high is None else interval(one.low, one.high),
            "N": one.n,
            "unit": one.unit,
            "better": one.better,
            "ceiling": one.ceiling,
            "best": "best" if one.is_best else "",
            "without a value": one.without_value,
            "warnings": "; ".join(one.warnings),
            "judges": judges_text([one]),
        }
        for one in results
        if one.kind == ALL_PAIRS
    ]
