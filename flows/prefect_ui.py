"""Prefect integration of the flows: UI artifacts, short error logs, and the event that starts the next deployment."""

import logging
import os
import re
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect import get_client, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventIDFilter
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run

from .. import SteadyDancerError
from ..datasets.artifact import RECORD, Artifact
from ..datasets.storage import Location, is_address, location
from ..datasets.storage.digests import content_digest
from ..datasets.storage.files import relative_path
from ..pipelines.common.outcomes import count_reasons, format_reasons
from ..pipelines.runtime.after_commit import after_commit
from .named_paths import split_name

COMMITTED = "steadydancer.artifact.committed"
PAGES = "STEADYDANCER_PAGES"
TIMEOUT_S = 120.0


# Prefect's watchers of a run's state; `RunState` asks for itself.
_OBSERVERS = ("prefect.FlowRunCancellingObserver", "prefect.FlowRunSuspendingObserver")


class _WithoutTraceback(logging.Filter):
    """Log errors that the user can fix without traceback; Prefect logs a long one at each level."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop tracebacks of errors that the user can fix and of outages of the server, and errors by cancellation."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SteadyDancerError | ConnectionError) or record.name in _OBSERVERS:
            record.exc_info = None
        return not isinstance(error, CancelledRun)  # the run's state says it; for Prefect's engine it is an error


for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine", *_OBSERVERS):
    logging.getLogger(name).addFilter(_WithoutTraceback())


def absolute(path: str) -> str:
    """Resolve a local path, with its `..`, against the worker's directory; return an address unchanged.

    Raises:
        SteadyDancerError: an address with credentials, before it is in a log or a job's command; or a path that is
            empty, has spaces around it, or begins with `~`, which no shell has expanded.
    """
    if path != path.strip() or not path or path.startswith("~"):
        raise SteadyDancerError(
            f"{path!r} is not a path: give an absolute one, an address, or one relative to the worker's folder; spaces "
            "around it are not removed, and ~ is not expanded"
        )
    if is_address(path):
        return str(location(path))
    # A job is known by its path: with two spellings of one, it would be submitted twice. Links stay, as other machines
    # may mount the same folder elsewhere.
    place = Path("/")
    for part in (Path.cwd() / path).parts[1:]:
        place = (place.resolve() if place.is_symlink() else place).parent if part == ".." else place / part
    return str(place)


def absolute_if_exists(name: str) -> str:
    """Resolve a path that exists, and an address; return another name (a hub id) unchanged."""
    return absolute(name) if is_address(name) or Path(name).exists() else name


def absolute_name(text: str) -> str:
    """Resolve the folder in `NAME=FOLDER`, or a folder that exists; return a name unchanged."""
    name, folder = split_name(text)
    return absolute_if_exists(text) if name is None else f"{name}={absolute(folder)}"


def absolute_preset(preset: str) -> str:
    """Resolve the path of a preset file; return other presets (a name, `module:function`, JSON) unchanged."""
    is_json = preset.lstrip().startswith("{")
    is_file = not is_json and (preset.lower().endswith(".json") or is_address(preset))
    return absolute(preset) if is_file else preset


def artifact_key(name: str) -> str:
    """Return the key of a UI artifact of this run: `NAME-RUN`, by the run's name in the UI; `NAME` outside a run."""
    run = re.sub(r"[^a-z0-9]+", "-", (flow_run.name or "").lower()).strip("-")
    return f"{name}-{run}" if run else name


def page_link(page: Location) -> str | None:
    """Return the address at which a page is served; None if it is not.

    `STEADYDANCER_PAGES=FOLDER=URL` names a folder that is served; browsers follow no `file://` link from the UI.
    """
    folder, _, url = os.environ.get(PAGES, "").partition("=")
    name = relative_path(page, location(folder)) if folder and url else None
    return None if name is None or name.startswith("..") else f"{url.rstrip('/')}/{quote(name)}"


def publish_page(key: str, page: Location) -> None:
    """Publish a link to a page in the UI, if it is served."""
    if link := page_link(page):
        with warn_if_not_shown(key):
            create_link_artifact(key=artifact_key(key), link=link, link_text=str(page))


def publish_text(key: str, markdown: str, title: str) -> None:
    """Publish a text in the UI."""
    with warn_if_not_shown(key):
        create_markdown_artifact(key=artifact_key(key), markdown=markdown, description=title)


def warn_if_not_shown(key: str) -> AbstractContextManager[None]:
    """Turn a failure to publish a UI artifact of a finished job into a warning, so that the flow does not fail."""
    return after_commit(f"the UI artifact `{key}`", "run the flow again to publish it")


def publish(key: str, title: str, rows: list[dict[str, Any]]) -> None:
    """Publish a table in the UI."""
    with warn_if_not_shown(key):
        create_table_artifact(key=artifact_key(key), table=rows, description=title)


def counts_table(folder: Location, records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per artifact of `folder`: verdict counts, all reasons of rows that are not ok, and seconds."""
    return [
        {
            "artifact": name,
            **record["counts"],
            "reasons": "; ".join(
                f"{verdict}: {format_reasons(found)}"
                for verdict, found in count_reasons(Artifact(folder / name)).items()
                if found
            ),
            "seconds": round(record["seconds"]["total"], 1),
        }
        for name, record in records.items()
    ]


def emit_artifact_event(kind: str, artifact: Location, cluster: str | None, payload: dict[str, Any]) -> None:
    """Emit the event that starts the next deployment on a finished artifact, once.

    The event's id is derived from the artifact's record, and an event that the server already has is not sent again, so
    a flow that is retried or run again does not start the next deployment twice. An artifact that was deleted and
    rebuilt has another record, and starts the next deployment again.

    Args:
        kind: `latents` or `checkpoint`; the trigger matches it.
        artifact: folder of the artifact.
        cluster: where the flow ran; a local flow starts the local deployment.
        payload: parameters of the next flow: strings, booleans or None; paths are converted to strings.

    Raises:
        SteadyDancerError: the server did not accept the event.
    """
    where = "local" if cluster is None else "cluster"
    event_id = uuid5(NAMESPACE_URL, f"{kind}/{where}/{artifact}/{content_digest(artifact / RECORD)}")
    if _is_known(event_id):
        get_run_logger().info(
            f"event {event_id} for {artifact} was already sent; not starting the next deployment again"
        )
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
    # Prefect sends in the background and may fail silently, so wait until the server has the event.
    deadline = time.monotonic() + TIMEOUT_S
    while not _is_known(event_id):
        if time.monotonic() > deadline:
            raise SteadyDancerError(
                f"{artifact} is finished, but the Prefect server did not accept the event that starts the next "
                f"deployment within {TIMEOUT_S:.0f} s; retry this flow run, or start that deployment manually"
            )
        time.sleep(1)
    get_run_logger().info(f"sent event {event_id} for {artifact}")


def _is_known(event_id: UUID) -> bool:
    with get_client(sync_client=True) as client:
        return bool(client.read_events(EventFilter(id=EventIDFilter(id=[event_id])), limit=1).events)
