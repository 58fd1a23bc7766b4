"""What a finished curation says of itself: its page, one clip's story, what differs from another version."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .options import FOLDER

if TYPE_CHECKING:
    from ...datasets.storage import Location

as_json = click.option("--json", "json_wanted", is_flag=True, help="For machines.")


def with_page(out: Location, job: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """A job that makes `out/clips`, which then leaves its page and card beside it."""

    def run() -> dict[str, Any]:
        from ...pipelines.after_commit import after_commit
        from ...pipelines.curate.report.page import CARD, PAGE, write_report

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
        from ...pipelines.curate.report import page as pages

        page = out if out is None or out.suffix == ".html" else out / pages.PAGE
        page = pages.write_report(clips, page)
        click.echo(f"{page}\n{page.parent / pages.CARD}")
    elif metrics is not None:
        from ...pipelines.evaluate.report import write_report_again

        click.echo(str(write_report_again(metrics)))
    elif run_out is not None:
        from ...pipelines.train.report import write_pages

        for written in write_pages(run_out):
            click.echo(str(written))


@click.command()
@click.argument("clip")
@click.option("--clips", type=FOLDER, required=True, help="What `curate --out` or `refilter --out` was given.")
@click.option("--latents", type=FOLDER, help="What `cache --out` was given: say where the clip's sample lies.")
@as_json
def explain(clip: str, clips: Location, latents: Location | None, json_wanted: bool) -> None:
    """Tell the whole story of one clip.

    CLIP is a clip_id or its beginning, a source's path, file name or source_id.
    """
    from ...datasets.clips import Clips
    from ...pipelines.curate.report import story
    from ...pipelines.curate.report.story_text import to_text

    finished = Clips(clips)
    rows = story.find_rows(finished, clip)
    if len(rows) > 1:
        _tell_choice(clip, story.brief(finished, rows), json_wanted)
        return
    told = story.tell(finished, rows[0], latents)
    click.echo(json.dumps(told, indent=2, ensure_ascii=False) if json_wanted else to_text(told))


def _tell_choice(clip: str, rows: list[dict[str, Any]], json_wanted: bool) -> None:
    if json_wanted:
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
def compare(clips: Location, other: Location, json_wanted: bool) -> None:
    """Say what differs between two versions."""
    from ...datasets.clips import Clips
    from ...pipelines.curate.report import compare as versions

    found = versions.compare(Clips(clips), Clips(other))
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if json_wanted else versions.to_text(found))
