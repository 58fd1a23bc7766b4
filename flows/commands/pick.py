"""The command `pick`: a checkpoint of the step that pleased in a training run's gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import FOLDER

if TYPE_CHECKING:
    from ...datasets.storage import Location


@click.command()
@click.option("--run", "out", type=FOLDER, required=True, help="What `train --out` was given.")
@click.option("--steps", type=click.IntRange(min=1), required=True, help="A step shown in RUN/report.html.")
def pick(out: Location, steps: int) -> None:
    """Make RUN/checkpoint-NNNNNN of a step that has a gallery; training, rendering and the pipeline take it."""
    from ...pipelines.train import job

    click.echo(f"{job.pick(out, steps)}: the weights after {steps} steps")
