"""Jobs on a cluster: submit commands to its job server and follow them to the end."""

import asyncio
import hashlib
import json
import logging
import shlex
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ... import SteadyDancerError
from .local_ray import ADDRESSES, environment

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient


class JobFailed(SteadyDancerError):
    """A submitted job failed or was stopped; the message has its id, its status and the last lines of its log."""


def submit_job(
    address: str,
    arguments: list[str],
    *,
    env: dict[str, str] | None = None,
    run_key: str = "",
    on_log: Callable[[str], None],
) -> None:
    """Run `steadydancer ARGUMENTS` on a cluster, forward its log line by line, and return when it has succeeded.

    `address` is the cluster's job server, `http(s)://HOST:8265`. The submission id is derived from `arguments` and
    `run_key`: repeating the call attaches to a pending or running job, returns at once if the job has succeeded, and
    starts another attempt if it has failed or was stopped. Give a `run_key` (a flow run's id) to run the same arguments
    again. `env` is set for the command and all its workers; everyone who can see the cluster's jobs can read it, so it
    must not contain secrets. An interrupt stops the job; a lost connection does not.

    Raises:
        SteadyDancerError: the address is not that of a job server.
        ConnectionError: the job server does not answer.
        JobFailed: the job failed or was stopped.
    """
    if not address.startswith(("http://", "https://")):
        raise SteadyDancerError(
            f"{address!r} is not the address of a Ray job server: use http(s)://HOST:PORT (usually :8265)"
        )
    with environment({}, removed=ADDRESSES):  # they would override `address`
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobStatus, JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        try:
            client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise SteadyDancerError(
                f"{address} requires a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN in the "
                "environment of this command, or of the worker that runs the flow"
            ) from error
    submission_id, status = _attach_or_submit(client, arguments, env or {}, run_key)
    if status == JobStatus.SUCCEEDED:
        on_log(f"{submission_id} has already succeeded and is not run again")
        return
    on_log(f"{submission_id} on {address}: steadydancer {shlex.join(arguments)}")
    try:
        job, last_lines = _follow(client, submission_id, on_log)
    except Exception:
        raise  # the connection failed, not the job: it keeps running, and the next call attaches to it
    except BaseException:
        client.stop_job(submission_id)
        raise
    if job.status != JobStatus.SUCCEEDED:
        # Ray's message repeats the log after this.
        message = (job.message or "").split(", last available logs")[0]
        raise JobFailed("\n".join([f"{submission_id} {job.status.value}: {message}", *last_lines]))


def _attach_or_submit(
    client: "JobSubmissionClient", arguments: list[str], env: dict[str, str], run_key: str
) -> tuple[str, Any]:
    """Return (submission id, status) of the active or succeeded job with these arguments, or of a new attempt."""
    from ray.job_submission import JobStatus

    base = "steadydancer-" + hashlib.sha256(json.dumps([run_key, arguments]).encode()).hexdigest()[:16]
    statuses = {job.submission_id: job.status for job in client.list_jobs()}
    submission_id, attempt = base, 1
    while statuses.get(submission_id) in (JobStatus.FAILED, JobStatus.STOPPED):
        attempt += 1
        submission_id = f"{base}-{attempt}"
    if submission_id in statuses:
        return submission_id, statuses[submission_id]
    try:
        client.submit_job(
            entrypoint=shlex.join(["steadydancer", *arguments]),
            submission_id=submission_id,
            # Every update of a progress bar is a line in the job's log.
            runtime_env={"env_vars": {"PYTHONSAFEPATH": "1", "TQDM_MININTERVAL": "30", **env}},
        )
    except RuntimeError:
        # The same job may have been submitted concurrently; anything else is a real error.
        if submission_id not in {job.submission_id for job in client.list_jobs()}:
            raise
    return submission_id, client.get_job_status(submission_id)


def _follow(
    client: "JobSubmissionClient", submission_id: str, on_log: Callable[[str], None]
) -> tuple["JobDetails", list[str]]:
    """Forward the log until the job ends; return the job and the last lines of its log."""
    last_lines: deque[str] = deque(maxlen=15)

    def take(line: str) -> None:
        last_lines.append(line)
        on_log(line)

    num_taken = 0
    while True:
        num_taken = asyncio.run(_tail(client, submission_id, num_taken, take))
        job = client.get_job_info(submission_id)
        if job.status.is_terminal():
            return job, list(last_lines)
        time.sleep(2)  # the connection was lost, not the job


async def _tail(client: "JobSubmissionClient", submission_id: str, num_taken: int, take: Callable[[str], None]) -> int:
    """Forward log lines after the first `num_taken` until the job or the connection ends; return the new count."""
    import aiohttp

    chunks = client.tail_job_logs(submission_id)
    rest, num_read = "", 0
    ended = False
    while not ended:
        try:
            *lines, rest = (rest + await anext(chunks)).split("\n")
        except StopAsyncIteration:  # the last line may lack a newline
            lines, ended = [rest] if rest else [], True
        except (RuntimeError, OSError, aiohttp.ClientError):
            break
        for line in lines:
            num_read += 1
            if num_read > num_taken:
                take(line)
    return max(num_taken, num_read)
