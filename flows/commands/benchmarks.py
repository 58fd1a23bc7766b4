"""The commands `xdance build` and `stitch`: make a benchmark of misaligned pairs; begin clips at their images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .options import FILE, FOLDER, OUT, JobCommand, configured, engine_at, finish, in_process_option, prepare

if TYPE_CHECKING:
    from ...datasets.schema import Row
    from ...datasets.storage import Location


def benchmark_pairs(name: str, source: dict[str, Any]) -> list[Row]:
    """Read a benchmark's pairs for a render, print its remarks, and put its record into `source`."""
    from ...datasets.benchmarks import read_benchmark

    found = read_benchmark(name)
    source["benchmark"] = found.to_record()
    for line in [*found.remarks, *(f"{pair}: {'; '.join(why)}" for pair, why in [*found.problems.items()][:5])]:
        click.echo(f"{found.name}: {line}", err=True)
    return [pair.to_row() for pair in found.pairs]


@click.group()
def xdance() -> None:
    """Build a benchmark of misaligned pairs, as the paper's X-Dance."""


@xdance.command("build", cls=JobCommand)
@click.option("--images", type=FOLDER, required=True, help="Folder of reference images.")
@click.option("--driving", type=FOLDER, required=True, help="Folder of driving videos.")
@click.option("--out", type=OUT, required=True, help="Write the benchmark into OUT.")
@click.option(
    "--notes",
    type=FILE,
    help="Table with a column file, and style (any word, as `anime`) or dynamics (high or low). Without a style, a "
    "picture statistic stands for it.",
)
@click.option("--pairs", "num_pairs", type=click.IntRange(min=1), help="Number of pairs. Default: the preset's, 48.")
@configured
@in_process_option
def xdance_build(images: Location, driving: Location, out: Location, notes: Location | None,
                 num_pairs: int | None, preset: str, print_config: bool, dry_run: bool, address: str | None,
                 in_process: bool) -> None:  # fmt: skip
    """Measure how images and driving videos are misaligned, and select pairs in balance."""
    from ...pipelines.benchmarks import job
    from .. import presets

    run = presets.change(presets.load(preset), "xdance", num_pairs=num_pairs)
    if prepare(run, print_config=print_config, dry_run=dry_run,
               plan=lambda: job.plan(run.xdance, images, driving, out, notes)):  # fmt: skip
        return
    engine = engine_at(out, in_process, address)
    records: list[dict[str, Any]] = []

    def build() -> dict[str, Any]:
        records.append(job.run(run.xdance, images=images, driving=driving, out=out, engine=engine, notes=notes))
        return records[0]

    finish(out / job.MEASURED, build)
    for line in job.summary(records[0]):
        click.echo(line)


@click.command()
@click.option("--transitions", type=FOLDER, required=True, help="Folder of ID.mp4 from the image to a first frame.")
@click.option("--clips", type=FOLDER, required=True, help="Folder of a method's ID.mp4.")
@click.option("--out", type=OUT, required=True, help="Write OUT/ID.mp4 with OUT/ID.json beside it.")
@click.option(
    "--crf", type=click.IntRange(0, 51), default=10, show_default=True, help="H.264's rate factor; fewer is better."
)
@click.option("--dry-run", is_flag=True, help="Print what would be stitched, and stop.")
def stitch(transitions: Location, clips: Location, out: Location, crf: int, dry_run: bool) -> None:
    """Begin clips at their reference images: put a generated transition before each, without the shared frame.

    The result can be scored as a video that starts at the image, for methods whose own videos do not. Run the command
    again to resume it.
    """
    from ... import SteadyDancerError
    from ...pipelines.benchmarks import first_last_frame

    if dry_run:
        click.echo(json.dumps(first_last_frame.plan(transitions, clips, out), indent=2))
        return
    results = first_last_frame.stitch_folder(transitions, clips, out, crf)
    made = [one for one in results if one.verdict == "ok"]
    click.echo(f"{out}: {len(made)} of {len(results)} stitched")
    for one in results:
        if one.detail:
            click.echo(f"  {one.id}: {': '.join(filter(None, (one.reason, one.detail)))}")
    if not made:
        raise SteadyDancerError("no clip could be stitched")
