import pytest

from steadydancer.pipelines.train.checkpoint import TrainingRefused
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.job import _require_workers


@pytest.mark.parametrize("use_gpu", [True, False])
def test_workers_that_would_be_waited_for_without_end_are_refused(use_gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    _require_workers(TrainConfig(stage=1, num_workers=1, use_gpu=use_gpu))
    with pytest.raises(TrainingRefused, match=r"num_workers: 2 .* has 1"):
        _require_workers(TrainConfig(stage=1, num_workers=2, use_gpu=use_gpu))
