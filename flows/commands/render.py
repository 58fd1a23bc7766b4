"""The command `render`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ... import SteadyDancerError
from .benchmarks import benchmark_pairs
from .options import (
    FILE,
    FOLDER,
    NAME,
    OUT,
    JobCommand,
    NamedPlace,
    configured,
    engine_at,
    finish,
    finish_all,
    in_process_option,
    prepare,
)

if TYPE_CHECKING:
    from ...datasets.schema import Row
    from ...datasets.storage import Location


@click.command(cls=JobCommand)
@click.option(
    "--checkpoint",
    "checkpoints",
    type=NamedPlace(FOLDER),
    required=True,
    multiple=True,
    help="[NAME=]DIR: OUT/checkpoint of `train`, or the --to of `convert`; repeat it to render all pairs with several.",
)
@click.option("--image", type=FILE, help="Reference image: the first frame. Transparent areas become white.")
@click.option("--driving", type=FILE, help="Driving video.")
@click.option("--prompt", default="", help="Text prompt.")
@click.option(
    "--pairs",
    type=FILE,
    help="Table (csv, json, jsonl or parquet) with columns image, driving and optionally prompt, pair_id, seed, "
    "licence, consent.",
)
@click.option(
    "--benchmark",
    type=NAME,
    help="All pairs of a benchmark: tiktok, tiktok-humanvid, realisdance-val, x-dance, its folder, or NAME=FOLDER.",
)
@click.option("--out", type=OUT, required=True, help="Write OUT/renders; with several checkpoints, OUT/NAME/renders.")
@click.option(
    "--work",
    type=OUT,
    help="Folder of poses, encoded inputs and latents, which other runs read again. Default: OUT/work.",
)
@click.option(
    "--components", type=NAME, help="Wan 2.1 I2V folder or hub id. Default: the one in the checkpoint's record."
)
@click.option(
    "--mode",
    help="exact (default); fast or fast:THRESHOLD (skips what changes little between steps); fast:distilled (4 steps, "
    "with --distilled-lora); low_memory or low_memory:BLOCKS (float8 weights, loaded block by block; BLOCKS stay on "
    "the GPU).",
)
@click.option("--distilled-lora", type=NAME, help="Few-step LoRA for --mode fast:distilled: file, or OWNER/NAME/FILE.")
@click.option("--num-frames", type=int, help="Frames to render, 4k + 1; above 81 in windows that overlap.")
@click.option(
    "--window-opening",
    type=click.Choice(["reference", "tail", "none"]),
    help="Opening of the windows after the first of a long video: the reference image (default), the last picture "
    "before the window (windows are then sampled one after another), or nothing.",
)
@click.option(
    "--parallel",
    type=click.Choice(["guidance", "context"]),
    help="Sample each video in several processes: guidance, by branches; or context, by parts of the tokens.",
)
@click.option("--num-processes", type=int, help="Processes of --parallel, with a GPU each, or on the CPU.")
@click.option("--steps", type=int, help="Sampling steps.")
@click.option("--seed", type=int, help="Seed of the noise, for pairs whose table has none.")
@click.option("--num-seeds", type=int, help="Videos per pair: its seed, and those that follow it.")
@click.option(
    "--sound",
    type=click.Choice(["none", "keep"]),
    help="none: no sound. keep: the driving video's sound for the rendered part, at the speed of the video and with "
    "unchanged pitch; without sound that can be decoded, the video is silent and the row records this. Default: the "
    "preset's value, `none` in all built-in presets.",
)
@configured
@in_process_option
def render(checkpoints: tuple[tuple[str | None, Location], ...], image: Location | None, driving: Location | None,
           prompt: str, pairs: Location | None, benchmark: str | None, out: Location, work: Location | None,
           components: str | None, mode: str | None, distilled_lora: str | None, num_frames: int | None,
           window_opening: str | None, parallel: str | None, num_processes: int | None, steps: int | None,
           seed: int | None, num_seeds: int | None, sound: str | None, preset: str, print_config: bool, dry_run: bool,
           address: str | None, in_process: bool) -> None:  # fmt: skip
    """Render pairs of a reference image and a driving video.

    A run that was interrupted is resumed by the same command: nothing that is finished is computed again.
    """
    from ...datasets.benchmarks.reader import list_pairs
    from ...pipelines.render import job
    from .. import presets

    given = [one for one in (image, pairs, benchmark) if one is not None]
    if not print_config and (len(given) != 1 or (image is None) != (driving is None)):
        raise click.UsageError("pass --image and --driving, or --pairs, or --benchmark")
    run = presets.change(presets.load(preset), "render", components=components, mode=mode,
                         distilled_lora=distilled_lora, num_frames=num_frames, window_opening=window_opening,
                         parallel=parallel, num_processes=num_processes,
                         num_inference_steps=steps, seed=seed, num_seeds=num_seeds, sound=sound)  # fmt: skip
    if steps not in (None, run.render.num_inference_steps):  # the default, which a mode takes as not set
        raise click.UsageError(
            f"--mode {mode} samples in {run.render.num_inference_steps} steps, not in {steps}: leave out --steps"
        )

    source: dict[str, Any] = {}

    def wanted() -> list[Row]:
        if benchmark:
            return list_pairs(benchmark) if dry_run else benchmark_pairs(benchmark, source)
        return job.read_pairs(pairs) if pairs else [job.pair(image or "", driving or "", prompt)]

    named = {} if print_config else job.name_checkpoints(checkpoints)
    plan = job.plan(run.render, wanted(), named, out, work, address) if dry_run and not print_config else {}
    if prepare(run, print_config=print_config, dry_run=dry_run, plan=lambda: plan):
        if plan.get("refusals"):  # after the forecast that explains them
            raise SteadyDancerError("\n".join(plan["refusals"]))
        return
    engine = engine_at(out, in_process, address, run.cluster.wait_for_nodes_s)
    rows = wanted()  # first, as it tells the benchmark
    inputs: dict[str, Any] = {"pairs": rows, "out": out, "engine": engine, **source}
    if work:
        inputs["work"] = work
    if named.keys() == {""}:
        finish(out / "renders", lambda: job.run(run.render, checkpoint=named[""], **inputs))
        return
    finish_all(
        {name: job.folder_of(out, name) / "renders" for name in named},
        lambda: job.run_checkpoints(run.render, checkpoints=named, **inputs),
    )
