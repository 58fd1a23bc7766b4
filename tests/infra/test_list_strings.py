"""Each string that a user reads is listed once, under what it is."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "list_strings.py"
SOURCE = '''
"""Of the module."""
import click, logging, sys
_log = logging.getLogger(__name__)
LIMIT = "a bound of all"
"""Of the constant."""

class Config:
    """Of the class."""
    width: int = Field(1, description="pixels a row")

@click.command()
@click.option("--out", help="Folder.", metavar="DIR")
def command(out):
    """Of the command."""
    if out in ("one word", "two words"):
        raise click.UsageError(f"{out}: give " "another one")
    click.echo("done")
    _log.warning("%s is not used", out)
    told["key of it"] = {"rate": 1}
    sys.exit("it has ended " + describe("so far", out))

def helper():
    """Of the helper."""
    return BadClip("code", "the picture is dark")
'''
EXPECTED = {
    (2, "docstring", "Of the module."),
    (5, "other", "a bound of all"),
    (6, "docstring", "Of the constant."),
    (9, "docstring", "Of the class."),
    (10, "field", "pixels a row"),
    (13, "help", "Folder."),
    (13, "help", "DIR"),
    (15, "help", "Of the command."),
    (16, "other", "one word"),
    (16, "other", "two words"),
    (17, "error", "{out}: give another one"),
    (18, "output", "done"),
    (19, "log", "%s is not used"),
    (21, "error", "it has ended"),
    (21, "error", "so far"),
    (24, "docstring", "Of the helper."),
    (25, "error", "the picture is dark"),
}


@pytest.fixture
def listed(tmp_path: Path):
    """The script on `SOURCE`, or another, as (line, kind, text)."""
    (tmp_path / "infra").mkdir()
    script = tmp_path / "infra" / "list_strings.py"
    script.write_text(SCRIPT.read_text())  # paths are those below its own root

    def run(*options: str, source: str = SOURCE) -> list[tuple[int, str, str]]:
        (tmp_path / "datasets").mkdir(exist_ok=True)
        (tmp_path / "datasets" / "some.py").write_text(source)
        command = [sys.executable, script, *options, tmp_path / "datasets"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        rows = [line.split("\t") for line in lines]
        assert all(place.startswith("datasets/some.py:") for place, *_ in rows)
        return [(int(place.rpartition(":")[2]), kind, text) for place, kind, text in rows]

    return run


def test_every_string_is_listed_once_as_what_it_is(listed) -> None:
    found = listed("--docstrings")
    assert {*found} == EXPECTED and len(found) == len(EXPECTED)
    assert {*listed()} == {entry for entry in EXPECTED if entry[1] != "docstring"}
    assert {kind for _, kind, _ in listed("--kinds", "help,log")} == {"help", "log"}


def test_a_module_that_writes_pages_holds_words_of_pages(listed) -> None:
    found = listed(source="import jinja2\nTITLE = 'the page of it'\nraise ValueError('no such page')\n")
    assert found == [(2, "page", "the page of it"), (3, "error", "no such page")]
