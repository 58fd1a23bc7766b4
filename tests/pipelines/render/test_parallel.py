"""Several processes that sample a video: what is refused, what workers get, and that the latents are the same."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from steadydancer.models.components import save_components, tiny_components
from steadydancer.models.preflight.inputs import branch_inputs
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.render.denoise import Denoiser
from steadydancer.pipelines.render.steps import stages
from steadydancer.pipelines.render.task import CheckpointTask, RenderTask
from steadydancer.pipelines.runtime.pools import needed_gpus

GRID = (2, 4, 6)


@torch.no_grad()
def sampled(denoiser: Denoiser, name: str) -> Tensor:
    pipeline = denoiser.of(name)
    config = pipeline.transformer.config
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    branches = branch_inputs(draw, GRID, config.image_dim, config.text_dim, num_tokens=(5, 9))
    conditions, negative_text, negative_pose = branches.values()
    settings: dict[str, Any] = {"num_inference_steps": 3, "flow_shift": 5.0, "guidance_scale": 5.0}
    return pipeline.denoise(
        draw(1, 16, *GRID), [conditions], negative_text.prompt_embeds, [[negative_pose.pose_latents]],
        pose_guidance_scale=1.0, **settings,
    )  # fmt: skip


def test_a_worker_samples_the_same_latents_with_another_process_and_changes_the_checkpoint(
    tmp_path: Path, one_thread: None
) -> None:
    parts = tiny_components(seed=0, transformer={"num_layers": 1})
    save_components({"scheduler": parts["scheduler"]}, tmp_path)
    places = {}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        network = SteadyDancerTransformer3DModel.from_wan(parts["transformer"])
        network.patch_embedding_fuse.weight.data.normal_(std=0.3)
        save_components({"transformer": network}, tmp_path / name)
        places[name] = CheckpointTask(str(tmp_path / name), str(tmp_path), {}, "")

    def denoiser(**config: Any) -> Denoiser:
        return Denoiser(RenderTask(RenderConfig(dtype="float32", **config), places, str(tmp_path / "work")))

    alone, together = denoiser(), denoiser(parallel="guidance", num_processes=2)
    try:
        assert torch.equal(sampled(together, "one"), sampled(alone, "one"))
        group = together.of("one").process_group
        assert len(group.pids) == 1
        assert together.of("two").process_group is not group and group.pids == []
    finally:
        last = together.of("two").process_group
        together.close()
    assert last.pids == [] and together.pipeline is None and torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_processes": 2}, "2 processes need `parallel`"),
        ({"parallel": "guidance"}, "needs at least 2 processes, not 1"),
        ({"parallel": "guidance", "num_processes": 4}, "has work for 3 processes"),
        ({"parallel": "context", "num_processes": 2, "num_gpus": 0.5}, "num_gpus must be 0 or 1"),
    ],
)
def test_processes_that_do_not_fit_are_refused_with_the_configuration(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RenderConfig(**given)


def test_each_process_has_a_gpu() -> None:
    """So the runner refuses two processes where there is one GPU, before anything is computed."""
    config = RenderConfig(parallel="context", num_processes=2, num_gpus=1)
    assert needed_gpus(stages(config)) == 2
    assert needed_gpus(stages(config.model_copy(update={"num_gpus": 0}))) == 0
