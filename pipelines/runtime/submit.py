"""Jobs on a cluster: submit commands to its job server and follow them to the end.

A job is known by what it makes: its submission id is derived from the artifact. Whoever asks for the same artifact
follows the job that is making it, so a job outlives the process, the machine and the connection that watched it.
"""

import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from ... import SteadyDancerError, TemporaryError
from .job_follow import follow
from .job_log import JobLog
from .job_order import ARGUMENTS, RUN
from .job_order import Order as Order
from .job_server import CONNECT_S, FOLLOW_S, JobServer, JobServerError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_INTERRUPT_S = 15.0  # Prefect kills a process 30 s after the signal


class JobFailed(SteadyDancerError):
    """A job failed or was stopped; the message begins with the reason.

    Attributes:
        is_temporary: whether the same command may go on: it was killed, lost a worker or its node, or said so.
    """

    def __init__(self, message: str, is_temporary: bool = False) -> None:
        """Set message and kind."""
        super().__init__(message)
        self.is_temporary = is_temporary


class JobCancelled(SteadyDancerError):
    """The run was cancelled, and its job was told to stop."""


def submit_job(address: str, order: Order, on_log: Callable[[str], None]) -> bool:
    """Run `steadydancer ARGUMENTS` on a cluster, forward its log, and return when its artifact is finished.

    Returns False if it was finished before.

    Follow the job that already makes the artifact, if there is one; otherwise submit it. The job is stopped only if the
    run was cancelled: an interrupt, an error here or a lost connection leave it running, and the next call follows it.

    Raises:
        JobServerError: the job server cannot be reached, or refuses.
        JobFailed: the job failed or was stopped, or another job with other settings is making the artifact.
        JobCancelled: the run was cancelled; the job was told to stop.
    """
    server = JobServer(address, on_log)
    try:
        job, submission_id, log = _run(server, order, on_log)
    except Exception:
        raise  # the connection failed, not the job
    except BaseException:  # a signal, or the end of this process
        if order.is_cancelled():
            _stop(server, order, _INTERRUPT_S, on_log)
        raise
    if job is not None and job.status != "SUCCEEDED":
        raise _failure(job, submission_id, address, log)
    return job is not None


def _run(server: JobServer, order: Order, on_log: Callable[[str], None]) -> tuple["JobDetails | None", str, JobLog]:
    """Return the job that made the artifact, or failed to, its id and its log; None if there was nothing to do."""
    for is_last in (False, True):
        submission_id, is_attached = _attach_or_submit(server, order)
        log = JobLog()
        if submission_id is None:
            on_log(f"{order.artifact} is finished")
            return None, "", log
        order.on_job(submission_id)
        how = "following" if is_attached else "submitted"
        on_log(f"{how} {submission_id} on {server.address}: steadydancer {shlex.join(order.arguments)}")
        job = follow(server, submission_id, order, log, on_log)
        if job is None:
            _stop(server, order, FOLLOW_S, on_log)
            raise JobCancelled(f"the run was cancelled, and job {submission_id} told to stop")
        # The cancellation of another run may have stopped a job that this one only followed.
        if job.status != "STOPPED" or not is_attached or is_last:
            break
        on_log(f"{submission_id} was stopped by others; submitting another attempt")
    return job, submission_id or "", log


def stop_job(address: str, submission_id: str, on_log: Callable[[str], None]) -> bool:
    """Tell a job to stop; return False if it has already ended.

    Raises:
        JobServerError: the job server cannot be reached, or refuses.
        JobUnknown: it does not know the job.
    """
    server = JobServer(address, on_log)
    if server.ask(lambda client: client.get_job_info(submission_id), CONNECT_S).status.is_terminal():
        return False
    return bool(server.ask(lambda client: client.stop_job(submission_id), CONNECT_S))


def _attach_or_submit(server: JobServer, order: Order) -> tuple[str | None, bool]:
    """Return the id of the job to follow, and whether it was there before; None if there is nothing to do."""
    listed = server.ask(lambda client: client.list_jobs(), CONNECT_S)
    attempts = {number: job for job in listed if (number := order.attempt(job.submission_id))}
    last = attempts[max(attempts)] if attempts else None
    if last is not None and not last.status.is_terminal():
        return _checked(last, order), True
    if last is not None and last.status == "SUCCEEDED" and last.metadata == order.metadata and order.is_finished():
        return None, True
    attempt = max(attempts, default=0) + 1
    submission_id = order.submission_id(attempt)

    def submit(client: "JobSubmissionClient") -> bool:
        try:
            client.submit_job(
                entrypoint=shlex.join(["steadydancer", *order.arguments]),
                submission_id=submission_id,
                metadata=order.metadata,
                runtime_env={"env_vars": order.variables()},
            )
        except (RuntimeError, OSError):
            # Submitted by somebody else at the same moment, or by this call, of which only the answer was lost.
            found = next((job for job in client.list_jobs() if job.submission_id == submission_id), None)
            if found is None:
                raise
            _checked(found, order)
            return bool((found.metadata or {}).get(RUN) != order.run)
        return False

    return submission_id, server.ask(submit, CONNECT_S)


def _checked(job: "JobDetails", order: Order) -> str:
    """Return the id of a job that may be followed.

    Raises:
        JobFailed: it makes the artifact with other settings.
    """
    if (job.metadata or {}).get(ARGUMENTS) != order.metadata[ARGUMENTS]:
        raise JobFailed(
            f"{order.artifact} is being made by job {job.submission_id} with other settings or inputs: wait for it, "
            "cancel its run, or choose another out"
        )
    return str(job.submission_id)


def _stop(server: JobServer, order: Order, patience_s: float, on_log: Callable[[str], None]) -> None:
    """Tell the job that makes the artifact to stop, also if it was submitted a moment ago."""

    def stop(client: "JobSubmissionClient") -> list[str]:
        listed = [job for job in client.list_jobs() if order.attempt(job.submission_id)]
        running = [str(job.submission_id) for job in listed if not job.status.is_terminal()]
        for submission_id in running:
            client.stop_job(submission_id)
        return running

    try:
        for submission_id in server.ask(stop, patience_s):
            on_log(f"stopping {submission_id}, which has {order.stop_grace_s} s to save its work")
    except JobServerError as error:
        on_log(f"the job could not be stopped: `ray job stop {order.name}` ({error})")
        raise


def _failure(job: "JobDetails", submission_id: str, address: str, log: JobLog) -> JobFailed:
    """Return the error of a job that did not succeed: the reason first, then which job it was."""
    message = " ".join((job.message or "").split(", last available logs")[0].split())
    found = re.search(r"exit code (-?\d+)", message)
    code = int(found[1]) if found else 0
    killed_by = -code if code < 0 else code - 128 if code > 128 else 0
    if job.status == "STOPPED":
        reason = "the job was stopped by others: retry to go on"
    elif code == 127:
        reason = "the cluster's head has no command `steadydancer`: install this project on every node"
    elif killed_by:
        reason = f"the command was killed (signal {killed_by}), perhaps for lack of memory: retry to go on"
    else:
        reason = log.reason() or message[:300]
    is_lost = (job.error_type or "").startswith("JOB_SUPERVISOR")  # with the node that ran the command
    passes = is_lost or killed_by > 0 or code == TemporaryError.exit_status
    return JobFailed(f"{reason}\n({submission_id} {job.status.value} on {address})", passes)
