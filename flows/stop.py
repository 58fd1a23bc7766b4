"""The flow `stop-cancelled`: stop the Ray job of a cancelled flow run in place of a process that no longer exists."""

import time
from uuid import UUID

from prefect import flow, get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled

from ..pipelines.runtime.job_server import JobUnknown
from ..pipelines.runtime.submit import stop_job
from .run_state import CLUSTER, JOB

_ITS_OWN_S = 20.0  # for the run's own process, if it is alive, to end as it likes


@flow(name="stop-cancelled")
def stop_cancelled(flow_run_id: str) -> str:
    """Stop the job that a flow run follows, and end the run as *Cancelled* if it waits for that.

    The trigger in `prefect.yaml` starts it for every flow run of a cluster deployment that is cancelled. Start it by
    hand for a run that has *Crashed* and whose job is not to continue.

    Args:
        flow_run_id: the run's id, or the event's `prefect.flow-run.ID`.

    Returns:
        What was done, in a sentence.
    """
    run_id = UUID(flow_run_id.removeprefix("prefect.flow-run."))
    with get_client(sync_client=True) as client:
        labels = client.read_flow_run(run_id).labels
        if JOB not in labels:
            return f"flow run {run_id} follows no job"
        cluster, job = str(labels[CLUSTER]), str(labels[JOB])
        try:
            stopped = stop_job(cluster, job, get_run_logger().info)
            done = f"job {job} was told to stop" if stopped else f"job {job} had ended"
        except JobUnknown as unknown:
            done = str(unknown)
        get_run_logger().info(done)
        _end_cancelled(client, run_id, done)
    return done


def _end_cancelled(client: SyncPrefectClient, run_id: UUID, message: str) -> None:
    deadline = time.monotonic() + _ITS_OWN_S
    while (state := client.read_flow_run(run_id).state) is not None and state.type == StateType.CANCELLING:
        if time.monotonic() > deadline:
            client.set_flow_run_state(run_id, Cancelled(message=message))
            return
        time.sleep(2)
