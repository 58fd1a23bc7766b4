"""Pools of workers on Ray: which stages share workers, how many workers a pool has, and what each of them takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor

from .nodes import Workers
from .stage import Stage

GPUS_A_HELPER = 8  # a worker that needs a share of a GPU keeps up with so many GPUs of the bottleneck
_EPSILON = 1e-6


@dataclass(frozen=True)
class Pool:
    """Workers of the same kind: the stages they run, the resources of each, and how many there are."""

    stages: list[Stage]
    num_cpus: float
    num_gpus: float
    least: int
    most: int
    first: int


def make_pools(stages: list[Stage], num_packets: int, cluster: Mapping[str, float]) -> list[Pool]:
    """Divide stages into pools for a cluster with these resources ("CPU", "GPU").

    Without named pools, stages with the same resources are fused into one worker, so that rows are not sent between
    workers. Named pools run side by side, so all of them fit at once: on a machine with fewer CPUs than pools, each
    worker takes a share of one. A pool has the `num_workers` of its first stage, if that states them; otherwise the
    bottleneck has what fits beside the others.
    """
    groups = [list(group) for _, group in groupby(stages, lambda one: (one.pool, one.num_cpus, one.num_gpus))]
    if not has_pools(stages):
        fitting = [_fitting(group[0], num_packets, cluster) for group in groups]
        # Start all workers at once instead of as work piles up; with two groups, one would take all resources.
        return [
            Pool(group, group[0].num_cpus, group[0].num_gpus, 1, most, most if len(groups) == 1 else 1)
            for group, most in zip(groups, fitting, strict=True)
        ]
    cpus, gpus = cluster.get("CPU", 1.0), cluster.get("GPU", 0.0)
    bottleneck = max(groups, key=lambda group: any(one.is_bottleneck for one in group))
    helpers = [(group[0], _helpers(group[0], gpus)) for group in groups if group is not bottleneck]
    taken = sum(one.num_cpus * count for one, count in helpers)
    scale = min(1.0, cpus / (taken + bottleneck[0].num_cpus))
    workers = bottleneck[0].num_workers or _bottleneck_workers(bottleneck[0], helpers, cpus, gpus)
    spare = cpus - taken - workers * bottleneck[0].num_cpus
    sizes = []
    for group in groups:
        if group is bottleneck:
            size = workers
        else:
            size = _helpers(group[0], gpus)
            if bottleneck[0].num_gpus and not group[0].num_gpus and group[0].num_workers is None:
                size += max(0, min(workers - 1, floor(spare)))
        sizes.append(max(1, min(size, num_packets)))
    return [
        Pool(group, group[0].num_cpus * scale, group[0].num_gpus, size, size, size)
        for group, size in zip(groups, sizes, strict=True)
    ]


def has_pools(stages: list[Stage]) -> bool:
    """Return whether stages name their pools."""
    return any(stage.pool for stage in stages)


def needed_gpus(stages: list[Stage], in_process: bool = False) -> float:
    """Return the GPUs that a job needs at least: those of all pools if they run side by side.

    A pool has one worker, or the `num_workers` that its first stage states; in one process, one.
    """
    if not has_pools(stages):
        return max(stage.num_gpus for stage in stages)
    first = {(stage.pool, stage.num_gpus): stage for stage in reversed(stages)}
    return round(sum(stage.num_gpus * (1 if in_process else stage.num_workers or 1) for stage in first.values()), 4)


def needed_workers(stages: list[Stage]) -> list[Workers]:
    """Return the fewest workers that can run the stages: one of each pool or group.

    Named pools share CPUs, so they need no whole one (see `make_pools`).
    """
    kinds = {(stage.pool, stage.num_cpus, stage.num_gpus): stage for stage in stages}
    return [Workers(1, 0.0 if has_pools(stages) else one.num_cpus, one.num_gpus) for one in kinds.values()]


def _helpers(stage: Stage, gpus: float) -> int:
    """Return the workers of a pool that is not the bottleneck."""
    return stage.num_workers or (max(1, ceil(gpus / GPUS_A_HELPER)) if stage.num_gpus else 1)


def _bottleneck_workers(stage: Stage, helpers: list[tuple[Stage, int]], cpus: float, gpus: float) -> int:
    taken = sum(one.num_cpus * count for one, count in helpers)
    by_cpu = floor((cpus - taken) / max(stage.num_cpus, _EPSILON) + _EPSILON)
    if not stage.num_gpus:
        return max(1, by_cpu)
    if stage.num_gpus >= 1:
        by_gpu = floor(gpus / stage.num_gpus + _EPSILON)
    else:  # beside its share of each other pool on every GPU, wherever Ray puts them
        of_helpers = sum(one.num_gpus * ceil(count / max(gpus, 1)) for one, count in helpers)
        by_gpu = floor(gpus) * floor((1 - of_helpers) / stage.num_gpus + _EPSILON)
    return max(1, min(by_cpu, by_gpu))


def _fitting(stage: Stage, num_packets: int, cluster: Mapping[str, float]) -> int:
    """Return how many workers of a stage fit on the cluster, at most one per packet."""
    kind, share = ("GPU", stage.num_gpus) if stage.num_gpus else ("CPU", max(stage.num_cpus, 1e-3))
    return max(1, min(num_packets, int(cluster.get(kind, 0) / share)))
