"""The command `convert`: `models.checkpoints.convert` with a progress bar."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .options import NAME, OUT

if TYPE_CHECKING:
    from ...datasets.storage import Location
    from ...models.checkpoints.conversion_output import LoraLayout, Target
    from ...models.checkpoints.quantisation import Quantisation

_TARGET = (
    "diffusers: a pipeline folder, including the encoders of a release. official: the layout of the released "
    "checkpoint. lora: the adapter of a training checkpoint."
)


@click.command()
@click.option(
    "--from",
    "source",
    type=NAME,
    required=True,
    help="Safetensors file, index, folder in any layout, or hub id.",
)
@click.option("--to", type=OUT, required=True, help="Folder to write.")
@click.option("--as", "target", type=click.Choice(["diffusers", "official", "lora"]), default="diffusers", help=_TARGET)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Data type of the weights. Default: as stored.",
)
@click.option("--shard-size", default="5GB", show_default=True, help="Maximum size of each file.")
@click.option(
    "--layout",
    type=click.Choice(["diffusers", "comfyui"]),
    default="diffusers",
    help="Naming scheme of LoRA parameters.",
)
@click.option(
    "--quantise",
    type=click.Choice(["fp8", "int8"]),
    help="Store the linear layers of the blocks in one byte per weight, with a scale per output channel, and write the "
    "error of each to quantisation.json. For rendering; such weights cannot be trained.",
)
@click.option("--dry-run", is_flag=True, help="Read only the file headers, print what would be written, and stop.")
def convert(
    source: str,
    to: Location,
    target: Target,
    dtype: str | None,
    shard_size: str,
    layout: LoraLayout,
    quantise: Quantisation | None,
    dry_run: bool,
) -> None:
    """Convert a checkpoint to another layout, using little memory.

    The folder appears once it is complete. If it already exists, there is nothing to do.
    """
    from ...datasets.storage import location
    from ...models.conversion import convert

    with convert.local_source(source) as place:
        if dry_run:
            plan = convert.describe(place, to, target, dtype, shard_size, layout, quantise)
            click.echo(json.dumps({**plan, "from": source}, indent=2))
            return
        with click.progressbar(length=0, label=f"{target} from {location(source).name}") as bar:

            def advance(num_bytes: int, total: int) -> None:
                bar.length = total
                bar.update(num_bytes)

            record = convert.convert(
                place, to, target, dtype=dtype, shard_size=shard_size, lora_layout=layout, kind=quantise,
                advance=advance, source_name=source if "://" in source else None,
            )  # fmt: skip
    done = " (already finished; nothing to do)" if record.get("already_finished") else ""
    click.echo(f"{to}: {record['num_tensors']} tensors, {record['num_bytes'] / 1e9:.2f} GB{done}")
    if quantise:
        click.echo(_error_line(quantise, record["quantisation"]))


def _error_line(kind: Quantisation, summary: dict[str, Any]) -> str:
    return (
        f"{kind}: {summary['num_tensors']} weights with a relative error (root mean square) of "
        f"{summary['mean_relative_rms']:.2%} on average, {summary['largest_relative_rms']:.2%} at most "
        f"({summary['largest_relative_rms_in']}); "
        f"lowest cosine {summary['lowest_cosine']:.6f}; all of them in quantisation.json"
    )
