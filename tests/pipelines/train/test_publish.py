"""A run on a store: what is uploaded, in which order, and what is left as it is. Small files, a real store."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steadydancer.datasets.storage.s3 import ObjectPath, listing
from steadydancer.pipelines.train import publish
from steadydancer.pipelines.train.publish import prepare_store_run, publish_folder, run_folder
from steadydancer.pipelines.train.run_folder import TrainingRefused


@pytest.fixture
def out(bucket: str) -> ObjectPath:
    return ObjectPath.parse(bucket) / "run"


@pytest.fixture
def store_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is uploaded and removed, in order, as `+ key` and `- key` below the run's folder."""
    did: list[str] = []
    copy_atomically, unlink = publish.copy_atomically, ObjectPath.unlink

    def uploaded(file: Path, place: ObjectPath) -> Any:
        did.append(f"+ {place.key.partition('run/')[2]}")
        return copy_atomically(file, place)

    def removed(path: ObjectPath, missing_ok: bool = False) -> None:
        did.append(f"- {path.key.partition('run/')[2]}")
        unlink(path, missing_ok)

    monkeypatch.setattr(publish, "copy_atomically", uploaded)
    monkeypatch.setattr(ObjectPath, "unlink", removed)
    return did


def checkpoint(folder: Path, steps: int, **files: str) -> Path:
    (folder / "transformer").mkdir(parents=True, exist_ok=True)
    (folder / "transformer/weights").write_text(f"weights of {steps}")
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "run.json").write_text(json.dumps({"steps": steps}))
    return folder


def there(out: ObjectPath) -> dict[str, bytes]:
    return {found.path.key.partition("run/")[2]: found.path.read_bytes() for found in listing(out)}


def test_a_checkpoint_is_finished_when_its_record_lies_there(
    out: ObjectPath, tmp_path: Path, store_calls: list[str]
) -> None:
    folder = checkpoint(tmp_path / "checkpoint", 5, extra="x")
    publish_folder(folder, out / "checkpoint")
    record = "checkpoint/run.json"
    assert store_calls == [f"- {record}", "+ checkpoint/extra", "+ checkpoint/transformer/weights", f"+ {record}"]
    assert there(out)["checkpoint/transformer/weights"] == b"weights of 5"
    store_calls.clear()
    publish_folder(folder, out / "checkpoint")
    assert store_calls == []  # the same one

    (folder / "extra").unlink()
    publish_folder(checkpoint(folder, 7), out / "checkpoint")
    assert store_calls == [f"- {record}", "+ checkpoint/transformer/weights", "- checkpoint/extra", f"+ {record}"]
    assert there(out) == {record: b'{"steps": 7}', "checkpoint/transformer/weights": b"weights of 7"}


def gallery(here: Path, step: int, record: dict[str, Any] | None, **videos: str) -> None:
    folder = here / f"gallery/step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in videos.items():
        (folder / f"{name}.mp4").write_text(text)
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record))


def test_a_run_is_published_with_all_its_checkpoints_and_each_gallery_once(
    out: ObjectPath, tmp_path: Path, store_calls: list[str]
) -> None:
    here = tmp_path / "here"
    checkpoint(here / "checkpoint", 9)
    checkpoint(here / "checkpoint-000005", 5)
    for name in ("start.json", "metrics.jsonl", "report.html", "state"):
        (here / name).write_text(name)
    gallery(here, 3, {"seed": 1}, a="three")
    (here / "gallery/clips").mkdir()
    (here / "gallery/clips/a-pose.mp4").write_text("pose")
    publish.publish(here, out)
    first = there(out)
    assert first.keys() == {
        "start.json", "metrics.jsonl", "report.html", "gallery/step-000003/a.mp4", "gallery/step-000003/run.json",
        "gallery/clips/a-pose.mp4", "checkpoint/run.json", "checkpoint/transformer/weights",
        "checkpoint-000005/run.json", "checkpoint-000005/transformer/weights",
    }  # fmt: skip
    assert first["checkpoint/run.json"] == b'{"steps": 9}' and first["checkpoint-000005/run.json"] == b'{"steps": 5}'
    store_calls.clear()

    gallery(here, 3, {"seed": 1}, a="of the same record")  # what is there and finished stays
    gallery(here, 6, {"seed": 1}, a="six")
    (here / "gallery/clips/b-pose.mp4").write_text("pose of b")
    publish.publish(here, out)
    assert store_calls == [
        "+ start.json", "+ metrics.jsonl", "+ report.html", "+ gallery/clips/b-pose.mp4", "+ gallery/step-000006/a.mp4",
        "+ gallery/step-000006/run.json",
    ]  # fmt: skip
    store_calls.clear()
    gallery(here, 3, {"seed": 2}, a="made anew")
    publish.publish(here, out)
    assert store_calls[3:] == ["+ gallery/step-000003/a.mp4", "+ gallery/step-000003/run.json"]  # the record last
    assert there(out)["gallery/step-000003/a.mp4"] == b"made anew"


def test_a_run_begins_on_this_machine_and_a_finished_one_is_known_by_its_record(
    out: ObjectPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setattr(publish, "run_folder", lambda place: here)
    config: Any = SimpleNamespace(steps=5)
    assert prepare_store_run(config, out, None) == here and not list(here.iterdir())
    with pytest.raises(TrainingRefused, match=rf"^out: {out} is on an object store, but a cluster needs"):
        prepare_store_run(config, out, "ray://head")

    (tmp_path / "start.json").write_text("begun")
    publish.copy_atomically(tmp_path / "start.json", out / "start.json")
    publish_folder(checkpoint(tmp_path / "checkpoint", 5), out / "checkpoint")
    with pytest.raises(
        TrainingRefused, match=rf"^steps: {out} contains a checkpoint of 5 steps, but the training state"
    ):
        prepare_store_run(SimpleNamespace(steps=9), out, None)  # type: ignore[arg-type]
    assert not list(here.iterdir())
    assert prepare_store_run(config, out, None) == here
    assert (here / "start.json").read_text() == "begun"
    assert json.loads((here / "checkpoint/run.json").read_text()) == {"steps": 5}
    assert not (here / "checkpoint/transformer").exists()

    (tmp_path / "half").write_text("{")
    publish.copy_atomically(tmp_path / "half", out / "checkpoint/run.json")
    with pytest.raises(TrainingRefused, match=rf"^{out}/checkpoint/run.json is damaged"):
        prepare_store_run(config, out, None)
    publish.copy_atomically(tmp_path / "checkpoint/run.json", out / "checkpoint/run.json")

    monkeypatch.setattr(
        publish, "intact_states", lambda folder: iter([(5, folder / "state")] if folder == here else [])
    )
    assert prepare_store_run(SimpleNamespace(steps=9), out, None) == here  # type: ignore[arg-type]  # it goes on from there


def test_where_a_run_works(out: ObjectPath, tmp_path: Path) -> None:
    assert run_folder(tmp_path) == tmp_path
    assert isinstance(run_folder(out), Path) and run_folder(out) != run_folder(out / "other")
