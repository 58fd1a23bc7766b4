"""The catalogue: every metric can be chosen and is measured by some function, and what it needs is said."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from steadydancer import SteadyDancerError
from steadydancer.flows.cli import cli
from steadydancer.models.metrics import pose_metrics
from steadydancer.models.weights import catalogue as weights
from steadydancer.pipelines.evaluate.catalogue import CEILINGS, GROUPS, METRICS, TABLES
from steadydancer.pipelines.evaluate.judges import JUDGES, availability, is_non_commercial
from steadydancer.pipelines.evaluate.listing import catalogue_lines
from steadydancer.pipelines.evaluate.protocols import PROTOCOLS, Protocol
from steadydancer.pipelines.evaluate.selection import metrics_of, select_metrics
from steadydancer.pipelines.evaluate.steps import FUNCTIONS

ALL = PROTOCOLS["all"]


def test_every_group_has_a_function_and_every_metric_a_group() -> None:
    assert {metric.group for metric in METRICS.values()} == GROUPS.keys() == FUNCTIONS.keys() | {"pose"}
    assert all(metric.ceiling_of in METRICS for metric in METRICS.values() if metric.ceiling_of)
    one = np.zeros((1, 18, 2)), np.zeros((1, 18), bool)
    plain = pose_metrics(*one, *one, 16, 16).keys() - {"curve", "oks_frames", "speed", "torso_rule"}
    assert plain < METRICS.keys() and {f"{name}[ceiling]" for name in CEILINGS} < METRICS.keys()
    judged = {row for judge in JUDGES.values() for row in judge.weights}
    asked = {row for group in GROUPS.values() for rows in group.weights for row in rows}
    assert asked - judged == {"vbench-aesthetic-head"} and judged <= asked


def test_words_choose_metrics_groups_tables_and_variants() -> None:
    assert select_metrics(["ssim"], ALL) == ["ssim"]
    assert select_metrics(["lpips[vgg,0-1], psnr"], ALL) == ["psnr", "lpips[vgg,0-1]"]
    assert set(select_metrics(["fid"], ALL)) == {name for name in METRICS if name.startswith("fid[")}
    eight = {"subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness",
             "aesthetic_quality", "imaging_quality", "i2v_subject", "i2v_background"}  # fmt: skip
    assert set(select_metrics(["vbench"], ALL)) == eight | {"motion_ratio", "dynamic_degree"}
    assert all(set(select_metrics([word], ALL)) for word in (*GROUPS, *TABLES))
    assert select_metrics(None, ALL) == list(METRICS)
    with pytest.raises(SteadyDancerError, match=r"'pcnr' is no metric, group or table; similar: psnr"):
        select_metrics(["pcnr"], ALL)


def test_a_protocol_leaves_variants_out() -> None:
    own = Protocol(name="one", ssim=("zero-gauss11",), fid=(), fvd=("humanvid-pair",), lpips=("vgg,0-1",))
    names = metrics_of(own)
    assert "ssim[zero-gauss11]" in names and "ssim[gray-uniform7]" not in names and "ssim" in names
    assert not [name for name in names if name.startswith(("fid", "kid", "kvd"))] and "fvd[humanvid-pair]" in names
    with pytest.raises(SteadyDancerError, match="variant that the protocol one leaves out"):
        select_metrics(["ssim[gray-uniform7]"], own)


def test_the_list_says_of_each_metric_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path))
    lines = catalogue_lines()
    told = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert METRICS.keys() <= told.keys()
    assert "needs truth" in told["psnr"] and "needs no truth" in told["temporal_flickering"]
    assert "needs driving video, else truth" in told["pck_10"]
    for name in ("background_drift", "identity[dlib-face,ceiling]"):  # a truth does not replace the driving video here
        assert "needs driving video " in told[name]
    assert " set " in told["fid[humanvid]"] and "per video" in told["psnr"]
    amt = lines[lines.index("amt: VBench: motion smoothness") + 1]
    assert "CC-BY-NC-4.0 (non-commercial): missing" in amt and "steadydancer weights fetch amt" in amt
    file = tmp_path / "amt" / "amt-s.pth"
    file.parent.mkdir()
    file.touch()
    lines = catalogue_lines()
    assert f"present in {file.parent}" in lines[lines.index("amt: VBench: motion smoothness") + 1]


def test_the_command_prints_the_list_and_needs_nothing_else() -> None:
    answer = CliRunner().invoke(cli, ["evaluate", "--list"])
    assert answer.exit_code == 0 and answer.output.splitlines() == catalogue_lines()


def test_what_is_right_at_1_has_no_better_direction() -> None:
    """A render that stands still at first has the smallest jump, and one that stands still correlates with nothing."""
    for name in ("jump", "jump_excess", "start_gap_jump", "start_gap_jump_excess", "mirror_correlation", "lag"):
        assert METRICS[name].better == "", name


def test_licences_that_forbid_commerce_are_known() -> None:
    for licence, is_so in [("CC-BY-NC-4.0", True), ("PolyForm-Noncommercial-1.0.0", True), ("Apache-2.0", False)]:
        assert is_non_commercial(weights.Weight("a", "b", (), None, None, "", licence=licence)) == is_so


def test_estimators_of_poses_are_any_of_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path))
    pose = GROUPS["pose"]
    assert "no pose estimator is here" in str(availability(pose).missing)
    assert availability(pose, ["supplied"]).missing is None
    for name in ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"):
        (tmp_path / "DWPose").mkdir(exist_ok=True)
        (tmp_path / "DWPose" / name).touch()
    found = availability(pose)
    assert found.missing is None and {row.name for row in found.rows} == {"yolox", "dwpose"}
    with pytest.raises(SteadyDancerError, match="unknown pose estimator 'mine'"):
        availability(pose, ["mine"])
