"""A small finished evaluation with known numbers, written without measuring anything."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.artifact import Artifact, Packet
from steadydancer.datasets.schema import Row, to_table
from steadydancer.pipelines.evaluate.catalogue import METRICS
from steadydancer.pipelines.evaluate.protocols import PROTOCOLS
from steadydancer.pipelines.evaluate.steps import SCHEMA
from steadydancer.pipelines.evaluate.summary import comparisons, means, missing, summarise, summarise_kinds
from steadydancer.pipelines.evaluate.values import Table


def _row(method: str, name: str, metric: str | None, value: float | None = None, **more: Any) -> Row:
    """A row of the table of metrics; every two pairs share a driving video."""
    number = int("".join(sign for sign in name if sign.isdigit()) or 0)
    paths = {"video": f"/{method}/{name}.mp4", "image": f"/images/{name}.png", "driving": f"/driving/{number // 2}.mp4"}
    verdict = {"protocol": "all", "verdict": "ok", "reason": None, "detail": None}
    return {
        "id": name,
        "method": method,
        "metric": metric,
        "value": value,
        "num_frames": 81,
        **paths,
        **verdict,
        **more,
    }


def _of_set(method: str, metric: str, value: float | None, **more: Any) -> Row:
    """A row of a set metric."""
    return {"id": None, "method": method, "metric": metric, "value": value, "protocol": "all", "verdict": "ok", **more}


@pytest.fixture
def row() -> Callable[..., Row]:
    """Make a row of a video."""
    return _row


@pytest.fixture
def of_set() -> Callable[..., Row]:
    """Make a row of a set metric."""
    return _of_set


@pytest.fixture
def finish(tmp_path: Path) -> Callable[..., Path]:
    """Write the artifact of given rows as the job does, and return its --out."""

    def write(rows: Sequence[Row], out: Path = tmp_path / "out", **record: Any) -> Path:
        asked = {one["metric"] for one in rows}
        names = [name for name in METRICS if name in asked]
        table = Table(order=list(dict.fromkeys(one["method"] for one in rows)))
        table.add(rows, names)
        artifact, protocol = Artifact(out / "metrics"), PROTOCOLS["all"]
        artifact.begin({"made": "for a test"})
        artifact.write_part(Packet("rows", ()), to_table(rows, SCHEMA))
        methods = summarise(table, names, protocol)
        videos = len(table.videos)
        artifact.commit(
            {
                "counts": {"inputs": videos, "ok": videos, "rejected": 0, "quarantined": 0},
                "config": {"protocol": "all"},
                "protocol": protocol.model_dump(mode="json") | {"digest": protocol.digest},
                "metrics": names,
                "weights": {},
                "weights_missing": {},
                "means": means(table, methods),
                "missing": missing(table, names),
                "methods": methods,
                "missing_by_method": {name: missing(table, names, name) for name in table.methods()},
                "kinds": summarise_kinds(table, names, protocol),
                "comparisons": comparisons(table, names),
                "not_measurable": table.excluded,
                "truths": None,
                **record,
            }
        )
        return out

    return write
