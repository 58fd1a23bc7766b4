"""The jobs of the walk, one command each: curate, cache, train, render, evaluate."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ... import SteadyDancerError
from .clips import with_page
from .options import (
    FILE,
    FOLDER,
    NAME,
    OUT,
    POSITIVE,
    JobCommand,
    configured,
    engine_at,
    finish,
    in_process_option,
    prepare,
    require_cache,
)

if TYPE_CHECKING:
    from ...datasets.schema import Row
    from ...datasets.storage import Location


@click.command(cls=JobCommand)
@click.option(
    "--clips",
    type=NAME,
    required=True,
    help="Folder, glob, or manifest: csv, json, jsonl or parquet with a column `path`.",
)
@click.option(
    "--out", type=OUT, required=True, help="OUT/clips is made, and OUT/curation.html and OUT/card.md tell of it."
)
@click.option("--num-frames", type=int, help="Frames of a clip, 4k + 1.")
@click.option(
    "--exclude", type=FOLDER, help="Evaluation videos, or an .npz of their fingerprints: no clip may be theirs."
)
@click.option("--trust", is_flag=True, help="Chosen before: no scores; probing, shots and pose stay.")
@click.option("--parent", type=FOLDER, help="OUT of an earlier run: what is the same file is not measured again.")
@configured
@in_process_option
def curate(clips: str, out: Location, num_frames: int | None, exclude: Location | None, trust: bool,
           parent: Location | None, preset: str, print_config: bool, dry_run: bool, address: str | None,
           in_process: bool) -> None:  # fmt: skip
    """Cut videos into clips, measure them, and give each a verdict."""
    from ...pipelines.curate import job
    from .. import presets

    # Absolute: workers may run in other folders.
    excluded = str(exclude.absolute()) if exclude else None
    run = presets.change(presets.load(preset), "curate", num_frames=num_frames, exclude=excluded, trust=trust or None)
    if prepare(run, print_config=print_config, dry_run=dry_run, plan=lambda: job.plan(run.curate, clips, out, parent)):
        return
    engine = engine_at(out, in_process, address)
    work = with_page(out, lambda: job.run(run.curate, clips=clips, out=out, engine=engine, parent=parent))
    finish(out / "clips", work)


@click.command(cls=JobCommand)
@click.option("--clips", type=FOLDER, required=True, help="What `curate --out` or `refilter --out` was given.")
@click.option("--out", type=OUT, required=True, help="OUT/latents is made.")
@click.option("--components", type=NAME, help="Wan 2.1 I2V folder or hub id of VAE, text and image encoder.")
@click.option("--captioner", type=NAME, help="Folder of an image-and-text model, for clips without a prompt.")
@configured
@in_process_option
def cache(clips: Location, out: Location, components: str | None, captioner: str | None, preset: str,
          print_config: bool, dry_run: bool, address: str | None, in_process: bool) -> None:  # fmt: skip
    """Encode accepted clips into WebDataset shards that training reads."""
    from ...pipelines.cache import job
    from .. import presets

    run = presets.change(presets.load(preset), "cache", components=components, captioner=captioner)
    drawn = run.samples_drawn
    if prepare(run, print_config=print_config, dry_run=dry_run, plan=lambda: job.plan(run.cache, clips, out, drawn)):
        return
    engine = engine_at(out, in_process, address)
    finish(out / "latents", lambda: job.run(run.cache, clips=clips, out=out, engine=engine, samples_drawn=drawn))


@click.command(cls=JobCommand)
@click.option("--latents", type=FOLDER, required=True, help="OUT/latents of `cache`.")
@click.option(
    "--stage", type=click.IntRange(1, 3), required=True, help="1 action supervision, 2 distillation, 3 pose simulation."
)
@click.option("--base", type=NAME, help="Wan 2.1 I2V folder or hub id: where stage 1 starts and what teaches stage 2.")
@click.option("--from", "from_checkpoint", type=FOLDER, help="OUT/checkpoint of the stage before.")
@click.option("--out", type=OUT, required=True, help="OUT/checkpoint and OUT/metrics.jsonl are made.")
@click.option("--steps", type=int, help="Optimizer steps of the whole stage; more than before continues a run.")
@click.option("--seed", type=int, help="Of initial weights, order and all draws.")
@click.option("--num-workers", type=int, help="Ray Train workers; 0 trains in this process.")
@click.option("--fork", type=FOLDER, help="Another run's --out: begin from its newest state, with other settings.")
@click.option("--bundle", is_flag=True, help="Copy VAE, encoders and tokenizer into the checkpoint: a whole pipeline.")
@click.option(
    "--tflops", type=POSITIVE, help="For --dry-run: rate of a GPU, 10^12 operations a second. Else as measured."
)
@click.option("--gpu-memory-gb", type=POSITIVE, help="For --dry-run: memory of a GPU, 10^9 bytes. Else this machine's.")
@configured
def train(latents: Location, stage: int, base: str | None, from_checkpoint: Location | None, out: Location,
          steps: int | None, seed: int | None, num_workers: int | None, fork: Location | None, bundle: bool,
          tflops: float | None, gpu_memory_gb: float | None, preset: str, print_config: bool, dry_run: bool,
          address: str | None) -> None:  # fmt: skip
    """Train one of the three stages; the same command again resumes. SIGTERM: stop after the step, exit status 75."""
    from ...pipelines.train import job
    from ...pipelines.train.preflight.table import table
    from ...pipelines.train.resume.stop import EXIT_CODE, TrainingStopped
    from .. import presets

    run = presets.change(presets.load(preset), f"stage{stage}", steps=steps, seed=seed, num_workers=num_workers,
                         bundle=bundle or None)  # fmt: skip
    if stage == 1:  # the later stages know their base from the checkpoint they start from
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
            click.echo(f"\n{table(plan)}\n", err=True)  # for a person; the JSON before it is for machines
        if refusals := plan.get("refusals"):  # after the figures that tell why
            raise SteadyDancerError("\n".join(refusals))
        return
    try:
        record = job.run(run.stage(stage), **inputs, address=address, fork=fork)
    except TrainingStopped as stopped:
        click.echo(f"steadydancer: {stopped}", err=True)
        sys.exit(EXIT_CODE)
    if record.get("already_finished"):
        click.echo("this run is finished already; more --steps would continue it")
    click.echo(f"{out / 'checkpoint'}: stage {stage}, {record['steps']} steps, "
               f"loss {record['loss_before']} before and {record['loss_after']} after")  # fmt: skip


@click.command(cls=JobCommand)
@click.option("--checkpoint", type=FOLDER, required=True, help="OUT/checkpoint of `train`, or what `convert` made.")
@click.option("--image", type=FILE, help="Reference image; the video starts at it. Transparent parts become white.")
@click.option("--driving", type=FILE, help="Driving video.")
@click.option("--prompt", default="", help="What happens, in words.")
@click.option(
    "--pairs",
    type=FILE,
    help="Table (csv, json, jsonl, parquet) with columns image, driving and, if wanted, prompt, id.",
)
@click.option("--out", type=OUT, required=True, help="OUT/renders is made.")
@click.option(
    "--components", type=NAME, help="Wan 2.1 I2V folder or hub id; without it, those of the checkpoint's record."
)
@click.option("--num-frames", type=int, help="Frames to render, 4k + 1.")
@click.option("--steps", type=int, help="Sampling steps.")
@click.option("--seed", type=int, help="Of the noise.")
@click.option(
    "--sound",
    type=click.Choice(["none", "keep"]),
    help="Default: the preset's; all presets here say none, a silent video. keep: the driving video's sound, cut to "
    "what is rendered, at the picture's speed and the same pitch; where it has none, or none that can be decoded, the "
    "video is silent and the row says so.",
)
@configured
@in_process_option
def render(checkpoint: Location, image: Location | None, driving: Location | None, prompt: str, pairs: Location | None,
           out: Location, components: str | None, num_frames: int | None, steps: int | None, seed: int | None,
           sound: str | None, preset: str, print_config: bool, dry_run: bool, address: str | None,
           in_process: bool) -> None:  # fmt: skip
    """Render (image, driving video) pairs."""
    from ...pipelines.render import job
    from .. import presets

    if not print_config and ((pairs is None) == (image is None) or (image is None) != (driving is None)):
        raise click.UsageError("give --image and --driving, or --pairs")
    run = presets.change(presets.load(preset), "render", components=components, num_frames=num_frames,
                         num_inference_steps=steps, seed=seed, sound=sound)  # fmt: skip

    def wanted() -> list[Row]:
        return job.read_pairs(pairs) if pairs else [job.pair(image or "", driving or "", prompt)]

    if prepare(run, print_config=print_config, dry_run=dry_run,
               plan=lambda: job.plan(run.render, wanted(), checkpoint, out)):  # fmt: skip
        return
    engine = engine_at(out, in_process, address)
    finish(out / "renders", lambda: job.run(run.render, checkpoint=checkpoint, pairs=wanted(), out=out, engine=engine))


@click.command(cls=JobCommand)
@click.option("--renders", type=FOLDER, required=True, help="What `render --out` was given.")
@click.option("--truth", type=FOLDER, help="Folder with ID.mp4 for every render that has a truth; compared by time.")
@click.option("--protocol", help="`all` or `first-81`.")
@click.option("--out", type=OUT, required=True, help="OUT/metrics and OUT/report.html are made.")
@configured
@in_process_option
def evaluate(renders: Location, truth: Location | None, protocol: str | None, out: Location, preset: str,
             print_config: bool, dry_run: bool, address: str | None, in_process: bool) -> None:  # fmt: skip
    """Score renders; what could not be measured is null, with its reason."""
    from ...pipelines.evaluate import job
    from .. import presets

    run = presets.change(presets.load(preset), "evaluate", protocol=protocol)
    if prepare(run, print_config=print_config, dry_run=dry_run,
               plan=lambda: job.plan(run.evaluate, renders, truth, out)):  # fmt: skip
        return
    engine = engine_at(out, in_process, address)
    finish(out / "metrics", lambda: job.run(run.evaluate, renders=renders, truth=truth, out=out, engine=engine))
