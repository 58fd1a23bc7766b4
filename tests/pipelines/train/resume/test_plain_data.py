"""Whoever can write a training state must not be able to run code with it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum

from steadydancer.pipelines.train.resume.plain_data import plain_data_only
from steadydancer.pipelines.train.run_folder import TrainingRefused


class Poison:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def test_a_poisoned_state_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "step-000001" / "rank.pt"
    file.parent.mkdir()
    torch.save({"weights": torch.ones(2), "extra": Poison(trace)}, file)
    with (
        pytest.raises(TrainingRefused, match=r"step-000001 contains an object `posix\.system`"),
        plain_data_only(file.parent),
    ):
        torch.load(file, weights_only=False)  # as DeepSpeed does
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # it would have


def test_what_deepspeed_writes_is_read(tmp_path: Path) -> None:
    state = {"scaler": LossScaler(scale=2.0), "stage": ZeroStageEnum.weights, "steps": 3, "weights": torch.arange(3)}
    torch.save(state, tmp_path / "rank.pt")
    with plain_data_only(tmp_path):
        read = torch.load(tmp_path / "rank.pt", weights_only=False)
    assert read["scaler"].cur_scale == 2.0 and read["stage"] == 3 and read["steps"] == 3
    assert torch.equal(read["weights"], state["weights"])
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
