"""Measure what modes of rendering cost on the small world: PSNR against `exact`, pose following, the first frame.

Each mode renders the same pairs with the same seeds, without loss by the codec:

    python benchmarks/render_modes.py [--checkpoint DIR] [--components DIR] [--pairs FILE] [--num-pairs 6] [--steps 20]
        [--modes exact,fast:0.05,low_memory,exact@int8] [--distilled-lora FILE] [--preset toydance] [--work DIR]

`MODE@int8` and `MODE@fp8` render with the checkpoint quantised, `MODE@4` in 4 steps. `fast:distilled` samples 4 steps
with a LoRA that `few_step_lora.py` makes. Prints one JSON line per mode and writes all of them to
WORK/render_modes.json; a value that is not measured is null. Without --checkpoint, the shipped ToyDance checkpoint of
stage 3 renders. Seconds are the whole job's; the first mode's include imports, so they are no comparison of modes. What
a step cache saves is the share of evaluations in which it skips all blocks but the first (`skipped_share`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODES = "exact,fast:0.02,fast:0.05,fast,fast:0.2,fast:distilled,low_memory,exact@int8,exact@fp8"
MEASURES = ("psnr_against_exact_db", "pck_0_1", "pck_0_1_limbs", "first_frame_psnr_db")


def main() -> None:
    """Render and measure all modes."""
    options = parsed()
    from steadydancer.models.toydance import components_folder

    checkpoint = Path(options.checkpoint or components_folder() / "stage3")
    if not (checkpoint / "run.json").is_file():
        reason = f"no weights: {checkpoint} has no checkpoint; pass --checkpoint and --components"
        print(json.dumps({"mode": None, **dict.fromkeys(MEASURES), "reason": reason}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(options.work or scratch)
        rows = measure_modes(options, checkpoint, work)
        if options.work:
            (work / "render_modes.json").write_text(json.dumps(rows, indent=2))


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="trained checkpoint; default: the shipped stage 3 of ToyDance")
    parser.add_argument("--components", help="VAE and encoders; default: those in the checkpoint's record")
    parser.add_argument("--pairs", help="table of pairs; `truth/ID.mp4` beside it, if there, gives the driven joints")
    parser.add_argument("--num-pairs", type=int, default=6, help="pairs to use, or to make without --pairs")
    parser.add_argument("--preset", default="toydance", help="preset whose `render` is used")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the preset's")
    parser.add_argument("--modes", default=MODES, help="modes, with commas; `exact` is always the first")
    parser.add_argument("--distilled-lora", help="few-step LoRA for fast:distilled")
    parser.add_argument("--work", help="folder for videos and the record; default: temporary")
    return parser.parse_args()


def measure_modes(options: argparse.Namespace, checkpoint: Path, work: Path) -> list[dict[str, Any]]:
    """Render with each mode and print its row; return all rows."""
    from steadydancer import SteadyDancerError
    from steadydancer.flows import presets
    from steadydancer.pipelines.common.poses import load_pose_estimator

    pairs = wanted_pairs(options, work)
    run = presets.change(presets.load(options.preset), "render", components=options.components,
                         num_inference_steps=options.steps, crf=0, chroma="4:4:4")  # fmt: skip
    try:
        estimator: Any = load_pose_estimator(run.render.pose_model)
    except SteadyDancerError as error:
        estimator = None
        print(f"pose following is not measured: {error}", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(["exact", *options.modes.split(",")]):
        try:
            with counted_calls() as calls:
                videos, seconds = rendered(run, name, options, checkpoint, pairs, work)
            values = [measured(pair, videos / f"{pair['id']}.mp4", work, estimator) for pair in pairs]
            row = {"mode": name, "pairs": len(pairs), **means(values), "skipped_share": skipped_share(calls),
                   "seconds_a_pair": round(seconds / len(pairs), 2)}  # fmt: skip
        except SteadyDancerError as error:
            row = {"mode": name, "pairs": 0, **dict.fromkeys(MEASURES), "reason": str(error)}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if name == "exact" and "reason" in row:
            break
    return rows


def wanted_pairs(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Read the pairs, or make them in `work`."""
    from steadydancer.flows.demo.dancers import PAIRS, make_pairs
    from steadydancer.pipelines.render import job

    file = Path(options.pairs) if options.pairs else work / "pairs" / PAIRS
    if not options.pairs:
        make_pairs(work / "pairs", "easy", options.num_pairs)
    return [{**row, "truth": file.parent / "truth" / f"{row['id']}.mp4"} for row in job.read_pairs(file)][
        : options.num_pairs
    ]


def rendered(
    run: Any, name: str, options: argparse.Namespace, checkpoint: Path, pairs: list[dict[str, Any]], work: Path
) -> tuple[Path, float]:
    """Render all pairs in a mode; return (folder of the videos, seconds)."""
    from steadydancer import SteadyDancerError
    from steadydancer.flows import presets
    from steadydancer.models.conversion.convert import convert
    from steadydancer.pipelines.render import job
    from steadydancer.pipelines.runtime.runner import Engine

    mode, _, kind = name.partition("@")
    components = job.components_of(run.render, checkpoint, json.loads((checkpoint / "run.json").read_text()))
    few: dict[str, Any] = {"num_inference_steps": int(kind)} if kind.isdecimal() else {}
    if mode == "fast:distilled":  # its own number yields to that of a preset
        few = {"num_inference_steps": 4}
    if kind and not kind.isdecimal():
        converted: Any = work / f"checkpoint-{kind}"
        chosen: Any = kind
        convert(checkpoint, converted, kind=chosen)
        checkpoint = converted
    lora = options.distilled_lora if mode == "fast:distilled" else None
    config = presets.change(run, "render", mode=mode, distilled_lora=lora, components=components, **few).render
    out = work / name.replace(":", "-").replace("@", "-")
    start = time.perf_counter()
    table = [{key: value for key, value in pair.items() if key != "truth"} for pair in pairs]
    record = job.run(config, checkpoint=checkpoint, pairs=table, out=out, engine=Engine(out / ".engine", True))
    if record["counts"]["ok"] != len(pairs):
        raise SteadyDancerError(f"{record['counts']} of {len(pairs)} pairs were rendered: see {out / 'renders'}")
    return out / "renders", time.perf_counter() - start


@contextmanager
def counted_calls() -> Iterator[Counter[int]]:
    """Count the calls of the feed-forward layer of each block of the transformer."""
    from diffusers.models.attention import FeedForward
    from torch.nn.modules.module import register_module_forward_pre_hook

    calls: Counter[int] = Counter()

    def count(module: Any, _: Any) -> None:
        # That of the image features, which is called once for a clip, has another activation.
        if isinstance(module, FeedForward) and getattr(module.net[0], "approximate", None) == "tanh":
            calls[id(module)] += 1

    handle = register_module_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def skipped_share(calls: Counter[int]) -> float | None:
    """Return the share of evaluations without the blocks after the first; None if nothing was evaluated."""
    evaluations, *others = sorted(calls.values(), reverse=True) or [0]
    return round(1 - statistics.fmean(others) / evaluations, 4) if others else None


def measured(pair: dict[str, Any], video: Path, work: Path, estimator: Any) -> dict[str, float]:
    """Measure one video; what cannot be measured is left out."""
    from steadydancer.datasets.images import read_image
    from steadydancer.flows.demo.measure import find_joints, read_frames, true_joints
    from steadydancer.models.encoders import resize_image
    from steadydancer.models.metrics import BODY_14, LIMBS, MAX_PSNR_DB, box_pck, first_frame_psnr, psnr

    frames, exact = read_frames(video), read_frames(work / "exact" / "renders" / video.name)
    count, height, width = frames.shape[:3]
    reference = resize_image(read_image(Path(pair["image"])).pixels, height, width)
    values = {
        "psnr_against_exact_db": psnr(frames, exact),
        "first_frame_psnr_db": min(first_frame_psnr(frames, reference), MAX_PSNR_DB),
    }
    if estimator is not None and pair["truth"].is_file():
        driven, found = true_joints(pair["truth"], count, (height, width)), find_joints(estimator, frames)
        values |= {
            "pck_0_1": box_pck(*driven, *found, BODY_14),
            "pck_0_1_limbs": box_pck(*driven, *found, LIMBS),
        }
    return values


def means(values: list[dict[str, float]]) -> dict[str, float | None]:
    """Average each measure over the pairs; null where it was not measured, also as a NaN."""
    found = {name: [one[name] for one in values if name in one and one[name] == one[name]] for name in MEASURES}
    return {name: round(statistics.fmean(of), 4) if of else None for name, of in found.items()}


if __name__ == "__main__":
    main()
