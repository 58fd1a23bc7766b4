"""The command `forget`: remove a source from all artifacts made from it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from .options import FOLDER, OUT

if TYPE_CHECKING:
    from ...datasets.storage import Location


@click.command()
@click.argument("source")
@click.option("--clips", type=FOLDER, required=True, multiple=True,
              help="The --out of `curate`; repeat for each --out of `refilter`.")  # fmt: skip
@click.option(
    "--latents",
    type=FOLDER,
    multiple=True,
    help="OUT/latents of `cache`; repeat for each cache of these clips.",
)
@click.option(
    "--exports",
    type=FOLDER,
    multiple=True,
    help="OUT/export of `export`; repeat for each export of these clips.",
)
@click.option(
    "--work",
    "works",
    type=FOLDER,
    multiple=True,
    help="OUT/work of `render`, or its --work: also delete what was kept of the source there; repeatable.",
)
@click.option("--out", type=OUT, required=True, help="Write the new versions: OUT/clips, OUT/measured, OUT/latents, …")
@click.option(
    "--reason",
    default="asked for",
    show_default=True,
    help="Stored in the record of the removal; must not name the source.",
)
@click.option("--with-copies", is_flag=True, help="Also forget copies: other files with the same content.")
@click.option("--dry-run", is_flag=True, help="Print what would be removed, written and replaced, and stop.")
@click.option("--yes", is_flag=True, help="Delete the replaced versions without asking.")
def forget(source: str, clips: tuple[Location, ...], latents: tuple[Location, ...], exports: tuple[Location, ...],
           works: tuple[Location, ...], out: Location, reason: str, with_copies: bool, dry_run: bool,
           yes: bool) -> None:  # fmt: skip
    """Remove SOURCE from manifests, shards, exports and the kept results of rendering jobs.

    SOURCE is a source_id or a prefix of it, the path of the file as it was curated, or an origin. New versions without
    it are written and read back; then, if you confirm, the old versions are deleted. The source file, videos rendered
    with it, and weights trained on it, are not changed. If interrupted, run the same command again to resume.
    """
    from ...pipelines.forget import job

    request = job.Request(source, list(clips), out, list(latents), list(exports), reason, with_copies, list(works))
    if dry_run:
        click.echo(json.dumps(job.plan(request), indent=2))
        return
    record = job.run(request)
    _print_record(record)
    places = "\n".join(f"  {place}" for place in [*(one["path"] for one in record["superseded"]), *works])
    if yes or (sys.stdin.isatty() and click.confirm(f"{places}\nstill contain the source. Delete them?")):
        _print_leftovers(job.delete_superseded(record))
    else:
        click.echo(f"These still contain the source; to delete them, run the same command with --yes:\n{places}")


def _print_record(record: dict[str, Any]) -> None:
    counts = record["counts"]
    words = ", ".join(f"{counts[name]} {name}" for name in ("ok", "rejected", "quarantined"))
    click.echo(f"{', '.join(record['forgotten'])}: {counts['inputs']} rows removed ({words})")
    for place in record["made"]:
        click.echo(f"  wrote {place}")
    kept = record["copies"].get("kept")
    if kept:
        click.echo(
            f"{len(kept)} copies under other ids remain: {', '.join(kept)}\n"
            "A later selection may accept them instead; to forget them too, use --with-copies and another --out."
        )


def _print_leftovers(left: list[str]) -> None:
    click.echo("deleted the replaced versions")
    if left:
        click.echo("not searched; may still contain it:\n" + "\n".join(f"  {place}" for place in left))
