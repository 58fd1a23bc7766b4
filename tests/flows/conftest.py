"""Call commands as a user does."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steadydancer.flows import cli


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Call a command like a shell, in an empty folder, but in this process, which is faster."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Answer:
        monkeypatch.setattr(sys, "argv", ["steadydancer", *map(str, words)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run
