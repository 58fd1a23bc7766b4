"""The artifacts of a rendering job: one per checkpoint, filled by one run of packets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...datasets.artifact import Artifact, Packet
from ...datasets.schema import Row, to_table
from .task import SCHEMA


def split_key(key: str) -> tuple[str, str]:
    """Return (name of the checkpoint, key of the row) of a packet's or a row's name in the whole job."""
    name, _, own = key.rpartition("/")
    return name, own


@dataclass(frozen=True)
class RenderArtifacts:
    """Artifacts by the name of their checkpoint, which is empty for the only one.

    For a run of packets they behave as one artifact: packets and rows are named `NAME/ID`.
    """

    by_name: dict[str, Artifact]

    def packets(self, own: Sequence[Packet]) -> list[Packet]:
        """Return the packets of all artifacts, which have the same `own` packets, one checkpoint after another."""
        return [
            replace(packet, id=_joined(name, packet.id), ids=tuple(_joined(name, key) for key in packet.ids))
            for name in self.by_name
            for packet in own
        ]

    def remaining(self, packets: Sequence[Packet]) -> list[Packet]:
        """Return the packets without a part, in order."""
        missing: set[str] = set()
        for name, artifact in self.by_name.items():
            own = [_own(packet) for packet in packets if split_key(packet.id)[0] == name]
            missing |= {_joined(name, packet.id) for packet in artifact.remaining(own)}
        return [packet for packet in packets if packet.id in missing]

    def write_packet(self, packet: Packet, rows: list[Row]) -> None:
        """Write the part of a packet, without the columns that only the stages use."""
        name, _ = split_key(packet.id)
        kept = [{column: row.get(column) for column in SCHEMA.names} for row in rows]
        self.by_name[name].write_part(_own(packet), to_table(kept, SCHEMA))


def _joined(name: str, key: str) -> str:
    return f"{name}/{key}" if name else key


def _own(packet: Packet) -> Packet:
    return Packet(split_key(packet.id)[1], tuple(split_key(key)[1] for key in packet.ids))
