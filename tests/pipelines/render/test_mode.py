"""The mode of a render: the settings that it changes, what records state, and what is refused before it begins."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steadydancer.datasets.artifact import PLAN, Artifact, ArtifactError
from steadydancer.datasets.schema import Row
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.video import decode
from steadydancer.models.conversion.convert import convert
from steadydancer.models.modes import ModeError, get_mode
from steadydancer.pipelines.render import job
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.runtime.runner import Engine

SMALL: dict[str, Any] = {
    "num_frames": 9, "max_area_px": 64 * 64, "drawing_area_px": 64 * 64, "num_inference_steps": 3, "dtype": "float32",
    "pose_model": "supplied", "guidance_scale": 2.0, "pose_guidance_scale": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs(dancers: Path) -> list[Row]:
    return [job.pair(dancers / "images" / "pair_0.png", dancers / "driving" / "pair_0.mp4", "A dancer.", "good")]


@pytest.fixture(scope="module")
def few_step_lora(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the first block, in official names."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lora") / "few.safetensors"
    pair = {"lora_down.weight": torch.randn(4, 128), "lora_up.weight": torch.randn(128, 4)}
    save_file({f"diffusion_model.blocks.0.self_attn.q.{name}": tensor for name, tensor in pair.items()}, file)
    return file


def render(checkpoint: Path, pairs: list[Row], out: Path, **fields: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Render; return (the frames, the settings in the video's record)."""
    config = RenderConfig(**(SMALL | fields))
    job.run(config, checkpoint=checkpoint, pairs=pairs, out=out, engine=Engine(out / ".engine", in_process=True))
    (row,) = Artifact(out / "renders").read().to_pylist()
    assert row["verdict"] == "ok", row
    record = json.loads((out / "renders" / "good.json").read_text())
    return decode(out / "renders" / "good.mp4", np.arange(9) / 16), record


def test_a_mode_sets_what_is_at_its_default_and_keeps_the_rest() -> None:
    plain = RenderConfig(mode="fast:distilled")
    assert (plain.num_inference_steps, plain.guidance_scale, plain.pose_guidance_scale) == (4, 1.0, 0.0)
    assert plain.kept_settings == {}
    own = RenderConfig(mode="fast:distilled", num_inference_steps=8, pose_guidance_scale=0.5)
    assert (own.num_inference_steps, own.guidance_scale, own.pose_guidance_scale) == (8, 1.0, 0.5)
    assert own.kept_settings == {"num_inference_steps": 8, "pose_guidance_scale": 0.5}
    for config in (plain, own):
        assert RenderConfig.model_validate(config.model_dump()) == config
        assert RenderConfig.model_validate_json(config.model_dump_json()) == config
    assert RenderConfig() == RenderConfig(mode="exact")
    for mode in ("exact", "fast"):
        assert RenderConfig(mode=mode).model_dump(exclude={"mode"}) == RenderConfig().model_dump(exclude={"mode"})
    assert RenderConfig(mode="low_memory").branch_evaluation == "sequential"
    assert RenderConfig(mode="low_memory", branch_evaluation="batched").branch_evaluation == "batched"
    with pytest.raises(ValueError, match="unknown mode 'quick'"):
        RenderConfig(mode="quick")
    with pytest.raises(ValueError, match="mode fast:0.2 decides for each guidance branch"):
        RenderConfig(mode="fast:0.2", branch_evaluation="batched")
    with pytest.raises(ValueError, match="mode fast decides by all tokens, .* use parallel 'guidance'"):
        RenderConfig(mode="fast", parallel="context", num_processes=2)
    assert RenderConfig(mode="fast", parallel="guidance", num_processes=2).mode == "fast"


def test_records_state_the_mode_and_folders_from_before_there_were_modes_are_exact(
    checkpoint: Path, pairs: list[Row], tmp_path: Path
) -> None:
    exact, record = render(checkpoint, pairs, tmp_path / "exact")
    assert record["settings"]["mode"] == get_mode("exact").to_record()
    plan = tmp_path / "exact" / "renders" / PLAN
    older = json.loads(plan.read_text())
    assert (older["config"].pop("mode"), older["config"].pop("distilled_lora")) == ("exact", None)
    plan.write_text(json.dumps(older))
    assert np.array_equal(render(checkpoint, pairs, tmp_path / "exact")[0], exact)  # it is finished, and not refused
    with pytest.raises(ArtifactError, match='config.mode: "exact" → "low_memory"'):
        render(checkpoint, pairs, tmp_path / "exact", mode="low_memory")
    stored, record = render(checkpoint, pairs, tmp_path / "stored", mode="low_memory")
    assert record["settings"]["mode"] == get_mode("low_memory").to_record()
    assert 0 < np.abs(stored.astype(int) - exact).mean() < 10  # float8 is off, but it is the same video


def test_the_few_step_lora_is_part_of_a_render(
    checkpoint: Path, pairs: list[Row], few_step_lora: Path, tmp_path: Path
) -> None:
    fields = {"mode": "fast:distilled", "distilled_lora": str(few_step_lora), "num_inference_steps": 40}
    _, record = render(checkpoint, pairs, tmp_path, **fields)
    assert record["settings"]["num_inference_steps"] == 4  # 40 is the default, which a mode takes as not set
    assert record["settings"]["guidance_scale"] == 2.0  # set to something else
    assert record["model"]["distilled_lora"] == content_digest(few_step_lora)
    # Another file under the same name is another render.
    torch.manual_seed(1)
    pair = {"lora_down.weight": torch.randn(2, 128), "lora_up.weight": torch.randn(128, 2)}
    few = {f"diffusion_model.blocks.0.self_attn.q.{name}": tensor for name, tensor in pair.items()}
    content = few_step_lora.read_bytes()
    save_file(few, few_step_lora)
    try:
        with pytest.raises(ArtifactError, match="distilled_lora"):
            render(checkpoint, pairs, tmp_path, **fields)
    finally:
        few_step_lora.write_bytes(content)


def test_a_quantised_checkpoint_renders_almost_the_same(checkpoint: Path, pairs: list[Row], tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "int8", kind="int8")
    components = json.loads((checkpoint / "run.json").read_text())["base"]["path"]
    exact, _ = render(checkpoint, pairs, tmp_path / "exact")
    frames, record = render(tmp_path / "int8", pairs, tmp_path / "out", components=components)
    assert record["model"]["checkpoint"] != content_digest(checkpoint)
    assert np.abs(frames.astype(int) - exact).mean() < 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "fast:distilled"}, "needs a few-step LoRA"),
        ({"mode": "fast", "distilled_lora": "few.safetensors"}, "used by mode fast:distilled only"),
        ({"mode": "low_memory:99"}, "keeps 99 blocks on the GPU, but this network has 4"),
    ],
)
def test_a_mode_that_cannot_run_is_refused_by_the_plan_and_before_anything_is_made(
    checkpoint: Path, pairs: list[Row], tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    config = RenderConfig(**(SMALL | fields))
    with pytest.raises(ModeError, match=message) as planned:
        job.plan(config, pairs, checkpoint, tmp_path / "out")
    with pytest.raises(ModeError, match=message) as run:
        job.run(config, checkpoint=checkpoint, pairs=pairs, out=tmp_path / "out", engine=Engine(tmp_path / "engine"))
    assert str(planned.value) == str(run.value) and "\n" not in str(run.value)
    assert not (tmp_path / "out").exists()


def test_the_machine_of_a_cluster_is_not_this_one(checkpoint: Path, pairs: list[Row], tmp_path: Path) -> None:
    config = RenderConfig(**(SMALL | {"mode": "low_memory", "num_gpus": 1.0}))
    plan = job.plan(config, pairs, checkpoint, tmp_path / "out", address="ray://somewhere:10001")
    assert plan["mode"]["name"] == "low_memory" and plan["mode"]["offloads"]


def test_the_plan_counts_the_evaluations_of_the_mode_and_says_what_is_kept(
    checkpoint: Path, pairs: list[Row], few_step_lora: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = RenderConfig(mode="fast:distilled", distilled_lora=str(few_step_lora))
    plan = job.plan(config, pairs, checkpoint, tmp_path / "out")
    assert plan["evaluations_a_video"] == 4 and plan["mode"]["kept"] == {} and not caplog.records
    with caplog.at_level(logging.WARNING):
        config = RenderConfig(mode="fast:distilled", distilled_lora=str(few_step_lora), num_inference_steps=6)
        plan = job.plan(config, pairs, checkpoint, tmp_path / "out")
    assert plan["evaluations_a_video"] == 6 and plan["mode"]["kept"] == {"num_inference_steps": 6}
    assert "mode fast:distilled: num_inference_steps stays 6, as configured (the mode's: 4)" in caplog.text
