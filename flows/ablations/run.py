"""The command `reproduce ablations`: make the world, run the packets, write table and page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ... import SteadyDancerError
from ...datasets.artifact import Artifact, exclusive
from ...datasets.storage.atomic import write_json
from ...datasets.storage.digests import differences
from ...models.weights.lookup import find, weight
from ...pipelines.common.components import find_parts
from ...pipelines.render.config import FROZEN
from ...pipelines.runtime.after_commit import after_commit
from ...pipelines.runtime.runner import Engine
from ..presets import Run, change
from .forecast import LIMIT_CPU_HOURS, Forecast, forecast
from .packet import Packet, network_of
from .rows import Row, choose, in_order
from .schedule import duration, run_packets, step
from .world import GAPS, World, make_world

SETTINGS, TABLE, PAGE = "settings.json", "table.json", "index.html"
PARTS = (*FROZEN, "transformer")


def packets_of(rows: Sequence[Row], num_seeds: int) -> list[Packet]:
    """Return a packet for each row and seed; all rows of a seed first, so that a table of one seed comes early."""
    return [Packet(row.name, seed) for seed in range(num_seeds) for row in in_order(rows)]


def plan(run: Run, rows: Sequence[Row], num_seeds: int, world: World, out: Path, num_workers: int) -> dict[str, Any]:
    """Describe what `run_ablations` would do, and what it would cost."""
    packets = packets_of(rows, num_seeds)
    cost = forecast(run, packets, world)
    left = cost.left(out) + (0.0 if Artifact(out / "latents").committed else cost.world)
    return {
        "rows": [row.name for row in rows],
        "seeds": num_seeds,
        "packets": len(packets),
        "finished": sum(packet.is_done(out) for packet in packets),
        "training_steps": {f"stage{n}": run.stage(n).steps for n in (1, 2, 3)},
        "world": world.to_record(),
        "components": run.cache.components,
        "cpu_hours_forecast": round(cost.cpu_hours, 2),
        "cpu_hours_left": round(left / 3600, 2),
        "longest_packet": duration(max(cost.packets.values())),
        "time_on_workers": duration(left / max(num_workers, 1)),
        "within_12_cpu_hours": cost.cpu_hours <= LIMIT_CPU_HOURS,
    }


def run_ablations(
    run: Run,
    *,
    rows: Sequence[str] = (),
    num_seeds: int,
    world: World,
    out: Path,
    num_workers: int,
    in_process: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Train and score rows at each seed; return the table, which is also written to `out/table.json`.

    Args:
        run: the configuration of the reference.
        rows: names of rows or groups; none: all. Rows that these start from or are compared with are added.
        num_seeds: training seeds 0, 1, ….
        world: sizes of the world.
        out: folder of the run; the same command resumes, and more rows or seeds extend it.
        num_workers: worker processes; 0 trains, renders and measures in this process.
        in_process: curate and cache without Ray.
        command: the command line, for the pages.

    Raises:
        SteadyDancerError: the folder has another run, parts are missing, or a packet failed.
    """
    chosen = choose(rows)
    out = out.resolve()
    run = change(run, "cache", components=str(find_parts(run.cache.components, PARTS)))
    run = change(run, "render", components=run.cache.components)
    run = _with_estimator(run)
    for row in chosen:
        network_of(run, row)  # a row that differs in more than it names is refused before anything is computed
    packets = packets_of(chosen, num_seeds)
    with exclusive(out / ".engine"):
        _check_settings(run, world, out)
        cost = forecast(run, packets, world)
        _announce(cost, packets, out, num_workers)
        with step("make clips and pairs"):
            make_world(run, world, out, Engine(out / ".engine" / "jobs", in_process))
        try:
            run_packets(run, packets, out, num_workers, cost)
        finally:
            table = _write_results(run, packets, out, {"world": world.to_record(), "command": command})
    return table


def _with_estimator(run: Run) -> Run:
    """Return the run without an estimator of joints if its weights are missing, with a warning."""
    name = run.evaluate.pose_model
    if name == "toydance" and find(weight("toydance-pose")) is None:
        click.echo("the small pose networks are not in this package: metrics of joints are not measured", err=True)
        return change(run, "evaluate", pose_model="supplied")
    return run


def _check_settings(run: Run, world: World, out: Path) -> None:
    """Record the configuration and the world of a new folder, or check that those of an old one are the same.

    Raises:
        SteadyDancerError: it is tied to others; the message lists the differences.
    """
    settings = json.loads(json.dumps({"run": run.model_dump(mode="json"), "world": world.to_record()}))
    file = out / SETTINGS
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
        return
    changes = list(differences(json.loads(file.read_text()), settings))
    if changes:
        raise SteadyDancerError(
            f"{out} has ablations with other settings; choose another --out:\n"
            + "\n".join(f"  {one}" for one in changes)
        )


def _announce(cost: Forecast, packets: Sequence[Packet], out: Path, num_workers: int) -> None:
    done = sum(packet.is_done(out) for packet in packets)
    click.echo(
        f"{len(packets)} packets, {done} of them finished; {cost.cpu_hours:.1f} CPU hours in all by forecast, "
        f"{duration(cost.left(out) / max(num_workers, 1))} left"
    )


def _write_results(run: Run, packets: Sequence[Packet], out: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """Write `table.json` and the pages from the packets that are finished; nothing if none is."""
    from .table import Results, table_record

    if not any(packet.is_done(out) for packet in packets):
        return {}
    results = Results.read(out, packets, json.loads((out / "pairs" / GAPS).read_text()))
    table = {
        **table_record(results),
        **made,
        "packets": len(packets),
        "finished": len(results.by_packet),
        "steps": {f"stage{n}": run.stage(n).steps for n in (1, 2, 3)},
    }
    write_json(out / TABLE, table)
    with after_commit(str(out / PAGE), "run the same command again to write it"):
        from .page import write_pages

        write_pages(out, results, table)
    click.echo(f"{len(results.by_packet)} of {len(packets)} packets are in {out / PAGE}")
    return table
