"""The learned demo on stand-ins for the shipped weights: what is read, written, resumed and refused."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from steadydancer.datasets.artifact import Artifact, Packet
from steadydancer.datasets.clips import Clips
from steadydancer.flows import presets
from steadydancer.flows.demo import dancers, run, toydance
from steadydancer.flows.presets import change, load, with_control
from steadydancer.models.pose.estimator import open_pose_estimator
from steadydancer.models.toydance import components_folder, require_shipped
from steadydancer.models.weights import WeightsError, find, weight
from steadydancer.pipelines.curate.config import CurateConfig

JUDGED = {
    "right_minus_wrong_pose_psnr_db", "right_minus_wrong_ceiling_db", "pck_0_1", "pck_0_1_limbs",
    "pck_0_1_limbs_wrong_pose", "first_frame_psnr_db", "autoencoder_first_frame_psnr_db", "autoencoder_psnr_db",
    "start_gap_jump_stage2", "start_gap_jump_stage3",
}  # fmt: skip


def small(stand_ins: Path) -> presets.Run:
    """The preset of the demo with few steps and no gates: a stand-in finds one pose in all frames."""
    chosen = load("toydance_demo")
    assert chosen.cache.components == str(stand_ins.parent / "components") or Path(chosen.cache.components).exists()
    for stage in ("stage1", "stage2", "stage3"):
        chosen = change(chosen, stage, steps=2, global_batch_size=2, warmup_steps=1, evaluation_samples=2,
                        ema_decay=0.5, validation_share=0.0)  # fmt: skip
    gates = dict.fromkeys(CurateConfig().gates.model_dump())
    gates |= {"min_brightness": 0.12, "min_motion_magnitude": 0.0006}
    return change(change(chosen, "curate", gates=gates), "render", num_inference_steps=1)


def test_the_demo_trains_the_shipped_checkpoints_on_for_fifty_steps(shipped: Path) -> None:
    demo, making = load("toydance_demo"), load("toydance")
    assert making.cache.components == demo.cache.components == str(components_folder())
    for n in (1, 2, 3):
        assert demo.stage(n).continue_stage and not making.stage(n).continue_stage
        assert 50 <= demo.stage(n).steps < making.stage(n).steps
        assert making.stage(n).optimizer == "muon"
        assert demo.stage(n).merge_text_padding and demo.stage(n).num_frames == 33
    # Poses of the demo's dancers are estimated; the making takes the exact ones beside the clips.
    assert (demo.curate.pose_model, making.curate.pose_model) == ("toydance", "auto")
    assert demo.curate == making.curate.model_copy(update={"pose_model": "toydance"})
    assert (demo.cache, demo.render) == (making.cache, making.render)
    control = with_control(demo)
    assert control.stage2.steps == demo.stage3.steps and control.stage2.continue_stage
    assert change(control, "stage2", steps=demo.stage2.steps) == demo


def test_the_shipped_pose_networks_are_found_without_a_network_and_never_by_auto(shipped: Path) -> None:
    estimator = open_pose_estimator("toydance")
    assert estimator.name == "toydance" and estimator.counts_people
    assert find(weight("toydance-pose")) == Path(weight_folder(shipped)) and find(weight("dwpose")) is None


def weight_folder(shipped: Path) -> Path:
    folder = find(weight("toydance-pose"))
    assert folder is not None and folder.resolve() == (shipped / "pose").resolve()
    return folder


def test_missing_weights_are_named(tmp_path: Path, shipped: Path) -> None:
    assert require_shipped(shipped) == shipped
    with pytest.raises(WeightsError, match="has no transformer/config.json, .* and 6 more: .* part of this package"):
        require_shipped(tmp_path / "nothing")
    configured = change(load("toydance_demo"), "cache", components=str(tmp_path / "nothing"))
    with pytest.raises(WeightsError, match="part of this package"):
        run.run_demo(configured, clips=None, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shipped_record_names_no_machine(shipped: Path) -> None:
    for stage in ("stage1", "stage2", "stage2_control", "stage3"):
        record = json.loads((shipped / stage / "run.json").read_text())
        assert record["stage"] == int(stage[5]) and record["digest"]
        assert "/" not in "".join(texts(record))


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in texts(one)]
    return [value] if isinstance(value, str) else []


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
def test_the_demo_from_end_to_end_and_once_more(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, without Prefect: curate, cache, four trainings, three sets of renders, scores, page."""
    monkeypatch.setattr(dancers.make_dancers, "__defaults__", (2, 2))
    out, calls = tmp_path / "demo", []
    measure_pair = toydance.measure_pair

    def counted(files: Any, *tools: Any) -> dict[str, Any]:
        calls.append(files.render.name)
        return measure_pair(files, *tools)

    monkeypatch.setattr(toydance, "measure_pair", counted)
    configured = small(shipped)
    summary = run.run_demo(configured, clips=None, out=out, in_process=True)
    assert set(summary["metrics"]) == JUDGED and sorted(calls) == ["pair_0.mp4", "pair_1.mp4"]
    for name, result in summary["metrics"].items():
        assert set(result) == {"mean", "low", "high", "num_clips"}, name
        assert result["num_clips"] == (0 if result["mean"] is None else 2)
    assert summary["metrics"]["autoencoder_psnr_db"]["mean"] > 5
    keys = {"clips", "latents", "stage1", "stage2", "stage3", "renders", "metrics", "report"}
    assert set(summary) >= keys | {"stage2_control", "more_metrics", "difficulties"}
    assert Clips(out).record["pose_models"] == ["toydance"]
    for stage in ("stage1", "stage2", "stage3", "stage2_control"):
        record = Artifact(out / stage / "checkpoint").record()
        begun = json.loads((shipped / stage / "run.json").read_text())
        assert record["stage"] == begun["stage"] == record["parent"]["stage"]
        assert summary[stage]["steps"] == 2
    renders = [sorted((out / folder / "renders").glob("*.mp4")) for folder in (".", "wrong_pose", "control")]
    assert [len(videos) for videos in renders] == [2, 2, 2]
    assert renders[0][0].read_bytes() != renders[2][0].read_bytes()
    page = (out / "report" / "index.html").read_text()
    assert page.count("<video data-src=") == 2 * 6 and "missed" in page and 'id="clock"' in page
    assert json.loads((out / "summary.json").read_text())["metrics"] == summary["metrics"]
    assert "right_minus_wrong_pose_psnr_db: " in capsys.readouterr().out

    # Killed after the first pair was scored: what is finished is not done again.
    (out / "summary.json").unlink()
    (out / "scores" / "pair_1.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("run.json")}
    again = run.run_demo(configured, clips=None, out=out, in_process=True)
    assert calls[2:] == ["pair_1.mp4"] and again["metrics"] == summary["metrics"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("run.json")} == before
    run.run_demo(configured, clips=None, out=out, in_process=True)
    assert "already finished" in capsys.readouterr().out and len(calls) == 3


def test_a_pair_is_scored_once_for_the_same_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair that one of the three jobs did not render is left out."""
    pairs = dancers.PairSet(tmp_path / "pairs")
    pairs.folder.mkdir()
    (pairs.folder / "pairs.jsonl").write_text("".join(f'{{"id": "pair_{k}"}}\n' for k in range(3)))

    def rendered(folder: str, digest: str, names: tuple[int, ...]) -> None:
        shutil.rmtree(tmp_path / folder / "renders", ignore_errors=True)
        artifact = Artifact(tmp_path / folder / "renders")
        artifact.begin({})
        rows = [{"id": f"pair_{k}", "video": f"pair_{k}.mp4"} for k in names]
        artifact.write_part(Packet("x", ()), pa.Table.from_pylist(rows))
        counts = {"inputs": len(names), "ok": len(names), "rejected": 0, "quarantined": 0}
        artifact.commit({"inputs": {"digest": digest}, "counts": counts})

    for folder in (".", "wrong_pose", "control"):
        rendered(folder, "first", (0, 1, 2) if folder != "control" else (0, 2))
    calls: list[str] = []

    def measure(files: Any, *_: Any, crf: int, chroma: str) -> dict[str, Any]:
        assert (crf, chroma) == (12, "4:4:4")
        calls.append(files.render.stem)
        return {"psnr_db": np.float64(len(calls)), "pck_0_1": np.nan, "appearance": np.array([[1.0, np.nan]])}

    monkeypatch.setattr(toydance, "measure_pair", measure)
    monkeypatch.setattr(toydance, "NUM_THREADS", 1)
    monkeypatch.setattr(toydance._Tools, "of_this_thread", lambda _: (None, None))
    scores = toydance.score(load("toydance_demo"), pairs, tmp_path)
    assert calls == ["pair_0", "pair_2"]
    assert scores == [{"psnr_db": k, "pck_0_1": None, "appearance": [[1.0, None]]} for k in (1.0, 2.0)]
    assert toydance.score(load("toydance_demo"), pairs, tmp_path) == scores and len(calls) == 2
    rendered("control", "second", (0, 2))
    assert [one["psnr_db"] for one in toydance.score(load("toydance_demo"), pairs, tmp_path)] == [3.0, 4.0]


def test_pairs_of_another_difficulty_are_measured_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[tuple[str, Path]] = []
    shared: list[Path] = []

    def render(_: Any, checkpoint: Path, table: Path, out: Path, *work: Path, **__: Any) -> dict[str, Any]:
        rendered.append((f"{checkpoint.parent.name} {table.name}", out))
        shared.extend(work)
        return {"counts": {}}

    monkeypatch.setattr(toydance.tasks, "render", render)
    monkeypatch.setattr(toydance, "render_pairs", render)
    monkeypatch.setattr(toydance, "require_usable", lambda *_: None)
    monkeypatch.setattr(toydance, "score", lambda *_: [])
    monkeypatch.setattr(toydance, "judged_metrics", lambda _: {})
    monkeypatch.setattr(toydance, "more_metrics", lambda _: {})
    names: list[str] = []

    def steps(name: str) -> Any:
        names.append(name)
        return nullcontext()

    pairs, out = dancers.PairSet(tmp_path / "hard" / "pairs", "hard"), tmp_path / "hard"
    run = load("toydance_demo")
    comparisons = toydance.start_comparisons(run, pairs, out, tmp_path)
    result = toydance.render_and_score(run, pairs, out, tmp_path, steps, True, comparisons)
    assert result == {"difficulty": "hard", "pairs": str(pairs.folder), "metrics": {}, "more": {}}
    assert rendered == [
        ("stage3 pairs.jsonl", out),
        ("stage3 pairs_wrong.jsonl", out / "wrong_pose"),
        ("stage2_control pairs.jsonl", out / "control"),
    ]
    assert shared == [out / "work"] * 2  # inputs are encoded once
    assert names == ["render hard", "render hard: wrong pose, control", "score hard"]
