"""The commands `report`, `explain` and `compare`: pages of finished jobs, one row in detail, two versions compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ... import SteadyDancerError
from ...datasets.text import without_controls
from .options import FOLDER, scores_option

if TYPE_CHECKING:
    from ...datasets.storage import Location

as_json = click.option("--json", "print_json", is_flag=True, help="Print JSON.")


def with_page(out: Location, job: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Wrap a job that makes `out/clips`, so that it also writes the report page and the card."""

    def run() -> dict[str, Any]:
        from ...pipelines.curate.report.page import CARD, PAGE, write_report
        from ...pipelines.runtime.after_commit import after_commit

        record = job()
        with after_commit(f"{out / PAGE} and {CARD}", f"run `steadydancer report --clips {out}` to write them"):
            write_report(out)
        return record

    return run


@click.command()
@click.option("--clips", type=FOLDER, help="The --out of `curate` or `refilter`: rewrite its page and card.")
@click.option("--metrics", type=FOLDER, help="The --out of `evaluate`: rewrite its page, CSV and LaTeX table.")
@scores_option
@click.option(
    "--run", "run_out", type=FOLDER, help="The --out of `train`, or the folder that contains the three stages."
)
@click.option("--out", type=FOLDER, help="With --clips: FILE.html, or a folder for curation.html. Default: in --clips.")
def report(clips: Location | None, metrics: Location | None, scores: tuple[tuple[str | None, Location], ...],
           run_out: Location | None, out: Location | None) -> None:  # fmt: skip
    """Rewrite the report page of a curation (and its dataset card), an evaluation or a training run."""
    if sum(place is not None for place in (clips, metrics, run_out)) != 1:
        raise click.UsageError("pass one of --clips, --metrics and --run")
    if scores and metrics is None:
        raise click.UsageError("--scores requires --metrics")
    if out is not None and clips is None:
        raise click.UsageError("--out requires --clips; the other pages are written to the folder that they describe")
    if clips is not None:
        from ...pipelines.curate.report.page import CARD, PAGE, write_report

        page = out if out is None or out.suffix.lower() == ".html" else out / PAGE
        page = write_report(clips, page)
        click.echo(f"{page}\n{page.parent / CARD}")
    elif metrics is not None:
        from ...pipelines.evaluate.imported import ScoreFile
        from ...pipelines.evaluate.report.page import CSV, LATEX, rebuild_report

        page = rebuild_report(metrics, [ScoreFile(*one) for one in scores])
        click.echo("\n".join(str(page.parent / name) for name in (page.name, CSV, LATEX)))
    elif run_out is not None:
        from ...pipelines.train.metrics.report import write_pages

        for written in write_pages(run_out):
            click.echo(str(written))


@click.command()
@click.argument("clip", metavar="ID")
@click.option("--clips", type=FOLDER, help="The --out of `curate` or `refilter`.")
@click.option(
    "--latents", type=FOLDER, help="The --out of `cache`: also show the shard that contains the clip's sample."
)
@click.option("--artifact", "--renders", "--metrics", "--export", "artifact", type=FOLDER,
              help="The --out of any other command, or an artifact in it.")  # fmt: skip
@as_json
def explain(
    clip: str, clips: Location | None, latents: Location | None, artifact: Location | None, print_json: bool
) -> None:
    """Show the verdict on one clip, render or sample, and the reasons for it.

    With --clips, ID is a clip_id or a prefix of it, or the path, file name or source_id of a source; all stages of the
    clip are shown. For other artifacts, ID is an id or a prefix of it, or the path or name of a file.
    """
    if (clips is None) == (artifact is None) and (clips is not None or latents is None):
        raise click.UsageError("pass --clips, --latents or both for a clip, or --artifact for any other row")
    if clips is None:
        _print_rows(clip, [place for place in (artifact, latents) if place is not None], print_json)
        return
    from ...datasets.clips import Clips
    from ...pipelines.curate.report import explain
    from ...pipelines.curate.report.explain_text import to_text

    finished = Clips(clips)
    rows = explain.find_rows(finished, clip)
    if len(rows) > 1:
        _print_matches(clip, explain.summarise_rows(finished, rows), print_json)
        return
    explanation = explain.explain_clip(finished, rows[0], latents)
    as_json = json.dumps(explanation, indent=2, ensure_ascii=False)
    click.echo(as_json if print_json else without_controls(to_text(explanation)))


def _print_rows(wanted: str, folders: list[Location], print_json: bool) -> None:
    """Print the matching rows of artifacts; if several ids match, list them."""
    from ...pipelines.common import outcomes

    artifacts = [one for folder in folders for one in outcomes.artifacts_in(folder)]
    found = [(one, rows) for one in artifacts if (rows := outcomes.find_rows(one, wanted))]
    if not found:
        near = [name for one in artifacts for name in outcomes.similar_ids(one, wanted)]
        places = " and ".join(str(one.path) for one in artifacts)
        raise SteadyDancerError(
            f"no row {wanted!r} in {places}"
            + (f"; similar ids: {', '.join(dict.fromkeys(near))}" if near else "")
            + ". Pass an id, a prefix of it, or the path or name of a file"
        )
    if print_json:
        matches = [{"artifact": str(one.path), "rows": rows} for one, rows in found]
        click.echo(json.dumps(matches, indent=2, ensure_ascii=False, default=str))
        return
    for one, rows in found:
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_name.setdefault(outcomes.name_of(row), []).append(row)
        if len(by_name) == 1:
            click.echo(without_controls(outcomes.format_rows(one, rows)))
            continue
        click.echo(f"{wanted} matches {len(by_name)} rows of {one.path}; use one of these ids:")
        for several in by_name.values():
            is_ok = several[0]["verdict"] == "ok"
            words = f"    {outcomes.name_of(several[0])}: ok" if is_ok else outcomes.format_row(several[0])
            click.echo(without_controls(words))


def _print_matches(clip: str, rows: list[dict[str, Any]], print_json: bool) -> None:
    if print_json:
        click.echo(json.dumps({"matches": rows}, indent=2, ensure_ascii=False))
        return
    click.echo(f"{clip} matches {len(rows)} clips; use one of these ids:")
    for row in rows:
        span = "" if row["start_s"] is None else f"{row['start_s']:.2f} to {row['end_s']:.2f} s  "
        words = f"  {row['clip_id']}  {span}{row['verdict']} {row['reason'] or ''}  {row['source_path']}"
        click.echo(without_controls(words))


@click.command()
@click.option("--clips", type=FOLDER, help="The --out of the first version of a curation.")
@click.option("--metrics", type=FOLDER, help="The --out of the first evaluation.")
@click.option("--with", "other", type=FOLDER, required=True, help="The --out of the second one.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="With --metrics: method to compare, of both results; twice: one of each. Default: the first of each.",
)
@as_json
def compare(
    clips: Location | None, metrics: Location | None, other: Location, methods: tuple[str, ...], print_json: bool
) -> None:
    """Compare two versions of a curation, or two evaluations of one protocol pair by pair.

    Of evaluations, print the difference (second minus first) of each metric over the pairs that both have, its 95 %
    interval, N, p, and p by Holm for the number of metrics. Two protocols are refused, with the fields that differ.
    """
    if (clips is None) == (metrics is None):
        raise click.UsageError("pass one of --clips and --metrics")
    differences: dict[str, Any]
    if metrics is not None:
        from ...pipelines.evaluate import compare as evaluations

        if len(methods) > 2:
            raise click.UsageError(f"pass --method at most twice, not {len(methods)} times")
        differences = evaluations.compare(metrics, other, methods)
        text = evaluations.to_text
    else:
        if methods:
            raise click.UsageError("--method requires --metrics")
        from ...datasets.clips import Clips
        from ...pipelines.curate.report.compare import compare as compare_clips
        from ...pipelines.curate.report.compare import to_text as text

        assert clips is not None
        differences = compare_clips(Clips(clips), Clips(other))
    click.echo(json.dumps(differences, indent=2, ensure_ascii=False) if print_json else text(differences))
