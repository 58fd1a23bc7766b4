"""Measurements of an evaluation: one folder of parts for each group of metrics, kept so that nothing is measured twice.

`OUT/measurements/GROUP` has a part for each packet of videos. A later run with more metrics, or with weights that were
missing, measures the groups that have none, and writes a new version of `OUT/metrics` from all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...datasets.artifact import RECORD, Artifact, Packet
from ...datasets.schema import Row, to_table
from ...datasets.storage import Location
from ...datasets.storage.copies import move_folder
from ...datasets.storage.files import folders_in, remove_folder
from .catalogue import Group
from .steps import MEASURED

MEASUREMENTS = "measurements"  # not `measured`, which a curation with the same --out writes
EARLIER = "earlier"


class Measured(Artifact):
    """The folder `measurements`, as the runner sees it: a packet is done if all groups have its part."""

    def __init__(self, path: Location, groups: Sequence[str]) -> None:
        """Set the folder and the groups that are wanted."""
        super().__init__(path)
        self.groups = list(groups)

    def group(self, name: str) -> Artifact:
        """Return the folder of a group's parts."""
        return Artifact(self.path / name)

    def begin_group(self, group: Group, weights: Mapping[str, Any], pose_model: str) -> None:
        """Open the folder of a group, or resume it.

        Raises:
            ArtifactError: it was measured with other weights; the message names them.
        """
        plan: dict[str, Any] = {"group": group.name, "version": group.version, "weights": dict(weights)}
        self.group(group.name).begin(plan | ({"pose_model": pose_model} if group.estimator else {}))

    def lacking(self, packets: Sequence[Packet]) -> dict[str, list[str]]:
        """Return the packets that lack parts: id → groups."""
        out: dict[str, list[str]] = {}
        for name in self.groups:
            for packet in self.group(name).remaining(packets):
                out.setdefault(packet.id, []).append(name)
        return out

    def remaining(self, packets: Sequence[Packet]) -> list[Packet]:
        """Return the packets that lack a part, in order."""
        lacking = self.lacking(packets)
        return [packet for packet in packets if packet.id in lacking]

    def write_packet(self, packet: Packet, rows: Sequence[Row], groups: Iterable[str]) -> None:
        """Write the part of each group; a row without a group, of a video that cannot be read, is in all of them."""
        for name in groups:
            own = [row for row in rows if row.get("group") in (name, None)]
            kept = [{column: row.get(column) for column in MEASURED.names} for row in own]
            self.group(name).write_part(packet, to_table(kept, MEASURED))

    def rows(self, packet: Packet) -> Iterator[Row]:
        """Yield the measurements of a packet in all groups, without features."""
        columns = [name for name in MEASURED.names if name != "features"]
        for name in self.groups:
            artifact = self.group(name)
            yield from artifact.read_part(artifact.part(packet).name, columns).to_pylist()

    def features(self, group: str, packets: Sequence[Packet]) -> Iterator[pa.Table]:
        """Yield the rows of features of a group, one table for each packet."""
        artifact = self.group(group)
        for packet in packets:
            table = artifact.read_part(artifact.part(packet).name, ["key", "metric", "reason", "features"])
            names = table["metric"].to_pylist()
            yield table.filter(pa.array([bool(name) and name.startswith("features") for name in names]))


def set_aside(metrics: Artifact) -> None:
    """Move a finished version to `OUT/earlier/metrics-N`, from where the next one names it as its parent."""
    folder = metrics.path.parent / EARLIER
    newest = newest_earlier(metrics.path.parent)
    if newest is not None and newest.record() == metrics.record():  # a copy that a kill interrupted at its end
        remove_folder(metrics.path, RECORD)
        return
    move_folder(metrics.path, folder / f"{metrics.path.name}-{_number(newest) + 1}", RECORD)


def newest_earlier(out: Location) -> Artifact | None:
    """Return the newest version that was set aside; None if there is none."""
    versions = [Artifact(folder) for folder in folders_in(out / EARLIER)]
    return max((one for one in versions if one.committed), key=_number, default=None)


def _number(artifact: Artifact | None) -> int:
    return 0 if artifact is None else int(artifact.path.name.rsplit("-", 1)[-1])
