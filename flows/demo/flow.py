"""The flow of the demo: the three flows in order, with pairs made from accepted clips if none are supplied."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from prefect import flow

from ...datasets.storage import location
from ...datasets.storage.files import exists_locally
from ...pipelines.runtime.local_ray import local_ray
from ..curate import curate_dataset
from ..presets import Run
from ..render import render_evaluation
from ..train import train_steadydancer
from .dancers import PairSet, make_pairs
from .pairs import pairs_of_clips
from .stages import compare_stages
from .toydance import render_and_score, start_comparisons, train_on


@flow(name="demo", validate_parameters=False)
def demo_flow(
    run: Run,
    clips: str,
    out: Path,
    num_pairs: int,
    steps: Callable[[str], AbstractContextManager[None]],
    in_process: bool,
    measure: Sequence[str] = (),
    compares_stages: bool = False,
) -> dict[str, Any]:
    """Curate and cache, train three stages, render and score; return the records of all artifacts.

    Unlike `reproduce` it needs no pairs: without a `pairs.jsonl` next to the clips, `num_pairs` pairs are made from
    accepted clips. `steps` is entered with the name of each step. If the stages continue, they start from the shipped
    checkpoints. `measure` are the difficulties of procedural pairs to measure, those beside the clips first; with
    `compares_stages`, stages 1 and 2 are compared on the latter.
    """
    config = run.model_dump_json()
    with ExitStack() as stack:
        if not in_process:
            with steps("start Ray"):
                # One Ray for all jobs, because starting it takes longer than most of them.
                stack.enter_context(local_ray(out / ".engine" / "ray"))
        with steps("curate and cache"):
            records = curate_dataset(clips, str(out), config, in_process=in_process)
        if run.stage1.continue_stage:
            records |= train_on(run, out, steps)
        else:
            with steps("train stages 1, 2, 3"):
                records |= train_steadydancer(str(out / "latents"), str(out), config)
        sets = [PairSet(Path(clips).parent), *(make_pairs(out / name / "pairs", name) for name in measure[1:])]
        comparisons = start_comparisons(run, sets[0], out, out) if measure else {}
        with steps("render and evaluate"):
            beside = location(clips).parent / "pairs.jsonl"
            # The report copies its media, so supplied pairs must be local.
            supplied = exists_locally(beside) and beside.is_file()
            pairs = beside if supplied else pairs_of_clips(out, num_pairs)
            records |= render_evaluation(
                str(out / "stage3" / "checkpoint"),
                str(out),
                str(pairs),
                str(truth) if (truth := pairs.parent / "truth").is_dir() else None,
                config,
                in_process=in_process,
            )
        if measure:
            records["measured"] = [render_and_score(run, sets[0], out, out, steps, in_process, comparisons)]
            for further in sets[1:]:
                folder = out / further.difficulty
                comparisons = start_comparisons(run, further, folder, out)
                done = render_and_score(run, further, folder, out, steps, in_process, comparisons)
                records["measured"].append(done)
        if compares_stages:
            records["stages"] = compare_stages(run, PairSet(Path(clips).parent), out, steps, in_process)
    return records
