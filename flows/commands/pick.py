"""The command `pick`: export the weights of a training step that has a gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import FOLDER

if TYPE_CHECKING:
    from ...datasets.storage import Location


@click.command()
@click.option("--run", "out", type=FOLDER, required=True, help="The --out of `train`.")
@click.option("--steps", type=click.IntRange(min=1), required=True, help="A step with a gallery in RUN/report.html.")
def pick(out: Location, steps: int) -> None:
    """Write RUN/checkpoint-NNNNNN from a step that has a gallery, for training, rendering or the pipeline."""
    from ...pipelines.train import job

    click.echo(f"{job.pick(out, steps)}: the weights after {steps} steps")
