"""The commands `verify` and `repair`: what lies in a latent cache, read back, and made anew where it is damaged."""

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
    """Read a latent cache back, all of it, against its index and its record.

    Exit status 1 and a table if something is missing, cut short, damaged or unknown. Nothing is changed.
    """
    from ... import SteadyDancerError
    from ...pipelines.cache.verify import verify

    found = verify(latents)
    read = f"{found.samples} samples in {found.shards} shards, {found.bytes / 1e9:.3g} GB"
    if found.without:
        reasons = ", ".join(f"{number} {reason}" for reason, number in found.without.most_common())
        click.echo(f"{latents}: {sum(found.without.values())} clips have no latents: {reasons}")
    if not found.findings:
        click.echo(f"{latents}: {read}, all as they were written")
        return
    click.echo(_table(found.findings))
    click.echo(f"sound: {read}")
    raise SteadyDancerError(
        f"{latents} has {len(found.findings)} faults in {len(found.packets - found.sound)} of {len(found.packets)} "
        f"packets: `steadydancer repair --latents {latents} --out NEW` makes a sound version in NEW/latents"
    )


@click.command()
@latents_option
@click.option("--out", type=OUT, required=True, help="OUT/latents is made; what is damaged stays as it is.")
@click.option("--clips", type=FOLDER, help="The curation it was made of, if it lies elsewhere now.")
@click.option("--components", type=NAME, help="The encoders, if they lie elsewhere now.")
@click.option("--captioner", type=NAME, help="The captioner, if it lies elsewhere now.")
@click.option("--num-gpus", type=NOT_NEGATIVE, help="GPUs of an encoding worker, if other than before.")
@click.option("--dry-run", is_flag=True, help="Read the cache, say what would be encoded anew, and stop.")
@click.option("--address", help="Ray cluster to join; without it a private Ray starts on this machine.")
@in_process_option
def repair(latents: Location, out: Location, clips: Location | None, components: str | None, captioner: str | None,
           num_gpus: float | None, dry_run: bool, address: str | None, in_process: bool) -> None:  # fmt: skip
    """Make a new version of a damaged latent cache, with the bytes that it had.

    Sound shards are linked or copied; the others are encoded again from the clips, by the same networks.
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
        click.echo(f"{latents}: all as it was written, nothing to repair; nothing was made")
        return
    parent = record["parent"] or {}
    done = " (finished already, nothing was left to do)" if was_finished else ""
    click.echo(
        f"{out / 'latents'}: {record['counts']['ok']} samples, {parent.get('packets_made_anew', 0)} of "
        f"{len(record['parts'])} shards were made anew{done}"
    )
    for line in closing_lines(Artifact(out / "latents")):
        click.echo(line)


def _table(findings: list[Finding]) -> str:
    rows = [("what", "where", "detail"), *((one.kind, one.place, one.detail) for one in findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{what:{widths[0]}}  {where:{widths[1]}}  {detail}" for what, where, detail in rows)
