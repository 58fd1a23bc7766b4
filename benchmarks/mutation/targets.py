"""The modules that decide results, and the test files that mirror them."""

TARGETS: dict[str, tuple[str, ...]] = {
    "models/guidance.py": ("models/test_sampling.py", "models/test_guidance*.py", "models/test_objectives.py"),
    "models/sampling.py": ("models/test_sampling.py",),
    "models/flow_matching.py": ("models/test_flow_matching.py", "models/test_objectives.py"),
    "models/objectives.py": ("models/test_objectives.py",),
    "models/conditions.py": ("models/test_conditions.py", "models/test_objectives.py", "models/test_sampling.py"),
    "models/condition_reconciliation.py": (
        "models/test_condition_reconciliation.py",
        "models/test_transformer.py",
        "models/test_ablations.py",
    ),
    "models/pose_modulation.py": ("models/test_pose_modulation.py", "models/test_ablations.py"),
    "models/long_video.py": ("models/test_long_video.py",),
    "datasets/sampler.py": ("datasets/test_sampler.py",),
    "datasets/skeleton.py": ("datasets/test_skeleton*.py",),
    "datasets/skeleton_drawing.py": ("datasets/test_skeleton*.py",),
    "datasets/shards.py": ("datasets/test_shard*.py",),
    "datasets/shard_plan.py": ("datasets/test_shard*.py",),
    "datasets/shard_index.py": ("datasets/test_shard*.py",),
    "datasets/shard_check.py": ("datasets/test_shard*.py", "flows/test_latents.py"),
    "datasets/artifact.py": ("datasets/test_artifact*.py", "datasets/test_rules.py"),
    "datasets/rules.py": ("datasets/test_rules.py",),
    "datasets/removal.py": ("datasets/test_removal.py", "pipelines/test_forget.py"),
    "pipelines/train/draws.py": ("pipelines/test_train_draws.py",),
    "pipelines/train/batches.py": ("pipelines/test_train_batches.py", "pipelines/test_train_data.py"),
    "pipelines/train/split.py": ("pipelines/test_train_split.py",),
    "pipelines/train/states.py": ("pipelines/test_train_states.py", "pipelines/test_train_earlier.py"),
    "pipelines/curate/gates.py": (
        "pipelines/test_select.py",
        "pipelines/test_curate_gates.py",
        "flows/test_refilter.py",
    ),
    **{
        f"pipelines/curate/scores/{name}.py": ("pipelines/test_curate_scores*.py", *more)
        for name, more in {
            "borders": (),
            "duplicates": ("pipelines/test_duplicates.py",),
            "frame_scores": (),
            "glance": ("pipelines/test_curate_glance.py",),
            "highlights": (),
            "motion_scores": (),
            "noise": (),
            "overlays": (),
            "pose_scores": (),
            "shots": ("pipelines/test_curate_shots.py",),
        }.items()
    },
    **{
        f"pipelines/curate/selection/{name}.py": ("pipelines/test_select*.py", *more)
        for name, more in {
            "copies": ("pipelines/test_duplicates.py", "pipelines/test_curate.py"),
            "decisions": ("flows/test_refilter.py",),
            "fingerprints": ("pipelines/test_duplicates.py",),
            "groups": ("pipelines/test_duplicates.py",),
            "judgement": ("flows/test_refilter.py",),
            "refilter": ("flows/test_refilter.py",),
            "row_keys": ("flows/test_refilter.py", "pipelines/test_duplicates.py"),
            "select": ("pipelines/test_curate.py",),
            "targets": ("flows/test_refilter.py",),
            "verdicts": ("flows/test_refilter.py", "pipelines/test_curate.py"),
        }.items()
    },
    "models/driving.py": ("models/test_driving*.py", "models/test_pipeline.py", "pipelines/test_render.py"),
    "pipelines/render/config.py": ("pipelines/test_render*.py", "flows/test_presets.py"),
    "pipelines/render/job.py": ("pipelines/test_render*.py",),
    "pipelines/render/steps.py": ("pipelines/test_render*.py",),
    "pipelines/evaluate/config.py": ("pipelines/test_evaluate*.py",),
    "pipelines/evaluate/job.py": ("pipelines/test_evaluate*.py",),
    "pipelines/evaluate/steps.py": ("pipelines/test_evaluate*.py", "models/test_judges.py"),
    "pipelines/evaluate/report.py": ("pipelines/test_evaluate*.py",),
}
"""Module → patterns of its tests, under `tests/`."""
