"""Download weights from their authors' addresses, and compare files with known digests. Does not import torch."""

import hashlib
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from ... import SteadyDancerError
from .catalogue import Weight, local_folder

_TIMEOUT_S = 60.0


class WeightsError(SteadyDancerError):
    """Weights are missing, incomplete or not the expected ones. The message states what to do."""


def download(row: Weight) -> Path:
    """Download `row` from its `sources` into its local folder, which is returned; of an archive, only the needed files.

    Files appear in the folder complete, and only with the digests of the catalogue.

    Raises:
        WeightsError: the download failed, an archive lacks a file, or a digest differs.
    """
    folder = local_folder(row)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        try:
            for url in row.addresses:
                _download_one(url, new, row)
        except (OSError, zipfile.BadZipFile) as error:
            raise WeightsError(
                f"{row.name} could not be downloaded ({error}). Its folder is {folder}: {row.remedy}."
            ) from error
        names = next((names for names in row.file_sets if all((new / name).is_file() for name in names)), None)
        if names is None:
            raise WeightsError(f"{', '.join(row.addresses)} does not have all of {', '.join(row.files)}: {row.remedy}.")
        if wrong := wrong_digest(new, row):
            raise WeightsError(f"{row.name} was not stored: {wrong}.")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).replace(folder / name)
    return folder


def _download_one(url: str, into: Path, row: Weight) -> None:
    file = into / url.rsplit("/", 1)[-1]
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, file.open("wb") as out:
        shutil.copyfileobj(answer, out)
    if file.suffix == ".zip":
        needed = {name for names in row.file_sets for name in names}
        with zipfile.ZipFile(file) as archive:
            for name in needed.intersection(archive.namelist()):
                archive.extract(name, into)
        file.unlink()


def wrong_digest(folder: Path, row: Weight) -> str | None:
    """Return which file of `row` in `folder` has another digest than the catalogue says; None: no known one differs."""
    for name, expected in row.sha256.items():
        found = sha256_of(folder / name)
        if found is not None and not found.startswith(expected):
            return f"{folder / name} is not the published file (sha256 {found}, expected {expected}): get it again"
    return None


def sha256_of(path: Path) -> str | None:
    """Return the digest of a file in hexadecimal digits; None if there is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
