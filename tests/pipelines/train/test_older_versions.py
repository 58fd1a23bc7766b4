"""Runs that earlier versions began go on; what lies there damaged is named, and never counts as not being there.

`tests/golden/earlier/train` is what the version before wrote of a stage 1 of two steps.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from steadydancer.pipelines.train import integrity
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.gallery import folder as gallery
from steadydancer.pipelines.train.metrics import report
from steadydancer.pipelines.train.metrics.evaluation import Evaluator
from steadydancer.pipelines.train.metrics.report import write_run_report
from steadydancer.pipelines.train.metrics_file import NewRows, damaged_lines, read_rows
from steadydancer.pipelines.train.preflight import inputs as start
from steadydancer.pipelines.train.preflight.fork import begin_fork, check_fork
from steadydancer.pipelines.train.preflight.inputs import refuse_other_run
from steadydancer.pipelines.train.resume.states import newest_state, read_state_record
from steadydancer.pipelines.train.run_folder import (
    TrainingRefused,
    cut_metrics,
    intact_states,
    read_checkpoint_record,
    steps_done,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "earlier" / "train"


class Alone:
    rank, world_size = 0, 1

    def any(self, flag: bool) -> bool:
        return flag


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of the run that the version before began."""
    shutil.copytree(GOLDEN, tmp_path / "run")
    return tmp_path / "run"


def record(**changes: Any) -> dict[str, Any]:
    """What this version says of the same inputs, with the same settings."""
    reported = json.loads((GOLDEN / "run.json").read_text())
    config = TrainConfig.model_validate({**reported["config"], **changes})
    return {**reported, "config": config.model_dump(mode="json")}


def rewritten(file: Path, change: Any) -> None:
    reported = json.loads(file.read_text())
    change(reported)
    file.write_text(json.dumps(reported))


def state(out: Path, steps: int, sums: bool = True) -> Path:
    """A training state of one file; without sums as the first versions wrote it."""
    folder = out / "state" / f"step-{steps:06d}"
    (folder / "engine").mkdir(parents=True)
    torch.save({"weights": torch.full((50,), float(steps))}, folder / "engine" / "rank-0.pt")
    data = (folder / "engine/rank-0.pt").read_bytes()
    facts: dict[str, Any] = {"world_size": 1, "zero_stage": 2, "trained": ["weights"], "steps_done": steps}
    facts["files"] = {"engine/rank-0.pt": len(data)}
    if sums:
        facts["crc32"] = {"engine/rank-0.pt": integrity._checksum(folder / "engine/rank-0.pt", 0)}
        facts["digest"] = start.json_digest(facts)
    (folder / "complete.json").write_text(json.dumps(facts))
    return folder


def spoil(folder: Path) -> None:
    """One bit, name and size the same."""
    file = folder / "engine/rank-0.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, (1, 1))  # checksums are cached by time, and a clock may not have ticked since the last write


def test_the_same_settings_go_on_and_others_are_named(out: Path) -> None:
    refuse_other_run(out, record())
    refuse_other_run(out, record(steps=9, checkpoint_every_steps=3, trackers=("wandb",)))
    with pytest.raises(TrainingRefused, match=r"(?s)different settings.*:\n  config.seed: 3 → 4$"):
        refuse_other_run(out, record(seed=4))


@pytest.mark.parametrize(
    ("field", "other"),
    [("alignment_dropout", 0.1), ("image_feature_fusion", "concatenation"), ("uncond_text", "empty"),
     ("temporal_kernel_size", 1), ("reference_embedding", "shared"), ("start_gap_module", "mapping"),
     ("evaluation_samples", 3), ("validation_sigmas", (0.5,)), ("pose_modulation_modules", ("spatial", "temporal"))],
)  # fmt: skip
def test_a_field_that_an_older_version_did_not_know_counts_as_what_it_did(out: Path, field: str, other: Any) -> None:
    default = TrainConfig.model_fields[field].default
    rewritten(out / "start.json", lambda reported: reported["config"].pop(field, None))
    refuse_other_run(out, record(**{field: default}))
    with pytest.raises(TrainingRefused, match=rf"\n  config.{field}: "):
        refuse_other_run(out, record(**{field: other}))
    state(out, 1)
    changes = check_fork(out, out.parent / "fork", record(**{field: default, "learning_rate": 0.5}))
    assert changes is not None and changes.changes == ["config.learning_rate: 0.01 → 0.5"]


def test_a_setting_that_an_older_version_took_for_part_of_the_run_does_not_count_any_more(out: Path) -> None:
    rewritten(out / "start.json", lambda reported: reported["config"].update(bundle=True, max_restarts=3))
    refuse_other_run(out, record())


def test_a_parent_that_does_not_name_its_network_is_the_one_that_its_version_made(out: Path) -> None:
    rewritten(out / "run.json", lambda reported: reported["config"].pop("image_feature_fusion"))
    stage2 = {"stage": 2, "num_workers": 0, "use_gpu": False}
    assert start._check_parent(TrainConfig(**stage2), out)["stage"] == 1
    with pytest.raises(TrainingRefused, match=r"^image_feature_fusion: the checkpoint has 'sum', but the con"):
        start._check_parent(TrainConfig(**stage2, image_feature_fusion="concatenation"), out)


def test_states_that_were_written_without_checksums_are_used(out: Path) -> None:
    folder = state(out, 2, sums=False)
    assert newest_state(out, Alone()) == (2, folder) and steps_done(out) == 2
    assert read_state_record(folder)["steps_done"] == 2
    (folder / "engine/rank-0.pt").write_bytes(b"cut")
    assert steps_done(out) == 0
    assert "3 bytes long" in str(integrity.find_damage(folder))


def test_damaged_records_are_named_and_nothing_is_begun_in_their_place(out: Path) -> None:
    (out / "start.json").write_text('{"config": {')
    with pytest.raises(TrainingRefused, match=rf"^{out}/start.json is damaged \(Expecting.*restore it from a copy"):
        refuse_other_run(out, record())
    (out / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingRefused, match=rf"^{out}/run.json is damaged"):
        read_checkpoint_record(out)
    (out / "checkpoint").mkdir()
    shutil.copy(out / "run.json", out / "checkpoint/run.json")
    with pytest.raises(TrainingRefused, match=r"checkpoint/run.json is damaged"):
        gallery.checkpoint_folders(out)


def test_a_run_whose_states_are_all_damaged_does_not_begin_again(out: Path) -> None:
    """It would throw hours away and say nothing but a warning."""
    for steps in (1, 2):
        state(out, steps)
    spoil(out / "state/step-000002")
    assert newest_state(out, Alone()) == (1, out / "state/step-000001")  # the one before
    refuse_other_run(out, record())
    spoil(out / "state/step-000001")
    reported = r"^state: all 2 training states in .*/state are damaged \(step-000002: engine/rank-0.pt is damaged"
    for begin in (
        lambda: newest_state(out, Alone()),
        lambda: refuse_other_run(out, record()),
        lambda: check_fork(out, out.parent / "fork", record()),
    ):
        with pytest.raises(TrainingRefused, match=reported):
            begin()
    shutil.rmtree(out / "state")
    assert newest_state(out, Alone()) is None and not list(intact_states(out))
    refuse_other_run(out, record())


def test_what_was_not_measured_before_the_first_step_is_not_measured_later(out: Path) -> None:
    evaluator = Evaluator(None, None, None, None, Alone())  # type: ignore[arg-type]
    (out / "state").mkdir()
    assert evaluator.loss_before(out, done=2) is None
    (out / "state/before.json").write_text('{"loss": 2.5}')
    assert evaluator.loss_before(out, done=2) == 2.5


def lines(out: Path, *rows: bytes) -> Path:
    (out / "metrics.jsonl").write_bytes(b"".join(rows))
    return out


def row(step: int) -> bytes:
    shares = {f"{part}_share": 0.25 for part in ("data", "forward", "backward", "optimizer")}
    reported = {"step": step, "loss": step + 0.5, "batch_digest": "ab", "lr": 0.1, "seconds": 2.0, **shares}
    return json.dumps({**reported, "samples_per_second": 1.0, "memory_bytes": 10**9, "mfu": None}).encode() + b"\n"


DAMAGED = (row(0), row(1), b'{"step": 2, "lo\x00\n', row(3), b"17\n", row(5))


def test_a_line_that_a_kill_cut_off_is_taken_again_without_a_word(tmp_path: Path, caplog: Any) -> None:
    lines(tmp_path, row(0), row(1), row(2)[:-20])
    assert [reported["step"] for reported in read_rows(tmp_path)] == [0, 1]
    cut_metrics(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == row(0) + row(1)
    lines(tmp_path, row(0), row(1)[:-1])  # all of it but the end of the line
    assert [reported["step"] for reported in read_rows(tmp_path)] == [0, 1]
    assert not caplog.messages


def test_a_damaged_line_between_others_is_named_and_costs_its_own_step_alone(tmp_path: Path, caplog: Any) -> None:
    """It used to take all that followed with it, for good: the file was written anew without."""
    out = lines(tmp_path, *DAMAGED)
    with caplog.at_level(logging.WARNING):
        assert [reported["step"] for reported in read_rows(out)] == [0, 1, 3, 5]
        read_rows(out)
    assert caplog.messages == [
        f"{out}/metrics.jsonl: line {number} of 6 is damaged; its step is skipped" for number in (3, 5)
    ]
    assert damaged_lines(out) == [3, 5]
    follow = NewRows(out / "metrics.jsonl")
    assert [reported["step"] for reported in follow()] == [0, 1, 3, 5] and follow() == []
    cut_metrics(out, 5)
    assert (out / "metrics.jsonl").read_bytes() == b"".join(DAMAGED[:4])  # nothing of it is thrown away
    cut_metrics(out, 2)
    assert (out / "metrics.jsonl").read_bytes() == row(0) + row(1)


def test_the_page_of_a_run_says_which_lines_it_leaves_out(tmp_path: Path) -> None:
    write_run_report(lines(tmp_path, *DAMAGED))
    page = (tmp_path / "report.html").read_text()
    assert "damaged lines of metrics.jsonl, not used here" in page and ">3, 5<" in page
    assert report._hours(read_rows(tmp_path)) is None  # two steps are missing: no sum of what is left
    assert report._hours(read_rows(lines(tmp_path, row(0), row(1), row(2)))) == 6 / 3600
    assert report._hours([{"step": 0, "seconds": 1.0}, {"step": 1}]) is None and report._hours([]) == 0


def test_a_fork_takes_the_lines_of_the_steps_behind_it(out: Path) -> None:
    lines(out, *DAMAGED)
    state(out, 4)
    (out / "state/before.json").write_text('{"loss": 2.5}')
    fork = out.parent / "fork"
    begin_fork(out, fork, record(steps=9))
    assert (fork / "metrics.jsonl").read_bytes() == b"".join(DAMAGED[:4])
    assert newest_state(fork, Alone()) == (4, fork / "state/step-000004")
    assert (fork / "state/before.json").read_text() == '{"loss": 2.5}'
    assert json.loads((fork / "forked.json").read_text()) == {"path": str(out), "steps": 4, "changes": []}
