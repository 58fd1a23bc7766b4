"""Packets on Ray Data: blocks of packets, workers as actors, and retries when a worker dies."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from ...datasets.artifact import Packet
from .packets import Item, Job, Parts, item_of
from .pools import has_pools, make_pools
from .ray_actors import RayPacketWorker, raise_fault, workers_die

# Size of the rows in Ray at one time: 10,000 packets of sources. Workers restart for the next wave, which costs about a
# minute every few hours.
WAVE_BYTES = 256 << 20
# Ray Data has a fixed cost per block: put several packets into one, but keep enough blocks that no worker idles at the
# end.
BLOCKS_A_WORKER = 16


def ray_results(job: Job, artifact: Parts, packets: list[Packet]) -> Iterator[Item]:
    """Yield results as they arrive. Packets of a worker that died (killed, out of memory, library crash) run again.

    Packets of the same block that it had finished do not run again; only their timings are lost.

    Rows are opened one wave at a time: those of a million packets would not fit into the driver's memory.

    Raises:
        JobStopped: packets keep killing their workers.
    """
    import ray.data

    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":  # Ray's own; its log file and handlers of other code stay as they are
            handler.setLevel(logging.CRITICAL)
    pending = {packet.id: packet for packet in packets}
    attempts_left = 2
    while pending:
        num_pending = len(pending)
        try:
            for result in _ray_dataset(job, _wave(job, pending.values())).iter_rows():
                raise_fault(result)
                del pending[result["packet"]]
                yield result
        except ray.exceptions.RayActorError as error:
            left = {packet.id: packet for packet in artifact.remaining(list(pending.values()))}
            yield from ({"packet": name, "seconds": "{}"} for name in pending if name not in left)
            pending = left
            attempts_left = 2 if len(pending) < num_pending else attempts_left - 1
            if attempts_left == 0:
                raise workers_die(job, list(pending.values())) from error


def _wave(job: Job, packets: Iterable[Packet]) -> list[Item]:
    """Return the first packets, up to the bytes of rows that the driver may hold; at least one packet."""
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
    pools = make_pools(job.stages, len(items), ray.cluster_resources())
    # Pools hand on blocks: with one packet each, a pool waits for no more than a packet.
    blocks = len(items) if has_pools(job.stages) else BLOCKS_A_WORKER * max(pool.most for pool in pools)
    dataset: Any = ray.data.from_items(items, override_num_blocks=min(len(items), blocks))
    for index, pool in enumerate(pools):
        is_last = index == len(pools) - 1
        dataset = dataset.map(
            RayPacketWorker,
            fn_constructor_args=(pool.stages, job.config, job.schema, job.write_packet if is_last else None),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            compute=ray.data.ActorPoolStrategy(min_size=pool.least, max_size=pool.most, initial_size=pool.first),
            # Ray would restart a dead actor without limit, and sometimes cannot (its arguments may be lost with it).
            # Before Ray 2.64 the argument has no other name, so Ray warns.
            max_restarts=0,
        )
    return dataset
