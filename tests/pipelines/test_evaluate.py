"""Scores with a known answer; what cannot be measured is null and stays in the table."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError, plan_packets
from steadydancer.datasets.schema import Row, to_table
from steadydancer.datasets.video import decode, encode
from steadydancer.datasets.whole_files import write_json
from steadydancer.models.judges import psnr
from steadydancer.pipelines.evaluate import job
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.steps import METRICS
from steadydancer.pipelines.render.steps import SCHEMA as RENDERS_SCHEMA
from steadydancer.pipelines.runner import Engine

FRAMES = 13
NEED_TRUTH = {"psnr", "ssim"}


@pytest.fixture(scope="module")
def renders(dancers: Path, components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A renders artifact: two videos that are the truth itself, and two pairs that were not rendered."""
    folder = tmp_path_factory.mktemp("rendered") / "renders"
    folder.mkdir()
    image = dancers / "images" / "pair_0.png"
    rows: list[Row] = []
    for name in ("equal", "alone"):
        shutil.copy(dancers / "truth" / "pair_0.mp4", folder / f"{name}.mp4")
        rows.append({"id": name, "image": str(image), "video": f"{name}.mp4", "verdict": "ok"})
    failed = {"image": str(image), "verdict": "quarantined", "reason": "no_pose", "detail": "why"}
    rows += [{"id": name, **failed} for name in ("failed_1", "failed_2")]
    artifact = Artifact(folder)
    for packet in plan_packets([row["id"] for row in rows], 1):
        artifact.write_part(packet, to_table([row for row in rows if row["id"] in packet.ids], RENDERS_SCHEMA))
    write_json(
        folder / "run.json",
        {"kind": "renders", "config": {"seed": 0}, "inputs": {"digest": "d"}, "components": {"path": str(components)}},
    )
    return folder.parent


@pytest.fixture(scope="module")
def truth(dancers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    shutil.copy(dancers / "truth" / "pair_0.mp4", folder / "equal.mp4")
    return folder


def evaluate(renders: Path, truth: Path | None, out: Path, **settings: Any) -> dict[str, Any]:
    engine = Engine(out / ".engine", in_process=True)
    return job.run(EvaluateConfig(**settings), renders=renders, truth=truth, out=out, engine=engine)


@pytest.fixture(scope="module")
def scored(renders: Path, truth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored")
    evaluate(renders, truth, out)
    return out


def table(out: Path) -> dict[tuple[str, str | None], Row]:
    return {(row["id"], row["metric"]): row for row in Artifact(out / "metrics").read().to_pylist()}


def test_a_video_that_equals_its_truth_scores_the_best_there_is(scored: Path) -> None:
    rows = table(scored)
    assert rows["equal", "psnr"]["value"] == 100.0  # infinite, held at what JSON and means can carry
    assert rows["equal", "ssim"]["value"] == pytest.approx(1.0, abs=1e-4)  # float32
    assert 0.9 < rows["equal", "temporal_flickering"]["value"] < 1
    assert rows["equal", "first_frame_psnr"]["value"] > 25  # the reference itself, through H.264
    assert 5 < rows["equal", "autoencoder_ceiling_psnr"]["value"] < 100


def test_what_needs_a_truth_is_null_without_one_and_says_so(scored: Path) -> None:
    rows = table(scored)
    for name in METRICS:
        row = rows["alone", name]
        assert (row["value"] is None) == (name in NEED_TRUTH)
        assert row["verdict"] == "ok" and row["detail"] == ("no truth was given" if name in NEED_TRUTH else None)


def test_a_pair_that_was_not_rendered_stays_in_the_table(scored: Path) -> None:
    rows = table(scored)
    for name in ("failed_1", "failed_2"):
        row = rows[name, None]
        assert (row["verdict"], row["reason"], row["detail"], row["value"]) == (
            "quarantined", "not_rendered", "why", None,
        )  # fmt: skip
    record = Artifact(scored / "metrics").record()
    assert record["counts"] == {"inputs": 4, "ok": 2, "rejected": 0, "quarantined": 2}
    assert len(rows) == 2 * len(METRICS) + 2
    assert record["means"]["psnr"] == {"mean": 100.0, "videos": 1}
    assert record["means"]["temporal_flickering"]["videos"] == 2


def test_the_record_is_json_that_any_reader_takes(scored: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads((scored / "metrics" / "run.json").read_text(), parse_constant=refuse)
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in table(scored).values())


def test_one_equal_frame_does_not_make_the_mean(renders: Path, truth: Path, dancers: Path, tmp_path: Path) -> None:
    """Frames 0 to 5 are the truth's, the others brighter: the mean is that of its frames, equal ones at 100 dB."""
    frames = decode(truth / "equal.mp4", np.arange(FRAMES) / 16)
    (tmp_path / "truth").mkdir()
    brighter = np.clip(frames.astype(int) + 8, 0, 255).astype(np.uint8)
    encode(np.where(np.arange(FRAMES)[:, None, None, None] < 6, frames, brighter), tmp_path / "truth" / "equal.mp4", 16)
    evaluate(renders, tmp_path / "truth", tmp_path / "out")
    true = decode(tmp_path / "truth" / "equal.mp4", np.arange(FRAMES) / 16)
    each = [min(100.0, psnr(frames[i : i + 1], true[i : i + 1])) for i in range(FRAMES)]
    value = table(tmp_path / "out")["equal", "psnr"]["value"]
    assert value == pytest.approx(np.mean(each), rel=1e-6) and min(each) == pytest.approx(30, abs=2)


def test_the_page_shows_every_video_and_its_truth(scored: Path, dancers: Path) -> None:
    page = (scored / "report.html").read_text()
    assert page.count("<video") == 3  # two renders, one truth
    assert page.count("not there") == 3 + 2  # truths of three, renders of two
    assert "failed_1" in page and "4 inputs, 2 ok, 0 rejected, 2 quarantined" in page
    for name in METRICS:
        assert name in page


def test_protocols_are_not_mixed_in_one_folder(renders: Path, truth: Path, scored: Path) -> None:
    with pytest.raises(ArtifactError, match='config.protocol: "all" → "first-81"'):
        evaluate(renders, truth, scored, protocol="first-81")
    with pytest.raises(ArtifactError, match="truths: "):
        evaluate(renders, None, scored)
    assert evaluate(renders, truth, scored)["counts"]["inputs"] == 4


def test_what_is_missing_is_said_before_anything_is_made(renders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ArtifactError, match="does not exist"):
        evaluate(tmp_path / "nix", None, out)
    with pytest.raises(SteadyDancerError, match="--truth takes a folder"):
        evaluate(renders, tmp_path / "nix", out)
    with pytest.raises(SteadyDancerError, match="no folder /nowhere"):
        evaluate(renders, None, out, components="/nowhere")
    assert not out.exists()
