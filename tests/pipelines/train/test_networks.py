"""Which networks a stage loads, and what is changed in them before it trains."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steadydancer.flows import presets
from steadydancer.models.inference.text_padding import MergedPadding
from steadydancer.pipelines.train import networks


@pytest.mark.parametrize("merges", [True, False])
def test_student_and_teacher_merge_the_padding_of_the_text_if_asked(
    components: Path, merges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = presets.change(presets.tiny(), "stage2", merge_text_padding=merges)
    config = presets.change(run, "stage1", merge_text_padding=merges).stage1
    loaded: list[Any] = [networks.load_student(config, str(components), None, torch.device("cpu"))]
    wan_velocity = networks.wan_velocity
    monkeypatch.setattr(networks, "wan_velocity", lambda base: loaded.append(base) or wan_velocity(base))
    monkeypatch.setattr(networks.dist, "get_world_size", lambda: 1)
    networks.load_objective(run.stage2, str(components), torch.device("cpu"))
    assert len(loaded) == 2
    for network in loaded:
        kinds = {isinstance(block.attn2.processor, MergedPadding) for block in network.blocks}
        assert kinds == {merges}
