"""How stages become pools of workers on a machine of a given size; see test_runner and render/test_on_ray for Ray."""

from dataclasses import replace
from typing import Any

import pytest

from steadydancer.pipelines.runtime.nodes import Workers
from steadydancer.pipelines.runtime.pools import make_pools, needed_gpus, needed_workers
from steadydancer.pipelines.runtime.stage import Stage


def stage(name: str, **more: Any) -> Stage:
    return Stage(name, lambda row, config, tools: row, ("id",), (), **more)


def stages(encode: float = 0, denoise: float = 0, write: float = 0) -> list[Stage]:
    return [
        stage("motion", pool="motion"),
        stage("encode", pool="encode", num_gpus=encode),
        stage("denoise", pool="denoise", num_gpus=denoise, is_bottleneck=True),
        stage("write", pool="write", num_gpus=write),
    ]


@pytest.mark.parametrize(
    ("shares", "cluster", "workers", "cpus"),
    [
        ((0, 0, 0), {"CPU": 2}, [1, 1, 1, 1], 0.5),
        ((0, 0, 0), {"CPU": 4}, [1, 1, 1, 1], 1),
        ((0, 0, 0), {"CPU": 16}, [1, 1, 13, 1], 1),
        ((0.1, 0.8, 0.1), {"CPU": 16, "GPU": 1}, [1, 1, 1, 1], 1),
        ((0.1, 0.8, 0.1), {"CPU": 2, "GPU": 1}, [1, 1, 1, 1], 0.5),
        ((0.1, 0.8, 0.1), {"CPU": 32, "GPU": 8}, [8, 1, 8, 1], 1),
        ((0.1, 0.8, 0.1), {"CPU": 14, "GPU": 8}, [4, 1, 8, 1], 1),
        ((0.1, 0.8, 0.1), {"CPU": 64, "GPU": 16}, [16, 2, 16, 2], 1),
        ((0.025, 0.2, 0.025), {"CPU": 16, "GPU": 1}, [4, 1, 4, 1], 1),
    ],
)
def test_pools_fit_at_once_and_the_bottleneck_has_the_rest(
    shares: tuple[float, float, float], cluster: dict[str, float], workers: list[int], cpus: float
) -> None:
    pools = make_pools(stages(*shares), 100, cluster)
    assert [pool.most for pool in pools] == [pool.least for pool in pools] == [pool.first for pool in pools] == workers
    assert {pool.num_cpus for pool in pools} == {cpus}
    assert sum(pool.num_cpus * pool.most for pool in pools) <= cluster["CPU"]
    assert sum(pool.num_gpus * pool.most for pool in pools) <= cluster.get("GPU", 0) + 1e-9


def test_a_pool_has_the_workers_that_its_stage_states() -> None:
    made = stages(0.1, 0.8, 0.1)
    made[1], made[0] = replace(made[1], num_workers=2), replace(made[0], num_workers=3)
    pools = make_pools(made, 100, {"CPU": 16, "GPU": 4})
    assert [pool.most for pool in pools] == [3, 2, 4, 1]
    assert needed_gpus(made) == 1.1 and needed_gpus(made, in_process=True) == 1.0
    on_cpu = [replace(stage, num_gpus=0.0) for stage in made]
    assert [pool.most for pool in make_pools(on_cpu, 100, {"CPU": 16})] == [3, 2, 10, 1]
    (shares,) = {pool.num_cpus for pool in make_pools(on_cpu, 100, {"CPU": 2})}
    assert shares == pytest.approx(2 / 7)  # all seven fit on two


def test_a_pool_has_no_more_workers_than_there_are_packets() -> None:
    assert [pool.most for pool in make_pools(stages(), 3, {"CPU": 16})] == [1, 1, 3, 1]


def test_stages_of_one_pool_share_workers() -> None:
    made = [stage("motion", pool="motion"), *(stage(name, pool="gpu", num_gpus=2.0) for name in "abc")]
    pools = make_pools(made, 10, {"CPU": 8, "GPU": 4})
    assert [[one.name for one in pool.stages] for pool in pools] == [["motion"], ["a", "b", "c"]]
    assert needed_gpus(made) == 2.0
    assert needed_gpus(stages(0.1, 0.8, 0.1)) == 1.0


def test_without_pools_stages_with_the_same_resources_share_workers() -> None:
    made = [stage("a"), stage("b"), stage("c", num_gpus=0.5), stage("d")]
    pools = make_pools(made, 10, {"CPU": 4, "GPU": 1})
    assert [(len(pool.stages), pool.least, pool.most, pool.first) for pool in pools] == [
        (2, 1, 4, 1), (1, 1, 2, 1), (1, 1, 4, 1),
    ]  # fmt: skip
    (only,) = make_pools(made[:2], 10, {"CPU": 4})
    assert (only.least, only.most, only.first) == (1, 4, 4)  # all at once
    assert needed_gpus(made) == 0.5


def test_the_fewest_workers_that_run_the_stages() -> None:
    plain = [stage("a", num_cpus=2.0), stage("b", num_gpus=0.25)]
    assert needed_workers(plain) == [Workers(1, 2.0, 0.0), Workers(1, 1.0, 0.25)]
    # Pools share the CPUs that there are.
    assert needed_workers(stages(denoise=0.8)) == [Workers(1, 0.0, gpus) for gpus in (0.0, 0.0, 0.8, 0.0)]
