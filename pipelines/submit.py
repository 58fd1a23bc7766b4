"""Where a job runs: in a private Ray on this machine, in the cluster it stands in, or in one it is submitted to.

Nothing of the environment's Ray is joined unless an address asks for it, and a private Ray keeps its whole state
(sockets, logs, token) under the run's folder.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
import shlex
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import SteadyDancerError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

# ---------------------------------------------------------------------------------------------------------------------
# Ray on this machine
# ---------------------------------------------------------------------------------------------------------------------

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the commands draw their own
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would ship the working folder to its workers
    "PYTHONSAFEPATH": "1",  # from the repository's root, `datasets` must stay Hugging Face's
}
_PRIVATE = {
    **_QUIET,
    "RAY_raylet_start_wait_time_s": "180",  # a loaded machine needs more than the default 30 s
    "RAY_worker_niceness": "0",  # at Ray's default of 15, workers starve beside anything else
}
_ELSEWHERE = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_NAMESPACE", "RAY_AUTH_TOKEN")

# Linux limits a socket's path to 107 bytes; below its folder Ray adds `/session_<date>_<time>_<pid>/sockets/<name>`.
_LONGEST_STATE_PATH = 36

# Ray reads its token once a process, so that every private Ray of this process has to share one.
_token = secrets.token_hex(32)


@contextmanager
def local_ray(state_dir: Path, address: str | None = None) -> Iterator[None]:
    """Have Ray initialised inside the block.

    Without `address` a private Ray is started on this machine, whatever the environment says, with its state under
    `state_dir` (logs: `state_dir/logs`) and a token of its own, for Ray listens on every interface; it is gone after
    the block. With `address` ("auto" inside a submitted job, `HOST:PORT`, or `ray://HOST:PORT`)
    that cluster is joined and left again. A Ray that is already initialised in this process is used as it is.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment(_PRIVATE if address is None else _QUIET))
        import ray

        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {
            "namespace": "steadydancer",
            "job_config": _job_config(),
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        if address is None:
            state_dir.mkdir(parents=True, exist_ok=True)
            state_dir.chmod(0o700)  # Ray opens the folder it is given, and what lies in it, to everybody
            stack.enter_context(_private_token(state_dir))
            folder = stack.enter_context(short_path(state_dir / "sessions"))
            options |= {"address": "local", "include_dashboard": False, "_temp_dir": str(folder)}
        else:
            options["address"] = address
        ray.init(**options)
        if address is None:
            _link_logs(state_dir, ray.get_runtime_context().get_session_name())
        try:
            yield
        finally:
            ray.shutdown()


def _job_config() -> Any:
    """A job configuration that does not put the driver's working folder on the workers' import path.

    Ray puts it first, PYTHONSAFEPATH or not; only a job that claims a shipped working folder is spared.
    """
    from ray.job_config import JobConfig

    class SafePathJobConfig(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    # A submitted job brings its variables along, and Ray refuses the same variable twice.
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return SafePathJobConfig(runtime_env={} if submitted else {"env_vars": {"PYTHONSAFEPATH": "1"}})


@contextmanager
def _environment(variables: Mapping[str, str], removed: tuple[str, ...] = ()) -> Iterator[None]:
    """Set and remove variables of this process (and of those it starts) inside the block."""
    names = (*variables, *removed)
    before = {name: os.environ[name] for name in names if name in os.environ}
    for name in removed:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def _link_logs(state_dir: Path, session: str) -> None:
    """Let `state_dir/logs` be the newest session's logs; Ray's own link may lead through a path that is soon gone."""
    new = state_dir / f"logs-{os.getpid()}"
    new.unlink(missing_ok=True)
    new.symlink_to(Path("sessions") / session / "logs", target_is_directory=True)
    new.replace(state_dir / "logs")


@contextmanager
def _private_token(state_dir: Path) -> Iterator[None]:
    """Let Ray demand a token from everyone who connects, kept in a file that only this user can read."""
    path = state_dir.resolve() / f"token-{os.getpid()}"
    path.touch(mode=0o600)
    path.write_text(_token)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    try:
        with _environment(variables, removed=_ELSEWHERE):
            _reread_environment()
            yield
    finally:
        path.unlink()
        _reread_environment()


def _reread_environment() -> None:
    """Ray's core reads RAY_* variables when it is imported, which an earlier import may have done long ago."""
    from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def short_path(folder: Path) -> Iterator[Path]:
    """The folder, or where its path is too long for sockets, a link to it in the system's temporary folder."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    if len(os.fsencode(folder)) <= _LONGEST_STATE_PATH:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sd-") as private:
        link = Path(private) / "ray"
        link.symlink_to(folder, target_is_directory=True)
        yield link


# ---------------------------------------------------------------------------------------------------------------------
# A cluster, by job submission
# ---------------------------------------------------------------------------------------------------------------------


class JobFailed(SteadyDancerError):
    """A submitted job ended in failure or was stopped; the message holds its id, its state and its last lines."""


def submit_job(
    address: str,
    arguments: list[str],
    *,
    env: dict[str, str] | None = None,
    run_key: str = "",
    on_log: Callable[[str], None],
) -> None:
    """Run `steadydancer ARGUMENTS` on a cluster, pass its log on line by line, and return when it has succeeded.

    `address` is the cluster's job server, `http(s)://HOST:8265`. The submission id follows from `arguments` and
    `run_key`: the same call again attaches to the job while it waits or runs, returns at once when it has succeeded,
    and starts a further attempt when it had failed or been stopped. Give a `run_key` (a flow run's id) where
    a new run shall run again although the arguments are old. `env` is set for the command and all its workers; it is
    stored readable by everybody who may see the cluster's jobs, so no secrets. An interrupt stops the job; a lost
    connection does not.

    Raises:
        SteadyDancerError: the address is not that of a job server.
        ConnectionError: the job server does not answer.
        JobFailed: the job failed or was stopped.
    """
    if not address.startswith(("http://", "https://")):
        raise SteadyDancerError(
            f"{address!r} is not the address of a Ray job server: give http(s)://HOST:PORT (usually :8265)"
        )
    with _environment({}, removed=_ELSEWHERE[:2]):  # they would override the address that was asked for
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobStatus, JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        try:
            client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise SteadyDancerError(
                f"{address} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN where "
                "this command, or the worker that runs the flow, is started"
            ) from error
    submission_id, status = _attach_or_submit(client, arguments, env or {}, run_key)
    if status == JobStatus.SUCCEEDED:
        on_log(f"{submission_id} has already succeeded; not run again")
        return
    on_log(f"{submission_id} on {address}: steadydancer {shlex.join(arguments)}")
    try:
        job, last_lines = _follow(client, submission_id, on_log)
    except Exception:
        raise  # the connection's fault, not the job's: it goes on, and the next call attaches to it
    except BaseException:
        client.stop_job(submission_id)
        raise
    if job.status != JobStatus.SUCCEEDED:
        # Ray's message goes on to repeat the log.
        message = (job.message or "").split(", last available logs")[0]
        raise JobFailed("\n".join([f"{submission_id} {job.status.value}: {message}", *last_lines]))


def _attach_or_submit(
    client: "JobSubmissionClient", arguments: list[str], env: dict[str, str], run_key: str
) -> tuple[str, Any]:
    """The (submission id, status) of the living or succeeded job with these arguments, or of a new attempt."""
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
            # A progress bar's every move is a line of the job's log.
            runtime_env={"env_vars": {"PYTHONSAFEPATH": "1", "TQDM_MININTERVAL": "30", **env}},
        )
    except RuntimeError:
        # Somebody may have submitted the same job a moment ago; anything else is a true refusal.
        if submission_id not in {job.submission_id for job in client.list_jobs()}:
            raise
    return submission_id, client.get_job_status(submission_id)


def _follow(
    client: "JobSubmissionClient", submission_id: str, on_log: Callable[[str], None]
) -> tuple["JobDetails", list[str]]:
    """Pass the log on until the job ends; the job, and the last lines of its log."""
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
    """Take the log's lines after the first `num_taken` until the job or the connection ends; the number taken now."""
    import aiohttp

    chunks = client.tail_job_logs(submission_id)
    rest, num_read = "", 0
    ended = False
    while not ended:
        try:
            *lines, rest = (rest + await anext(chunks)).split("\n")
        except StopAsyncIteration:  # a last line need not end in a newline
            lines, ended = [rest] if rest else [], True
        except (RuntimeError, OSError, aiohttp.ClientError):
            break
        for line in lines:
            num_read += 1
            if num_read > num_taken:
                take(line)
    return max(num_taken, num_read)
