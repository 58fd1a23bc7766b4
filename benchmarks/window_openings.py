"""Compare the openings of later windows (`reference`, `tail`, `none`) on long videos of ToyDance, beside the truth.

A pair is a reference dancer in another dancer's dance. The exact keypoints of the truth drive the renders, so that only
the video can be wrong. Measured of each render, and of the truth after the autoencoder (`ceiling`):

- seam_jump: pixel steps where windows begin, over the median elsewhere; over the truth's own it is an excess;
- window_end_jump: the same where a window is no longer seen;
- reference_return: distance to the reference image before the windows begin, over that after; the same excess;
- person_by_window: distance of the colours of nine body parts from the reference's, CIE Lab;
- background_by_window: mean change from the first frame outside the dancer;
- psnr_by_window: against the truth, dB. The drift of these three is the last window minus the first.

Prints JSON lines, the summary last, with intervals over pairs and paired differences from `reference`, and writes both
to --work, where a second start resumes the run. Without --checkpoint, the shipped stage 3 of ToyDance renders.
With --random-weights the run is tried, and nothing is said about openings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np

OPENINGS = ("reference", "tail", "none")
PAIR_SEEDS = 50_000_000  # disjoint from those of training clips and of the demo's pairs
FPS = 16
FRAMEWISE = ("person", "background", "psnr")
EXCESSES = ("seam_jump", "window_end_jump", "reference_return")
SETTINGS = (
    *("num_inference_steps", "flow_shift", "guidance_scale", "pose_guidance_scale", "pose_guidance_interval"),
    *("pose_guidance_unit", "solver", "drawing_area_px"),
)


def main() -> None:
    """Render, measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder with a trained transformer; default: the shipped stage 3")
    parser.add_argument("--components", help="folder of VAE and encoders; default: the shipped ones, or CHECKPOINT")
    parser.add_argument("--random-weights", action="store_true", help="render small pictures with random weights")
    parser.add_argument("--preset", default="toydance", help="whose settings of `render` are used")
    parser.add_argument("--difficulty", default="easy")
    parser.add_argument("--num-pairs", type=int, default=2)
    parser.add_argument("--frames", type=int, default=97, help="of each video, 4k + 1")
    parser.add_argument("--window-frames", type=int, default=33, help="4k + 1; as long as training clips")
    parser.add_argument("--window-overlap", type=int, default=8, help="a multiple of 4")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the preset's, 1 with random weights")
    parser.add_argument("--side", type=int, help="height and width in pixels; default: the preset's, 32 if random")
    parser.add_argument("--openings", nargs="+", choices=OPENINGS, default=list(OPENINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder of the results; default: a temporary one")
    options = parser.parse_args()
    if options.checkpoint is None and not options.random_weights:
        from steadydancer.models.toydance import components_folder

        options.checkpoint = str(components_folder() / "stage3")
        options.components = options.components or str(components_folder())
    with tempfile.TemporaryDirectory() as folder:
        run(options, options.work or Path(folder))


def run(options: argparse.Namespace, work: Path) -> None:
    """Measure all pairs that are not in `work` yet, and print and write the summary."""
    from steadydancer.models.long_video import WindowOpening, plan_windows

    assert get_args(WindowOpening) == OPENINGS
    work.mkdir(parents=True, exist_ok=True)
    pipeline, settings = load(options)
    windows = plan_windows(options.frames, options.window_frames, options.window_overlap)
    if len(windows) < 2:
        raise SystemExit(f"--frames {options.frames} is a single window: give more than {options.window_frames}")
    described = {
        "checkpoint": options.checkpoint, "components": options.components, "difficulty": options.difficulty,
        "frames": options.frames, "window_frames": options.window_frames, "window_overlap": options.window_overlap,
        "windows": [[each.start, each.stop] for each in windows], "settings": settings, "seed": options.seed,
    }  # fmt: skip
    described = json.loads(json.dumps(described))  # as it is read back
    rows = []
    for index in range(options.num_pairs):
        file = work / f"pair_{index}.json"
        row = json.loads(file.read_text()) if file.is_file() else {"described": described, "openings": {}}
        if row["described"] != described:
            raise SystemExit(f"{file} is of other settings: give another --work")
        absent = [name for name in ("ceiling", *options.openings) if name not in row["openings"]]
        if absent:
            row["openings"] |= measure_pair(pipeline, options, settings, windows, index, absent)
            file.write_text(json.dumps(row))
        print(json.dumps({"pair": index, **row["openings"]}), flush=True)
        rows.append(row["openings"])
    summary = {
        **described,
        "random_weights": options.checkpoint is None,
        "pairs": len(rows),
        "measures": summarise(rows, options.openings),
    }
    (work / "window_openings.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary))


def load(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Load the pipeline, or build one of random weights, and the settings of its calls."""
    import torch

    from steadydancer.flows import presets
    from steadydancer.models.components import load_components, tiny_components
    from steadydancer.models.pipeline import SteadyDancerPipeline
    from steadydancer.models.transformer import SteadyDancerTransformer3DModel

    config = presets.load(options.preset).render
    side = options.side or (32 if options.checkpoint is None else 16 * round(config.max_area_px**0.5 / 16))
    settings = {name: getattr(config, name) for name in SETTINGS} | {"height": side, "width": side}
    steps = options.steps or (1 if options.checkpoint is None else None)
    if steps:
        settings["num_inference_steps"] = steps
    frozen = ("vae", "text_encoder", "tokenizer", "image_encoder", "scheduler")
    if options.checkpoint is None:
        parts = tiny_components(seed=0, transformer={"num_layers": 1})
        if options.components:
            parts |= load_components(options.components, ("vae",))
        torch.manual_seed(0)
        parts["transformer"] = SteadyDancerTransformer3DModel.from_wan(parts["transformer"]).eval()
        parts["transformer"].patch_embedding_fuse.weight.data.normal_(std=0.05)  # zero in a new network
    else:
        dtype = getattr(torch, config.dtype)
        parts = load_components(options.checkpoint, ("transformer",), dtype, kind="steadydancer")
        parts |= load_components(options.components or options.checkpoint, frozen, dtype)
    pipeline = SteadyDancerPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, settings


def measure_pair(
    pipeline: Any, options: argparse.Namespace, settings: dict[str, Any], windows: Any, index: int, names: list[str]
) -> dict[str, Any]:
    """Render one pair with each opening, and measure; returns name -> measures."""
    import torch

    from steadydancer.datasets.toydance.captions import caption_of
    from steadydancer.datasets.toydance.pairs import make_pair
    from steadydancer.datasets.toydance.render import render
    from steadydancer.models.encoders import decode_latents, encode_video

    pair = make_pair(PAIR_SEEDS + 1000 * options.seed + index, options.difficulty, options.frames)
    size = (settings["height"], settings["width"])
    reference, truth = render(pair.reference, *size), render(pair.truth, *size)
    found: dict[str, Any] = {}
    for name in names:
        if name == "ceiling":
            frames = decode_latents(pipeline.vae, encode_video(pipeline.vae, truth.frames))
        else:
            (frames,) = pipeline(
                reference.frames[0],
                truth.poses[0],
                caption_of(pair.truth),
                num_frames=options.frames,
                window_frames=options.window_frames,
                window_overlap=options.window_overlap,
                window_opening=name,
                generator=torch.Generator().manual_seed(options.seed),
                output_type="uint8",
                **settings,
            ).frames
        found[name] = measure(frames, reference, truth, windows)
    return found


def measure(frames: np.ndarray, reference: Any, truth: Any, windows: Any) -> dict[str, Any]:
    """Measure a video of a pair; `truth` and `reference` are `Rendered`."""
    from steadydancer.flows.demo.appearance import appearance
    from steadydancer.models.metrics import background_drift, psnr_per_frame
    from steadydancer.models.metrics.person_regions import dilate
    from steadydancer.models.metrics.window_seams import mean_by_window, reference_return, seam_jump

    starts = [4 * each.start - 3 for each in windows[1:]]
    # A window that ends where another begins has one seam.
    ends = [cut for before, after in pairwise(windows) if (cut := 4 * before.stop - 3) != 4 * after.start - 3]
    picture = reference.frames[0]

    def colours(rendered: Any, shown: np.ndarray) -> np.ndarray:
        height, width = shown.shape[1:3]
        (pose, *_) = rendered.poses
        return appearance(shown, pose.body * np.array((width, height)), pose.body_visible)

    own = colours(reference, picture[None])
    parts = np.split(np.arange(len(frames)), starts)
    values: dict[str, Any] = {}
    for name, of, cuts in (("seam_jump", seam_jump, starts), ("window_end_jump", seam_jump, ends)):
        values[name], values[f"{name}_truth"] = of(frames, cuts), of(truth.frames, cuts)
    values["reference_return"] = reference_return(frames, picture, starts)
    values["reference_return_truth"] = reference_return(truth.frames, picture, starts)
    person = []
    for part in parts:
        shown = truth._replace(poses=[truth.poses[0][part]])
        person.append(np.nanmean(np.linalg.norm(colours(shown, frames[part]) - own, axis=-1)))
    values["person_by_window"] = person
    drift = np.concatenate([[np.nan], background_drift(frames, dilate(truth.masks))])
    values["background_by_window"] = mean_by_window(drift, starts)
    values["psnr_by_window"] = mean_by_window(np.minimum(psnr_per_frame(frames, truth.frames), 100), starts)
    for name in FRAMEWISE:
        values[f"{name}_drift"] = values[f"{name}_by_window"][-1] - values[f"{name}_by_window"][0]
    return {name: plain(value) for name, value in values.items()}


def summarise(rows: list[dict[str, Any]], openings: list[str]) -> dict[str, Any]:
    """Return measure -> opening -> mean and interval over pairs, and the difference from `reference`."""
    from steadydancer.models.metrics import bootstrap_mean, bootstrap_ratio, paired_bootstrap, small_n_remark

    def column(opening: str, name: str) -> np.ndarray:
        values = [row[opening][name] for row in rows]
        return np.array([np.nan if value is None else value for value in values], float)

    measures: dict[str, Any] = {"remark": small_n_remark(len(rows))}
    for name in EXCESSES:
        measures[f"{name}_excess"] = {
            opening: interval(bootstrap_ratio(column(opening, name), column(opening, f"{name}_truth")))
            for opening in ("ceiling", *openings)
        }
    for name in (*EXCESSES, *(f"{each}_drift" for each in FRAMEWISE)):
        measures[name] = {
            opening: interval(bootstrap_mean(column(opening, name))) for opening in ("ceiling", *openings)
        }
        if "reference" in openings:
            measures[f"{name}_minus_reference"] = {
                opening: interval(paired_bootstrap(column("reference", name), column(opening, name)))
                for opening in openings
                if opening != "reference"
            }
    for name in FRAMEWISE:
        measures[f"{name}_by_window"] = {
            opening: [
                plain(value)
                for value in np.nanmean(
                    np.array([row[opening][f"{name}_by_window"] for row in rows], float).reshape(len(rows), -1), axis=0
                )
            ]
            for opening in ("ceiling", *openings)
        }
    return measures


def interval(found: Any) -> dict[str, Any]:
    """Return an interval or a paired difference as JSON values."""
    return {name: plain(value) for name, value in found._asdict().items()}


def plain(value: Any) -> Any:
    """Return a number or an array as JSON values, rounded; null for NaN."""
    if isinstance(value, (list, np.ndarray)):
        return [plain(each) for each in value]
    if isinstance(value, int):
        return value
    return None if not np.isfinite(value) else round(float(value), 5)


if __name__ == "__main__":
    main()
