"""The command `demo`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import LOCAL_FOLDER, NAME


@click.command()
@click.option("--clips", type=NAME, help="Your own videos, local or on an object store. Default: generated dancers.")
@click.option("--out", type=LOCAL_FOLDER, help="Folder on this machine. Default: runs/demo.")
@click.option(
    "--preset",
    help="toydance_demo, tiny, module:function, or FILE.json. Default: toydance_demo, or tiny with --clips.",
)
@click.option(
    "--difficulty",
    "difficulties",
    type=click.Choice(["standard", "hard"]),
    multiple=True,
    help="Also render and measure generated pairs of this difficulty, about two minutes each.",
)
@click.option("--compare-stages", is_flag=True, help="Also render with stages 1 and 2, and compare the two.")
@click.option("--print-config", is_flag=True, help="Print the configuration as JSON and stop.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@click.option("--in-process", is_flag=True, help="Curate, cache, render and evaluate without Ray.")
def demo(
    clips: str | None,
    out: Path | None,
    preset: str | None,
    difficulties: tuple[str, ...],
    compare_stages: bool,
    print_config: bool,
    dry_run: bool,
    in_process: bool,
) -> None:
    """Run all jobs at small size, in minutes: curate, cache, train, render, evaluate.

    Without --clips, small networks that are part of the package learn on from generated dancers, and the renders are
    measured against their truths.
    """
    from .. import presets

    run = presets.load(preset or ("tiny" if clips else "toydance_demo"))
    if print_config:
        click.echo(run.model_dump_json(indent=2))
        return
    from ..demo.run import choose_out_folder, plan, run_demo

    out = out or choose_out_folder(clips)
    if dry_run:
        click.echo(json.dumps(plan(run, clips, out, difficulties), indent=2))
        return
    run_demo(run, clips=clips, out=out, in_process=in_process, difficulties=difficulties, compare_stages=compare_stages)
