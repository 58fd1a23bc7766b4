"""Long video with tiny random weights: seams between windows, memory growth, and exactness of chunked decoding.

Prints JSON lines. `seam`: the mean change between frames where a window starts or ends, over the median change
elsewhere, for overlapping windows and for windows without overlap. `memory`: peak memory of a process that samples,
decodes and writes a video of several windows, above what it had loaded before, with each opening of later windows
(`models/window_openings.py`). `decoding`: chunked against whole
decoding. Random weights show that the window fusion adds no seam, not that the windows of a trained network agree.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

FPS = 16


def main() -> None:
    """Measure memory, seams and decoding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="height and width of the video in pixels")
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 10], help="numbers of windows for peak memory")
    parser.add_argument("--seeds", type=int, default=2, help="number of videos for seams")
    parser.add_argument("--openings", nargs="+", default=["reference", "tail", "none"], help="for peak memory")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(json.dumps(peak(options.side, options.peak_of, options.openings[0])))
        return
    for opening in options.openings:
        peaks = [measured_apart(options.side, num_windows, opening) for num_windows in options.windows]
        for row in peaks:
            print(json.dumps(row), flush=True)
        names = ("peak_mb", "above_loaded_mb", "beside_latents_mb")
        growth = {name: round(peaks[-1][name] / peaks[0][name], 4) for name in names}
        print(json.dumps({"memory": "last over first", "opening": opening, **growth}), flush=True)
    for overlap in (20, 0):
        print(json.dumps(seam(options.side, overlap, options.seeds)), flush=True)
    print(json.dumps(decoding(options.side)))


def measured_apart(side: int, num_windows: int, opening: str) -> dict[str, Any]:
    """Run `peak` in a separate process, because peak memory never decreases."""
    command = [sys.executable, __file__, "--side", str(side), "--peak-of", str(num_windows), "--openings", opening]
    # Otherwise glibc may keep up to 250 MB of freed memory, which hides the true peak.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return dict(json.loads(answer.splitlines()[-1]))


def peak(side: int, num_windows: int, opening: str) -> dict[str, Any]:
    """Measure the peak memory of rendering `num_windows` windows to a file."""
    from steadydancer.models import encoders

    encoders.MAX_LATENTS_AT_ONCE = 0  # two windows of tiny pictures would be decoded at once, ten would not
    pipeline, call = tiny_call(side, num_frames=1 + 80 + 60 * (num_windows - 1))
    before = high_water_mb()
    with tempfile.TemporaryDirectory() as folder:
        pipeline.render_to(Path(folder) / "video.mp4", **call, seed=0, num_inference_steps=2, window_opening=opening)
    above = high_water_mb() - before
    latents = 16 * (1 + call["num_frames"] // 4) * (side // 8) ** 2 * 4 / 2**20
    return {"memory": "peak", "opening": opening, "windows": num_windows, "num_frames": call["num_frames"],
            "peak_mb": round(high_water_mb()), "above_loaded_mb": round(above, 1),
            "beside_latents_mb": round(above - latents, 1)}  # fmt: skip


def high_water_mb() -> float:
    """Return the peak resident memory of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def seam(side: int, overlap: int, num_seeds: int) -> dict[str, Any]:
    """Measure the change between frames at seams over the median elsewhere, in latents and pixels."""
    import torch

    from steadydancer.models.encoders import decode_pixels
    from steadydancer.models.long_video import plan_windows

    pipeline, call = tiny_call(side, num_frames=241)  # three windows without overlap, or four with
    windows = plan_windows(call["num_frames"], window_overlap=overlap)
    # Seams: where a window starts, and where the previous one ends.
    cuts = {cut for before, after in pairwise(windows) for cut in (after.start, before.stop)}
    ratios: dict[str, list[float]] = {"latents": [], "pixels": []}
    for seed in range(num_seeds):
        latents = pipeline(**call, window_overlap=overlap, num_inference_steps=4, output_type="latent",
                           generator=torch.Generator().manual_seed(seed)).frames[0]  # fmt: skip
        changes = {"latents": changes_of(latents), "pixels": changes_of(decode_pixels(pipeline.vae, latents))}
        at = {"latents": {cut - 1 for cut in cuts}, "pixels": {4 * cut - 4 for cut in cuts}}
        for kind, change in changes.items():
            # Exclude the start of the video: the first latent frame is one picture, the others are four.
            inside = [c for k, c in enumerate(change) if k not in at[kind] and k >= (1 if kind == "latents" else 4)]
            ratios[kind] += [change[k] / statistics.median(inside) for k in sorted(at[kind])]
    return {"seam": "change at seams over the median elsewhere", "overlap": overlap, "windows": len(windows),
            "seams": len(cuts), "seeds": num_seeds,
            **{f"{kind}_{name}": round(of(values), 4) for kind, values in ratios.items()
               for name, of in (("mean", statistics.fmean), ("max", max))}}  # fmt: skip


def changes_of(clip: Any) -> list[float]:
    """Compute the mean absolute change from each frame of [C, F, H, W] to the next."""
    return [float(change) for change in clip.diff(dim=1).abs().mean(dim=(0, 2, 3))]


def decoding(side: int) -> dict[str, Any]:
    """Measure the largest difference between a video decoded in chunks and at once."""
    import torch

    from steadydancer.models.encoders import decode_chunks, decode_pixels

    pipeline, _ = tiny_call(side, num_frames=5)
    latents = torch.randn(16, 61, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    whole = decode_pixels(pipeline.vae, latents)
    off = (torch.cat(list(decode_chunks(pipeline.vae, latents)), dim=1) - whole).abs().max()
    return {"decoding": "chunks of 4 latent frames", "largest_difference": float(off)}


def tiny_call(side: int, num_frames: int) -> tuple[Any, dict[str, Any]]:
    """Build a pipeline of tiny components, and its call arguments."""
    import numpy as np
    import torch

    from steadydancer.datasets.toydance import toy_pose
    from steadydancer.models.components import tiny_components
    from steadydancer.models.pipeline import SteadyDancerPipeline
    from steadydancer.models.transformer import SteadyDancerTransformer3DModel

    torch.set_num_threads(1)
    parts = tiny_components(seed=0, transformer={"num_layers": 2})
    torch.manual_seed(0)
    transformer = SteadyDancerTransformer3DModel.from_wan(parts.pop("transformer")).eval()
    transformer.patch_embedding_fuse.weight.data.normal_(std=0.05)  # zero in a new network, which ignores the pose
    pipeline = SteadyDancerPipeline(transformer=transformer, **parts)
    pipeline.set_progress_bar_config(disable=True)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    pose = toy_pose(1, num_frames, FPS, aspect=1.0)
    return pipeline, {"image": image, "pose_video": pose, "num_frames": num_frames, "height": side, "width": side,
                      "drawing_area_px": side * side}  # fmt: skip


if __name__ == "__main__":
    main()
