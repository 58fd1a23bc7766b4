"""Other gates for a curation: a preset is any function without arguments that returns a `Run`.

PYTHONPATH=examples steadydancer curate --preset strict_gates:strict --clips VIDEOS --out runs/strict
"""

from steadydancer.flows.presets import Run, change, paper


def strict() -> Run:
    """The paper's run, for people who fill at least half of the picture's height and move calmly."""
    run = paper()
    bounds = {"min_subject_height": 0.5, "max_pose_jerk": 0.2, "min_sharpness": 0.001}
    return change(run, "curate", gates={**run.curate.gates.model_dump(), **bounds})
