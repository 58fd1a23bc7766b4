"""The modules that determine results, and the test files that mirror them."""

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
    "models/window_openings.py": ("models/test_window_openings.py",),
    "models/metrics/window_seams.py": ("models/metrics/test_window_seams.py",),
    "datasets/sampler.py": ("datasets/test_sampler.py",),
    "datasets/skeleton.py": ("datasets/test_skeleton*.py",),
    "datasets/skeleton_drawing.py": ("datasets/test_skeleton*.py",),
    "datasets/shards/dataset.py": ("datasets/shards/test_*.py",),
    "datasets/shards/plan.py": ("datasets/shards/test_*.py",),
    "datasets/shards/index.py": ("datasets/shards/test_*.py",),
    "datasets/shards/integrity.py": ("datasets/shards/test_*.py", "flows/test_latents.py"),
    "datasets/artifact.py": ("datasets/test_artifact*.py", "datasets/test_rules.py"),
    "datasets/rules.py": ("datasets/test_rules.py",),
    "datasets/text.py": ("datasets/test_text.py",),
    "datasets/sidecars.py": ("datasets/test_sidecars.py",),
    "datasets/images.py": ("datasets/test_images.py",),
    "datasets/source_content.py": ("datasets/test_source_content.py",),
    "pipelines/forget/removal.py": ("pipelines/forget/test_removal.py", "pipelines/forget/test_search.py"),
    "pipelines/train/data/draws.py": ("pipelines/train/data/test_draws.py",),
    "pipelines/train/data/batches.py": ("pipelines/train/data/test_batches.py",),
    "pipelines/train/data/split.py": ("pipelines/train/data/test_split.py",),
    "pipelines/train/resume/states.py": (
        "pipelines/train/resume/test_states.py",
        "pipelines/train/test_older_versions.py",
    ),
    "pipelines/curate/gates.py": (
        "pipelines/curate/selection/test_select.py",
        "pipelines/curate/test_gates.py",
        "flows/test_refilter.py",
    ),
    "pipelines/common/blur.py": ("pipelines/curate/scores/test_frames.py", "pipelines/curate/scores/test_scores.py"),
    **{
        f"pipelines/benchmarks/{name}.py": ("pipelines/benchmarks/test_misalignment.py",)
        for name in ("candidates", "drivers", "misalignment")
    },
    "pipelines/benchmarks/selection.py": ("pipelines/benchmarks/test_selection.py",),
    "pipelines/curate/steps.py": ("pipelines/curate/test_steps.py", "pipelines/curate/test_ingest.py"),
    **{
        f"pipelines/curate/scores/{name}.py": tuple(f"pipelines/curate/scores/test_{one}.py" for one in tests)
        for name, tests in {
            "borders": ("frames", "scores"),
            "duplicates": ("copies", "duplicates"),
            "frame_scores": ("frames", "scores"),
            "key_frame_screen": ("key_frame_screen",),
            "clipping": ("frames", "scores"),
            "motion_scores": ("motion", "scores"),
            "noise": ("motion", "frames", "scores"),
            "overlays": ("frames", "scores"),
            "pose_scores": ("pose", "scores"),
            "shots": ("shots",),
        }.items()
    },
    **{
        f"pipelines/curate/selection/{name}.py": ("pipelines/curate/selection/test_*.py", *more)
        for name, more in {
            "copies": ("pipelines/curate/scores/test_duplicates.py",),
            "overrides": ("flows/test_refilter.py",),
            "fingerprints": ("pipelines/curate/scores/test_duplicates.py",),
            "near_duplicates": ("pipelines/curate/scores/test_duplicates.py",),
            "gating": ("flows/test_refilter.py",),
            "row_keys": ("flows/test_refilter.py", "pipelines/curate/scores/test_duplicates.py"),
            "select": ("flows/test_refilter.py",),
            "targets": ("flows/test_refilter.py",),
            "verdicts": ("flows/test_refilter.py",),
        }.items()
    },
    "models/negative_pose.py": ("models/test_negative_pose.py",),
    "pipelines/curate/refilter.py": ("pipelines/curate/selection/test_*.py", "flows/test_refilter.py"),
    "models/pipeline_inputs.py": ("models/test_pipeline_inputs.py",),
    "datasets/driving_poses.py": ("datasets/test_driving_poses.py",),
    "datasets/video/camera.py": ("datasets/video/test_camera.py", "pipelines/curate/scores/test_motion.py"),
    "datasets/video/sound.py": ("datasets/video/test_sound.py",),
    "datasets/video/sound_samples.py": ("datasets/video/test_sound.py",),
    "pipelines/common/poses.py": ("pipelines/common/test_poses.py",),
    "pipelines/render/config.py": ("pipelines/render/test_*.py", "flows/test_presets.py"),
    "pipelines/render/job.py": ("pipelines/render/test_*.py",),
    "pipelines/render/steps.py": ("pipelines/render/test_*.py",),
    **{
        f"pipelines/render/{name}.py": ("pipelines/render/test_*.py",)
        for name in ("artifacts", "denoise", "encode", "motion", "rows", "write")
    },
    "datasets/storage/result_store.py": ("datasets/storage/test_result_store.py",),
    "pipelines/runtime/pools.py": ("pipelines/runtime/test_pools.py",),
    "pipelines/render/sound.py": ("pipelines/render/test_steps.py",),
    "pipelines/train/gallery/render.py": ("pipelines/train/gallery/test_render.py",),
    "pipelines/train/data/pose_simulation.py": (
        "pipelines/train/data/test_pose_simulation.py",
        "pipelines/train/data/test_data.py",
    ),
    "pipelines/evaluate/config.py": ("pipelines/evaluate/test_*.py",),
    "pipelines/evaluate/job.py": ("pipelines/evaluate/test_*.py",),
    "pipelines/evaluate/metrics_table.py": ("pipelines/evaluate/test_*.py",),
    "pipelines/evaluate/comparison.py": ("pipelines/evaluate/test_*.py",),
    "pipelines/evaluate/ground_truth.py": ("pipelines/evaluate/test_*.py",),
    "pipelines/evaluate/steps.py": ("pipelines/evaluate/test_*.py", "models/metrics/test_*.py"),
    "pipelines/evaluate/report/results.py": ("pipelines/evaluate/report/test_*.py",),
    "pipelines/evaluate/report/page.py": ("pipelines/evaluate/test_*.py",),
    **{
        f"pipelines/evaluate/{name}.py": ("pipelines/evaluate/test_*.py",)
        for name in ("inputs", "pose_tracks", "protocols", "set_scores", "summary", "video")
    },
    **{
        f"models/metrics/{name}.py": tuple(f"models/metrics/test_{one}.py" for one in tests)
        for name, tests in {
            "assignment": ("pose_following",),
            "background": ("background",),
            "distances": ("features",),
            "features": ("features",),
            "identity": ("identity",),
            "person_regions": ("person_regions",),
            "pixels": ("pixels",),
            "pose_accuracy": ("pose_following", "pose_loops"),
            "pose_following": ("pose_following", "pose_loops"),
            "pose_motion": ("pose_following", "pose_loops"),
            "pose_points": ("pose_following", "pose_loops"),
            "preferences": ("features",),
            "preprocessing": ("features",),
            "statistics": ("statistics", "cluster_intervals"),
            "structural_similarity": ("structural_similarity", "pixels"),
            "variants": ("variants",),
        }.items()
    },
}
"""Module → glob patterns of its tests below `tests/`."""
