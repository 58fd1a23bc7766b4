"""Artifacts: folders of parts that are finished when their record lies in them, and the packets they are made of.

A job's work is cut into *packets*, fixed lists of ids. A packet is done when its part exists; a part is written aside
and renamed, so a killed job leaves nothing that looks whole. `run.json` is written last: present means finished, and
from then on the folder is never changed. Resuming is the plan minus the parts that exist. On an object store the
finished part is one PUT.
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

from .. import SteadyDancerError
from .rules import other_rules, other_settings
from .storage import Location, location, relative
from .storage.atomic import atomic_write, begin_folder, write_json
from .storage.digests import json_digest
from .storage.files import arrow_source, blocking_file, names_in, sizes, store_errors
from .storage.lease import FolderInUseError, folder_lock
from .storage.s3 import ObjectPath

RECORD = "run.json"
PLAN = "plan.json"
MAX_LOOKUPS = 1000  # objects that are looked for one by one
VERDICTS = ("ok", "rejected", "quarantined")


class ArtifactError(SteadyDancerError):
    """A folder cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Packet:
    """The unit of work, retry and resume: `ids` in a fixed order, named by their digest."""

    id: str
    ids: tuple[str, ...]


def plan_packets(ids: Iterable[str], size: int) -> list[Packet]:
    """Cut ids, sorted, into packets of at most `size`; the same ids always give the same packets."""
    ordered = sorted(ids)
    chunks = [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]
    return [Packet(json_digest(chunk)[:16], chunk) for chunk in chunks]


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike[str] | ObjectPath) -> Iterator[Location]:
    """Hold a folder for one run; it is let go of when the process dies, however it dies (see `store_lease`).

    Raises:
        ArtifactError: another run holds it.
    """
    folder = location(folder)
    if blocking_file(folder) == folder:
        raise ArtifactError(f"{folder} is a file, and results go into a folder: choose another --out")
    try:
        with folder_lock(folder):
            yield folder
    except FolderInUseError as error:
        raise ArtifactError(str(error)) from None


class Artifact:
    """One artifact's folder: `plan.json` first, parts as packets finish, `run.json` last."""

    def __init__(self, path: str | os.PathLike[str] | ObjectPath) -> None:
        """Name the folder; nothing is read or made yet."""
        self.path: Location = location(path)

    @property
    def committed(self) -> bool:
        """Whether the record lies in the folder: the artifact is finished and will not change."""
        return (self.path / RECORD).is_file()

    def record(self) -> dict[str, Any]:
        """The record of a finished artifact.

        Raises:
            ArtifactError: there is none.
        """
        if not self.committed:
            if not self.path.is_dir():
                raise ArtifactError(f"{self.path} does not exist: give the folder that the command before was given")
            raise ArtifactError(
                f"{self.path} is not finished (no {RECORD} in it): run the command that makes it again, to its end"
            )
        return dict(json.loads((self.path / RECORD).read_text()))

    def reference_from(self, folder: Location) -> dict[str, str]:
        """How the record of an artifact in `folder` names this one as its parent: `path`, to be read by `join`, and
        `digest`, by which one that was made anew in its place is told apart.

        Raises:
            ArtifactError: it is not finished.
        """
        return {"path": relative(self.path, folder), "digest": json_digest(self.record())}

    def begin(self, plan: dict[str, Any], absent: dict[str, Any] | None = None, finished: bool | None = None) -> None:
        """Open the folder for work on `plan`, or go on with the same plan.

        Args:
            plan: settings and digests of inputs; `rules` are the versions of the rules that decide what is made.
            absent: what fields count as that an older plan does not have (see `rules.with_absent`).
            finished: whether nothing more is written under this plan, so that its rules may be older; None: whether
                the record lies in the folder.

        Raises:
            ArtifactError: the folder was begun with another plan, or is half made by other rules; the message names
                what differs.
        """
        begin_folder(self.path)
        plan = json.loads(json.dumps(plan))
        file = self.path / PLAN
        if not file.is_file():
            write_json(file, plan)
            return
        begun = json.loads(file.read_text())
        finished = self.committed if finished is None else finished
        by = other_rules(begun, plan)
        if not finished and by:
            raise ArtifactError(
                f"{self.path} is half made by another version of this program, whose rules were others:\n{by}\n"
                "choose another --out, delete this folder to start again, or finish it with the version that began it"
            )
        if changes := other_settings(begun, plan, absent):
            raise ArtifactError(
                f"{self.path} was begun with other settings or inputs:\n{changes}\n"
                + (f"by another version of this program, whose rules were others:\n{by}\n" if by else "")
                + "choose another --out, or delete this folder to make it anew"
            )

    def part(self, packet: Packet) -> Location:
        """Where a packet's rows lie once it is done."""
        return self.path / f"part-{packet.id}.parquet"

    def remaining(self, packets: Sequence[Packet]) -> list[Packet]:
        """The packets without a part, in order."""
        there = set(names_in(self.path))  # listed once: a million packets cannot be looked for one by one
        missing = [packet for packet in packets if self.part(packet).name not in there]
        if there and len(missing) <= MAX_LOOKUPS:
            # A listing may lag behind what was just written.
            found = sizes(map(self.part, missing))
            missing = [packet for packet in missing if found[self.part(packet)] is None]
        return missing

    def write_part(self, packet: Packet, table: pa.Table) -> None:
        """Commit a packet: every id in it with its verdict."""
        with atomic_write(self.part(packet)) as aside:
            # Scores hardly repeat: looking for repeated values takes longer than all else.
            words = [field.name for field in table.schema if pa.types.is_string(field.type)]
            pq.write_table(table, aside, compression="zstd", use_dictionary=words)

    def remove_parts(self) -> None:
        """Remove the parts of an artifact that is not finished, to be written again."""
        for name in self._parts():
            (self.path / name).unlink()

    def parts(self) -> list[str]:
        """Names of the parts that are there, in order.

        Raises:
            ArtifactError: there is none.
        """
        parts = self._parts()
        if not parts:
            raise ArtifactError(f"{self.path} holds no parts")
        return parts

    def _parts(self) -> list[str]:
        return sorted(name for name in names_in(self.path) if name.startswith("part-") and name.endswith(".parquet"))

    def read_part(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of one part.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        with _opened(self.path / name) as source:
            return pq.read_table(source, columns=columns, partitioning=None)

    def part_schema(self, name: str) -> pa.Schema:
        """Names and types of the columns of one part, of which no row is read.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        with _opened(self.path / name) as source:
            return pq.read_schema(source)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows of all parts, parts in name order.

        Raises:
            ArtifactError: there is no part, or one is damaged.
        """
        parts = self.parts()
        with ThreadPoolExecutor(8) as pool:  # on a store each waits for its own answers
            return pa.concat_tables(pool.map(lambda part: self.read_part(part, columns), parts))

    def commit(self, record: dict[str, Any]) -> dict[str, Any]:
        """Finish the artifact by writing its record; returns it.

        Raises:
            ArtifactError: the record's counts do not balance.
        """
        counts = record["counts"]
        if counts["inputs"] != sum(counts[verdict] for verdict in VERDICTS):
            raise ArtifactError(f"{self.path}: rows were lost or repeated, the counts do not balance: {counts}")
        write_json(self.path / RECORD, record)
        return record


@contextlib.contextmanager
def _opened(part: Location) -> Iterator[Any]:
    """What Arrow reads a part from. Damage, a part that is missing and a store that fails are told as what they are."""
    with store_errors(part), _damage_as_artifact_error(part):
        yield arrow_source(part)


@contextlib.contextmanager
def _damage_as_artifact_error(part: Location) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ArtifactError(f"{part} is missing: delete its folder and make it again") from None
    except (pa.ArrowInvalid, OSError) as error:
        # Arrow says of damage what it says of files: an error of the system, but without its number.
        if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
            raise
        raise ArtifactError(
            f"{part} is damaged ({error}): copy it anew, or delete its folder and make it again"
        ) from None


def count_verdicts(inputs: int, verdicts: Iterable[str]) -> dict[str, int]:
    """`{inputs, ok, rejected, quarantined}`: `inputs` counted where they came in, the rest where they came out."""
    out = dict.fromkeys(VERDICTS, 0)
    for verdict in verdicts:
        out[verdict] += 1
    return {"inputs": inputs, **out}
