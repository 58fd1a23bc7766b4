"""Ray for a job: a private instance on this machine, or an existing cluster.

A running Ray is joined only if an address is given. A private Ray keeps its whole state (sockets, logs, token) under
the run's folder.
"""

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ... import SteadyDancerError

_BASE_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the commands have their own
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would upload the working folder to its workers
    "PYTHONSAFEPATH": "1",  # from the repository's root, `datasets` must stay Hugging Face's
}
_PRIVATE_VARIABLES = {
    **_BASE_VARIABLES,
    "RAY_raylet_start_wait_time_s": "180",  # a loaded machine needs more than the default 30 s
    "RAY_worker_niceness": "0",  # at Ray's default of 15, workers starve next to other processes
}
ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_CLUSTER_VARIABLES = (*ADDRESSES, "RAY_NAMESPACE", "RAY_AUTH_TOKEN")

# Linux limits a socket's path to 107 bytes; below its folder Ray adds `/session_<date>_<time>_<pid>/sockets/<name>`.
_MAX_STATE_PATH_BYTES = 36

# Ray reads its token once per process, so every private Ray of this process must use the same one.
_token = secrets.token_hex(32)


@contextmanager
def local_ray(state_dir: Path, address: str | None = None) -> Iterator[None]:
    """Initialise Ray for the duration of the block.

    Without `address`, start a private Ray on this machine and ignore the environment's Ray variables. Its state is
    under `state_dir` (logs: `state_dir/logs`); it requires its own token, because Ray listens on every interface. It is
    shut down after the block. With `address` ("auto" inside a submitted job, `HOST:PORT`, or `ray://HOST:PORT`), join
    that cluster and disconnect after the block. If Ray is already initialised in this process, use it unchanged.

    Raises:
        SteadyDancerError: Ray did not start in time.
    """
    with ExitStack() as stack:
        stack.enter_context(environment(_PRIVATE_VARIABLES if address is None else _BASE_VARIABLES))
        import ray

        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {
            "namespace": "steadydancer",
            "job_config": _job_config(address),
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        if address is None:
            state_dir.mkdir(parents=True, exist_ok=True)
            state_dir.chmod(0o700)  # Ray makes its folder and all files in it accessible to every user
            stack.enter_context(_private_token(state_dir))
            folder = stack.enter_context(short_path(state_dir / "sessions"))
            options |= {"address": "local", "include_dashboard": False, "_temp_dir": str(folder)}
        else:
            options["address"] = address
        try:
            ray.init(**options)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            raise SteadyDancerError(
                f"Ray did not start in time ({error}); this happens on an overloaded machine. Run the same command "
                f"again to resume. Ray's logs are below {state_dir}."
            ) from error
        if address is None:
            _link_logs(state_dir, ray.get_runtime_context().get_session_name())
        try:
            yield
        finally:
            ray.shutdown()


def _job_config(address: str | None) -> Any:
    """Return a job configuration that keeps the driver's working folder off the workers' import path.

    Ray puts it first in spite of PYTHONSAFEPATH, unless the job claims to have an uploaded working folder.
    """
    from ray.job_config import JobConfig

    class SafePathJobConfig(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    # The workers of a private Ray inherit this process's variables; with variables of the job's own, Ray could not use
    # those that it starts in advance. A submitted job already has them, and Ray rejects a variable that is set twice.
    has_variables = address is None or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return SafePathJobConfig(runtime_env={} if has_variables else {"env_vars": {"PYTHONSAFEPATH": "1"}})


@contextmanager
def environment(variables: Mapping[str, str], removed: tuple[str, ...] = ()) -> Iterator[None]:
    """Set and remove environment variables of this process and its children inside the block."""
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
    """Link `state_dir/logs` to the newest session's logs; Ray's own link may use a temporary path."""
    new = state_dir / f"logs-{os.getpid()}"
    new.unlink(missing_ok=True)
    new.symlink_to(Path("sessions") / session / "logs", target_is_directory=True)
    new.replace(state_dir / "logs")


@contextmanager
def _private_token(state_dir: Path) -> Iterator[None]:
    """Require a token for every connection to Ray, stored in a file that only this user can read."""
    path = state_dir.resolve() / f"token-{os.getpid()}"
    path.touch(mode=0o600)
    path.write_text(_token)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    try:
        with environment(variables, removed=_CLUSTER_VARIABLES):
            _reread_environment()
            yield
    finally:
        path.unlink()
        _reread_environment()


def _reread_environment() -> None:
    """Make Ray's core read the RAY_* variables again; it otherwise reads them only when it is imported."""
    from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def short_path(folder: Path) -> Iterator[Path]:
    """Yield the folder, or a link to it in the system's temporary folder if its path is too long for sockets."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    if len(os.fsencode(folder)) <= _MAX_STATE_PATH_BYTES:
        yield folder
        return
    for stale in Path(tempfile.gettempdir()).glob("sd-*/ray"):  # links of killed processes whose folders are deleted
        if stale.is_symlink() and not stale.exists():
            shutil.rmtree(stale.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="sd-") as private:
        link = Path(private) / "ray"
        link.symlink_to(folder, target_is_directory=True)
        yield link
