"""Packets of rows, and the worker that runs stages on them, in this process or in a Ray actor."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from ... import SteadyDancerError, TemporaryError
from ...datasets.artifact import Packet
from ...datasets.schema import Row, from_ipc, to_ipc
from .stage import Stage, run_stages, stage_fault

Item = dict[str, Any]
"""A packet in progress: its id, the ids of its rows, the rows, seconds by stage, and the error that stopped it."""
WritePacket = Callable[[Packet, list[Row]], None]


class Parts(Protocol):
    """An artifact, or several as one: what has a part is done."""

    def remaining(self, packets: Sequence[Packet]) -> list[Packet]:
        """Return the packets without a part, in order."""
        ...


@dataclass(frozen=True)
class Job:
    """Description of a job for its workers: stages, configuration, and how a packet's rows are committed.

    Args:
        name: name of the command.
        stages: row stages, in order.
        config: the job's configuration, passed to every stage.
        schema: schema of the rows between workers.
        open_row: id → input row of the first stage.
        write_packet: commits all rows of a packet; called last.
    """

    name: str
    stages: list[Stage]
    config: Any
    schema: pa.Schema
    open_row: Callable[[str], Row]
    write_packet: WritePacket


class JobStopped(SteadyDancerError):
    """A job ended early; the message gives the cause and the remedy."""


class JobInterrupted(TemporaryError, JobStopped):
    """A job ended early by a fault that passes: a store that does not answer."""


def item_of(job: Job, packet: Packet) -> Item:
    """Return a packet's item as it enters the first stage."""
    rows = to_ipc(map(job.open_row, packet.ids), job.schema)
    return {"packet": packet.id, "ids": list(packet.ids), "rows": rows, "seconds": "{}", "fault": ""}


class PacketWorker:
    """Runs consecutive stages on packets; each Ray actor holds one, which loads the models once.

    Args:
        stages: row stages, in order.
        config: passed to every stage.
        schema: schema of the rows between workers.
        write_packet: commits the rows; only the worker of the last stages has it.
    """

    def __init__(
        self, stages: list[Stage], config: Any, schema: pa.Schema, write_packet: WritePacket | None = None
    ) -> None:
        """Store the arguments; models are loaded later, because Ray reports a failing constructor as a dead actor."""
        self.stages, self.config, self.schema, self.write_packet = stages, config, schema, write_packet
        self.tools: list[Any] | None = None

    def close(self) -> None:
        """Close the tools that can be closed, such as those that started processes of their own."""
        for tool in self.tools or ():
            if hasattr(tool, "close"):
                tool.close()
        self.tools = None

    def __call__(self, item: Item) -> Item:
        """Run one packet; `rows` is an Arrow stream of the schema, in and out."""
        if self.tools is None:
            # Stages with the same `load` share what it returns: a worker holds a network once.
            loaded: dict[Any, Any] = {}
            for stage in self.stages:
                if stage.load not in loaded:
                    loaded[stage.load] = stage.load_tools(self.config)
            self.tools = [loaded[stage.load] for stage in self.stages]
        rows, seconds = run_stages(self.stages, from_ipc(item["rows"]), self.config, self.tools)
        out = {**item, "seconds": json.dumps({**json.loads(item["seconds"]), **seconds})}
        if self.write_packet is None:
            return {**out, "rows": to_ipc(rows, self.schema)}
        packet = Packet(item["packet"], tuple(item["ids"]))
        try:
            self.write_packet(packet, rows)
        except OSError:
            raise
        except Exception as error:
            raise stage_fault("write", f"packet {packet.id}", error) from error
        return {**out, "rows": b""}
