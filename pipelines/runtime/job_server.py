"""Requests to Ray's job server over a connection that may drop, and one sentence for each reason that it refuses."""

import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ... import SteadyDancerError
from .local_ray import ADDRESSES, environment

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

CONNECT_S = 40.0  # with the start of a process, a wrong address is told within a minute
FOLLOW_S = 3600.0  # somebody must notice that a port-forward dropped; the job runs on meanwhile
_REQUEST_S = (5.0, 20.0)  # Ray sets no limit: a cut connection would hang
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_SECONDS_BETWEEN_LINES = 60.0


class JobServerError(SteadyDancerError):
    """The job server cannot be reached, is none, or refuses a request; the message says what to do."""


class JobUnknown(SteadyDancerError):
    """The job server does not know a job that it was given: the cluster was started again."""


class JobServer:
    """A connection to a job server; requests are repeated while it does not answer.

    Args:
        address: `http(s)://HOST:PORT`.
        on_log: is given a line when the connection is lost, and when it is back.
    """

    def __init__(self, address: str, on_log: Callable[[str], None]) -> None:
        """Connect.

        Raises:
            JobServerError: the address is not that of a job server, or it does not answer or refuses.
        """
        if not _is_address(address):
            shown = re.sub(r"//[^/]*@", "//...@", address)  # a password is not repeated
            raise JobServerError(
                f"{shown!r} is not the address of a Ray job server: use http(s)://HOST:PORT (usually :8265)"
            )
        self.address = address
        self._on_log = on_log
        self._client: JobSubmissionClient | None = None
        import ray.job_submission  # noqa: F401 - takes seconds, which are none of waiting

        self.ask(lambda client: None, CONNECT_S)  # connecting asks for the version
        _require_same_version(address, str(self.client._server_ray_version))

    @property
    def client(self) -> "JobSubmissionClient":
        """The connected client."""
        assert self._client is not None
        return self._client

    def ask(
        self,
        request: "Callable[[JobSubmissionClient], T]",
        patience_s: float,
        give_up: Callable[[], bool] | None = None,
    ) -> T:
        """Send a request; repeat it for `patience_s` while the server does not answer or has a temporary fault.

        Args:
            request: must be safe to repeat; its answer may be lost.
            patience_s: seconds to wait for an answer.
            give_up: asked after each attempt without an answer; True ends the waiting.

        Raises:
            JobServerError: it did not answer in time, or refuses the request.
            JobUnknown: it does not know the job.
        """
        began = last_line = time.monotonic()
        pause, is_lost = _FIRST_PAUSE_S, False
        while True:
            try:
                if self._client is None:
                    self._client = _connect(self.address)
                answer = request(self._client)
            except Exception as error:
                waited = time.monotonic() - began
                reason = _reason(self.address, error)  # raises what no waiting cures
                if waited > patience_s or (give_up is not None and give_up()):
                    raise JobServerError(
                        f"{self.address} did not answer for {waited:.0f} s ({reason}): check the cluster, the "
                        "port-forward and the address (http://HOST:8265; not ray://, not the GCS port). A job that was "
                        "submitted runs on: retry to follow it"
                    ) from error
                if time.monotonic() - last_line > _SECONDS_BETWEEN_LINES or not is_lost:
                    last_line = time.monotonic()
                    self._on_log(f"{self.address} does not answer ({reason}); trying again")
                is_lost = True
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            if is_lost:
                self._on_log(f"{self.address} answers again after {time.monotonic() - began:.0f} s")
            return answer


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        has_place = bool(parts.hostname) and parts.port != 0  # `port` raises if it is no number, or too large
    except ValueError:
        return False
    return has_place and re.fullmatch(r"https?://[^@\s?#]+", text) is not None


def _connect(address: str) -> "JobSubmissionClient":
    with environment({}, removed=ADDRESSES):  # they would override `address`
        from ray.job_submission import JobSubmissionClient

        class TimedClient(JobSubmissionClient):
            def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
                return super()._do_request(method, endpoint, **{"timeout": _REQUEST_S, **options})

        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        return TimedClient(address)


def _reason(address: str, error: Exception) -> str:
    """Return why a request may be repeated, in some words.

    Raises:
        JobServerError: repeating it is no use.
        JobUnknown: the server does not know the job.
    """
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        raise JobServerError(
            f"{address} requires a token, and the one given (or none) is not accepted: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN in the environment of this command, or of the worker that runs the "
            "flow"
        ) from error
    status = _status(error)
    if status == 404 and "does not exist" in str(error):
        raise JobUnknown(
            f"{address} does not know the job (the cluster was started again): retry to submit it"
        ) from error
    if status is not None and status >= 500:
        busy = "No available agent" in str(error)
        return "its head node takes no jobs yet" if busy else f"status {status}"
    # requests' error for a body that is no JSON is an OSError, too.
    if status is not None or not isinstance(error, OSError) or isinstance(error, ValueError):
        words = " ".join(str(error).split())[:120]
        raise JobServerError(
            f"{address} answers, but not as a Ray job server ({words}): pass http://HOST:8265 of the cluster's head"
        ) from error
    return type(error).__name__ if str(error) == "" else _short(error)


def _status(error: Exception) -> int | None:
    """Return the HTTP status in an error of Ray's client or of requests."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    found = re.search(r"status code (\d{3})|returned (404)", str(error)) if isinstance(error, RuntimeError) else None
    return int(found[1] or found[2]) if found else None


def _short(error: Exception) -> str:
    words = str(error)
    for known in ("refused", "not known", "timed out", "reset", "aborted"):
        if known in words:
            return {"not known": "host not known", "timed out": known}.get(known, f"connection {known}")
    return "no connection" if words.startswith("Failed to connect") else " ".join(words.split())[:100]


def _require_same_version(address: str, version: str) -> None:
    """Raise `JobServerError` unless the cluster runs this Ray, or another patch of it."""
    import ray

    if version.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise JobServerError(
            f"{address} runs Ray {version}, but this machine has Ray {ray.__version__}: install the same version on "
            "both (requirements.lock names it)"
        )
