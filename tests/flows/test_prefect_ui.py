"""What a run shows in the UI is found by its name, and links lead somewhere."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import CancelledRun

from steadydancer import SteadyDancerError
from steadydancer.datasets.storage import location
from steadydancer.flows import prefect_ui
from steadydancer.flows.prefect_ui import absolute, absolute_if_exists, absolute_preset, artifact_key, page_link


@pytest.mark.parametrize(("name", "key"), [("magenta-falcon", "scores-magenta-falcon"), (None, "scores"),
                                           ("Äffchen 2 (again)", "scores-ffchen-2-again")])  # fmt: skip
def test_each_run_has_keys_of_its_own(name: str | None, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_ui, "flow_run", SimpleNamespace(name=name))
    assert artifact_key("scores") == key


def test_only_a_page_that_is_served_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links: list[dict[str, Any]] = []
    monkeypatch.setattr(prefect_ui, "create_link_artifact", lambda **words: links.append(words))
    page = tmp_path / "runs" / "a b" / "report.html"
    monkeypatch.delenv("STEADYDANCER_PAGES", raising=False)
    prefect_ui.publish_page("report", page)
    assert not links and page_link(page) is None
    monkeypatch.setenv("STEADYDANCER_PAGES", f"{tmp_path / 'runs'}=http://127.0.0.1:8300/")
    prefect_ui.publish_page("report", page)
    assert links == [{"key": "report", "link": "http://127.0.0.1:8300/a%20b/report.html", "link_text": str(page)}]
    assert page_link(tmp_path / "elsewhere.html") is None and page_link(location("s3://lab/report.html")) is None
    monkeypatch.setenv("STEADYDANCER_PAGES", "s3://lab/runs=https://pages.example")
    assert page_link(location("s3://lab/runs/one/report.html")) == "https://pages.example/one/report.html"


@pytest.mark.parametrize(
    ("logger", "error", "shown"),
    [
        ("prefect.flow_runs", SteadyDancerError("out is taken"), ["failed"]),
        ("prefect.flow_runs", CancelledRun("told to stop"), []),
        ("prefect.FlowRunCancellingObserver", RuntimeError("Service exceeded error threshold."), ["failed"]),
        ("prefect.flow_runs", LookupError("a fault of ours"), ["failed\nTraceback"]),
    ],
)
def test_a_traceback_is_logged_for_faults_of_the_code_alone(logger: str, error: Exception, shown: list[str]) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(logging.Formatter().format(record))  # type: ignore[method-assign]
    there = logging.getLogger(logger)
    there.addHandler(handler)
    try:
        try:
            raise error
        except Exception:
            there.error("failed", exc_info=True)
    finally:
        there.removeHandler(handler)
    assert [line.partition(" (most recent")[0] for line in lines] == shown


@pytest.mark.parametrize("resolve", [absolute, absolute_if_exists, absolute_preset])
def test_credentials_in_an_address_are_refused_and_not_repeated(resolve: Any) -> None:
    with pytest.raises(SteadyDancerError, match="must not contain credentials") as refusal:
        resolve("s3://USER:CANARY@lab/clips.json")
    assert "CANARY" not in str(refusal.value)
    assert resolve("s3://lab/clips.json") == "s3://lab/clips.json"


@pytest.mark.parametrize("path", ["", " ", "~/out", " /tmp/out", "out "])
def test_what_would_become_another_folder_is_refused(path: str) -> None:
    with pytest.raises(SteadyDancerError, match="is not a path: give an absolute one"):
        absolute(path)


def test_a_folder_has_one_absolute_path_however_its_parents_are_spelled(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    assert absolute(f"{tmp_path}/other/../out") == absolute(f"{tmp_path}//out/") == f"{tmp_path}/out"
    assert absolute(f"{tmp_path}/link/out/../clips") == f"{tmp_path}/link/clips"  # what the link names may differ
    assert absolute(f"{tmp_path}/link/../out") == f"{tmp_path.resolve()}/elsewhere/out"  # as the system resolves it
    assert absolute("../out") == str(Path.cwd().parent / "out")
