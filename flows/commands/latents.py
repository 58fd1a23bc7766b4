"""The commands `verify` and `repair`: check a latent cache, and rebuild damaged shards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .options import FOLDER, NAME, NOT_NEGATIVE, OUT, engine_at, in_process_option

if TYPE_CHECKING:
    from ...datasets.storage import Location
    from ...pipelines.cache.verify import Finding

latents_option = click.option("--latents", type=FOLDER, required=True, help="OUT/latents of `cache`.")


@click.command()
@latents_option
def verify(latents: Location) -> None:
    """Read a whole latent cache and compare it with its index and record.

    If anything is missing, truncated, damaged or unknown, print a table and exit with status 1. Read-only.
    """
    from ... import SteadyDancerError
    from ...pipelines.cache.verify import verify

    found = verify(latents)
    read = f"{found.samples} samples in {found.shards} shards, {found.bytes / 1e9:.3g} GB"
    if found.without:
        reasons = ", ".join(f"{number} {reason}" for reason, number in found.without.most_common())
        click.echo(f"{latents}: {sum(found.without.values())} clips have no latents: {reasons}")
    if not found.findings:
        click.echo(f"{latents}: {read}, all intact")
        return
    click.echo(_table(found.findings))
    click.echo(f"intact: {read}")
    raise SteadyDancerError(
        f"{latents} has {len(found.findings)} errors in {len(found.packets - found.sound)} of {len(found.packets)} "
        f"packets; run `steadydancer repair --latents {latents} --out NEW` to write an intact version to NEW/latents"
    )


@click.command()
@latents_option
@click.option("--out", type=OUT, required=True, help="Write OUT/latents; the damaged cache is not changed.")
@click.option("--clips", type=FOLDER, help="The curation that the cache was made from, if it has moved.")
@click.option("--components", type=NAME, help="The encoders, if they have moved.")
@click.option("--captioner", type=NAME, help="The captioner, if it has moved.")
@click.option("--num-gpus", type=NOT_NEGATIVE, help="GPUs per encoding worker. Default: as recorded.")
@click.option("--dry-run", is_flag=True, help="Read the cache, print what would be encoded again, and stop.")
@click.option("--address", help="Ray cluster to join. Default: start a private Ray on this machine.")
@in_process_option
def repair(latents: Location, out: Location, clips: Location | None, components: str | None, captioner: str | None,
           num_gpus: float | None, dry_run: bool, address: str | None, in_process: bool) -> None:  # fmt: skip
    """Write a new version of a damaged latent cache, with the same bytes as the original.

    Intact shards are linked or copied; the others are encoded again from the clips, with the same networks.
    """
    from ...datasets.artifact import Artifact
    from ...pipelines.cache import repair
    from ...pipelines.common.outcomes import closing_lines

    if dry_run:
        click.echo(json.dumps(repair.plan(latents, clips, components), indent=2))
        return
    was_finished = Artifact(out / "latents").committed
    record = repair.repair(
        latents,
        out,
        engine_at(out, in_process, address),
        clips=clips,
        components=components,
        captioner=captioner,
        num_gpus=num_gpus,
    )
    if record is None:
        click.echo(f"{latents}: intact; nothing to repair")
        return
    parent = record["parent"] or {}
    done = " (already finished; nothing to do)" if was_finished else ""
    click.echo(
        f"{out / 'latents'}: {record['counts']['ok']} samples, {parent.get('packets_made_anew', 0)} of "
        f"{len(record['parts'])} shards rebuilt{done}"
    )
    for line in closing_lines(Artifact(out / "latents")):
        click.echo(line)


def _table(findings: list[Finding]) -> str:
    rows = [("fault", "file", "detail"), *((one.kind, one.place, one.detail) for one in findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{fault:{widths[0]}}  {file:{widths[1]}}  {detail}" for fault, file, detail in rows)
