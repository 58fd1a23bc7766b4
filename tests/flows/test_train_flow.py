"""The flow `train-steadydancer`: three stages, what is finished is not done again, and the page that is left."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from steadydancer.flows import presets, tasks, train
from steadydancer.flows.cli import cli
from steadydancer.flows.presets import Run
from steadydancer.pipelines.train import job, loop
from steadydancer.pipelines.train.config import GalleryConfig
from steadydancer.pipelines.train.metrics_file import read_rows
from steadydancer.pipelines.train.run_folder import read_checkpoint_record


@pytest.fixture
def ui_artifacts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The flow without a server: tasks are plain functions, and what the UI is shown is kept by its key."""
    artifacts: dict[str, Any] = {}

    def keep(key: str, **words: Any) -> None:
        artifacts[key] = words

    for name in ("train", "pick"):
        monkeypatch.setattr(tasks, name, getattr(tasks, name).fn)
    monkeypatch.setattr(train, "publish", lambda key, title, rows: keep(key, rows=rows))
    monkeypatch.setattr(train, "publish_text", lambda key, markdown, title: keep(key, markdown=markdown))
    monkeypatch.setattr(train, "publish_page", lambda key, page: keep(key, page=page))
    return artifacts


def short() -> Run:
    """Two steps a stage, and a gallery after each step of stage 2."""
    run = presets.tiny()
    for stage in (1, 2, 3):
        run = presets.change(run, f"stage{stage}", steps=2, global_batch_size=1, evaluation_samples=0,
                             validation_share=0.7, validation_sigmas=[0.5], validation_every_steps=1,
                             checkpoint_every_steps=1, pose_simulation_probability=0.0)  # fmt: skip
    gallery = GalleryConfig(num_clips=1, every_steps=1, num_inference_steps=1, guidance_scale=1.0,
                            pose_guidance_scale=0.0)  # fmt: skip
    return presets.change(run, "stage2", gallery=gallery.model_dump())


def test_a_flow_that_was_interrupted_goes_on_where_it_stopped_and_shows_what_was_trained(
    cached: Path, components: Path, ui_artifacts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"latents": str(cached), "out": str(tmp_path), "preset": _fitting(cached), "base": str(components)}
    original, steps = loop._step, list[int]()

    def counted(*arguments: Any) -> Any:
        steps.append(arguments[-1])
        if len(steps) == 4:  # stage 2's second step
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop, "_step", counted)
    with pytest.raises(KeyboardInterrupt):
        train.train_steadydancer.fn(**settings)
    assert 'src="stage' not in (tmp_path / "training.html").read_text()  # stage 1 has no galleries
    records = train.train_steadydancer.fn(**settings)
    assert steps == [0, 1, 0, 1, 1, 0, 1]  # stage 1 was not trained again, stage 2 from its second step on
    assert [len(read_rows(tmp_path / f"stage{stage}")) for stage in (1, 2, 3)] == [2, 2, 2]
    assert [records[f"stage{stage}"]["steps"] for stage in (1, 2, 3)] == [2, 2, 2]

    page = (tmp_path / "training.html").read_text()
    assert 'src="stage2/gallery/step-000001/' in page and 'src="stage2/gallery/step-000002/' in page
    assert page.count("finished</td>") == 3 and 'href="stage3/report.html"' in page
    for place in [part.split('"')[0] for part in page.split('src="')[1:]]:
        assert (tmp_path / place).is_file()
    words = ui_artifacts["training-report"]["markdown"]
    assert f"Stage 2 has galleries at steps 1, 2: `steadydancer pick --run {tmp_path / 'stage2'} --steps N`" in words
    assert f"| {records['stage3']['validation_loss']:.4g} |" in words
    assert ui_artifacts["training-page"]["page"] == tmp_path / "training.html"

    monkeypatch.undo()
    _check_picking(settings, tmp_path, ui_artifacts, monkeypatch)


def _check_picking(
    settings: dict[str, Any], out: Path, ui_artifacts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 3 of the step that pleased; one that was begun from another checkpoint is not changed."""
    for name in ("train", "pick"):
        monkeypatch.setattr(tasks, name, getattr(tasks, name).fn)
    monkeypatch.setattr(train, "publish", lambda *_: None)
    monkeypatch.setattr(train, "publish_training", lambda *_: None)
    with pytest.raises(job.TrainingRefused, match="parent"):
        train.train_steadydancer.fn(**settings, pick=1)
    (out / "stage3").rename(out / "stage3-of-the-last")
    train.train_steadydancer.fn(**settings, pick=1)
    parent = read_checkpoint_record(out / "stage3")["parent"]
    assert Path(parent["path"]) == out / "stage2" / "checkpoint-000001"
    reported = CliRunner().invoke(cli, ["pick", "--run", str(out / "stage2"), "--steps", "1"])
    assert (reported.exit_code, reported.output) == (0, f"{parent['path']}: the weights after 1 steps\n")


def _fitting(cached: Path) -> str:
    """The preset as JSON, with the settings that the cache was made with."""
    from steadydancer.datasets.artifact import Artifact

    run = short()
    settings = Artifact(cached).record()["config"]
    return presets.change(run, "cache", **settings).model_dump_json()
