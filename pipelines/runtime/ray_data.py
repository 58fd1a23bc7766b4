"""Packets on Ray Data: blocks of them, workers as actors, and what becomes of those of a worker that died."""

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from ... import SteadyDancerError
from ...datasets.artifact import Artifact, Packet
from .packets import Item, Job, JobStopped, PacketWorker, item_of
from .stage import Stage, StageFault

# Rows that are on their way through Ray at once: 10,000 packets of sources. Workers start anew for the next wave, which
# costs them a minute in hours.
WAVE_BYTES = 256 << 20
# Ray Data's own work is done once a block, whatever is in it: blocks of several packets, as long as enough are left for
# no worker to stand idle at the end.
BLOCKS_A_WORKER = 16


class RayPacketWorker(PacketWorker):
    """The same in a Ray actor, where an exception would lose its cause on its way: it travels as a value, in words."""

    fault = ""

    def __call__(self, item: Item) -> Item:
        """Run one packet, or say in `fault` what stopped it; after that nothing more is begun."""
        self.fault = self.fault or item["fault"]
        if self.fault:
            return {**item, "rows": b"", "fault": self.fault}
        try:
            return super().__call__(item)
        except (StageFault, OSError, SteadyDancerError) as error:
            self.fault = _serialise_error(error)
            return {**item, "rows": b"", "fault": self.fault}


def _serialise_error(error: Exception) -> str:
    if isinstance(error, StageFault):
        return json.dumps(["StageFault", *error.args])
    if isinstance(error, OSError):
        return json.dumps(["OSError", error.errno, error.strerror or str(error), error.filename], default=str)
    return json.dumps(["SteadyDancerError", str(error)])


def _restore_error(words: str) -> Exception:
    kind, *arguments = json.loads(words)
    kinds: dict[str, Callable[..., Exception]] = {
        "StageFault": StageFault,
        "OSError": OSError,
        "SteadyDancerError": SteadyDancerError,
    }
    return kinds[kind](*arguments)


def ray_results(job: Job, artifact: Artifact, packets: list[Packet]) -> Iterator[Item]:
    """Results as they come. Packets of a worker that died (killed, out of memory, a crash in a library) run again.

    Those that it had finished before, of the block it died in, do not: their seconds are lost with it.

    Rows are opened a wave at a time: those of a million packets would not fit into the driver.

    Raises:
        JobStopped: packets keep killing their workers.
    """
    import ray.data

    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":  # Ray's own; its file in its session stays, and whatever others have put there
            handler.setLevel(logging.CRITICAL)
    pending = {packet.id: packet for packet in packets}
    attempts_left = 2
    while pending:
        num_pending = len(pending)
        try:
            for result in _ray_dataset(job, _wave(job, pending.values())).iter_rows():
                if result["fault"]:
                    raise _restore_error(result["fault"])
                del pending[result["packet"]]
                yield result
        except ray.exceptions.RayActorError as error:
            left = {packet.id: packet for packet in artifact.remaining(list(pending.values()))}
            yield from ({"packet": name, "seconds": "{}"} for name in pending if name not in left)
            pending = left
            attempts_left = 2 if len(pending) < num_pending else attempts_left - 1
            if attempts_left == 0:
                ids = [name for packet in pending.values() for name in packet.ids]
                raise JobStopped(
                    f"{job.name} stopped: workers die (killed, out of memory, or a crash in a library) on one of these "
                    f"{len(ids)}, first {ids[0]}.\nFinished packets are kept; --in-process shows which one it is."
                ) from error


def _wave(job: Job, packets: Iterable[Packet]) -> list[Item]:
    """The first packets, with as many rows as the driver may hold; one packet at least."""
    items: list[Item] = []
    num_bytes = 0
    for packet in packets:
        items.append(item_of(job, packet))
        num_bytes += len(items[-1]["rows"])
        if num_bytes >= WAVE_BYTES:
            break
    return items


def _ray_dataset(job: Job, items: list[Item]) -> Any:
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    warnings.filterwarnings("ignore", category=RayDeprecationWarning, message="`ray_remote_args`")
    # Stages that need the same share of a machine run fused, in one worker: rows that stay do not travel.
    groups = [list(group) for _, group in groupby(job.stages, key=lambda stage: (stage.num_cpus, stage.num_gpus))]
    most_workers = [_most_workers(group[0], len(items)) for group in groups]
    num_blocks = min(len(items), BLOCKS_A_WORKER * max(most_workers))
    dataset: Any = ray.data.from_items(items, override_num_blocks=num_blocks)
    for index, group in enumerate(groups):
        dataset = dataset.map(
            RayPacketWorker,
            fn_constructor_args=(group, job.config, job.schema, job.write_packet if index == len(groups) - 1 else None),
            num_cpus=group[0].num_cpus,
            num_gpus=group[0].num_gpus,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=most_workers[index],
                # All at once, not one after another as work piles up; but of two groups, one would take all room.
                initial_size=most_workers[index] if len(groups) == 1 else 1,
            ),
            # Ray would start a fallen actor again without end, and cannot always (its arguments may be lost with it).
            # The argument has no other name before Ray 2.64; until then Ray warns.
            max_restarts=0,
        )
    return dataset


def _most_workers(stage: Stage, num_packets: int) -> int:
    """So many workers of a stage as the cluster has room for, and no more than packets."""
    import ray

    kind, share = ("GPU", stage.num_gpus) if stage.num_gpus else ("CPU", max(stage.num_cpus, 1e-3))
    fits = ray.cluster_resources().get(kind, 0) / share
    return max(1, min(num_packets, int(fits)))
