"""Artifacts: folders of parts, finished once they contain their record. Packets: the units of work behind the parts.

A job's work is divided into *packets*, fixed lists of ids. A packet is done when its part exists. Parts are written
atomically (in an object store, by one PUT), so a killed job leaves no incomplete part. `run.json` is written last: a
folder that contains it is finished and never changes again. To resume, a job processes the plan minus the existing
parts.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import SteadyDancerError, TemporaryError
from .rules import other_rules, other_settings
from .storage import Location, location, relative
from .storage.atomic import atomic_write, begin_folder, write_json
from .storage.digests import json_digest
from .storage.files import arrow_source, blocking_file, names_in, needs_download, sizes, store_errors
from .storage.lease import FolderInUseError, folder_lock
from .storage.s3 import ObjectPath

RECORD = "run.json"
PLAN = "plan.json"
MAX_LOOKUPS = 1000  # most objects that are looked up individually
VERDICTS = ("ok", "rejected", "quarantined")


class ArtifactError(SteadyDancerError):
    """A folder cannot be used as requested; the message gives the cause and the remedy."""


class ArtifactInUseError(TemporaryError, ArtifactError):
    """Another run is using the folder. One that was killed counts as alive for a while, on a store."""


@dataclass(frozen=True)
class Packet:
    """Unit of work, retry and resume: `ids` in a fixed order, named by their digest."""

    id: str
    ids: tuple[str, ...]


def plan_packets(ids: Iterable[str], size: int) -> list[Packet]:
    """Sort ids and divide them into packets of at most `size`; the same ids always give the same packets."""
    ordered = sorted(ids)
    chunks = [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]
    return [Packet(json_digest(chunk)[:16], chunk) for chunk in chunks]


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike[str] | ObjectPath) -> Iterator[Location]:
    """Lock a folder for one run; the lock is also released when the process is killed (see `storage.lease`).

    Raises:
        ArtifactInUseError: another run is using the folder.
        ArtifactError: it is a file.
    """
    folder = location(folder)
    if blocking_file(folder) == folder:
        raise ArtifactError(f"{folder} is a file, but --out must be a folder: choose another --out")
    try:
        with folder_lock(folder):
            yield folder
    except FolderInUseError as error:
        raise ArtifactInUseError(str(error)) from None


class Artifact:
    """Folder of one artifact: `plan.json` is written first, a part as each packet finishes, `run.json` last."""

    def __init__(self, path: str | os.PathLike[str] | ObjectPath) -> None:
        """Set the folder; nothing is read or created yet."""
        self.path: Location = location(path)

    @property
    def committed(self) -> bool:
        """Return whether the folder contains the record: the artifact is finished and will not change."""
        return (self.path / RECORD).is_file()

    def record(self) -> dict[str, Any]:
        """Read the record of a finished artifact.

        Raises:
            ArtifactError: the artifact does not exist or is not finished.
        """
        if not self.committed:
            if not self.path.is_dir():
                raise ArtifactError(f"{self.path} does not exist: pass the --out of the command that writes it")
            raise ArtifactError(f"{self.path} is not finished (it has no {RECORD}): rerun the command that writes it")
        return dict(json.loads((self.path / RECORD).read_text()))

    def reference_from(self, folder: Location) -> dict[str, str]:
        """Return the entry by which the record of an artifact in `folder` names this one, for example as its parent.

        It has `path`, which `join` resolves, and `digest`, which differs if the artifact was rebuilt in place.

        Raises:
            ArtifactError: this artifact is not finished.
        """
        return {"path": relative(self.path, folder), "digest": json_digest(self.record())}

    def plan(self) -> dict[str, Any]:
        """Read the plan under which the folder was begun."""
        return dict(json.loads((self.path / PLAN).read_text()))

    def begin(self, plan: dict[str, Any], absent: dict[str, Any] | None = None, finished: bool | None = None) -> None:
        """Open the folder for work on `plan`, or resume the same plan.

        Args:
            plan: settings and digests of inputs; `rules` are the versions of the rules that determine the output.
            absent: default values for fields that an older plan does not have (see `rules.with_absent`).
            finished: whether the work under this plan is finished, which permits older rules; None: whether the
                folder contains the record.

        Raises:
            ArtifactError: the folder was started with another plan, or is incomplete and was made with other rules;
                the message lists the differences.
        """
        begin_folder(self.path)
        plan = json.loads(json.dumps(plan))
        file = self.path / PLAN
        if not file.is_file():
            write_json(file, plan)
            return
        begun = json.loads(file.read_text())
        finished = self.committed if finished is None else finished
        rules = other_rules(begun, plan)
        if not finished and rules:
            raise ArtifactError(
                f"{self.path} is incomplete and was started by a version of this program with different rules:\n"
                f"{rules}\nchoose another --out, delete this folder to start again, or finish it with that version"
            )
        if changes := other_settings(begun, plan, absent):
            raise ArtifactError(
                f"{self.path} was started with different settings or inputs:\n{changes}\n"
                + (f"and by a version of this program with different rules:\n{rules}\n" if rules else "")
                + "choose another --out, or delete this folder to start again"
            )

    def part(self, packet: Packet) -> Location:
        """Return the path of a packet's part."""
        return self.path / f"part-{packet.id}.parquet"

    def remaining(self, packets: Sequence[Packet]) -> list[Packet]:
        """Return the packets without a part, in order."""
        existing = set(names_in(self.path))  # one listing: a million packets are too many to look up individually
        missing = [packet for packet in packets if self.part(packet).name not in existing]
        if existing and len(missing) <= MAX_LOOKUPS:
            # A listing may not include recent writes yet.
            found = sizes(map(self.part, missing))
            missing = [packet for packet in missing if found[self.part(packet)] is None]
        return missing

    def write_part(self, packet: Packet, table: pa.Table) -> None:
        """Write the part of a packet: a row with a verdict for each of its ids."""
        with atomic_write(self.part(packet)) as aside:
            # Dictionary encoding of scores, which rarely repeat, would take most of the time.
            words = [field.name for field in table.schema if pa.types.is_string(field.type)]
            pq.write_table(table, aside, compression="zstd", use_dictionary=words)

    def remove_parts(self) -> None:
        """Remove the parts of an unfinished artifact, so that they are written again."""
        for name in self._parts():
            (self.path / name).unlink()

    def parts(self) -> list[str]:
        """Return the names of the existing parts, in order.

        Raises:
            ArtifactError: there are none.
        """
        parts = self._parts()
        if not parts:
            raise ArtifactError(f"{self.path} contains no parts: rerun the command that writes it")
        return parts

    def _parts(self) -> list[str]:
        return sorted(name for name in names_in(self.path) if name.startswith("part-") and name.endswith(".parquet"))

    def read_part(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read the rows of one part.

        Raises:
            ArtifactError: the part is missing or damaged.
        """
        with _opened(self.path / name) as source:
            return pq.read_table(source, columns=columns, partitioning=None)

    def part_schema(self, name: str) -> pa.Schema:
        """Read the schema of one part, without its rows.

        Raises:
            ArtifactError: the part is missing or damaged.
        """
        with _opened(self.path / name) as source:
            return pq.read_schema(source)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Read all rows of all parts, in name order.

        Raises:
            ArtifactError: there are no parts, or one is damaged.
        """
        parts = self.parts()
        if not needs_download(self.path):
            return pa.concat_tables(self.read_part(part, columns) for part in parts)
        with ThreadPoolExecutor(8) as pool:  # hides the latency of a store
            return pa.concat_tables(pool.map(lambda part: self.read_part(part, columns), parts))

    def commit(self, record: dict[str, Any]) -> dict[str, Any]:
        """Finish the artifact by writing its record; return the record.

        Raises:
            ArtifactError: the record's counts do not add up.
        """
        counts = record["counts"]
        if counts["inputs"] != sum(counts[verdict] for verdict in VERDICTS):
            raise ArtifactError(f"{self.path}: the counts do not add up, so rows were lost or duplicated: {counts}")
        write_json(self.path / RECORD, record)
        return record


@contextlib.contextmanager
def _opened(part: Location) -> Iterator[Any]:
    """Open a part for Arrow; translate errors for a missing or damaged part and for a failing store."""
    with store_errors(part), _damage_as_artifact_error(part):
        yield arrow_source(part)


@contextlib.contextmanager
def _damage_as_artifact_error(part: Location) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ArtifactError(f"{part} is missing: delete its folder and rerun the command that writes it") from None
    except (pa.ArrowInvalid, OSError) as error:
        # For damage Arrow raises an OSError, too, but without an errno.
        if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
            raise
        raise ArtifactError(
            f"{part} is damaged ({error}): copy it again, or delete its folder and rerun the command that writes it"
        ) from None


def count_verdicts(inputs: int, verdicts: Iterable[str]) -> dict[str, int]:
    """Return `{inputs, ok, rejected, quarantined}`: `inputs` as counted on input, the rest from the output verdicts."""
    out = dict.fromkeys(VERDICTS, 0)
    for verdict in verdicts:
        out[verdict] += 1
    return {"inputs": inputs, **out}
