"""Downloads from the model hub, pinned: a repository's revision and the digests of its files are recorded when they are
first downloaded, and the same are asked for and compared from then on. Does not import torch.
"""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...datasets.storage.atomic import write_json
from .catalogue import weights_dir
from .download import WeightsError, sha256_of

_COMMIT = re.compile(r"[0-9a-f]{40}")
_log = logging.getLogger(__name__)


def pins_file() -> Path:
    """Return the file with the pins: repository → revision, and file → sha256, size and time of change."""
    return weights_dir() / "hub.json"


def hub_file(repository: str, name: str) -> Path:
    """Return a file of a repository on the hub, downloaded if needed.

    Raises:
        WeightsError: it is not the file that was downloaded first.
        Exception: the hub client raises its own errors and those of requests, httpx and the system.
    """
    from huggingface_hub import hf_hub_download

    path = Path(str(hf_hub_download(repository, name, **_revision(repository))))
    _compare(repository, Path(str(path).removesuffix(name)), [name])
    return path


def hub_folder(repository: str, patterns: list[str]) -> Path:
    """Return the local folder of a repository on the hub with the files that match, downloaded if needed.

    Raises:
        WeightsError: a file is not the one that was downloaded first.
        Exception: see `hub_file`.
    """
    from huggingface_hub import snapshot_download

    folder = Path(str(snapshot_download(repository, allow_patterns=patterns, **_revision(repository))))
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    _compare(repository, folder, [file.relative_to(folder).as_posix() for file in files])
    return folder


def _revision(repository: str) -> dict[str, Any]:
    revision = _pins().get(repository, {}).get("revision")
    return {"revision": revision} if revision else {}


def _pins() -> dict[str, Any]:
    try:
        return dict(json.loads(pins_file().read_text()))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise WeightsError(
            f"{pins_file()} is damaged: restore it, or delete it to trust what the hub has now"
        ) from None


def _compare(repository: str, folder: Path, names: Iterable[str]) -> None:
    """Compare files with their digests at the first download; record those of new ones."""
    pins = _pins()
    pin = pins.setdefault(repository, {"revision": None, "files": {}})
    before = json.dumps(pin)
    if pin["revision"] is None and _COMMIT.fullmatch(folder.name):
        pin["revision"] = folder.name
    for name in names:
        known, stat = pin["files"].get(name), (folder / name).stat()
        seen = {"size": stat.st_size, "changed_ns": stat.st_mtime_ns}
        if known is not None and seen.items() <= known.items():
            continue  # its digest was compared when it was last changed
        digest = sha256_of(folder / name)
        if known is not None and digest != known["sha256"]:
            raise WeightsError(
                f"{name} of {repository} is not the file that was downloaded first (sha256 {digest}, expected "
                f"{known['sha256']}): get it again, or delete its entry in {pins_file()} to trust it"
            )
        pin["files"][name] = {"sha256": digest, **seen}
    if json.dumps(pin) != before:
        _write(pins)


def _write(pins: dict[str, Any]) -> None:
    file = pins_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, pins)
    except OSError as error:
        _log.warning("%s cannot be written (%s): downloads from the hub are not pinned", file, error)
