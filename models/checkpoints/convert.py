"""`steadydancer convert`: a checkpoint written anew in another layout, at the memory of one chunk.

The folder is made beside its place and renamed when it is whole: a killed run leaves nothing that looks finished, and
the same command again makes it. One for a store is made on this machine, uploaded, its record last, and removed here.
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
from ...datasets.storage import Location, is_address, local_copy, local_folder, location, publish, working_folder
from ...datasets.storage.atomic import write_json
from ...datasets.storage.copies import copy_whole
from ...datasets.storage.digests import content_digest, json_digest
from ...datasets.storage.files import holds_something
from .conversion_output import Conversion, LoraLayout, Target
from .conversion_plan import plan_conversion
from .files import CheckpointError
from .folders import ComponentsError, resolve_folder
from .streaming import parse_size, write_safetensors

_MARGIN_BYTES = 64 << 20


@contextlib.contextmanager
def local_source(source: str) -> Iterator[Path]:
    """The folder or file of this machine that a source names: a path, a hub id, or what lies on a store, fetched.

    Raises:
        ComponentsError: there is none.
    """
    place = location(source)
    if place.is_dir():
        yield local_folder(place, ["*"])
    elif place.is_file() and place.suffix == ".json":  # an index, which names files beside it
        yield local_folder(place.parent, [place.name, "*.safetensors", "config.json"]) / place.name
    elif place.is_file():
        with local_copy(place) as file:
            yield file
    elif is_address(source):
        raise ComponentsError(f"There is nothing at {place}.")
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
    source_name: str | None = None,
    advance: Callable[[int, int], object] = lambda num_bytes, total: None,
) -> dict[str, Any]:
    """Write `source` into the new folder `to`; returns the record that lies in it as `run.json`.

    Args:
        source: as for `plan_conversion`.
        to: the folder to make, here or on a store.
        target: as for `plan_conversion`.
        dtype: as for `plan_conversion`.
        shard_size: the most that one file holds, such as "5GB".
        lora_layout: as for `plan_conversion`.
        source_name: name of the source in the record, if it was fetched from elsewhere.
        advance: told the bytes read or written since it was told last, and how many there are in all.

    Raises:
        CheckpointError: the source cannot be converted, or `to` holds something else.
        ArtifactError: another process is writing `to`.
        OSError: the disk cannot be written.
    """
    names = (source_name or str(source.absolute()), str(to.absolute()))
    settings = (target, dtype, shard_size, lora_layout, advance)
    here = working_folder(to)
    if here == to:
        return _convert_here(source, here, names, *settings)
    return _convert_and_upload(source, here / "conversion", to, names, *settings)


def _convert_and_upload(
    source: Path, here: Path, to: Location, names: tuple[str, str], *settings: Any
) -> dict[str, Any]:
    with exclusive(to):
        is_there = (to / RECORD).is_file()
        if is_there or not (here / RECORD).is_file():  # else its upload was broken off
            _refuse_foreign(to)
        if is_there:
            copy_whole(to / RECORD, here / RECORD)  # enough to say that it is finished, and of what
        record = _convert_here(source, here, names, *settings)
        if not is_there:
            publish(here, to, RECORD)
            record.pop("already_finished", None)
        shutil.rmtree(here)
    return record


def _convert_here(
    source: Path,
    to: Path,
    names: tuple[str, str],
    target: Target,
    dtype: str | None,
    shard_size: str,
    lora_layout: LoraLayout,
    advance: Callable[[int, int], object],
) -> dict[str, Any]:
    start = time.perf_counter()
    plan = plan_conversion(source, target, dtype, parse_size(shard_size), lora_layout)
    _refuse_foreign(to)
    total = plan.num_bytes + sum(file.stat().st_size for file in plan.sources)
    digest = _source_digest(plan, lambda num_bytes: advance(num_bytes, total))
    asked: dict[str, Any] = {"as": target, "dtype": dtype, "shard_bytes": parse_size(shard_size)}
    asked |= {"lora_layout": lora_layout} if target == "lora" else {}
    if (to / RECORD).is_file():
        return _finished(to, {**asked, "digest": digest})
    free = shutil.disk_usage(_existing(to.absolute())).free
    if free < plan.num_bytes + _MARGIN_BYTES:
        raise CheckpointError(
            f"{to} needs {plan.num_bytes:,} bytes and there are {free:,} free: make room, or choose another --to"
        )
    aside = to.absolute().with_name(f".{to.absolute().name}.tmp")
    with exclusive(aside):
        _clear(aside)
        digests = _write(plan, aside, lambda num_bytes: advance(num_bytes, total))
        record = {
            "kind": "conversion",
            **asked,
            "source": {
                "path": names[0],
                "digest": digest,
                "files": [file.name for file in plan.sources],
            },
            # What rendering looks for in a checkpoint's record: no stage made this; its own encoders, if it has any.
            "stage": None,
            "base": {"path": names[1] if "scheduler/scheduler_config.json" in plan.texts else None},
            "digest": _folder_digest(digests, "transformer/" if target == "diffusers" else ""),
            "num_tensors": plan.num_tensors,
            "num_bytes": plan.num_bytes,
            "code_version": __version__,
            "seconds": round(time.perf_counter() - start, 3),
        }
        write_json(aside / RECORD, record)
        (aside / ".lock").unlink()
        aside.rename(to.absolute())
    return record


def describe(
    source: Path, to: Location, target: Target, dtype: str | None, shard_size: str, lora_layout: LoraLayout
) -> dict[str, Any]:
    """What `convert` would write, from headers alone.

    Raises:
        CheckpointError: as `convert`.
    """
    plan = plan_conversion(source, target, dtype, parse_size(shard_size), lora_layout)
    _refuse_foreign(to)
    sizes = {name: sum(tensor.num_bytes for tensor in shard.values()) for name, shard in plan.shards.items()}
    return {
        "from": str(source),
        "to": str(to),
        "as": target,
        "finished": (to / RECORD).is_file(),
        "num_tensors": plan.num_tensors,
        "num_bytes": plan.num_bytes,
        "free_bytes": shutil.disk_usage(_existing(working_folder(to).absolute())).free,
        "files": {**sizes, **dict.fromkeys([*plan.texts, *plan.copies])},
    }


def _write(plan: Conversion, folder: Path, advance: Callable[[int], object]) -> dict[str, str]:
    """Write all files; returns relative path to sha256."""
    digests = {}
    for name in (*plan.shards, *plan.texts, *plan.copies):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name, tensors in plan.shards.items():
        digests[name] = write_safetensors(folder / name, tensors, plan.metadata.get(name, {}), advance)
    for name, value in plan.texts.items():
        write_json(folder / name, value)
        digests[name] = content_digest(folder / name)
    for name, file in plan.copies.items():
        shutil.copyfile(file, folder / name)
        digests[name] = content_digest(folder / name)
    return digests


def _folder_digest(digests: dict[str, str], prefix: str) -> str:
    """As `content_digest` of the folder, from digests that are known already."""
    inside = {name.removeprefix(prefix): digest for name, digest in digests.items() if name.startswith(prefix)}
    return json_digest([[name, inside[name]] for name in sorted(inside, key=Path)])


def _source_digest(plan: Conversion, advance: Callable[[int], object]) -> str:
    rows = []
    for file in plan.sources:
        rows.append([file.name, content_digest(file)])
        advance(file.stat().st_size)
    return json_digest(rows)


def _finished(to: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The record of a folder that was made before by the same command."""
    record = dict(json.loads((to / RECORD).read_text()))
    made = {**{name: record.get(name) for name in asked}, "digest": record["source"]["digest"]}
    changed = [f"{name} {made[name]} → {asked[name]}" for name in asked if made[name] != asked[name]]
    if changed:
        raise CheckpointError(f"{to} was made with other settings ({'; '.join(changed)}): choose another --to")
    return {**record, "already_finished": True}


def _refuse_foreign(to: Location) -> None:
    kind = None
    if (to / RECORD).is_file():
        kind = json.loads((to / RECORD).read_text()).get("kind")
    if kind != "conversion" and holds_something(to):
        raise CheckpointError(f"{to} is there and was not made by a conversion: choose another --to")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()
