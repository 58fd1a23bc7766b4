"""A run of the ablations at tiny size: random networks, few clips and steps."""

from pathlib import Path

import pytest

from steadydancer.flows import presets
from steadydancer.flows.ablations.world import World
from steadydancer.flows.presets import Run, change
from steadydancer.pipelines.curate.config import CurateConfig

WORLD = World(num_sets=1, clips_per_set=3, num_pairs=2)


def tiny_run(components: Path) -> Run:
    """The preset with two steps a stage, 33 frames at 32², and no gates."""
    run = presets.load("toydance_ablations")
    for stage in ("stage1", "stage2", "stage3"):
        run = change(run, stage, steps=2, global_batch_size=2, warmup_steps=1, evaluation_samples=2, ema_decay=0.5,
                     validation_share=0.0, checkpoint_every_steps=1)  # fmt: skip
    gates = dict.fromkeys(CurateConfig().gates.model_dump())
    run = change(run, "curate", gates=gates)
    run = change(run, "cache", components=str(components), max_area_px=32 * 32, drawing_area_px=48 * 48)
    run = change(run, "render", num_inference_steps=1, max_area_px=32 * 32, drawing_area_px=48 * 48)
    return change(run, "evaluate", pose_model="supplied", metrics=("pixels",))


@pytest.fixture(scope="session")
def tiny(components: Path) -> Run:
    """The configuration of a tiny run."""
    return tiny_run(components)
