"""All jobs at small size on this machine: `steadydancer demo`. Uses its own Prefect, not one set in the environment."""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from ...datasets.artifact import Artifact, exclusive
from ...datasets.storage import location
from ...datasets.storage.atomic import write_json
from ...datasets.storage.digests import json_digest
from ...models.toydance import require_shipped
from ...pipelines.curate.ingest import list_sources
from ...pipelines.runtime.after_commit import after_commit
from .. import presets
from ..presets import Run
from .dancers import NUM_PAIRS, TINY_PAIRS, make_dancers, make_tiny_dancers
from .summary import ARTIFACTS, print_summary, summarise

SUMMARY, INPUTS = "summary.json", "inputs.json"


def is_learned(run: Run) -> bool:
    """Return whether a run trains the shipped ToyDance checkpoints on; otherwise its networks begin with noise."""
    return run.stage1.continue_stage


def plan(run: Run, clips: str | None, out: Path, difficulties: Sequence[str] = ()) -> dict[str, Any]:
    """Describe what `run_demo` would do, and which artifacts are finished."""
    finished = {name: Artifact(out / folder).committed for name, folder in ARTIFACTS.items()}
    sources = len(list_sources(clips)) if clips else "procedural dancers"
    learned = is_learned(run) and clips is None
    steps = {f"stage{n}_steps": run.stage(n).steps for n in (1, 2, 3)}
    return {
        "clips": sources,
        **steps,
        "pairs": NUM_PAIRS if learned else TINY_PAIRS,
        **({"components": run.cache.components, "also_measured": list(difficulties)} if learned else {}),
        "finished": finished,
        "report": str(out / "report/index.html"),
    }


def run_demo(
    run: Run,
    *,
    clips: str | None,
    out: Path,
    in_process: bool = False,
    difficulties: Sequence[str] = (),
    compare_stages: bool = False,
) -> dict[str, Any]:
    """Run all jobs on a few clips; return the summary, which is also written to `out/summary.json`.

    Args:
        run: the configuration. If its stages continue, they start from the checkpoints in `cache.components`; otherwise
            tiny components are created from a seed under `out`.
        clips: folder, glob or manifest of videos, local or on an object store; None: generate procedural dancers.
        out: folder of the run.
        in_process: curate, cache, render and evaluate without Ray.
        difficulties: also render and measure pairs of these difficulties.
        compare_stages: also render with stages 1 and 2, and compare the two.

    Raises:
        SteadyDancerError: a job failed; call again with the same arguments to resume.
        WeightsError: the shipped weights are missing.
    """
    sources = list_sources(clips) if clips else []  # fail on a folder without videos before Ray starts
    if is_learned(run):
        components = str(require_shipped(Path(run.cache.components)).resolve())
        run = presets.change(presets.change(run, "cache", components=components), "render", components=components)
    else:
        run = presets.change(run, "cache", components=str(out / "components"))
    more = [sorted(difficulties), compare_stages] if difficulties or compare_stages else []
    digest = json_digest([run.model_dump(mode="json"), sources, *more])
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
        records = _run(run, clips, out, steps, in_process, difficulties, compare_stages)
        summary = {"digest": digest, **summarise(records, out), "seconds": steps.seconds}
        _write_page(out, summary, records)
        write_json(out / SUMMARY, summary)
    print_summary(summary, out)
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


def _run(
    run: Run,
    clips: str | None,
    out: Path,
    steps: "Steps",
    in_process: bool,
    difficulties: Sequence[str],
    compare_stages: bool,
) -> dict[str, Any]:
    # Tiny tensors do not profit from more threads. On busy cores, threads that wait for each other made a training step
    # 25 times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not run.stage1.use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed searches for an accelerator and warns
    learned = is_learned(run)
    _use_own_prefect(out)
    prefect = start_prefect()
    if not learned:
        with steps("make components"):
            make_components(out / "components")
    measured = learned and clips is None
    with steps("make dancers, start Prefect"), ProcessPoolExecutor(1, get_context("spawn")) as other:
        make = make_dancers if learned else make_tiny_dancers
        drawn = None if clips else other.submit(make, out / "dancers")
        from .flow import demo_flow  # takes as long as the dancers

        prefect.result()
        videos = drawn.result() if drawn else clips or ""
    measure = ("easy", *(name for name in difficulties if name != "easy")) if measured else ()
    return demo_flow(run, videos, out, TINY_PAIRS, steps, in_process, measure, measured and compare_stages)


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


def start_prefect() -> Future[None]:
    """Start a temporary Prefect server; the result waits until it answers."""
    from prefect.server.api.server import SubprocessASGIServer  # here: two threads must not import at a time

    return ThreadPoolExecutor(1).submit(_serve, SubprocessASGIServer())


def _serve(server: Any) -> None:
    """Run a server that ends even if this process is killed (-9)."""
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
