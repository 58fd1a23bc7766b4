"""Packets of rows, and the worker that takes one through its stages, wherever it lives."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ... import SteadyDancerError
from ...datasets.artifact import Packet
from ...datasets.schema import Row, from_ipc, to_ipc
from .stage import Stage, run_stages, stage_fault

Item = dict[str, Any]
"""A packet on its way: its id, the ids of its rows, the rows, the seconds of each stage, and what stopped it."""
WritePacket = Callable[[Packet, list[Row]], None]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a job: its stages, its configuration, and how a packet's rows are committed.

    Args:
        name: of the command.
        stages: in order.
        config: the job's configuration, given to every stage.
        schema: of the rows on their way.
        open_row: id → row with which the walk begins.
        write_packet: commits all rows of a packet; the last thing done to it.
    """

    name: str
    stages: list[Stage]
    config: Any
    schema: pa.Schema
    open_row: Callable[[str], Row]
    write_packet: WritePacket


class JobStopped(SteadyDancerError):
    """A job ended early; the message says what happened and what to do."""


def item_of(job: Job, packet: Packet) -> Item:
    """A packet before its first stage."""
    rows = to_ipc(map(job.open_row, packet.ids), job.schema)
    return {"packet": packet.id, "ids": list(packet.ids), "rows": rows, "seconds": "{}", "fault": ""}


class PacketWorker:
    """Runs consecutive stages on packets; one lives in each Ray actor and loads the models once.

    Args:
        stages: in order.
        config: given to every stage.
        schema: of the rows on their way to the next worker.
        write_packet: given to the worker of the last stages, which commits what it has in hand.
    """

    def __init__(
        self, stages: list[Stage], config: Any, schema: pa.Schema, write_packet: WritePacket | None = None
    ) -> None:
        """Nothing is loaded yet: what fails in a constructor, Ray reports as the death of an actor."""
        self.stages, self.config, self.schema, self.write_packet = stages, config, schema, write_packet
        self.tools: list[Any] | None = None

    def __call__(self, item: Item) -> Item:
        """Run one packet; `rows` comes and goes as an Arrow stream of the schema."""
        if self.tools is None:
            self.tools = [stage.load_tools(self.config) for stage in self.stages]
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
