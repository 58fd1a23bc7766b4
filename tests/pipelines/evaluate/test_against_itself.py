"""A video against itself is perfect in every metric with an optimum, and another one of its size and rate is not."""

from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.toydance import draw_dancer, save_supplied_pose, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.pipelines.evaluate import job
from steadydancer.pipelines.evaluate.catalogue import METRICS
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.sources import Source
from steadydancer.pipelines.runtime.runner import Engine

COUNT, SIZE = 33, (96, 64)  # upright
BEST = {
    "psnr": 100, "psnr[mean-mse]": 100, "start_gap_jump_excess": 1, "akd_px": 0, "akd_l1_px": 0, "akd_torso": 0,
    "mkr": 0, "missing_rate": 0, "oks": 1, "oks_ap": 1, "motion_ratio": 1, "velocity_correlation": 1, "lag": 0,
    "lag_correlation": 1, "jerk_ratio": 1, "jump_excess": 1, "people_pck_10": 1, "people_oks": 1,
    "hands_pck_20": 1, "hands_akd": 0, "hands_missing_rate": 0, "mirrored": 0, "people_extra": 0,
    **dict.fromkeys(("pck_10", "pck_20", "pck_50", "pck_detected_10", "pck_detected_20", "pck_detected_50"), 1),
    **dict.fromkeys(("ssim", *(name for name in METRICS if name.startswith("ssim["))), 1),
}  # fmt: skip
# Of what is perfect in a dancer who is seen throughout, whoever she follows.
ALSO_OF_ANOTHER = {"mkr", "missing_rate", "hands_missing_rate", "people_extra", "mirrored", "lag"}
# No optimum, or none that the own truth reaches.
WITHOUT = {"extra_rate", "mirror_correlation", "jump", "jump_driven", "start_gap", "start_gap_resolved", "torso_px",
           "people_driven"}  # fmt: skip


def dancers(folder: Path, seeds: dict[str, int]) -> Path:
    folder.mkdir()
    for name, seed in seeds.items():
        pose = toy_pose(seed, COUNT, 16, aspect=SIZE[1] / SIZE[0])
        encode(draw_dancer(pose, seed, *SIZE), folder / f"{name}.mp4", 16, lossless=True)
        save_supplied_pose(folder / f"{name}.mp4", [pose], 16)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Any]:
    root = tmp_path_factory.mktemp("itself")
    truth = dancers(root / "truth", {"a": 3, "b": 5})
    dancers(root / "same", {"a": 3, "b": 5})
    dancers(root / "other", {"a": 5, "b": 9})
    sources = [Source(None, root / "same"), Source(None, root / "other")]
    config = EvaluateConfig(metrics=("truth", "pose"), pose_model="supplied")
    job.run(config, videos=sources, truth=truth, out=root / "out", engine=Engine(root / ".engine", in_process=True))
    found = Artifact(root / "out" / "metrics").read().to_pylist()
    return {(row["method"], row["id"], row["metric"]): row for row in found}


def test_every_metric_of_a_comparison_is_judged_here() -> None:
    judged = {name for name, metric in METRICS.items() if metric.group in ("truth", "pose") and not metric.ceiling_of}
    assert judged == BEST.keys() | WITHOUT


@pytest.mark.parametrize("name", BEST)
def test_a_video_against_itself_is_perfect_and_against_another_is_not(
    rows: dict[tuple[str, str, str], Any], name: str
) -> None:
    for one in "ab":
        same, other = rows["same", one, name], rows["other", one, name]
        assert same["value"] == pytest.approx(BEST[name], abs=1e-9), same
        if name not in ALSO_OF_ANOTHER:
            assert other["value"] is None or abs(other["value"] - BEST[name]) > 1e-3, other
        assert (other["value"] is None) == bool(other["reason"])
