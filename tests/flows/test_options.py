"""What commands share: which places, names and numbers they take, and when they ask for them."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from steadydancer.datasets.storage import location
from steadydancer.flows.commands import options
from steadydancer.flows.presets import tiny


@click.command(cls=options.JobCommand)
@click.option("--file", type=options.FILE, required=True)
@click.option("--folder", type=options.FOLDER)
@click.option("--stage", type=int, required=True)
@click.option("--name", type=options.NAME)
@click.option("--here", type=options.LOCAL_FOLDER)
@click.option("--number", type=options.NUMBER)
@click.option("--rate", type=options.POSITIVE)
@options.configured
@options.in_process_option
@click.pass_context
def command(ctx: click.Context, **values: Any) -> None:
    ctx.obj.append(values)


def call(*words: Any) -> dict[str, Any]:
    reported: list[dict[str, Any]] = []
    answer = CliRunner().invoke(command, [*map(str, words)], obj=reported, catch_exceptions=False)
    return reported[0] if reported else {"exit": answer.exit_code, "said": " ".join(answer.output.split())}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a b.json").write_text("{}")
    return tmp_path / "a b.json"


def test_what_is_not_given_has_the_value_that_help_names(file: Path) -> None:
    assert call("--file", file, "--stage", 2) == {
        "file": file, "folder": None, "stage": 2, "name": None, "here": None, "number": None, "rate": None,
        "preset": "paper", "print_config": False, "dry_run": False, "address": None, "in_process": False,
    }  # fmt: skip
    given = call("--file", file, "--stage", 1, "--preset", "tiny", "--dry-run", "--address", "auto", "--in-process")
    assert [given[name] for name in ("preset", "print_config", "dry_run", "address", "in_process")] == [
        "tiny", False, True, "auto", True,
    ]  # fmt: skip


def test_inputs_are_asked_for_unless_only_the_configuration_is(file: Path) -> None:
    assert "Missing option '--file'" in call("--stage", 1)["said"]
    assert call("--stage", 1, "--print-config")["print_config"] is True
    assert "Missing option '--stage'" in call("--print-config")["said"]  # which configuration it is
    assert "Missing option '--file'" in call("--stage", 1)["said"]  # a call before changes nothing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--file", "{folder}"), "is a folder"),
        (("--file", "{folder}/none"), "does not exist"),
        (("--folder", "gs://bucket/x"), "gs://… is not supported"),
        (("--folder", "s3://key:secret@bucket/x"), "must not contain credentials"),
        (("--name", "gs://bucket/*.mp4"), "gs://… is not supported"),
        (("--here", "s3://bucket/x"), "s3://bucket/x is not on this machine; pass a local folder"),
        (("--here", "{file}"), "is a file"),
        *(((option, value), f"'{value}' is not a finite number")
          for option in ("--number", "--rate") for value in ("nan", "inf", "-inf", "1e999", "NaN", "x", "")),
        (("--rate", "0"), "'0' must be greater than 0"),
        (("--rate", "-1"), "'-1' must be greater than 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_its_option(file: Path, words: tuple[str, str], said: str) -> None:
    option, value = words[0], words[1].format(folder=file.parent, file=file)
    given = [] if option == "--file" else ["--file", file]
    answer = call(*given, "--stage", 1, option, value)
    assert answer["exit"] == 2 and f"Invalid value for '{option}'" in answer["said"] and said in answer["said"]
    assert "secret" not in answer["said"] and "key:" not in answer["said"]


def test_places_here_and_on_a_store_and_names_as_they_are(file: Path) -> None:
    reported = call("--file", file, "--stage", 1, "--folder", "s3://bucket/a b", "--name", "org/model", "--number",
                    "-2.5", "--rate", "1e-3", "--here", file.parent)  # fmt: skip
    assert reported["folder"] == location("s3://bucket/a b") and reported["name"] == "org/model"
    assert (reported["number"], reported["rate"], reported["here"]) == (-2.5, 0.001, file.parent)
    assert call("--file", file, "--stage", 1, "--name", "s3://bucket/*.mp4")["name"] == "s3://bucket/*.mp4"
    assert call("--file", file, "--stage", 1, "--folder", "new folder")["folder"] == Path("new folder")


def test_configuration_or_plan_are_printed_and_end_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny()

    def plan() -> dict[str, Any]:
        planned.append(1)
        return {"pairs": 2}

    planned: list[int] = []
    assert options.prepare(run, print_config=True, dry_run=True, plan=plan) is True and not planned
    assert json.loads(capsys.readouterr().out) == run.model_dump(mode="json")
    assert options.prepare(run, print_config=False, dry_run=True, plan=plan) is True and planned == [1]
    assert json.loads(capsys.readouterr().out) == {"pairs": 2}
    assert options.prepare(run, print_config=False, dry_run=False, plan=plan) is False and planned == [1]
    assert capsys.readouterr().out == ""


def test_an_engine_knows_the_words_that_it_was_asked_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["cache", "--clips", "a b", "--preset", '{"x": 1}']
    monkeypatch.setattr(sys, "argv", ["/venv/bin/steadydancer", *words])
    engine = options.engine_at(tmp_path, True, "auto")
    assert (engine.state_dir, engine.in_process, engine.address) == (tmp_path / ".engine", True, "auto")
    assert shlex.split(engine.command) == ["steadydancer", *words]
