"""Which runs are one run, which may go on in a folder, and which may begin from another's state."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from steadydancer.datasets.storage.digests import json_digest
from steadydancer.pipelines.train import integrity
from steadydancer.pipelines.train.config import NETWORK_FIELDS, TrainConfig
from steadydancer.pipelines.train.preflight import inputs as start
from steadydancer.pipelines.train.preflight.fork import begin_fork, check_fork, forked_from
from steadydancer.pipelines.train.preflight.inputs import (
    check_same_run,
    comparable_identity,
    identity,
    refuse_other_run,
)
from steadydancer.pipelines.train.resume.universal import refuse_average
from steadydancer.pipelines.train.run_folder import TrainingRefused, append_metrics

# A setting for each field that is another than the default.
OTHER: dict[str, Any] = {
    "num_frames": 77, "steps": 50, "seed": 1, "learning_rate": 0.5, "warmup_steps": 5, "betas": (0.5, 0.9),
    "learning_rate_schedule": "cosine", "optimizer": "muon", "muon_momentum": 0.5,
    "muon_learning_rate": 0.1, "ema_decay": 0.5, "weight_decay": 0.5, "max_grad_norm": 2.0,
    "global_batch_size": 32, "gradient_accumulation": 2, "num_workers": 4,
    "use_gpu": False, "max_restarts": 2, "bundle": True, "zero_stage": 3, "offload_optimizer": True, "dtype": "float32",
    "gradient_checkpointing": False, "keep_attention_outputs": True, "offload_activations": True,
    "shard_teacher": False, "merge_text_padding": True, "continue_stage": True,
    "trained_weights": "all", "lora_rank": 4, "lora_alpha": 4, "lora_targets": ("to_q",), "flow_shift": 3.0,
    "loss_weighting": "gaussian", "text_dropout": 0.5, "pose_dropout": 0.5, "distillation_weight": 2.0,
    "distillation": "normal", "uncond_text": "empty", "pose_simulation_targets": (3,),
    "pose_simulation_probability": 0.1, "pose_simulation_unit": "latent", "alignment_axis": "spatial",
    "pose_modulation_modules": ("spatial",), "condition_augmentation": False, "pose_fusion": "addition",
    "image_feature_fusion": "concatenation", "temporal_kernel_size": 1, "reference_embedding": "shared",
    "start_gap_module": "mapping",
    "alignment_dropout": 0.1, "checkpoint_every_steps": 5, "keep_checkpoints": 4,
    "asynchronous_checkpoints": False, "evaluation_samples": 2, "validation_share": 0.5,
    "validation_clips": 3, "validation_sigmas": (0.5,), "validation_every_steps": 5,
    "gallery": {"num_clips": 1}, "trackers": ("mlflow",), "profile": True,
}  # fmt: skip
# What may change under way, by its meaning: how long, how often written, where things lie, who is told.
FREE = {
    "steps", "checkpoint_every_steps", "keep_checkpoints", "offload_activations", "shard_teacher",
    "asynchronous_checkpoints", "max_restarts", "gallery", "trackers", "profile", "bundle",
}  # fmt: skip
# What a training state is cut up by, or trains, and which network it is.
FIXED = {
    *("zero_stage", "optimizer", "offload_optimizer", "dtype", "trained_weights", "lora_rank", "lora_targets"),
    *NETWORK_FIELDS,
}


def stage_1(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"stage": 1, "global_batch_size": 16, **changes})


def record(config: TrainConfig | None = None, **digests: Any) -> dict[str, Any]:
    reported = {"latents": "l", "base": "b", "parent": None, **digests}
    inputs = {name: digest and {"path": "somewhere", "digest": digest} for name, digest in reported.items()}
    config = config or stage_1()
    return {"kind": "checkpoint", "config": config.model_dump(mode="json"), **inputs, "code_version": "0"}


def state(out: Path, steps: int) -> Path:
    folder = out / "state" / f"step-{steps:06d}"
    (folder / "engine").mkdir(parents=True)
    torch.save({"weights": torch.full((50,), float(steps))}, folder / "engine/rank.pt")
    file = folder / "engine/rank.pt"
    facts = {
        "world_size": 8, "zero_stage": 2, "trained": ["w"], "steps_done": steps,
        "files": {"engine/rank.pt": file.stat().st_size}, "crc32": {"engine/rank.pt": integrity._checksum(file, 0)},
    }  # fmt: skip
    (folder / "complete.json").write_text(json.dumps({**facts, "digest": json_digest(facts)}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of eight workers that has begun and has taken 3 steps."""
    out = tmp_path / "run"
    out.mkdir()
    check_same_run(out, record())
    state(out, 3)
    (out / "state/before.json").write_text('{"loss": 1.0}')
    for step in range(5):
        append_metrics(out, {"step": step})
    return out


def test_every_field_is_tried() -> None:
    assert OTHER.keys() == TrainConfig.model_fields.keys() - {"stage"} and OTHER.keys() >= FREE | FIXED


@pytest.mark.parametrize("field", OTHER)
def test_a_setting_that_changes_what_is_computed_makes_another_run(run: Path, field: str) -> None:
    default = stage_1()
    other = stage_1(**{field: OTHER[field]})
    assert getattr(default, field) != getattr(other, field)
    if field in FREE or field == "num_workers":  # the global batch stays
        refuse_other_run(run, record(other))
        return
    with pytest.raises(
        TrainingRefused, match=rf"(?s)was started with different settings .*--fork .*\n  config\.{field}"
    ):
        refuse_other_run(run, record(other))


@pytest.mark.parametrize("name", ["latents", "base", "parent"])
def test_other_inputs_make_another_run(run: Path, name: str) -> None:
    with pytest.raises(TrainingRefused, match=rf"\n  {name}: .* → \"x\""):
        refuse_other_run(run, record(**{name: "x"}))


def test_a_base_that_a_plan_has_not_looked_at_counts_as_the_same() -> None:
    begun = identity(record())
    assert comparable_identity(begun, record(base=None))["base"] == "b"
    assert comparable_identity(begun, record(base="other"))["base"] == "other"


def test_other_workers_take_the_same_global_batch_in_any_micro_batches_and_no_other_one(run: Path) -> None:
    refuse_other_run(run, record(stage_1(num_workers=2, gradient_accumulation=4)))
    for changes, named in (
        (
            {"num_workers": 4, "global_batch_size": 32},
            r"(?s)config.global_batch_size: 16 → 32\n  config.num_workers: 8 → 4\nAnother num_workers is allowed if",
        ),
        ({"num_workers": 4, "seed": 9}, "config.seed: 0 → 9"),
        ({"global_batch_size": 24}, "config.global_batch_size: 16 → 24"),
    ):
        with pytest.raises(TrainingRefused, match=named):
            refuse_other_run(run, record(stage_1(**changes)))


def test_more_steps_are_another_schedule_where_the_rate_falls_with_them(tmp_path: Path) -> None:
    cosine = {"learning_rate_schedule": "cosine"}
    check_same_run(tmp_path, record(stage_1(**cosine)))
    refuse_other_run(tmp_path, record(stage_1(**cosine)))
    with pytest.raises(TrainingRefused, match=r"(?s)--fork .*\n  config.steps: 12000 → 13000"):
        refuse_other_run(tmp_path, record(stage_1(**cosine, steps=13_000)))
    assert "steps" not in identity(record())["config"]


def test_an_average_is_not_converted_for_other_workers(run: Path) -> None:
    folder = run / "state/step-000003"
    facts = {**json.loads((folder / "complete.json").read_text()), "ema_decay": 0.9}
    del facts["digest"]
    (folder / "complete.json").write_text(json.dumps({**facts, "digest": json_digest(facts)}))
    refuse_average(folder, 8, 0.9)
    refuse_average(folder, 4, 0.0)  # without it the average is left out
    (run / "start.json").write_text(json.dumps(identity(record(stage_1(ema_decay=0.9)))))
    with pytest.raises(TrainingRefused, match=r"^ema_decay: .* 8 workers .* for 4: resume with --num-workers 8, or"):
        refuse_other_run(run, record(stage_1(ema_decay=0.9, num_workers=4)))


def test_fewer_steps_than_are_taken_are_refused_and_as_many_are_not(run: Path) -> None:
    refuse_other_run(run, record(stage_1(steps=3)))
    with pytest.raises(TrainingRefused, match=rf"^steps: 2 steps requested, but {run} already has 3"):
        refuse_other_run(run, record(stage_1(steps=2)))


def test_a_folder_is_bound_by_the_first_run_alone(tmp_path: Path) -> None:
    refuse_other_run(tmp_path, record())
    assert not list(tmp_path.iterdir())
    check_same_run(tmp_path, record())
    written = (tmp_path / "start.json").read_text()
    assert json.loads(written) == identity(record())
    check_same_run(tmp_path, record(stage_1(steps=99)))
    assert (tmp_path / "start.json").read_text() == written


@pytest.mark.parametrize("field", OTHER)
def test_a_fork_takes_any_setting_but_those_that_its_state_is_made_of(run: Path, tmp_path: Path, field: str) -> None:
    other = record(stage_1(**{field: OTHER[field]}))
    if field in FIXED:
        with pytest.raises(TrainingRefused, match=rf"(?s)^fork: .* cannot be loaded by.*\n  config\.{field}"):
            check_fork(run, tmp_path / "fork", other)
        return
    found = check_fork(run, tmp_path / "fork", other)
    assert found is not None and (found.steps, found.folder) == (3, run / "state/step-000003")
    named = {change.partition(":")[0].removeprefix("config.") for change in found.changes}
    assert named == (set() if field in FREE else {field})


@pytest.mark.parametrize("name", ["base", "parent"])
def test_a_fork_of_another_network_is_refused_and_other_latents_are_not(run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainingRefused, match=rf"(?s)^fork: .*\n  {name}: "):
        check_fork(run, tmp_path / "fork", record(**{name: "x"}))
    found = check_fork(run, tmp_path / "fork", record(latents="x"))
    assert found is not None and found.changes == ['latents: "l" → "x"']


def test_a_fork_has_the_state_and_its_steps_and_leaves_the_other_run_alone(run: Path, tmp_path: Path) -> None:
    out, reported = tmp_path / "fork", record(stage_1(learning_rate=0.5))
    (out / "state/step-000099").mkdir(parents=True)  # of an attempt that was killed in here
    begin_fork(run, out, reported)
    assert [path.name for path in sorted((out / "state").iterdir())] == ["before.json", "step-000003"]
    ours, theirs = (folder / "state/step-000003/engine/rank.pt" for folder in (out, run))
    assert ours.samefile(theirs)  # shared, not copied
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 5
    assert forked_from(out) == {"path": str(run), "steps": 3, "changes": ["config.learning_rate: 0.0001 → 0.5"]}
    assert forked_from(run) is None

    begin_fork(run, out, reported)  # the same command again
    assert check_fork(run, out, reported) is None
    with pytest.raises(TrainingRefused, match=rf"^fork: {out} was started from {run}; choose another"):
        check_fork(tmp_path / "third", out, reported)
    with pytest.raises(TrainingRefused, match=rf"^fork: {run} was started without --fork"):
        check_fork(out, run, reported)


def test_a_fork_without_a_state_or_of_fewer_steps_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match=r"^fork: .* has no intact training state"):
        check_fork(tmp_path / "nothing", tmp_path / "fork", record())
    with pytest.raises(TrainingRefused, match=r"^steps: 2 steps requested, but .* already has 3"):
        check_fork(run, tmp_path / "fork", record(stage_1(steps=2)))
    assert check_fork(run, tmp_path / "fork", record(stage_1(steps=3))) is not None


def test_a_link_that_the_file_system_refuses_becomes_a_copy(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    begin_fork(run, tmp_path / "fork", record())
    ours, theirs = (folder / "state/step-000003/engine/rank.pt" for folder in (tmp_path / "fork", run))
    assert ours.read_bytes() == theirs.read_bytes() and not ours.samefile(theirs)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_stage_starts_from_the_stage_before_it(tmp_path: Path, stage: Any) -> None:
    config = TrainConfig(stage=stage, num_workers=0)

    def parent(of: int, **changes: Any) -> Path:
        folder = tmp_path / f"stage{of}"
        folder.mkdir(exist_ok=True)
        reported = {"stage": of, "config": {**config.model_dump(mode="json"), **changes}}
        (folder / "run.json").write_text(json.dumps(reported))
        return folder

    reported = start._check_parent(config, parent(stage - 1))
    assert reported is not None and reported["stage"] == stage - 1
    for of in {1, 2, 3} - {stage - 1}:
        with pytest.raises(TrainingRefused, match=rf"^stage: .* checkpoint of stage {of}, but stage {stage} starts"):
            start._check_parent(config, parent(of))
    with pytest.raises(
        TrainingRefused, match=rf"^from_checkpoint: stage {stage} requires --from, the checkpoint of stage {stage - 1}"
    ):
        start._check_parent(config, None)
    for field in NETWORK_FIELDS:
        other = OTHER[field]
        with pytest.raises(TrainingRefused, match=rf"^{field}: the checkpoint has "):
            start._check_parent(
                config, parent(stage - 1, **{field: list(other) if isinstance(other, tuple) else other})
            )


def test_stage_three_alone_may_add_a_start_gap_module_to_its_parent(tmp_path: Path) -> None:
    for stage in (2, 3):
        config = TrainConfig(stage=stage, num_workers=0, start_gap_module="mapping")
        parent = {"stage": stage - 1, "config": TrainConfig(stage=stage, num_workers=0).model_dump(mode="json")}
        (tmp_path / "run.json").write_text(json.dumps(parent))
        if stage == 3:
            assert start._check_parent(config, tmp_path) == parent
            continue
        with pytest.raises(TrainingRefused, match="start_gap_module: the checkpoint has 'none', but the configuration"):
            start._check_parent(config, tmp_path)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_goes_on_from_a_checkpoint_of_its_own_if_asked(tmp_path: Path, stage: Any) -> None:
    config = TrainConfig(stage=stage, num_workers=0, continue_stage=True)
    for of in (1, 2, 3):
        (tmp_path / f"stage{of}").mkdir()
        reported = {"stage": of, "config": config.model_dump(mode="json")}
        (tmp_path / f"stage{of}" / "run.json").write_text(json.dumps(reported))
        if of == stage:
            assert start._check_parent(config, tmp_path / f"stage{of}") == reported
            continue
        with pytest.raises(
            TrainingRefused, match=f"checkpoint of stage {of}, but stage {stage} starts from stage {stage}"
        ):
            start._check_parent(config, tmp_path / f"stage{of}")
    with pytest.raises(TrainingRefused, match=f"requires --from, the checkpoint of stage {stage}"):
        start._check_parent(config, None)


def test_a_cache_is_named_by_what_it_was_made_of() -> None:
    """Not by when, where, or with which version."""
    latents: dict[str, Any] = {
        "config": {"dtype": "bfloat16"}, "num_frames": 81, "fps": 16, "buckets": {"a": 1}, "counts": {"ok": 3},
        "inputs": {"digest": "i", "path": "/x"}, "components": {"digests": {"vae": "v"}, "path": "/y"},
        "seconds": 5.0, "code_version": "1",
    }  # fmt: skip
    name = start._data_digest(latents)
    moved = {"inputs": {"digest": "i", "path": "/z"}, "components": {"digests": {"vae": "v"}}, "seconds": 9.0}
    assert start._data_digest({**latents, **moved, "code_version": "2"}) == name
    others: list[dict[str, Any]] = [
        {"config": {"dtype": "float32"}}, {"num_frames": 77}, {"fps": 24}, {"buckets": {"a": 2}}, {"counts": {"ok": 4}},
        {"inputs": {"digest": "j"}}, {"components": {"digests": {"vae": "w"}}},
    ]  # fmt: skip
    assert len({name, *(start._data_digest({**latents, **other}) for other in others)}) == 1 + len(others)
