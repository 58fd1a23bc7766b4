"""What a finished curation says of itself: its page, one clip's story, what differs from another version."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ... import SteadyDancerError
from .options import FOLDER

if TYPE_CHECKING:
    from ...datasets.storage import Location

as_json = click.option("--json", "print_json", is_flag=True, help="For machines.")


def with_page(out: Location, job: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """A job that makes `out/clips`, which then leaves its page and card beside it."""

    def run() -> dict[str, Any]:
        from ...pipelines.curate.report.page import CARD, PAGE, write_report
        from ...pipelines.runtime.after_commit import after_commit

        record = job()
        with after_commit(f"{out / PAGE} and {CARD}", f"`steadydancer report --clips {out}` makes them again"):
            write_report(out)
        return record

    return run


@click.command()
@click.option("--clips", type=FOLDER, help="What `curate --out` or `refilter --out` was given: its page and card.")
@click.option("--metrics", type=FOLDER, help="What `evaluate --out` was given: its page.")
@click.option("--run", "run_out", type=FOLDER, help="What `train --out` was given, or the folder of its three stages.")
@click.option("--out", type=FOLDER, help="With --clips: FILE.html, or a folder for curation.html; else beside them.")
def report(clips: Location | None, metrics: Location | None, run_out: Location | None, out: Location | None) -> None:
    """Write the page of a curation (with its card), of an evaluation or of a training run anew."""
    if sum(place is not None for place in (clips, metrics, run_out)) != 1:
        raise click.UsageError("give one of --clips, --metrics and --run")
    if out is not None and clips is None:
        raise click.UsageError("--out goes with --clips; other pages lie in the folder that they tell of")
    if clips is not None:
        from ...pipelines.curate.report.page import CARD, PAGE, write_report

        page = out if out is None or out.suffix.lower() == ".html" else out / PAGE
        page = write_report(clips, page)
        click.echo(f"{page}\n{page.parent / CARD}")
    elif metrics is not None:
        from ...pipelines.evaluate.report import write_report_again

        click.echo(str(write_report_again(metrics)))
    elif run_out is not None:
        from ...pipelines.train.metrics.report import write_pages

        for written in write_pages(run_out):
            click.echo(str(written))


@click.command()
@click.argument("clip", metavar="ID")
@click.option("--clips", type=FOLDER, help="What `curate --out` or `refilter --out` was given.")
@click.option("--latents", type=FOLDER, help="What `cache --out` was given: say where the clip's sample lies.")
@click.option("--artifact", "--renders", "--metrics", "--export", "artifact", type=FOLDER,
              help="What --out of any other command was given, or the artifact in it.")  # fmt: skip
@as_json
def explain(
    clip: str, clips: Location | None, latents: Location | None, artifact: Location | None, print_json: bool
) -> None:
    """Tell what became of one clip, render or sample, and why.

    With --clips, ID is a clip_id or its beginning, a source's path, file name or source_id, and its whole story is
    told. Of other artifacts, ID is an id or its beginning, or a file's path or name.
    """
    if (clips is None) == (artifact is None) and (clips is not None or latents is None):
        raise click.UsageError("give --clips, --latents or both for a clip, or --artifact for a row of anything else")
    if clips is None:
        _print_rows(clip, [place for place in (artifact, latents) if place is not None], print_json)
        return
    from ...datasets.clips import Clips
    from ...pipelines.curate.report import explain as story
    from ...pipelines.curate.report.explain_text import to_text

    finished = Clips(clips)
    rows = story.find_rows(finished, clip)
    if len(rows) > 1:
        _print_matches(clip, story.brief(finished, rows), print_json)
        return
    told = story.tell(finished, rows[0], latents)
    click.echo(json.dumps(told, indent=2, ensure_ascii=False) if print_json else to_text(told))


def _print_rows(wanted: str, folders: list[Location], print_json: bool) -> None:
    """Rows of any artifacts; of several that fit, what there is to choose from."""
    from ...pipelines.common import outcomes

    artifacts = [one for folder in folders for one in outcomes.artifacts_in(folder)]
    found = [(one, rows) for one in artifacts if (rows := outcomes.find_rows(one, wanted))]
    if not found:
        near = [name for one in artifacts for name in outcomes.names_near(one, wanted)]
        places = " and ".join(str(one.path) for one in artifacts)
        raise SteadyDancerError(
            f"{places} hold{'s' * (len(artifacts) == 1)} no row {wanted!r}"
            + (f"; near it: {', '.join(dict.fromkeys(near))}" if near else "")
            + ". An id, its beginning, or the path or name of a file is wanted"
        )
    if print_json:
        told = [{"artifact": str(one.path), "rows": rows} for one, rows in found]
        click.echo(json.dumps(told, indent=2, ensure_ascii=False, default=str))
        return
    for one, rows in found:
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_name.setdefault(outcomes.name_of(row), []).append(row)
        if len(by_name) == 1:
            click.echo(outcomes.told_rows(one, rows))
            continue
        click.echo(f"{wanted} is {len(by_name)} rows of {one.path}; ask for one by its id:")
        for several in by_name.values():
            click.echo(outcomes.told_row(several[0]) if several[0]["verdict"] != "ok"
                       else f"    {outcomes.name_of(several[0])}: ok")  # fmt: skip


def _print_matches(clip: str, rows: list[dict[str, Any]], print_json: bool) -> None:
    if print_json:
        click.echo(json.dumps({"matches": rows}, indent=2, ensure_ascii=False))
        return
    click.echo(f"{clip} is {len(rows)} clips; ask for one by its id:")
    for row in rows:
        span = "" if row["start_s"] is None else f"{row['start_s']:.2f} to {row['end_s']:.2f} s  "
        click.echo(f"  {row['clip_id']}  {span}{row['verdict']} {row['reason'] or ''}  {row['source_path']}")


@click.command()
@click.option("--clips", type=FOLDER, required=True, help="The version before: what its `--out` was.")
@click.option("--with", "other", type=FOLDER, required=True, help="The version after.")
@as_json
def compare(clips: Location, other: Location, print_json: bool) -> None:
    """Say what differs between two versions."""
    from ...datasets.clips import Clips
    from ...pipelines.curate.report.compare import compare, to_text

    differences = compare(Clips(clips), Clips(other))
    click.echo(json.dumps(differences, indent=2, ensure_ascii=False) if print_json else to_text(differences))
