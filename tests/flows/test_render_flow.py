"""The flow `render-evaluation`: what it hands to its tasks, and what the interface shows of the results."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact
from steadydancer.flows import render, tasks
from steadydancer.flows.named_paths import split_name
from steadydancer.flows.prefect_ui import absolute_name
from steadydancer.flows.presets import change, tiny
from steadydancer.pipelines.evaluate import job as evaluate_job
from steadydancer.pipelines.evaluate.imported import ScoreFile
from steadydancer.pipelines.evaluate.report.results import Judge, Result
from steadydancer.pipelines.evaluate.sources import Source
from steadydancer.pipelines.render import job as render_job


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """What the tasks were given; they finish at once."""
    calls: dict[str, tuple[Any, ...]] = {}
    for name in ("render", "evaluate"):

        def finish(run: Any, *arguments: Any, name: str = name) -> dict[str, Any]:
            calls[name] = arguments
            return {"counts": {"ok": 1}, "seconds": {"total": 1.0}}

        monkeypatch.setattr(tasks, name, finish)
    monkeypatch.setattr(render, "publish", lambda *_: None)
    monkeypatch.setattr(render, "publish_scores", lambda folder: calls.update(published=(folder,)))
    return calls


def test_a_benchmark_and_other_methods_reach_both_jobs(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    (tmp_path / "judge.csv").touch()
    out = tmp_path / "o"
    render.render_evaluation.fn("c", "o", preset="tiny", benchmark="x-dance", scores=["theirs=judge.csv"],
                                videos=["theirs=v", "a=b", "s3://bucket/v"])  # fmt: skip
    assert given["render"] == (tmp_path / "c", None, out, None, False, "x-dance")
    renders, truth, folder, cluster, in_process, benchmark, videos, scores = given["evaluate"]
    assert (renders, truth, folder, cluster, in_process, benchmark) == (out, None, out, None, False, "x-dance")
    assert videos[:2] == [Source("theirs", tmp_path / "v"), Source(None, tmp_path / "a=b")]
    assert (videos[2].name, str(videos[2].folder)) == (None, "s3://bucket/v")
    assert scores == [ScoreFile("theirs", tmp_path / "judge.csv")] and given["published"] == (out,)


def test_several_checkpoints_are_methods_of_one_evaluation(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = {"counts": {"ok": 1}, "seconds": {"total": 1.0}}

    def finish(run: Any, *arguments: Any) -> dict[str, Any]:
        given["render"] = arguments
        return {"early": record, "late": record}

    monkeypatch.setattr(tasks, "render", finish)
    out = tmp_path / "o"
    records = render.render_evaluation.fn(
        ["early=a", "late/checkpoint"], "o", preset="tiny", pairs="p.csv", videos=["v"]
    )
    trained = {"early": tmp_path / "a", "late": tmp_path / "late/checkpoint"}
    assert given["render"] == (trained, tmp_path / "p.csv", out, None, False, None)
    renders, _, folder, *_, videos, _ = given["evaluate"]
    assert (renders, folder) == (None, out)
    assert videos == [Source("early", out / "early"), Source("late", out / "late"), Source(None, tmp_path / "v")]
    assert records["renders"].keys() == {"early", "late"}
    with pytest.raises(SteadyDancerError, match=r"are both called a: pass --checkpoint NAME="):
        render.render_evaluation.fn(["x/a", "y/a"], "o", preset="tiny", pairs="p.csv")


def test_each_step_is_resumed_alone(
    checkpoint: Path, dancers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real jobs: what is finished is kept, and what is missing is made again, to the same bytes and values."""
    for name in ("render", "evaluate"):
        monkeypatch.setattr(tasks, name, getattr(tasks, name).fn)  # no Prefect server
    monkeypatch.setattr(render, "publish", lambda *_: None)
    monkeypatch.setattr(render, "publish_scores", lambda _: None)
    run = change(tiny(), "render", num_frames=5, num_inference_steps=2, pose_model="supplied")
    preset = change(run, "evaluate", metrics=("basic",)).model_dump_json()
    out = tmp_path / "out"

    def run_flow() -> dict[str, Any]:
        return render.render_evaluation.fn(str(checkpoint), str(out), str(dancers / "pairs.jsonl"),
                                           str(dancers / "truth"), preset, in_process=True)  # fmt: skip

    def times(folder: str) -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (out / folder).iterdir() if file.is_file()}

    with monkeypatch.context() as stopped:
        stopped.setattr(evaluate_job, "run", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_flow()
    rendered = times("renders")
    assert "run.json" in rendered and not (out / "metrics").exists()
    first = run_flow()
    assert times("renders") == rendered
    scored = times("metrics")
    assert run_flow() == first and times("renders") == rendered and times("metrics") == scored
    values = Artifact(out / "metrics").read().to_pylist()
    shutil.rmtree(out / "metrics")
    run_flow()
    assert times("renders") == rendered and Artifact(out / "metrics").read().to_pylist() == values
    videos = {file.name: file.read_bytes() for file in (out / "renders").glob("*.mp4")}
    scored = times("metrics")
    shutil.rmtree(out / "renders")
    run_flow()
    assert videos == {file.name: file.read_bytes() for file in (out / "renders").glob("*.mp4")}
    assert times("metrics") == scored


@pytest.mark.parametrize("words", [{}, {"pairs": "p.csv", "benchmark": "x-dance"}])
def test_pairs_or_a_benchmark_is_rendered_and_not_both(given: dict[str, Any], words: dict[str, str]) -> None:
    with pytest.raises(SteadyDancerError, match="set pairs or benchmark, one of them"):
        render.render_evaluation.fn("c", "o", preset="tiny", **words)
    assert not given


def test_the_pairs_of_a_benchmark_are_rendered_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = render_job.pair("/i.png", "/d.mp4", "")
    found = SimpleNamespace(name="toy", remarks=("a copy",), pairs=[SimpleNamespace(to_row=lambda: row)],
                            to_record=lambda: {"name": "toy"})  # fmt: skip
    begun: dict[str, Any] = {}
    monkeypatch.setattr(tasks, "read_benchmark", lambda name: found)
    monkeypatch.setattr(tasks, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(render_job, "run", lambda config, **more: begun.update(more) or {})
    tasks.render.fn(tiny(), tmp_path / "c", None, tmp_path / "o", None, True, "toy")
    assert (begun["pairs"], begun["benchmark"]) == ([row], {"name": "toy"})
    assert begun["engine"].command.split()[1:6] == ["render", "--checkpoint", str(tmp_path / "c"), "--benchmark", "toy"]


@pytest.mark.parametrize(
    ("text", "split"),
    [("a=/b", ("a", "/b")), ("/a=b", (None, "/a=b")), ("b", (None, "b")), ("a=s3://b/c=d", ("a", "s3://b/c=d"))],
)
def test_a_name_stands_before_its_path(text: str, split: tuple[str | None, str]) -> None:
    assert split_name(text) == split


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=y").mkdir()
    assert split_name("x=y") == (None, "x=y") and absolute_name("x=y") == str(tmp_path / "x=y")
    assert absolute_name("x-dance=copy") == f"x-dance={tmp_path / 'copy'}" and absolute_name("x-dance") == "x-dance"
    with pytest.raises(ValueError, match="pass NAME=PATH"):
        split_name("=y")


def test_the_table_of_the_interface_shows_what_the_page_shows() -> None:
    judge = Judge("musiq", "PolyForm", True)
    rows = render.scores_table([
        Result("a", "measured", "", "imaging_quality", "", 60.0, 55.0, 65.0, 12, 12, "0..100", "higher", is_best=True,
               missing={"not_rendered": 3}, warnings=("few",), judges=(judge,)),
        Result("a", "measured", "", "imaging_quality", "style", 61.0),
        Result("SteadyDancer", "published", "the paper, Table 2c", "imaging_quality", "", 71.74, unit="%"),
    ])  # fmt: skip
    assert [row["origin"] for row in rows] == ["measured", "published the paper, Table 2c"]
    assert rows[0] == {
        "method": "a", "origin": "measured", "metric": "imaging_quality", "value": 60.0, "95 %": "[55, 65]", "N": 12,
        "unit": "0..100", "better": "higher", "ceiling": None, "best": "best", "without a value": "3 not_rendered",
        "warnings": "few", "judges": "musiq (PolyForm, non-commercial)",
    }  # fmt: skip
