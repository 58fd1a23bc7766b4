"""The command `refilter`: select clips again from their stored scores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ... import SteadyDancerError
from .options import FILE, FOLDER, OUT, finish, number

if TYPE_CHECKING:
    from ...datasets.storage import Location


@click.command()
@click.option("--clips", type=FOLDER, required=True, help="The --out of `curate` or `refilter`.")
@click.option("--out", type=OUT, required=True, help="Write OUT/clips: a new version, which records its parent.")
@click.option("--preset", help="Preset with the gates, duplicates, quotas and target: tiny, one_gpu, paper, "
              "module:function or FILE.json (may set only some of them). Default: the parent's.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="GATE=VALUE",
              help="A threshold, or `off`; SHAPE.GATE=VALUE for vertical, horizontal or square videos.")  # fmt: skip
@click.option("--decisions", type=FILE, help="CSV of manual verdicts: clip_id or source_path [and start_s], "
              "verdict (accept, reject), note.")  # fmt: skip
@click.option("--target", type=click.IntRange(min=0), help="Find thresholds that accept this many clips; 0: no target.")
@click.option("--mix", multiple=True, metavar="SHAPE=SHARE", help="Share of the target, for example vertical=0.72.")
@click.option(
    "--max-per-source", type=click.IntRange(min=1), help="Maximum accepted clips per source; the best are kept."
)
@click.option("--dry-run", is_flag=True, help="Print how many clips each gate rejects, in order and alone, and stop.")
def refilter(clips: Location, out: Location, preset: str | None, settings: tuple[str, ...], decisions: Location | None,
             target: int | None, mix: tuple[str, ...], max_per_source: int | None, dry_run: bool) -> None:  # fmt: skip
    """Select clips again from stored scores; no video is read."""
    from ...datasets.clips import Clips
    from ...pipelines.curate import refilter as job

    record = Clips(clips).record
    changes = _of_preset(preset) if preset else {}
    _set_gates(changes, settings, record["config"])
    if max_per_source is not None:
        changes["quotas"] = changes.get("quotas", {}) | {"max_accepted_per_source": max_per_source}
    _set_target(changes, target, mix, record["config"])
    config = job.change_selection(record, changes)
    if dry_run:
        click.echo(json.dumps(job.plan(config, clips=clips, out=out, decisions=decisions), indent=2))
        return
    found: dict[str, Any] = {}

    def run() -> dict[str, Any]:
        found.update(job.run(config, clips=clips, out=out, decisions=decisions))
        return found

    finish(out / "clips", run)
    if reached := found["selection"]["target"]:
        _print_target(reached)


def _of_preset(preset: str) -> dict[str, Any]:
    """Return the selection fields of a preset; JSON may hold only some of them."""
    from ...datasets.text import read_text
    from ...pipelines.curate.config import SELECTION_FIELDS
    from .. import presets

    if preset.lstrip().startswith("{") or preset.lower().endswith(".json"):
        text = preset if preset.lstrip().startswith("{") else read_text(preset)
        try:
            curate = json.loads(text)["curate"]
        except (ValueError, KeyError, TypeError) as error:
            raise SteadyDancerError(f'cannot read preset {preset[:80]}: expected {{"curate": {{…}}}}') from error
    else:
        curate = presets.load(preset).curate.model_dump(mode="json")
    return {name: curate[name] for name in SELECTION_FIELDS if name in curate}


def _set_gates(changes: dict[str, Any], settings: tuple[str, ...], config: dict[str, Any]) -> None:
    from ...pipelines.curate.config import SHAPES
    from ...pipelines.curate.gates import Gates

    for setting in settings:
        name, equals, value = setting.partition("=")
        shape, dot, gate = name.rpartition(".")
        if gate not in Gates.model_fields or not equals or (dot and shape not in SHAPES):
            raise click.BadParameter(
                f"{setting}: expected GATE=VALUE or SHAPE.GATE=VALUE; gates are {', '.join(Gates.model_fields)}"
            )
        try:
            bound = None if value in ("off", "none", "null") else number(value)
        except ValueError:
            raise click.BadParameter(f"{setting}: expected a number or `off`") from None
        if not dot:
            changes["gates"] = changes.get("gates", {}) | {gate: bound}
            continue
        before = changes.get("gates_by_shape", config.get("gates_by_shape", {}))
        changes["gates_by_shape"] = before | {shape: before.get(shape, {}) | {gate: bound}}


def _set_target(changes: dict[str, Any], target: int | None, mix: tuple[str, ...], config: dict[str, Any]) -> None:
    if target == 0:
        changes["target"] = None
    elif target is not None:
        changes["target"] = {"num_clips": target, "mix": {}}
    if not mix:
        return
    wanted = changes.get("target", config.get("target"))
    if wanted is None:
        raise click.BadParameter("--mix requires --target: pass both")
    shares = {}
    for share in ",".join(mix).split(","):
        shape, _, value = share.partition("=")
        try:
            shares[shape.strip()] = number(value)
        except ValueError:
            raise click.BadParameter(f"{share}: expected SHAPE=SHARE, for example vertical=0.72") from None
    changes["target"] = wanted | {"mix": shares}


def _print_target(target: dict[str, Any]) -> None:
    for part in target["parts"]:
        shapes, asked, got = "/".join(part["shapes"]), part["asked"], part["accepted"]
        missing = "" if got >= asked else f": only {part['available']} are available with the adjustable gates off"
        strictness = "" if part["strictness"] is None else f" at strictness {part['strictness']:+.3f}"
        number = part.get("unmeasured", 0)  # absent in records of older versions
        unscored = f"; {number} of them lack a score that the ranking needs" * bool(number)
        click.echo(f"{shapes}: {got} of {asked}{strictness}{missing}{unscored}")
    click.echo(f"thresholds, for --preset: {json.dumps(target['preset'])}")
