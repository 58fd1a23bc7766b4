"""Curation on a store, training by two workers and rendering at once, while everything around them fails at random.

The same orders, left alone, say what must come out: the same rows, weights and videos. `FAULTS_SEED` draws the order of
the faults and their moments.
"""

import os
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.shards import ShardDataset
from steadydancer.datasets.storage import location

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

SEED = int(os.environ.get("FAULTS_SEED", "0"))
PAUSE_S = (3.0, 12.0)  # between two faults
ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
FAULTS = (
    "kill_a_job", "kill_a_ray_worker", "stop_the_store", "cancel_a_run", "kill_a_flow", "cut_the_connection",
    "kill_the_worker", "kill_the_server", "lose_the_worker_machine", "lose_a_node",
    "kill_a_ray_worker", "cancel_a_run",
)  # fmt: skip


def test_the_same_comes_out_whatever_fails(
    operator_of: Callable[..., Any], faults_around: Callable[..., Any], orders: Callable[[str], Any], trial: Any
) -> None:
    began = time.monotonic()
    alone = operator_of(orders("alone"))
    assert alone.watch(900) and not alone.told, alone.told
    print(f"left alone: {time.monotonic() - began:.0f} s", flush=True)

    began, draw = time.monotonic(), random.Random(SEED)
    operator = operator_of(orders("disturbed"))
    faults = faults_around(operator, draw)
    for name in (*draw.sample(FAULTS, len(FAULTS)), "delete_an_artifact"):
        operator.watch(draw.uniform(*PAUSE_S))
        print(f"{time.monotonic() - began:4.0f} s: {getattr(faults, name)()}", flush=True)
    assert operator.watch(1200), operator.told
    print(f"disturbed: {time.monotonic() - began:.0f} s", flush=True)

    assert results(alone.orders) == results(operator.orders)
    assert_told(operator)
    assert_no_orphans(trial)


def test_a_store_that_denies_a_write_is_told(store: Any, orders: Callable[[str], Any], trial: Any) -> None:
    deployment, given = next(iter(orders("denied").items()))
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    trial.start_worker(**env | {"AWS_ACCESS_KEY_ID": store.reader})
    run = trial.server.run(deployment, cluster=trial.cluster.address, **given)
    ended = trial.wait(lambda: trial.server.ended(run), 200)
    message = ended["state"]["message"]
    assert ended["state_name"] == "Failed" and ended["total_run_time"] < 60 and len(message) <= 500
    assert re.search(rf"s3://lab/denied.*{store.endpoint} denies access .*check AWS_ACC", message.splitlines()[0]), (
        message
    )


def results(orders: dict[str, Any]) -> dict[str, Any]:
    """Return what faults must not change: rows, samples, weights, videos and scores."""
    curation, training, rendering = (location(given["out"]) for given in orders.values())
    samples = ShardDataset(curation / "latents")
    weights = {n: load_file(training / f"stage{n}/checkpoint/transformer/diffusion_pytorch_model.safetensors")
               for n in (1, 2, 3)}  # fmt: skip
    return {
        "clips": rows(curation / "clips"),
        "latents": {key: {name: plain(part) for name, part in samples.read(key).items()} for key in samples.keys},
        "weights": {(n, name): digest(tensor) for n, part in weights.items() for name, tensor in part.items()},
        "steps": [len((training / f"stage{n}/metrics.jsonl").read_text().splitlines()) for n in (1, 2, 3)],
        "renders": {file.name: file.read_bytes() for file in sorted((rendering / "renders").glob("*.mp4"))},
        "metrics": rows(rendering / "metrics"),
    }  # fmt: skip


def rows(folder: Any) -> list[dict[str, Any]]:
    """The rows of an artifact, without the seconds that they took and the folder that they are in."""
    found = [
        {
            name: value
            for name, value in row.items()
            if not name.endswith("seconds") and str(folder.parent) not in str(value)
        }
        for row in Artifact(folder).read().to_pylist()
    ]
    return sorted(found, key=repr)


def plain(part: Any) -> Any:
    return bytes(part) if isinstance(part, memoryview) else part


def digest(tensor: torch.Tensor) -> int:
    return hash(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def assert_told(operator: Any) -> None:
    """Every end before its time has its reason first, in few words, and no log has a traceback or a preset."""
    for deployment, state, message in operator.told:
        assert message and len(message) <= 500 and "Traceback" not in message, (deployment, state, message)
    for deployment, runs in operator.runs.items():
        for run in runs:
            said = "\n".join(operator.trial.said_of(run))
            assert "Traceback" not in said and '"curate"' not in said, (deployment, said)


def assert_no_orphans(trial: Any) -> None:
    """No job runs any more, and no two of them ever made the same artifact at the same time."""
    trial.wait(lambda: {job["status"] for job in trial.cluster.jobs().values()} <= ENDED, 120)
    by_artifact = defaultdict(list)
    for job in trial.cluster.jobs().values():
        by_artifact[job["metadata"]["steadydancer.artifact"]].append((job["start_time"], job["end_time"]))
    for artifact, spans in by_artifact.items():
        for (_, end), (start, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
            assert end <= start, (artifact, spans)
