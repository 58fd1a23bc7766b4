"""A preset with stricter gates: any function without arguments that returns a `Run` is a preset.

PYTHONPATH=examples steadydancer curate --preset strict_gates:strict --clips VIDEOS --out runs/strict
"""

from steadydancer.flows.presets import Run, change, paper


def strict() -> Run:
    """Return the paper's configuration, restricted to calm motion and subjects of at least half the frame height."""
    run = paper()
    bounds = {"min_subject_height": 0.5, "max_pose_jerk": 0.2, "min_sharpness": 0.001}
    return change(run, "curate", gates={**run.curate.gates.model_dump(), **bounds})
