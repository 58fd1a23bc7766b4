"""Compare stages 1 and 2 on the pairs of the demo: quality, and how near the velocity without pose is to the base's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...datasets.artifact import Artifact
from ...datasets.shards import ShardDataset, null_path
from ...models.cached_conditions import tensors_of
from ...models.components import load_components
from ...models.conditions import Conditions, NullConditions, with_frame_mask
from ...models.flow_matching import add_noise, timestep_of
from ...models.metrics import Interval, bootstrap_ratio, masked_psnr, paired_bootstrap
from ...models.objectives import Velocity, steadydancer_velocity, wan_velocity
from ...pipelines.common.outcomes import require_usable
from .. import tasks
from ..presets import Run
from .dancers import PAIRS, PairSet
from .measure import read_frames, silhouettes
from .results import Result, result_of
from .toydance import Steps, rendered_videos

SIGMAS = (0.3, 0.6, 0.9)
NUM_CLIPS = 24


def compare_stages(run: Run, pairs: PairSet, out: Path, steps: Steps, in_process: bool) -> dict[str, Result]:
    """Render the pairs with stages 1 and 2 into `out/by_stage1` and `out/by_stage2`, and compare the two."""
    values = {}
    for stage in ("stage1", "stage2"):
        folder = out / f"by_{stage}"
        with steps(f"render with {stage.replace('stage', 'stage ')}"):
            done = tasks.render(run, out / stage / "checkpoint", pairs.folder / PAIRS, folder, in_process=in_process)
            require_usable(Artifact(folder / "renders"), done["counts"])
        values[stage] = psnr_of_pairs(pairs, rendered_videos(folder / "renders"))
    with steps("compare stages 1 and 2"):
        names = [name for name in values["stage1"] if name in values["stage2"]]
        ours, theirs = ([values[stage][name] for name in names] for stage in ("stage2", "stage1"))
        gain = paired_bootstrap(theirs, ours)
        checkpoints = {stage: out / stage / "checkpoint" for stage in ("stage1", "stage2")}
        distances = unconditional_distances(out / "latents", run.cache.components, checkpoints)
        return {
            "stage2_minus_stage1_psnr_db": result_of(Interval(gain.mean, gain.low, gain.high, len(names))),
            "unconditional_distance_stage2_over_stage1": result_of(
                bootstrap_ratio(distances["stage2"], distances["stage1"])
            ),
        }


def psnr_of_pairs(pairs: PairSet, videos: dict[str, Path]) -> dict[str, float]:
    """Measure renders against their truths inside both silhouettes, by the pair's id."""
    values = {}
    for name in pairs.ids():
        if name in videos:
            render, truth = read_frames(videos[name]), pairs.video("truth", name)
            count, *size = render.shape[:3]
            _, union = silhouettes(truth, pairs.video("wrong", name), count, (size[0], size[1]))
            values[name] = masked_psnr(render, read_frames(truth, count, (size[0], size[1])), union)
    return values


@torch.no_grad()
def unconditional_distances(latents: Path, base: str, checkpoints: dict[str, Path]) -> dict[str, np.ndarray]:
    """Measure |v_u − v_u,base|² of each checkpoint, a mean over three σ, on cached clips [n] with the null pose."""
    teacher = wan_velocity(load_components(base, ("transformer",), torch.float32, kind="wan")["transformer"])
    students: dict[str, Velocity] = {}
    for name, folder in checkpoints.items():
        network = load_components(folder, ("transformer",), torch.float32, kind="steadydancer")["transformer"]
        students[name] = steadydancer_velocity(network)
    values: dict[str, list[float]] = {name: [] for name in students}
    shards = ShardDataset(latents)
    for k, key in enumerate(sorted(shards.bucket)[:NUM_CLIPS]):
        sample = {name: tensor.float()[None] for name, tensor in tensors_of(shards.read(key)["conditions"]).items()}
        null = tensors_of(null_path(shards.path, shards.bucket[key]).read_bytes())
        nothing = NullConditions(**{name: tensor.float()[None] for name, tensor in null.items()})
        clean = sample["latents"]
        conditions = _conditions(sample).without_pose(nothing)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(k))
        errors: dict[str, list[float]] = {name: [] for name in students}
        for sigma in torch.tensor(SIGMAS)[:, None]:
            at = add_noise(clean, noise, sigma), timestep_of(sigma), conditions
            target = teacher(*at)
            for name, student in students.items():
                errors[name].append(float((student(*at) - target).square().mean()))
        for name, each in errors.items():
            values[name].append(float(np.mean(each)))
    return {name: np.array(each) for name, each in values.items()}


def _conditions(sample: dict[str, Any]) -> Conditions:
    names = ("pose_latents", "image_embeds", "pose_image_embeds", "prompt_embeds")
    return Conditions(image_latents=with_frame_mask(sample["image_latents"]), **{name: sample[name] for name in names})
