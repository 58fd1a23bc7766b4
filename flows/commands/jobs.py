"""The commands `curate`, `cache`, `train` and `evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ... import SteadyDancerError
from .clips import with_page
from .options import (
    FOLDER,
    NAME,
    OUT,
    POSITIVE,
    JobCommand,
    NamedPlace,
    configured,
    engine_at,
    finish,
    in_process_option,
    prepare,
    require_cache,
    scores_option,
)

if TYPE_CHECKING:
    from ...datasets.storage import Location


@click.command(cls=JobCommand)
@click.option(
    "--clips",
    type=NAME,
    required=True,
    help="Folder, glob, or manifest (csv, json, jsonl or parquet with a column `path`).",
)
@click.option("--out", type=OUT, required=True, help="Write OUT/clips, OUT/curation.html and OUT/card.md.")
@click.option("--num-frames", type=int, help="Frames per clip, 4k + 1.")
@click.option(
    "--exclude", type=FOLDER, help="Evaluation videos, or an .npz of their fingerprints: reject clips that match these."
)
@click.option(
    "--trust",
    is_flag=True,
    help="Inputs are already vetted: skip quality scores, but still probe, split and find poses.",
)
@click.option("--parent", type=FOLDER, help="The --out of an earlier run: reuse the measurements of unchanged files.")
@configured
@in_process_option
def curate(clips: str, out: Location, num_frames: int | None, exclude: Location | None, trust: bool,
           parent: Location | None, preset: str, print_config: bool, dry_run: bool, address: str | None,
           in_process: bool) -> None:  # fmt: skip
    """Split videos into clips, score the clips, and accept or reject each one."""
    from ...pipelines.curate import job
    from .. import presets

    # Absolute, because workers may run in other directories.
    excluded = str(exclude.absolute()) if exclude else None
    run = presets.change(presets.load(preset), "curate", num_frames=num_frames, exclude=excluded, trust=trust or None)
    if prepare(run, print_config=print_config, dry_run=dry_run, plan=lambda: job.plan(run.curate, clips, out, parent)):
        return
    engine = engine_at(out, in_process, address, run.cluster.wait_for_nodes_s)
    work = with_page(out, lambda: job.run(run.curate, clips=clips, out=out, engine=engine, parent=parent))
    finish(out / "clips", work)


@click.command(cls=JobCommand)
@click.option("--clips", type=FOLDER, required=True, help="The --out of `curate` or `refilter`.")
@click.option("--out", type=OUT, required=True, help="Write OUT/latents.")
@click.option("--components", type=NAME, help="Wan 2.1 I2V folder or hub id: VAE, text encoder and image encoder.")
@click.option("--captioner", type=NAME, help="Folder of an image-to-text model, for clips without a prompt.")
@configured
@in_process_option
def cache(clips: Location, out: Location, components: str | None, captioner: str | None, preset: str,
          print_config: bool, dry_run: bool, address: str | None, in_process: bool) -> None:  # fmt: skip
    """Encode accepted clips into WebDataset shards for training."""
    from ...pipelines.cache import job
    from .. import presets

    run = presets.change(presets.load(preset), "cache", components=components, captioner=captioner)
    drawn = run.samples_drawn
    if prepare(run, print_config=print_config, dry_run=dry_run, plan=lambda: job.plan(run.cache, clips, out, drawn)):
        return
    engine = engine_at(out, in_process, address, run.cluster.wait_for_nodes_s)
    finish(out / "latents", lambda: job.run(run.cache, clips=clips, out=out, engine=engine, samples_drawn=drawn))


@click.command(cls=JobCommand)
@click.option("--latents", type=FOLDER, required=True, help="OUT/latents of `cache`.")
@click.option(
    "--stage", type=click.IntRange(1, 3), required=True, help="1 action supervision, 2 distillation, 3 pose simulation."
)
@click.option("--base", type=NAME, help="Wan 2.1 I2V folder or hub id: start of stage 1, teacher of stage 2.")
@click.option("--from", "from_checkpoint", type=FOLDER, help="OUT/checkpoint of the previous stage.")
@click.option("--out", type=OUT, required=True, help="Write OUT/checkpoint and OUT/metrics.jsonl.")
@click.option("--steps", type=int, help="Total optimizer steps of the stage; a larger number continues a finished run.")
@click.option("--seed", type=int, help="Seed of initial weights, sample order and all random draws.")
@click.option("--num-workers", type=int, help="Ray Train workers; 0 trains in this process.")
@click.option(
    "--fork", type=FOLDER, help="The --out of another run: start from its newest training state, with new settings."
)
@click.option(
    "--bundle", is_flag=True, help="Copy VAE, encoders and tokenizer into the checkpoint, for a complete pipeline."
)
@click.option("--tflops", type=POSITIVE, help="For --dry-run: speed of a GPU in TFLOP/s. Default: the measured rate.")
@click.option(
    "--gpu-memory-gb", type=POSITIVE, help="For --dry-run: memory of a GPU in GB. Default: this machine's GPU."
)
@configured
def train(latents: Location, stage: int, base: str | None, from_checkpoint: Location | None, out: Location,
          steps: int | None, seed: int | None, num_workers: int | None, fork: Location | None, bundle: bool,
          tflops: float | None, gpu_memory_gb: float | None, preset: str, print_config: bool, dry_run: bool,
          address: str | None) -> None:  # fmt: skip
    """Train one of the three stages.

    If interrupted, run the same command again to resume. SIGTERM stops after the current step, with exit status 75;
    the loss of a worker has the same status.
    """
    from ...pipelines.train import job
    from ...pipelines.train.preflight.table import table
    from .. import presets

    run = presets.change(presets.load(preset), f"stage{stage}", steps=steps, seed=seed, num_workers=num_workers,
                         bundle=bundle or None)  # fmt: skip
    if stage == 1:  # later stages read their base from the checkpoint that they start from
        base = base or run.cache.components
    if not print_config:
        latents = require_cache(run, latents)
    inputs: dict[str, Any] = {"latents": latents, "base": base, "out": out, "from_checkpoint": from_checkpoint}
    plan: dict[str, Any] = {}
    if dry_run and not print_config:
        given: dict[str, Any] = {"address": address, "fork": fork, "tflops": tflops, "gpu_memory_gb": gpu_memory_gb}
        plan = job.plan(run.stage(stage), **inputs, **given)
    if prepare(run, print_config=print_config, dry_run=dry_run, plan=lambda: plan):
        if plan:
            click.echo(f"\n{table(plan)}\n", err=True)  # stdout has the JSON alone
        if refusals := plan.get("refusals"):  # printed after the table that explains them
            raise SteadyDancerError("\n".join(refusals))
        return
    waits = run.cluster.wait_for_nodes_s
    record = job.run(run.stage(stage), **inputs, address=address, fork=fork, wait_for_nodes_s=waits)
    if record.get("already_finished"):
        click.echo("this run is already finished; pass a larger --steps to continue it")
    click.echo(f"{out / 'checkpoint'}: stage {stage}, {record['steps']} steps, "
               f"loss {record['loss_before']} before, {record['loss_after']} after")  # fmt: skip


def _print_catalogue(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    """Print the catalogue of metrics and stop."""
    if wanted and not ctx.resilient_parsing:
        from ...pipelines.evaluate.listing import catalogue_lines

        click.echo("\n".join(catalogue_lines()))
        ctx.exit()


@click.command(cls=JobCommand)
@click.option("--renders", type=FOLDER, help="The --out of `render`, or a folder of ID.mp4.")
@click.option(
    "--videos",
    type=NamedPlace(FOLDER),
    multiple=True,
    help="[NAME=]DIR: the videos ID.mp4 of a method, or the --out of `render`; repeat it to compare methods. The same "
    "NAME again: another seed of that method.",
)
@click.option(
    "--truth", type=FOLDER, help="Folder of ground-truth videos, one ID.mp4 per render; frames are matched by time."
)
@click.option(
    "--benchmark", type=NAME, help="Benchmark, by name or folder: reference, driving video and ground truth by ID."
)
@scores_option
@click.option(
    "--protocol", help="`all`, `first-81`, `humanvid-24x3-mid`, `vbench-i2v`, …, or FILE.json with one's own."
)
@click.option(
    "--metrics",
    multiple=True,
    help="Metrics, groups or tables (`pose`, `vbench`) to measure; repeat it, or put commas between. Default: all "
    "whose weights are here.",
)
@click.option(
    "--list",
    "list_metrics",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_catalogue,
    help="List the metrics, what each needs, and which weights are here; then stop.",
)
@click.option(
    "--out", type=OUT, required=True, help="Write OUT/metrics, OUT/measurements and OUT/report.html, .csv, .tex."
)
@configured
@in_process_option
def evaluate(renders: Location | None, videos: tuple[tuple[str | None, Location], ...], truth: Location | None,
             benchmark: str | None, scores: tuple[tuple[str | None, Location], ...], protocol: str | None,
             metrics: tuple[str, ...], out: Location, preset: str, print_config: bool, dry_run: bool,
             address: str | None, in_process: bool) -> None:  # fmt: skip
    """Score the videos of one or several methods. A metric that cannot be measured is null, with a reason.

    Run it again with more --metrics, or once missing weights are here: only these are measured.
    """
    from ...pipelines.evaluate import job
    from ...pipelines.evaluate.imported import ScoreFile
    from ...pipelines.evaluate.sources import Source
    from .. import presets

    if not print_config and renders is None and not videos:
        raise click.UsageError("pass --renders or --videos")
    run = presets.change(presets.load(preset), "evaluate", protocol=protocol, metrics=list(metrics) or None)
    given: dict[str, Any] = {}
    if videos:
        given["videos"] = [Source(name, folder) for name, folder in videos]
    if benchmark:
        given["benchmark"] = benchmark
    if scores:
        given["scores"] = [ScoreFile(method, file) for method, file in scores]
    if prepare(run, print_config=print_config, dry_run=dry_run,
               plan=lambda: job.plan(run.evaluate, renders, truth, out, **given)):  # fmt: skip
        return
    engine = engine_at(out, in_process, address, run.cluster.wait_for_nodes_s)
    inputs: dict[str, Any] = {"renders": renders, "truth": truth, "out": out, **given}
    finish(out / "metrics", lambda: job.run(run.evaluate, **inputs, engine=engine))
