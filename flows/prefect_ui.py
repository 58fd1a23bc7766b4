"""What a flow leaves behind: artifacts and readable failures for people, one event for the next deployment."""

import logging
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect import get_client, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventIDFilter

from .. import SteadyDancerError
from ..datasets.artifact import RECORD, Artifact
from ..datasets.storage import Location
from ..datasets.storage.digests import content_digest
from ..pipelines.common.outcomes import count_reasons, in_words
from ..pipelines.runtime.after_commit import after_commit

COMMITTED = "steadydancer.artifact.committed"
TIMEOUT_S = 120.0


class _WithoutTraceback(logging.Filter):
    """Tell an error that a person can mend by its message alone; Prefect logs a page for it, at each level."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record; drop the traceback of some."""
        if record.exc_info and isinstance(record.exc_info[1], SteadyDancerError | ConnectionError):
            record.exc_info = None
        return True


for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(name).addFilter(_WithoutTraceback())


def absolute(path: str) -> str:
    """A local path, seen from the folder that the worker was started in; an address as it is."""
    return path if "://" in path else str(Path.cwd() / path)


def absolute_if_exists(name: str) -> str:
    """A path if there is something at it, else the name (a hub id) as it is."""
    return absolute(name) if Path(name).exists() else name


def absolute_preset(preset: str) -> str:
    """The path of a preset's file; other presets (a name, `module:function`, JSON) as they are."""
    return absolute(preset) if preset.lower().endswith(".json") else preset


def warn_if_not_shown(key: str) -> AbstractContextManager[None]:
    """For what shows an artifact of a finished job in the UI: its failure is a warning, and no failure of the flow."""
    return after_commit(f"the table or page `{key}` of the UI", "another run of the flow shows it again")


def publish(key: str, title: str, rows: list[dict[str, Any]]) -> None:
    """Show a table in the UI, under a key that later runs add versions to."""
    with warn_if_not_shown(key):
        create_table_artifact(key=key, table=rows, description=title)


def counts_table(folder: Location, records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an artifact of `folder`: its verdicts, all reasons of what is not ok, and the seconds it took."""
    return [
        {
            "artifact": name,
            **record["counts"],
            "reasons": "; ".join(
                f"{verdict}: {in_words(found)}"
                for verdict, found in count_reasons(Artifact(folder / name)).items()
                if found
            ),
            "seconds": round(record["seconds"]["total"], 1),
        }
        for name, record in records.items()
    ]


def announce(kind: str, artifact: Location, cluster: str | None, payload: dict[str, Any]) -> None:
    """Start the next deployment on a finished artifact, once: by an event that its trigger waits for.

    The event's id is a function of the artifact's record, and an event that the server already has is not sent again:
    a flow that is retried, or run again on what is finished, starts nothing twice. An artifact that was deleted and
    made anew has another record and starts the next deployment again.

    Args:
        kind: of the artifact, `latents` or `checkpoint`; the trigger matches it.
        artifact: its folder.
        cluster: where the flow ran; a local flow starts the local deployment.
        payload: parameters of the next flow: strings, booleans, None; paths become strings.

    Raises:
        SteadyDancerError: the server did not take the event.
    """
    where = "local" if cluster is None else "cluster"
    event_id = uuid5(NAMESPACE_URL, f"{kind}/{where}/{artifact}/{content_digest(artifact / RECORD)}")
    if _is_known(event_id):
        get_run_logger().info(f"{artifact} was handed over before (event {event_id}): nothing is started again")
        return
    emit_event(
        COMMITTED,
        resource={
            "prefect.resource.id": f"steadydancer.{kind}.{artifact}",
            "steadydancer.kind": kind,
            "steadydancer.where": where,
        },
        payload={
            name: value if isinstance(value, str | bool | None) else str(value) for name, value in payload.items()
        },
        id=event_id,
    )
    # Sending happens in the background and may fail in silence; the flow is finished when the server has the event.
    deadline = time.monotonic() + TIMEOUT_S
    while not _is_known(event_id):
        if time.monotonic() > deadline:
            raise SteadyDancerError(
                f"{artifact} is finished, but within {TIMEOUT_S:.0f} s the Prefect server did not take the event that "
                "starts the next deployment: retry this flow run, or start that deployment by hand"
            )
        time.sleep(1)
    get_run_logger().info(f"{artifact} was handed over (event {event_id})")


def _is_known(event_id: UUID) -> bool:
    with get_client(sync_client=True) as client:
        return bool(client.read_events(EventFilter(id=EventIDFilter(id=[event_id])), limit=1).events)
