"""The paper's Table 4: minutes and memory for 81 frames on one and two GPUs, for each mode.

Every row measures a few steps of the sampler and the autoencoder with random weights, and projects the mode's steps:
40 with the released guidance, which is 91 evaluations of the network (two branches a step, three within the pose
interval), or 4 without guidance. `eager` is diffusers' Wan, which computes everything in every evaluation, in the same
run. Prints one JSON line per row, and with --out writes them as a record with the machine. What was not measured is
null, with the reason; the paper's numbers and the forecast of the memory stand beside it. Text and image encoders, pose
estimation and H.264 are not in the minutes, nor is compilation, which stands beside them. How many evaluations `fast`
skips depends on trained weights: its minutes are given for shares.

    python benchmarks/table4.py --tiny                      here, on the CPU, at small sizes
    python benchmarks/table4.py --out table4.json           on a GPU: the sizes of the paper, at most ten minutes
    torchrun --nproc-per-node 2 benchmarks/table4.py ...    the column of two GPUs, or with --tiny of two processes
"""

import argparse
import gc
import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadydancer.models.guidance import branch_velocity
from steadydancer.models.inference.branch_evaluation import BranchEvaluation
from steadydancer.models.inference.step_memory import park_context_projections
from steadydancer.models.modes import Mode, get_mode
from steadydancer.models.parallel.processes import Parallel
from steadydancer.models.parallel.torchrun import as_the_first_says, torchrun_group
from steadydancer.models.parallel.velocity import enable_context_parallelism, parallel_velocity
from steadydancer.models.preflight.random_rendering import (
    plain_velocity,
    random_autoencoder,
    random_inputs,
    random_transformer,
)
from steadydancer.models.preflight.rendering import Savings, rendering_memory
from steadydancer.models.preflight.sizes import Clip, Sizes
from steadydancer.models.preflight.timing import (
    MIN_STEPS,
    StepSeconds,
    count_steps,
    measure_decoding,
    measure_steps,
    now,
    peak_gb,
    reset_peak,
)

STEPS, INTERVAL = 40, (0.1, 0.4)
# Of this project's model: minutes and GB on one and on two GPUs, and with FP16, LightX2V's LoRA and offload.
PAPER = {"exact": {1: (17.2, 43.0), 2: (10.2, 41.0)}, "low_memory": {1: (3.7, 9.2)}}
TINY = Sizes(
    transformer={"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2, "text_dim": 16,
                 "freq_dim": 16, "image_dim": 8},
    vae={"base_dim": 8, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1},
)  # fmt: skip
DEADLINE_S = 480  # no new row is begun after this: the script is to end within ten minutes
SKIPPED_SHARES = (0.0, 0.5, 0.75)
NEVER, ALWAYS = "fast:1e-9", "fast:1e9"  # thresholds that skip nothing, and all but the first evaluation of a branch
ALONE = Savings(resident=())  # only the network of a phase is on the GPU
LOW = Savings(storage_dtype=torch.float8_e4m3fn, blocks_on_gpu=2, branch_evaluation="sequential",
              keeps_keys_values=False, tiled=True, resident=())  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of the table: a mode, how branches are evaluated and by how many processes, and what is forecast of it."""

    mode: str
    way: BranchEvaluation = "interleaved"
    parallel: Parallel | None = None
    eager: bool = False
    parked: bool = False
    compiled: bool = True  # if the mode compiles
    savings: Savings = ALONE

    @property
    def guided(self) -> bool:
        """Return whether text and pose guide the sampling."""
        return self.mode != "fast:distilled"

    @property
    def steps(self) -> int:
        """Steps of a whole video."""
        return STEPS if self.guided else 4

    @property
    def step_counts(self) -> tuple[int, int]:
        """Steps of a whole video without and with pose guidance."""
        return count_steps(self.steps, INTERVAL, self.guided)

    @property
    def label(self) -> dict[str, Any]:
        """Return the settings in which this row differs from others."""
        if self.eager:
            return {"mode": "eager", "by": "diffusers"}
        more = {"parked_projections": True} if self.parked else {}
        more |= {} if self.compiled else {"compiled": False}
        return {"mode": self.mode, "branches": self.way, "parallel": self.parallel, **more}


ROWS = (
    Row("exact", eager=True),
    Row("exact"),
    Row("low_memory", "sequential", savings=LOW),
    Row("fast", savings=replace(ALONE, branch_evaluation="sequential")),
    Row("fast:distilled", savings=replace(ALONE, num_branches=1)),
    Row("exact", compiled=False),
    Row("exact", "batched", savings=replace(ALONE, branch_evaluation="batched")),
    Row("exact", parked=True, savings=replace(ALONE, parked_projections=True)),
    Row("exact", parallel="guidance"),
    Row("exact", parallel="context"),
    Row("fast", parallel="guidance"),
    Row("fast:distilled", parallel="context"),
    Row("low_memory", "sequential", parallel="guidance"),
)


def build(row: Row, mode: Mode, sizes: Sizes, dtype: torch.dtype, device: str) -> Any:
    """Build the network of a row, in a mode."""
    network = random_transformer(sizes, mode, dtype, device, is_plain=row.eager)
    if row.parked:
        park_context_projections(network, "cpu")
    if row.parallel == "context":
        enable_context_parallelism(network)
    return network


def sample(
    row: Row, network: Any, clip: Clip, num_steps: int, dtype: torch.dtype, device: str
) -> tuple[StepSeconds, Tensor]:
    """Sample a few steps; return their seconds, and the latents."""
    branches, noise = random_inputs(network, clip, dtype, device)
    if row.eager:
        velocity = plain_velocity(network, branches)
    elif row.parallel is not None:
        velocity = parallel_velocity(row.parallel, network, branches, row.way)
    else:
        velocity = branch_velocity(network, branches, branch_evaluation=row.way)
    return measure_steps(velocity, noise, num_steps, row.guided)


def measure(row: Row, sizes: Sizes, clip: Clip, num_steps: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Measure a row; a step cache is measured where it skips nothing, and where it skips all that it can."""
    found: list[StepSeconds] = []
    peaks = []
    for name in (NEVER, ALWAYS) if row.mode == "fast" else (row.mode,):
        mode = get_mode(name) if row.compiled else replace(get_mode(name), compiles_blocks=False)
        network = build(row, mode, sizes, dtype, device)
        reset_peak(device)
        compiling = 0.0
        if device == "cuda" and mode.compiles_blocks and not row.eager:
            start = now(device)
            sample(row, network, clip, 2, dtype, device)
            compiling = now(device) - start
        seconds, latents = sample(row, network, clip, num_steps, dtype, device)
        found.append(seconds)
        peaks.append(peak_gb(device))
        del network  # a job decodes in another worker
        gc.collect()
        vae = random_autoencoder(sizes, mode, device)
        reset_peak(device)
        decoding = measure_decoding(vae, latents[0])
        peaks.append(peak_gb(device))
        del vae
        gc.collect()
    known = [peak for peak in peaks if peak is not None]
    all_minutes = [round((each.project(*row.step_counts) + decoding) / 60, 4) for each in found]
    out: dict[str, Any] = {"minutes": all_minutes[0], "memory_gb": round(max(known), 2) if known else None}
    if row.mode == "fast":
        between = {share: all_minutes[0] + share * (all_minutes[1] - all_minutes[0]) for share in SKIPPED_SHARES}
        out |= {"minutes": None, "minutes_by_skipped_share": {str(k): round(v, 4) for k, v in between.items()},
                "why": "how many evaluations are skipped depends on trained weights"}  # fmt: skip
    return {
        **out,
        **{f"{name}_s": round(value, 4) for name, value in asdict(found[0]).items()},
        "decoding_s": round(decoding, 4),
        "warm_up_with_compilation_s": round(compiling, 1) if compiling else None,
        "measured_steps": num_steps,
    }


def line(row: Row, gpus: int, clip: Clip, sizes: Sizes, dtype: torch.dtype, measured: dict[str, Any]) -> dict[str, Any]:
    """Put a row together: measured values or nulls, the paper's, and the forecast of the memory."""
    gpus = max(gpus, 2) if row.parallel else gpus  # also where it was not measured
    is_paper_size, is_main = sizes is not TINY, row.compiled and not row.parked and row.way != "batched"
    paper = PAPER.get(row.mode, {}) if is_paper_size and is_main and not row.eager else {}
    minutes, memory = paper.get(gpus, (None, None))
    forecast = {} if row.eager or gpus > 1 else rendering_memory(sizes, clip, dtype, row.savings)
    counted = [forecast[phase] for phase in ("denoise", "decode_video") if phase in forecast]
    plain, with_pose = row.step_counts
    return {
        "benchmark": "table4", **row.label, "gpus": gpus, "frames": clip.num_frames,
        "size": [clip.height, clip.width], "steps": row.steps,
        "evaluations": plain * (2 if row.guided else 1) + 3 * with_pose, "minutes": None, "memory_gb": None, **measured,
        "forecast_gb": round(max(counted) / 1e9, 2) if counted else None,
        "paper_minutes": minutes, "paper_gb": memory,
    }  # fmt: skip


def main() -> None:
    """Measure all rows that this machine can run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="use small sizes on the CPU")
    parser.add_argument("--measured-steps", type=int, default=4, help="steps that are measured, at least 4 and even")
    parser.add_argument("--out", type=Path, help="write the rows and the machine to this file")
    options = parser.parse_args()
    device, start = "cpu" if options.tiny else "cuda", time.perf_counter()
    clip, sizes = (Clip(9, 64, 48), TINY) if options.tiny else (Clip(), Sizes())
    dtype = torch.float32 if options.tiny else torch.bfloat16
    missing = None if device == "cpu" or torch.cuda.is_available() else "no accelerator"
    num_steps = max(options.measured_steps, MIN_STEPS) // 2 * 2
    lines: list[dict[str, Any]] = []
    with torchrun_group(device if missing is None else "cpu") as (rank, gpus):
        for row in ROWS:
            if gpus > 1 and row.parallel is None:
                continue  # they are in the column of one GPU
            alone = "of two processes: run it by torchrun" if gpus == 1 and row.parallel else None
            is_late = as_the_first_says(time.perf_counter() - start > DEADLINE_S, device)
            why = missing or alone or ("no time left" if is_late else None)
            try:
                found = {"why": why} if why else measure(row, sizes, clip, num_steps, dtype, device)
            except torch.cuda.OutOfMemoryError as error:
                found = {"why": f"out of memory: {str(error).splitlines()[0]}"}
            lines.append(line(row, gpus, clip, sizes, dtype, found))
            gc.collect()
            base = lines[0]["minutes"] if lines[0]["mode"] == "eager" else None
            if base and lines[-1]["minutes"]:
                lines[-1]["times_faster_than_eager"] = round(base / lines[-1]["minutes"], 2)
            if rank == 0:
                print(json.dumps(lines[-1]), flush=True)
    if options.out and rank == 0:
        options.out.write_text(json.dumps({"machine": machine(device), "rows": lines}, indent=2) + "\n")


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and the libraries."""
    gpu = torch.cuda.get_device_name(0) if device == "cuda" and torch.cuda.is_available() else None
    libraries = {name: version(name) for name in ("torch", "diffusers")}
    return {"gpu": gpu, "cpu": platform.processor() or platform.machine(), "libraries": libraries}


if __name__ == "__main__":
    main()
