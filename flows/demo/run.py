"""All jobs at tiny size on this machine: `steadydancer demo`. Uses its own Prefect, not one set in the environment."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ...datasets.artifact import Artifact, exclusive
from ...datasets.storage import location
from ...datasets.storage.atomic import write_json
from ...datasets.storage.digests import json_digest
from ...pipelines.common.outcomes import closing_lines, format_counts
from ...pipelines.curate.ingest import list_sources
from ...pipelines.runtime.after_commit import after_commit
from .. import presets
from ..presets import Run

NUM_PAIRS = 3
SUMMARY, INPUTS = "summary.json", "inputs.json"
ARTIFACTS = {
    "clips": "clips",
    "latents": "latents",
    "stage1": "stage1/checkpoint",
    "stage2": "stage2/checkpoint",
    "stage3": "stage3/checkpoint",
    "renders": "renders",
    "metrics": "metrics",
}


def plan(run: Run, clips: str | None, out: Path) -> dict[str, Any]:
    """Describe what `run_demo` would do, and which artifacts are finished."""
    finished = {name: Artifact(out / folder).committed for name, folder in ARTIFACTS.items()}
    sources = len(list_sources(clips)) if clips else "procedural dancers"
    steps = {f"stage{n}_steps": run.stage(n).steps for n in (1, 2, 3)}
    return {
        "clips": sources,
        **steps,
        "pairs": NUM_PAIRS,
        "finished": finished,
        "report": str(out / "report/index.html"),
    }


def run_demo(run: Run, *, clips: str | None, out: Path, in_process: bool = False) -> dict[str, Any]:
    """Run all jobs on a few clips; return the summary, which is also written to `out/summary.json`.

    Args:
        run: the configuration; tiny components are created from a seed under `out`.
        clips: folder, glob or manifest of videos, local or on an object store; None: generate procedural dancers.
        out: folder of the run.
        in_process: curate, cache, render and evaluate without Ray.

    Raises:
        SteadyDancerError: a job failed; call again with the same arguments to resume.
    """
    sources = list_sources(clips) if clips else []  # fail on a folder without videos before Ray starts
    run = presets.change(run, "cache", components=str(out / "components"))
    digest = json_digest([run.model_dump(mode="json"), sources])
    with exclusive(out / ".engine"):
        if (out / SUMMARY).is_file():
            summary: dict[str, Any] = json.loads((out / SUMMARY).read_text())
            if summary["digest"] == digest:
                if not Path(summary["report"]).is_file():
                    _write_page(
                        out, summary, {name: Artifact(out / folder).record() for name, folder in ARTIFACTS.items()}
                    )
                click.echo(f"everything is already finished; open {summary['report']}")
                return summary
        write_json(out / INPUTS, {"clips": clips})
        steps = Steps()
        records = _run(run, clips, out, steps, in_process)
        summary = {"digest": digest, **summarise(records, out), "seconds": steps.seconds}
        _write_page(out, summary, records)
        write_json(out / SUMMARY, summary)
    _print_summary(summary, out)
    return summary


def _write_page(out: Path, summary: dict[str, Any], records: dict[str, Any]) -> None:
    page = out / "report" / "index.html"
    with after_commit(f"{page}", "run the same command again to write it"):
        from .report import write_demo_report

        write_demo_report(page, out, summary, records)


def choose_out_folder(clips: str | None) -> Path:
    """Return `runs/demo`, or a folder named after the videos if that holds a demo of others."""
    folder = Path("runs/demo")
    begun = folder / INPUTS
    if not begun.is_file() or json.loads(begun.read_text())["clips"] == clips:
        return folder
    other = Path(f"runs/demo-{location(clips).stem if clips else 'dancers'}")
    click.echo(f"{folder} contains a demo of other videos; writing to {other}")
    return other


def _run(run: Run, clips: str | None, out: Path, steps: "Steps", in_process: bool) -> dict[str, Any]:
    # Tiny tensors do not profit from more threads. On busy cores, threads that wait for each other made a training step
    # 25 times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not run.stage1.use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed searches for an accelerator and warns
    with steps("make components"):
        make_components(out / "components")
    if clips is None:
        with steps("make dancers"):
            clips = make_dancers(out / "dancers")
    _use_own_prefect(out)
    with steps("start Prefect"):
        from .flow import demo_flow

        start_prefect()
    return demo_flow(run, clips, out, NUM_PAIRS, steps, in_process)


class Steps:
    """Print each step as it starts, and record its seconds."""

    def __init__(self) -> None:
        """Start without steps."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one step."""
        click.echo(f"→ {name}")
        start = time.perf_counter()
        yield
        self.finish(name, time.perf_counter() - start)

    def finish(self, name: str, seconds: float) -> None:
        """Record and print the seconds of a step."""
        self.seconds[name] = round(seconds, 1)
        click.echo(f"  {name}: {seconds:.1f} s")


def _use_own_prefect(out: Path) -> None:
    """Keep Prefect's state in the run folder, ignore servers set in the environment, and disable telemetry."""
    home = (out / ".engine" / "prefect").resolve()
    home.mkdir(parents=True, exist_ok=True)  # Prefect's server hangs if the parent folder is missing
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command prints errors itself
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    }


def start_prefect() -> None:
    """Start a temporary Prefect server that ends even if this process is killed (-9)."""
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    server.start()
    assert server.server_process is not None
    watch = f"while kill -0 {os.getpid()} 2>/dev/null; do sleep 1; done; kill {server.server_process.pid} 2>/dev/null"
    null = subprocess.DEVNULL  # the watcher must not keep our stdout open
    subprocess.Popen(["sh", "-c", watch], start_new_session=True, stdin=null, stdout=null, stderr=null)


def make_components(folder: Path) -> None:
    """Save tiny components of the real classes, from a seed, unless they exist."""
    if not (folder / "model_index.json").is_file():
        from ...models.components import save_components, tiny_components

        save_components(tiny_components(seed=0), folder)


def make_dancers(folder: Path) -> str:
    """Make procedural dancers, some of them flawed, and pairs with ground truth, unless they exist."""
    from ...datasets.toydance import make_toy_clips, make_toy_pairs

    if not (folder / "pairs.jsonl").is_file():
        make_toy_clips(folder / "clips", seed=0)
        make_toy_pairs(folder, seed=1, num_pairs=NUM_PAIRS)
    return str(folder / "clips")


def summarise(records: dict[str, Any], out: Path) -> dict[str, Any]:
    """Build the summary: keys `clips latents stage1 stage2 stage3 renders metrics report`."""
    stages = {
        f"stage{n}": {
            "checkpoint": str(out / f"stage{n}" / "checkpoint"),
            **{key: records[f"stage{n}"][key] for key in ("steps", "loss_before", "loss_after")},
        }
        for n in (1, 2, 3)
    }
    return {
        "clips": records["clips"]["counts"],
        "latents": {"path": str(out / "latents"), **records["latents"]["counts"], "bytes": records["latents"]["bytes"]},
        **stages,
        "renders": {"path": str(out / "renders"), **records["renders"]["counts"]},
        "metrics": {name: mean["mean"] for name, mean in records["metrics"]["means"].items()},
        "report": str(out / "report" / "index.html"),
    }


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    click.echo()
    _print_counts("clips", summary["clips"], out / ARTIFACTS["clips"])
    _print_counts("latents", summary["latents"], out / ARTIFACTS["latents"])
    for n in (1, 2, 3):
        stage = summary[f"stage{n}"]
        before, after = (_formatted(stage[name], ".4f") for name in ("loss_before", "loss_after"))
        click.echo(f"stage {n}: {stage['steps']} steps, loss {before} → {after}")
    _print_counts("renders", summary["renders"], out / ARTIFACTS["renders"])
    metrics = summary["metrics"]
    first, ceiling = (_formatted(metrics.get(name), ".2f") for name in ("first_frame_psnr", "autoencoder_ceiling_psnr"))
    click.echo(f"metrics: first frame {first} dB (autoencoder round trip: {ceiling} dB)")
    for line in closing_lines(Artifact(out / ARTIFACTS["metrics"])):
        click.echo(line)
    click.echo(f"{sum(summary['seconds'].values()):.0f} s in total; open {summary['report']}")


def _print_counts(name: str, counts: dict[str, Any], folder: Path) -> None:
    """Print the number of rows per verdict, and all reasons."""
    click.echo(f"{name}: {format_counts(counts)}")
    for line in closing_lines(Artifact(folder)):
        click.echo(line)


def _formatted(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)
