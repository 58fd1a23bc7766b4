"""What was downloaded once from the hub is what is used from then on."""

import json
from pathlib import Path
from typing import Any

import pytest

from steadydancer.models.weights.download import WeightsError
from steadydancer.models.weights.hub import hub_file, hub_folder, pins_file

FIRST, LATER = "a" * 40, "b" * 40


class Hub:
    """A repository whose head moves; it gives a revision that is asked for."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.head = cache, FIRST
        for revision in (FIRST, LATER):
            (cache / revision / "vae").mkdir(parents=True)
            for name in ("config.json", "vae/weights.safetensors"):
                (cache / revision / name).write_text(f"{name} of {revision}")

    def download(self, repository: str, name: str, revision: str | None = None) -> str:
        return str(self.cache / (revision or self.head) / name)

    def snapshot(self, repository: str, allow_patterns: list[str], revision: str | None = None) -> str:
        return str(self.cache / (revision or self.head))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "cache")
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot)
    return hub


def test_the_first_revision_is_asked_for_again(hub: Hub) -> None:
    assert hub_file("some/body", "config.json").read_text() == f"config.json of {FIRST}"
    hub.head = LATER
    assert hub_file("some/body", "config.json").read_text() == f"config.json of {FIRST}"
    assert hub_folder("some/body", ["*"]) == hub.cache / FIRST
    assert hub_folder("another/body", ["*"]) == hub.cache / LATER
    pins = json.loads(pins_file().read_text())
    assert {name: pin["revision"] for name, pin in pins.items()} == {"some/body": FIRST, "another/body": LATER}
    assert set(pins["some/body"]["files"]) == {"config.json", "vae/weights.safetensors"}


def test_a_file_that_was_exchanged_is_refused(hub: Hub) -> None:
    folder = hub_folder("some/body", ["*"])
    (folder / "vae" / "weights.safetensors").write_text("another one")
    with pytest.raises(
        WeightsError, match=r"vae/weights\.safetensors of some/body is not the file that was downloaded"
    ):
        hub_folder("some/body", ["*"])
    assert hub_file("some/body", "config.json").is_file()  # the others are as they were
    pins_file().unlink()
    assert hub_folder("some/body", ["*"]) == folder


def test_a_file_that_did_not_change_is_not_read_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_folder("some/body", ["*"])
    read: list[Any] = []
    monkeypatch.setattr("steadydancer.models.weights.hub.sha256_of", read.append)
    hub_folder("some/body", ["*"])
    assert not read


def test_damaged_pins_are_not_taken_for_none(hub: Hub) -> None:
    hub_file("some/body", "config.json")
    pins_file().write_text("{")
    with pytest.raises(WeightsError, match="is damaged"):
        hub_file("some/body", "config.json")
