"""Convert a checkpoint to another layout, streaming its tensors in chunks (`steadydancer convert`).

The output is written to a temporary folder and renamed when it is complete, so a killed run leaves no folder that looks
finished; run the same command again. For an object store the folder is written locally, uploaded with its
record last, and removed from this machine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ... import __version__
from ...datasets.artifact import RECORD, exclusive
from ...datasets.local_copies import local_copy
from ...datasets.storage import Location, is_address, local_folder, location, publish, working_folder
from ...datasets.storage.atomic import write_json
from ...datasets.storage.copies import copy_atomically
from ...datasets.storage.digests import content_digest, folder_digest, json_digest
from ...datasets.storage.files import is_not_empty
from ..checkpoints.conversion_output import Conversion, LoraLayout, Target
from ..checkpoints.files import CheckpointError
from ..checkpoints.folders import ComponentsError, resolve_folder
from ..checkpoints.quantisation import Quantisation
from ..checkpoints.streaming import parse_size, write_safetensors
from .plan import plan_conversion
from .quantise import REPORT

_MARGIN_BYTES = 64 << 20


@contextlib.contextmanager
def local_source(source: str) -> Iterator[Path]:
    """Yield a local path for a source: a path, a hub id, or an address on a store, which is fetched.

    Raises:
        ComponentsError: the source does not exist.
    """
    place = location(source)
    if place.is_dir():
        yield local_folder(place, ["*"])
    elif place.is_file() and place.suffix == ".json":  # an index of shards in the same folder
        yield local_folder(place.parent, [place.name, "*.safetensors", "config.json"]) / place.name
    elif place.is_file():
        with local_copy(place) as file:
            yield file
    elif is_address(source):
        raise ComponentsError(f"{place} does not exist; pass a file or folder.")
    else:
        yield resolve_folder(source)


def convert(
    source: Path,
    to: Location,
    target: Target = "diffusers",
    *,
    dtype: str | None = None,
    shard_size: str = "5GB",
    lora_layout: LoraLayout = "diffusers",
    kind: Quantisation | None = None,
    source_name: str | None = None,
    advance: Callable[[int, int], object] = lambda num_bytes, total: None,
) -> dict[str, Any]:
    """Convert `source` into the new folder `to` and return its record (`run.json`).

    Args:
        source: as for `plan_conversion`.
        to: folder to create, local or on a store.
        target: as for `plan_conversion`.
        dtype: as for `plan_conversion`.
        shard_size: maximum size of a file, such as "5GB".
        lora_layout: as for `plan_conversion`.
        kind: as for `plan_conversion`; `quantisation.json` has the error of each weight, the record their summary.
        source_name: name of the source in the record, if it was fetched from elsewhere.
        advance: called with the bytes read or written since the last call, and the total.

    Raises:
        CheckpointError: the source cannot be converted, or `to` was not written by the same conversion.
        ArtifactError: another process is writing `to`.
        OSError: the disk cannot be written.
    """
    names = (source_name or str(source.absolute()), str(to.absolute()))
    settings = (target, dtype, shard_size, lora_layout, kind, advance)
    local = working_folder(to)
    if local == to:
        return _convert_locally(source, local, names, *settings)
    return _convert_and_upload(source, local / "conversion", to, names, *settings)


def _convert_and_upload(
    source: Path, local: Path, to: Location, names: tuple[str, str], *settings: Any
) -> dict[str, Any]:
    with exclusive(to):
        exists = (to / RECORD).is_file()
        if exists or not (local / RECORD).is_file():  # otherwise its upload was interrupted
            _check_replaceable(to)
        if exists:
            copy_atomically(to / RECORD, local / RECORD)  # the record alone shows what is finished
        record = _convert_locally(source, local, names, *settings)
        if not exists:
            publish(local, to, RECORD)
            record.pop("already_finished", None)
        shutil.rmtree(local)
    return record


def _convert_locally(
    source: Path,
    to: Path,
    names: tuple[str, str],
    target: Target,
    dtype: str | None,
    shard_size: str,
    lora_layout: LoraLayout,
    kind: Quantisation | None,
    advance: Callable[[int, int], object],
) -> dict[str, Any]:
    start = time.perf_counter()
    plan = plan_conversion(source, target, dtype, parse_size(shard_size), lora_layout, kind)
    _check_replaceable(to)
    total = plan.num_bytes + sum(file.stat().st_size for file in plan.sources)
    digest = _source_digest(plan, lambda num_bytes: advance(num_bytes, total))
    settings: dict[str, Any] = {"as": target, "dtype": dtype, "shard_bytes": parse_size(shard_size)}
    settings |= {"lora_layout": lora_layout} if target == "lora" else {}
    settings["quantise"] = kind
    if (to / RECORD).is_file():
        return _finished(to, {**settings, "digest": digest})
    free = shutil.disk_usage(_existing_parent(to.absolute())).free
    if free < plan.num_bytes + _MARGIN_BYTES:
        raise CheckpointError(
            f"{to} needs {plan.num_bytes:,} bytes, but only {free:,} are free: free some space or choose another --to"
        )
    aside = to.absolute().with_name(f".{to.absolute().name}.tmp")
    with exclusive(aside):
        _clear(aside)
        digests = _write(plan, aside, lambda num_bytes: advance(num_bytes, total))
        record = {
            "kind": "conversion",
            **settings,
            "source": {
                "path": names[0],
                "digest": digest,
                "files": [file.name for file in plan.sources],
            },
            # Rendering reads these fields: no training stage, and the folder's own encoders, if it has any.
            "stage": None,
            "base": {"path": names[1] if "scheduler/scheduler_config.json" in plan.texts else None},
            "digest": _folder_digest(digests, "transformer/" if target == "diffusers" else ""),
            "num_tensors": plan.num_tensors,
            "num_bytes": plan.num_bytes,
            **({"quantisation": plan.reports[REPORT]()["summary"]} if kind else {}),
            "code_version": __version__,
            "seconds": round(time.perf_counter() - start, 3),
        }
        write_json(aside / RECORD, record)
        (aside / ".lock").unlink()
        aside.rename(to.absolute())
    return record


def describe(
    source: Path,
    to: Location,
    target: Target,
    dtype: str | None,
    shard_size: str,
    lora_layout: LoraLayout,
    kind: Quantisation | None = None,
) -> dict[str, Any]:
    """Describe the files that `convert` would write, from headers alone.

    Raises:
        CheckpointError: as for `convert`.
    """
    plan = plan_conversion(source, target, dtype, parse_size(shard_size), lora_layout, kind)
    _check_replaceable(to)
    sizes = {name: sum(tensor.num_bytes for tensor in shard.values()) for name, shard in plan.shards.items()}
    return {
        "from": str(source),
        "to": str(to),
        "as": target,
        "finished": (to / RECORD).is_file(),
        "num_tensors": plan.num_tensors,
        "num_bytes": plan.num_bytes,
        "free_bytes": shutil.disk_usage(_existing_parent(working_folder(to).absolute())).free,
        "files": {**sizes, **dict.fromkeys([*plan.texts, *plan.copies, *plan.reports])},
    }


def _write(plan: Conversion, folder: Path, advance: Callable[[int], object]) -> dict[str, str]:
    """Write all files and return the sha256 of each by its relative path."""
    digests = {}
    for name in (*plan.shards, *plan.texts, *plan.copies):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name, tensors in plan.shards.items():
        digests[name] = write_safetensors(folder / name, tensors, plan.metadata.get(name, {}), advance)
    for name, value in (*plan.texts.items(), *((name, report()) for name, report in plan.reports.items())):
        write_json(folder / name, value)
        digests[name] = content_digest(folder / name)
    for name, file in plan.copies.items():
        shutil.copyfile(file, folder / name)
        digests[name] = content_digest(folder / name)
    return digests


def _folder_digest(digests: dict[str, str], prefix: str) -> str:
    """Return the `content_digest` of the folder `prefix`, from the digests of all files."""
    return folder_digest({name.removeprefix(prefix): digests[name] for name in digests if name.startswith(prefix)})


def _source_digest(plan: Conversion, advance: Callable[[int], object]) -> str:
    rows = []
    for file in plan.sources:
        rows.append([file.name, content_digest(file)])
        advance(file.stat().st_size)
    return json_digest(rows)


def _finished(to: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a finished conversion.

    Raises:
        CheckpointError: it was converted from another source or with different settings.
    """
    record = dict(json.loads((to / RECORD).read_text()))
    made = {**{name: record.get(name) for name in settings}, "digest": record["source"]["digest"]}
    changed = [f"{name} {made[name]} → {settings[name]}" for name in settings if made[name] != settings[name]]
    if changed:
        raise CheckpointError(f"{to} was written with different settings ({'; '.join(changed)}): choose another --to")
    return {**record, "already_finished": True}


def _check_replaceable(to: Location) -> None:
    kind = None
    if (to / RECORD).is_file():
        kind = json.loads((to / RECORD).read_text()).get("kind")
    if kind != "conversion" and is_not_empty(to):
        raise CheckpointError(f"{to} exists and was not written by a conversion: choose another --to")


def _existing_parent(path: Path) -> Path:
    return path if path.exists() else _existing_parent(path.parent)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()
