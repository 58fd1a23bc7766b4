"""The command `forget`: take a source out of all that was made of it."""

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
              help="What `curate --out` was given; once more for each `refilter --out` of it.")  # fmt: skip
@click.option(
    "--latents", type=FOLDER, multiple=True, help="OUT/latents of `cache`; once for each one made of these clips."
)
@click.option(
    "--exports", type=FOLDER, multiple=True, help="OUT/export of `export`; once for each one made of these clips."
)
@click.option("--out", type=OUT, required=True, help="OUT/clips, OUT/measured, OUT/latents, … are made: new versions.")
@click.option("--reason", default="asked for", show_default=True, help="Goes into the tombstone; do not name it there.")
@click.option("--with-copies", is_flag=True, help="Forget other files, too, that show the same.")
@click.option("--dry-run", is_flag=True, help="Say what would be left out, made and replaced, and stop.")
@click.option("--yes", is_flag=True, help="Then delete what was replaced, without asking.")
def forget(source: str, clips: tuple[Location, ...], latents: tuple[Location, ...], exports: tuple[Location, ...],
           out: Location, reason: str, with_copies: bool, dry_run: bool, yes: bool) -> None:  # fmt: skip
    """Take SOURCE out of manifests, shards and exports.

    SOURCE is a source_id or the beginning of one, the path of the file as it was curated, or an origin. New versions
    without it are written and read back; only then, and only if you say so, the old ones are deleted. The file itself
    and weights that were trained on it are left as they are. The same command again goes on where it was stopped.
    """
    from ...pipelines.forget import job

    request = job.Request(source, list(clips), out, list(latents), list(exports), reason, with_copies)
    if dry_run:
        click.echo(json.dumps(job.plan(request), indent=2))
        return
    record = job.run(request)
    _print_record(record)
    places = "\n".join(f"  {one['path']}" for one in record["superseded"])
    if yes or (sys.stdin.isatty() and click.confirm(f"{places}\nstill hold it. Delete them?")):
        _print_leftovers(job.delete_superseded(record))
    else:
        click.echo(f"Still holding it, to be deleted when nothing needs them (the same command with --yes):\n{places}")


def _print_record(record: dict[str, Any]) -> None:
    counts = record["counts"]
    words = ", ".join(f"{counts[name]} {name}" for name in ("ok", "rejected", "quarantined"))
    click.echo(f"{', '.join(record['forgotten'])}: {counts['inputs']} rows were left out ({words})")
    for place in record["made"]:
        click.echo(f"  made {place}")
    kept = record["copies"].get("kept")
    if kept:
        click.echo(
            f"{len(kept)} copies under other ids are still there: {', '.join(kept)}\n"
            "A later selection may accept them in its place; --with-copies, with another --out, forgets them."
        )


def _print_leftovers(left: list[str]) -> None:
    click.echo("deleted what was replaced")
    if left:
        click.echo("not looked into, and perhaps telling of it:\n" + "\n".join(f"  {place}" for place in left))
