"""What a flow leaves behind for people (artifacts in the UI) and for the next deployment (one event)."""

import os
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect.artifacts import create_table_artifact
from prefect.events import emit_event
from prefect.runtime import flow_run

from .. import SteadyDancerError

COMMITTED = "steadydancer.artifact.committed"


def require_usable(record: dict[str, Any], folder: Path) -> None:
    """End the flow where a job finished with nothing that the next one can use."""
    if not record["counts"]["ok"]:
        raise SteadyDancerError(f"nothing came out usable: {folder} holds the reason of every one ({record['counts']})")


def publish(key: str, title: str, rows: list[dict[str, Any]]) -> None:
    """Show a table in the UI, under a key that later runs add versions to."""
    create_table_artifact(key=key, table=rows, description=title)


def counts_table(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an artifact: its verdicts and the seconds it took."""
    return [
        {"artifact": name, **record["counts"], "seconds": round(record["seconds"]["total"], 1)}
        for name, record in records.items()
    ]


def announce(kind: str, artifact: Path, cluster: str | None, payload: dict[str, Any]) -> None:
    """Emit the event that starts the next deployment: one for one artifact in one flow run, retried or not.

    Args:
        kind: of the artifact, `latents` or `checkpoint`; the trigger matches it.
        artifact: its folder.
        cluster: where the flow ran; a local flow starts the local deployment.
        payload: parameters of the next flow.
    """
    emit_event(
        COMMITTED,
        resource={
            "prefect.resource.id": f"steadydancer.{kind}.{artifact}",
            "steadydancer.kind": kind,
            "steadydancer.where": "local" if cluster is None else "cluster",
        },
        payload={name: None if value is None else str(value) for name, value in payload.items()},
        id=uuid5(NAMESPACE_URL, f"{flow_run.id}/{os.fspath(artifact)}"),
    )
