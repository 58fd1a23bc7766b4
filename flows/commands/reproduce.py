"""The command `reproduce ablations`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click

from .options import LOCAL_FOLDER, NAME


@click.group()
def reproduce() -> None:
    """Repeat experiments of the paper at small size."""


@reproduce.command()
@click.option(
    "--rows",
    "words",
    multiple=True,
    help="Rows or groups of rows, several with commas between them. Default: all. Rows that these start from or are "
    "compared with are added.",
)
@click.option("--seeds", "num_seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Training seeds.")
@click.option("--out", type=LOCAL_FOLDER, required=True, help="Write OUT/table.json, OUT/table.md and OUT/index.html.")
@click.option("--preset", default="toydance_ablations", show_default=True, help="Configuration of the reference rows.")
@click.option("--components", type=NAME, help="Folder of the small components. Default: those of the package.")
@click.option("--clip-sets", type=click.IntRange(min=1), default=20, show_default=True, help="Sets of training clips.")
@click.option("--clips-per-set", type=click.IntRange(min=2), default=50, show_default=True, help="Clips of a set.")
@click.option(
    "--pairs",
    "num_pairs",
    type=click.IntRange(min=2),
    default=12,
    show_default=True,
    help="Pairs to render of each cause.",
)
@click.option(
    "--workers",
    "num_workers",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Processes that run packets, of one thread each; 0: this process.",
)
@click.option("--list", "lists", is_flag=True, help="List rows and groups, and stop.")
@click.option("--print-config", is_flag=True, help="Print the configuration as JSON and stop.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and cost, and stop.")
@click.option("--in-process", is_flag=True, help="Curate and cache without Ray.")
def ablations(words: tuple[str, ...], num_seeds: int, out: Path, preset: str, components: str | None, clip_sets: int,
              clips_per_set: int, num_pairs: int, num_workers: int, lists: bool, print_config: bool, dry_run: bool,
              in_process: bool) -> None:  # fmt: skip
    """Train and score the paper's ablations on ToyDance: Table 3 and Figures 5 and 12 to 15, with intervals.

    Every row at every seed is a packet. Run an interrupted command again to resume it; more rows or seeds extend it.
    """
    from .. import presets
    from ..ablations.rows import GROUPS, ROWS

    if lists:
        for name, title in GROUPS.items():
            click.echo(f"{name}: {title}")
            for row in ROWS.values():
                if row.group == name:
                    click.echo(f"  {row.name:26} {row.title}")
        return
    run = presets.change(presets.load(preset), "cache", components=components)
    if print_config:
        click.echo(run.model_dump_json(indent=2))
        return
    from ..ablations.rows import choose
    from ..ablations.run import plan, run_ablations
    from ..ablations.world import World

    asked = tuple(word.strip() for text in words for word in text.split(",") if word.strip())
    world = World(clip_sets, clips_per_set, num_pairs)
    if dry_run:
        click.echo(json.dumps(plan(run, choose(asked), num_seeds, world, out, num_workers), indent=2))
        return
    run_ablations(run, rows=asked, num_seeds=num_seeds, world=world, out=out, num_workers=num_workers,
                  in_process=in_process, command="steadydancer " + shlex.join(sys.argv[1:]))  # fmt: skip
