"""The command `export`: accepted clips as files for other training projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import FOLDER, OUT, JobCommand, configured, engine_at, finish, in_process_option, prepare

if TYPE_CHECKING:
    from ...datasets.storage import Location


@click.command(cls=JobCommand)
@click.option("--clips", type=FOLDER, required=True, help="The --out of `curate` or `refilter`.")
@click.option("--out", type=OUT, required=True, help="Write OUT/export.")
@click.option(
    "--as",
    "layout",
    type=click.Choice(["mp4+jsonl", "diffsynth", "musubi"]),
    default="mp4+jsonl",
    show_default=True,
    help="mp4+jsonl: clips.jsonl. diffsynth: adds metadata.csv. musubi: adds dataset.toml and dataset.jsonl.",
)
@click.option("--area", type=click.IntRange(min=32 * 32), help="Area in pixels. Default: the preset's training area.")
@click.option("--size", type=click.Choice(["source"]), help="`source`: keep the size of the source.")
@click.option("--lossless", is_flag=True, help="Lossless H.264 RGB; FFmpeg plays it, browsers do not.")
@configured
@in_process_option
def export(clips: Location, out: Location, layout: str, area: int | None, size: str | None, lossless: bool, preset: str,
           print_config: bool, dry_run: bool, address: str | None, in_process: bool) -> None:  # fmt: skip
    """Write accepted clips, frame by frame, with pose videos, keypoints and captions."""
    from ...pipelines.export import job
    from ...pipelines.export.config import ExportConfig
    from .. import presets

    if area and size:
        raise click.UsageError("pass --area or --size, not both")
    run = presets.load(preset)
    trained = area or run.cache.max_area_px
    config = ExportConfig(layout=layout, max_area_px=None if size else trained, lossless=lossless)
    if prepare(run, print_config=print_config, dry_run=dry_run, plan=lambda: job.plan(config, clips, out)):
        return
    engine = engine_at(out, in_process, address)
    finish(out / "export", lambda: job.run(config, clips=clips, out=out, engine=engine))
