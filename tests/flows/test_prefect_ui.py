"""What a run shows in the UI is found by its name, and links lead somewhere."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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


@pytest.mark.parametrize("resolve", [absolute, absolute_if_exists, absolute_preset])
def test_credentials_in_an_address_are_refused_and_not_repeated(resolve: Any) -> None:
    with pytest.raises(SteadyDancerError, match="must not contain credentials") as refusal:
        resolve("s3://USER:CANARY@lab/clips.json")
    assert "CANARY" not in str(refusal.value)
    assert resolve("s3://lab/clips.json") == "s3://lab/clips.json"
