"""Scores with a known answer; what cannot be measured is null with its own reason, and stays in the table.

The renders are written without loss, so that every number is had from the arrays they were written from.
"""

import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError, plan_packets
from steadydancer.datasets.rules import RULES
from steadydancer.datasets.schema import Row, to_table
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.video import encode
from steadydancer.pipelines.evaluate import job
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.imported import ScoreFile
from steadydancer.pipelines.render.steps import SCHEMA as RENDERS_SCHEMA
from steadydancer.pipelines.runtime.runner import Engine

# Name → height, width, frames. No two videos have one size or length, and no two frames or channels are alike.
RENDERS = {"near": (48, 64, 13), "equal": (64, 48, 9), "alone": (32, 80, 12), "long": (32, 32, 84), "one": (32, 48, 1)}
FAILED = {"failed_1": "no_pose", "failed_2": "too_short"}
TRUTHS = ("near", "equal", "long")
NEED_TRUTH = {"psnr", "ssim"}
METRICS = ("first_frame_psnr", "autoencoder_ceiling_psnr", "psnr", "ssim", "temporal_flickering", "start_gap_jump")


def picture(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """A coloured pattern that moves to the left, unevenly: uint8 [F, H, W, 3]."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.random((height // 8, (width + 4 * frames) // 8 + 1, 3), np.float32),
                      (width + 4 * frames, height), interpolation=cv2.INTER_CUBIC)  # fmt: skip
    wide = np.clip(wide * (250, 160, 90) + (0, 60, 20), 0, 255).astype(np.uint8)
    at = np.cumsum(rng.integers(1, 5, frames))
    return np.stack([wide[:, left : left + width] for left in at])


def render_of(name: str) -> np.ndarray:
    height, width, frames = RENDERS[name]
    return picture(len(name), frames, height, width)


def truth_of(name: str) -> np.ndarray:
    """That of `equal` is the render itself but for frame 4; the others differ in every frame, more and more."""
    frames = render_of(name).astype(int)
    if name == "equal":
        frames[4] += 12
    else:
        frames += np.arange(3, 3 + len(frames))[:, None, None, None] * np.array([1, -1, 2])
    return np.clip(frames, 0, 255).astype(np.uint8)


def image_of(name: str) -> np.ndarray:
    """Another picture than frame 0: of `near` twice as large, of `long` higher, as if its sides had been rounded."""
    height, width, _ = RENDERS[name]
    scale = 2 if name == "near" else 1
    return picture(90 + len(name), 1, scale * height + (16 if name == "long" else 0), scale * width)[0]


@pytest.fixture(scope="module")
def renders(components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A renders artifact of five videos, and two pairs that were not rendered."""
    folder = tmp_path_factory.mktemp("rendered") / "renders"
    folder.mkdir()
    rows: list[Row] = []
    for name in RENDERS:
        encode(render_of(name), folder / f"{name}.mp4", 16, lossless=True)
        cv2.imwrite(str(folder.parent / f"{name}.png"), image_of(name)[..., ::-1])
        image = str(folder.parent / f"{name}.png")
        rows.append({"id": name, "image": image, "driving": "gone.mp4", "video": f"{name}.mp4", "verdict": "ok"})
    for name, reason in FAILED.items():
        rows.append({"id": name, "image": str(folder.parent / "near.png"), "driving": "gone.mp4",
                     "verdict": "quarantined", "reason": reason, "detail": f"why {name}"})  # fmt: skip
    artifact = Artifact(folder)
    for packet in plan_packets([row["id"] for row in rows], 3):
        artifact.write_part(packet, to_table([row for row in rows if row["id"] in packet.ids], RENDERS_SCHEMA))
    write_json(folder / "run.json", {"kind": "renders", "config": {"seed": 0}, "inputs": {"digest": "d"},
                                     "components": {"path": str(components)}})  # fmt: skip
    return folder.parent


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    for name in TRUTHS:
        encode(truth_of(name), folder / f"{name}.mp4", 16, lossless=True)
    return folder


def evaluate(renders: Path, truth: Path | None, out: Path, **settings: Any) -> dict[str, Any]:
    engine = Engine(out / ".engine", in_process=True)
    return job.run(
        EvaluateConfig(**{"metrics": METRICS, **settings}), renders=renders, truth=truth, out=out, engine=engine
    )


@pytest.fixture(scope="module")
def scored(renders: Path, truth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored")
    evaluate(renders, truth, out, packet_size=2)
    return out


def table(out: Path) -> dict[tuple[str, str | None], Row]:
    return {(row["id"], row["metric"]): row for row in Artifact(out / "metrics").read().to_pylist()}


def db(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR of one picture, 100 where they are equal."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 100.0 if error == 0 else 10 * math.log10(255**2 / error)


def mean_db(frames: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([db(*pair) for pair in zip(frames, truth, strict=True)]))


def windowed_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Wang 2004 by hand: Gaussian window of 11 × 11 with σ 1.5, edges mirrored, channel by channel."""
    tap = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    tap /= tap.sum()

    def smooth(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((5, 5), (5, 5), (0, 0)), mode="reflect")
        rows = sum(tap[k] * padded[k : k + values.shape[0]] for k in range(11))
        return sum(tap[k] * rows[:, k : k + values.shape[1]] for k in range(11))  # type: ignore[return-value]

    x, y = one / 255.0, other / 255.0
    mx, my = smooth(x), smooth(y)
    vx, vy, vxy = smooth(x * x) - mx * mx, smooth(y * y) - my * my, smooth(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def changes(frames: np.ndarray, norm: int) -> list[float]:
    steps = np.abs(np.diff(frames.astype(np.float64), axis=0))
    return [float((step**norm).mean() ** (1 / norm)) for step in steps]


@pytest.mark.parametrize("name", TRUTHS)
def test_a_truth_is_compared_frame_by_frame(scored: Path, name: str) -> None:
    """`equal` is the truth but for frame 4: eight frames count 100 dB, and none of them makes the mean."""
    rows, frames, truth = table(scored), render_of(name), truth_of(name)
    assert rows[name, "psnr"]["value"] == pytest.approx(mean_db(frames, truth), abs=1e-3)
    expected = np.mean([windowed_ssim(*pair) for pair in zip(frames, truth, strict=True)])
    assert rows[name, "ssim"]["value"] == pytest.approx(expected, abs=2e-4) and expected < 0.9999
    assert rows[name, "psnr"]["frames_compared"] == rows[name, "ssim"]["frames_compared"] == len(frames)
    equal = "8 of 9 frames equal the ground truth and count as 100 dB" if name == "equal" else None
    assert (rows[name, "psnr"]["detail"], rows[name, "ssim"]["detail"]) == (equal, None)


@pytest.mark.parametrize("name", RENDERS)
def test_frame_0_is_compared_with_the_reference_in_its_colours(scored: Path, components: Path, name: str) -> None:
    from steadydancer.models.components import load_components

    rows, frames, image = table(scored), render_of(name), image_of(name)
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    size = frames.shape[1:3]
    pixels = torch.nn.functional.interpolate(pixels, size, mode="bicubic", align_corners=False).clamp(-1, 1)
    reference = (pixels[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert rows[name, "first_frame_psnr"]["value"] == pytest.approx(db(frames[0], reference.round()), abs=0.05)
    vae = load_components(components, ("vae",))["vae"]
    with torch.no_grad():  # the latents' normalisation is undone before decoding: what is left is the round trip
        back = vae.decode(vae.encode(pixels[:, :, None]).latent_dist.mode()).sample[0, :, 0].clamp(-1, 1)
    trip = (back.permute(1, 2, 0).numpy() + 1) * 127.5
    assert rows[name, "autoencoder_ceiling_psnr"]["value"] == pytest.approx(db(trip.round(), reference), abs=0.05)


@pytest.mark.parametrize("name", ["near", "equal", "alone", "long"])
def test_change_from_frame_to_frame_needs_no_truth(scored: Path, name: str) -> None:
    rows, frames = table(scored), render_of(name)
    assert rows[name, "temporal_flickering"]["value"] == pytest.approx(1 - np.mean(changes(frames, 1)) / 255, abs=1e-6)
    lengths = changes(frames, 2)
    if len(lengths) > 8:
        expected = max(lengths[:8]) / np.median(lengths[8:])
        assert rows[name, "start_gap_jump"]["value"] == pytest.approx(expected, rel=1e-4)
    else:
        row = rows[name, "start_gap_jump"]
        assert (row["value"], row["reason"], row["detail"]) == (
            None,
            "too_short",
            "9 frames, but at least 10 are needed",
        )


def test_every_null_has_its_own_reason_and_no_value_has_one(scored: Path, truth: Path) -> None:
    nulls = {key: (row["reason"], row["detail"]) for key, row in table(scored).items() if row["value"] is None}
    untrue = {(name, metric): ("no_truth", f"{truth} has no video named {name}")
              for name in ("alone", "one") for metric in NEED_TRUTH}  # fmt: skip
    assert nulls == untrue | {
        ("equal", "start_gap_jump"): ("too_short", "9 frames, but at least 10 are needed"),
        ("one", "start_gap_jump"): ("too_short", "1 frames, but at least 10 are needed"),
        ("one", "temporal_flickering"): ("one_frame", "a single frame has no change"),
        ("failed_1", None): ("not_rendered", "no_pose: why failed_1"),
        ("failed_2", None): ("not_rendered", "too_short: why failed_2"),
    }
    assert all(row["reason"] is None for row in table(scored).values() if row["value"] is not None)


def test_the_record_counts_every_video_under_every_metric(scored: Path, truth: Path) -> None:
    rows, record = table(scored), Artifact(scored / "metrics").record()
    assert record["counts"] == {"inputs": 7, "ok": 5, "rejected": 0, "quarantined": 2}
    assert len(rows) == 5 * len(METRICS) + 2
    for name in METRICS:
        values = [row["value"] for (_, metric), row in rows.items() if metric == name and row["value"] is not None]
        assert record["means"][name] == {"mean": pytest.approx(np.mean(values)), "videos": len(values)}
        assert len(values) + sum(record["missing"][name].values()) == 7
    assert record["missing"]["psnr"] == {"no_truth": 2, "not_rendered": 2}
    assert record["missing"]["start_gap_jump"] == {"too_short": 2, "not_rendered": 2}
    assert record["truths"] == {
        "folder": str(truth), "asked": 7, "found": 3, "compared": 3, "frames_compared": 13 + 9 + 84,
        "not_found": {"no_truth": ["alone", "failed_1", "failed_2", "one"]}, "unused": [], "num_unused": 0,
    }  # fmt: skip


def test_the_record_is_json_that_any_reader_takes(scored: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads((scored / "metrics" / "run.json").read_text(), parse_constant=refuse)
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in table(scored).values())


def test_the_first_81_frames_alone_decide_under_their_protocol(
    renders: Path, truth: Path, scored: Path, tmp_path: Path
) -> None:
    evaluate(renders, truth, tmp_path, protocol="first-81")
    rows, frames, true = table(tmp_path), render_of("long"), truth_of("long")
    assert rows["long", "psnr"]["value"] == pytest.approx(mean_db(frames[:81], true[:81]), abs=1e-3)
    assert rows["long", "psnr"]["frames_compared"] == 81
    assert abs(rows["long", "psnr"]["value"] - table(scored)["long", "psnr"]["value"]) > 0.05
    flickering = 1 - np.mean(changes(frames[:81], 1)) / 255
    assert rows["long", "temporal_flickering"]["value"] == pytest.approx(flickering, abs=1e-6)
    assert rows["near", "psnr"]["value"] == table(scored)["near", "psnr"]["value"]


def test_what_is_wrong_with_a_truth_or_an_image_is_no_fault_of_the_render(
    renders: Path, truth: Path, tmp_path: Path
) -> None:
    """Unreadable, of another shape, at twice the rate, in the image's shape, shorter; an image that is gone."""
    folder, moved = tmp_path / "truth", tmp_path / "moved"
    folder.mkdir()
    shutil.copytree(renders, moved)
    encode(truth_of("near")[:5].repeat(2, axis=0), folder / "near.MP4", 32, lossless=True)
    encode(truth_of("alone")[:, :, :40], folder / "alone.mp4", 16)
    encode(truth_of("long")[:7].repeat(3, axis=1).repeat(2, axis=2), folder / "long.mov.mp4", 16)
    (folder / "long.mov.mp4").rename(folder / "LONG.mp4")
    (folder / "equal.mp4").write_bytes(b"nothing")
    rows_before = Artifact(moved / "renders").read().to_pylist()
    for part in Artifact(moved / "renders").parts():
        (moved / "renders" / part).unlink()
    gone = [row | ({"image": "/gone.png"} if row["id"] == "one" else {}) for row in rows_before]
    (packet,) = plan_packets([row["id"] for row in gone], 9)
    Artifact(moved / "renders").write_part(packet, to_table(gone, RENDERS_SCHEMA))
    record, rows = evaluate(moved, folder, tmp_path / "out"), table(tmp_path / "out")

    near = rows["near", "psnr"]
    assert near["value"] == pytest.approx(mean_db(render_of("near")[:5], truth_of("near")[:5]), abs=1e-3)
    assert rows["near", "ssim"]["frames_compared"] == near["frames_compared"] == 5 and near["detail"] == (
        "the ground truth (10 frames, 32 per second) was sampled at the render's times (13 frames, 16 per "
        "second); the driving video can no longer be read, so its frame times were not used; "
        "5 of 13 rendered frames were compared: the ground truth is shorter"
    )
    assert (rows["alone", "psnr"]["reason"], rows["alone", "ssim"]["reason"]) == ("other_aspect",) * 2
    assert rows["equal", "psnr"]["reason"] == "unreadable_truth" and "unreadable" in rows["equal", "psnr"]["detail"]
    assert rows["long", "psnr"]["value"] == pytest.approx(mean_db(render_of("long")[:7], truth_of("long")[:7]), abs=2)
    assert "the ground truth was scaled from 64×96 to 32×32" in rows["long", "psnr"]["detail"]
    for metric in ("first_frame_psnr", "autoencoder_ceiling_psnr"):
        assert (rows["one", metric]["value"], rows["one", metric]["reason"]) == (None, "unreadable_image")
    assert {row["verdict"] for key, row in rows.items() if key[0] in RENDERS} == {"ok"}
    assert all(rows[name, "temporal_flickering"]["value"] for name in ("alone", "equal", "near", "long"))
    assert record["truths"]["found"] == 4 and record["truths"]["compared"] == 2
    assert record["missing"]["psnr"] == {
        "not_rendered": 2, "other_aspect": 1, "unreadable_truth": 1, "no_truth": 1,
    }  # fmt: skip


def test_a_render_that_cannot_be_read_is_quarantined(renders: Path, tmp_path: Path) -> None:
    shutil.copytree(renders, tmp_path / "in")
    (tmp_path / "in" / "renders" / "near.mp4").write_bytes(b"")
    record = evaluate(tmp_path / "in", None, tmp_path / "out")
    row = table(tmp_path / "out")["near", None]
    assert (row["verdict"], row["reason"], row["value"]) == ("quarantined", "unreadable", None)
    assert record["counts"]["quarantined"] == 3 and record["missing"]["temporal_flickering"]["unreadable"] == 1
    assert all(row["detail"] == "no ground truth was given" for row in table(tmp_path / "out").values()
               if row["metric"] in NEED_TRUTH)  # fmt: skip


def test_the_page_shows_every_video_and_why_values_are_missing(scored: Path, truth: Path) -> None:
    page = (scored / "report.html").read_text()
    assert page.count("<video") == 5 + 3 + 7  # renders, truths, driving videos
    assert page.count('<div class="gone">missing</div>') == 2 + 4  # renders of two, truths of four
    assert "failed_1" in page and "7 inputs, 5 ok, 0 rejected, 2 quarantined" in page
    assert f"3 of 7 ids have ground truth in {truth}; 3 renders were compared, 106 frames" in page
    assert "no_pose: why failed_1" in page and "2 no_truth, 2 not_rendered" in page
    for name in METRICS:
        assert name in page


def test_protocols_are_not_mixed_in_one_folder(renders: Path, truth: Path, scored: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match='config.protocol: "all" → "first-81"'):
        evaluate(renders, truth, scored, packet_size=2, protocol="first-81")
    with pytest.raises(ArtifactError, match="truths: "):
        evaluate(renders, None, scored, packet_size=2)
    shutil.copytree(truth, tmp_path / "truth")
    (tmp_path / "truth" / "near.mp4").rename(tmp_path / "truth" / "one.mp4")
    with pytest.raises(ArtifactError, match="truth_ids: "):
        evaluate(renders, tmp_path / "truth", scored, packet_size=2)
    assert evaluate(renders, truth, scored, packet_size=2)["counts"]["inputs"] == 7


def test_what_an_older_version_finished_stays_and_what_it_half_made_is_refused(
    renders: Path, truth: Path, scored: Path, tmp_path: Path
) -> None:
    """Its plan names neither rules nor the ids of truths, its rows lack the columns that came later."""
    shutil.copytree(scored, tmp_path / "out")
    metrics = tmp_path / "out" / "metrics"
    plan = json.loads((metrics / "plan.json").read_text())
    del plan["rules"], plan["truth_ids"]
    write_json(metrics / "plan.json", plan)
    record = json.loads((metrics / "run.json").read_text())
    for name in ("rules", "missing", "truths"):
        del record[name]
    write_json(metrics / "run.json", record)
    for part in Artifact(metrics).parts():
        Artifact(metrics).write_part(
            next(packet for packet in plan_packets([*RENDERS, *FAILED], 2) if packet.id in part),
            Artifact(metrics).read_part(part).drop_columns(["frames_compared", "driving"]),
        )
    assert evaluate(renders, truth, tmp_path / "out", packet_size=2) == record
    assert (tmp_path / "out" / "report.html").read_text().count("<video") == 8
    (metrics / "run.json").unlink()
    with pytest.raises(ArtifactError, match=f"truth: version 1 → {RULES['truth'].version}"):
        evaluate(renders, truth, tmp_path / "out", packet_size=2)


def test_scores_of_videos_that_were_rendered_by_other_rules_are_not_mixed(
    renders: Path, truth: Path, scored: Path, tmp_path: Path
) -> None:
    shutil.copytree(scored, tmp_path / "out")
    (tmp_path / "out" / "metrics" / "run.json").unlink()
    shutil.copytree(renders, tmp_path / "anew")  # of the same pairs and settings
    record = json.loads((renders / "renders" / "run.json").read_text())
    write_json(tmp_path / "anew" / "renders" / "run.json", {**record, "rules": {"driving_poses": 9}})
    with pytest.raises(ArtifactError, match=r"renders\.rules[^\n]* → [^\n]*9"):
        evaluate(tmp_path / "anew", truth, tmp_path / "out", packet_size=2)


def test_what_is_missing_is_said_before_anything_is_made(renders: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out", tmp_path / "truth"
    with pytest.raises(ArtifactError, match="does not exist"):
        evaluate(tmp_path / "nix", None, out)
    with pytest.raises(SteadyDancerError, match="pass a folder of ground-truth videos"):
        evaluate(renders, tmp_path / "nix", out)
    with pytest.raises(SteadyDancerError, match="folder /nowhere does not exist"):
        evaluate(renders, None, out, components="/nowhere")
    folder.mkdir()
    (folder / "other.mp4").write_bytes(b"x")
    for call in (lambda: evaluate(renders, folder, out), lambda: job.plan(EvaluateConfig(), renders, folder, out)):
        with pytest.raises(SteadyDancerError, match=r"expected alone\.mp4, .* in .*, which has other\.mp4"):
            call()
    judge = tmp_path / "judge.csv"
    judge.write_text("video,method,appeal\nother,mine,4\n")
    plan = job.plan
    for function in (plan, partial(job.run, engine=Engine(tmp_path, in_process=True))):
        with pytest.raises(SteadyDancerError, match="no score of a pair of this evaluation"):
            function(EvaluateConfig(), renders=renders, truth=None, out=out, scores=[ScoreFile(None, judge)])
    judge.write_text("video,method,appeal\nnear,mine,4\n")
    planned = plan(EvaluateConfig(), renders, None, out, scores=[ScoreFile(None, judge)])
    assert list(planned["imported_scores"].values()) == [1]
    assert not out.exists()


@pytest.mark.parametrize("driving_fps", [None, 12.0])
def test_workers_are_told_at_which_rate_drivings_were_read(
    renders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driving_fps: float | None
) -> None:
    shutil.copytree(renders, tmp_path / "r")
    record = json.loads((tmp_path / "r" / "renders" / "run.json").read_text())
    record["config"]["driving_fps"] = driving_fps
    write_json(tmp_path / "r" / "renders" / "run.json", record)
    reported: list[Any] = []

    def stopped(work: Any, *_: Any) -> None:
        reported.append(work.config)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run_packets", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "r", None, tmp_path / "out", protocol="first-81")
    (task,) = reported
    assert (task.driving_fps, task.config.protocol) == (driving_fps, "first-81")
    assert task.components == record["components"]["path"]
