"""A connection to a job server that drops, hangs or was never there: real sockets, one sentence each."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import ray

from steadydancer.pipelines.runtime import job_server
from steadydancer.pipelines.runtime.job_server import JobServer, JobServerError, JobUnknown

Answer = tuple[int, Any]


@contextmanager
def serving(answer: Callable[[str], Answer], port: int = 0) -> Iterator[str]:
    """An HTTP server on the loopback whose answers a function gives by path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            text = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


VERSION = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"}


def ray_server(path: str) -> Answer:
    return (200, VERSION) if path == "/api/version" else (200, [])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "CONNECT_S", 0.5)
    monkeypatch.setattr(job_server, "_REQUEST_S", (0.5, 0.5))


@pytest.mark.parametrize("address", [
    "auto", "ray://head:10001", "head:8265", "http://", "http://[::1", "http://head:abc", "http://head:99999",
    "http://head:8265?x=1",
])  # fmt: skip
def test_only_a_job_servers_address_is_taken(address: str) -> None:
    with pytest.raises(JobServerError, match="is not the address of a Ray job server"):
        JobServer(address, print)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(JobServerError) as refusal:
        JobServer("http://user:CANARY@head:8265", print)
    assert "CANARY" not in str(refusal.value)


def test_nobody_at_an_address_is_told_after_a_while(impatient: None) -> None:
    with serving(ray_server) as address:
        pass  # nobody listens there now
    with pytest.raises(JobServerError, match=r"did not answer for .* check the cluster") as error:
        JobServer(address, print)
    assert address in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, "3.8.8"), "answers, but not as a Ray job server"),
        ((404, "not here"), "answers, but not as a Ray job server"),
        ((200, {**VERSION, "ray_version": "2.9.3"}), r"runs Ray 2\.9\.3, but this machine has Ray"),
        ((401, "Unauthorized"), "requires a token"),
        ((403, "Forbidden"), "requires a token"),
    ],
)
def test_what_no_waiting_cures_is_told_at_once(answer: Answer, words: str) -> None:
    began = time.monotonic()
    with serving(lambda path: answer) as address, pytest.raises(JobServerError, match=words):
        JobServer(address, print)
    assert time.monotonic() - began < 10


def test_a_server_that_was_away_is_asked_again_until_it_answers() -> None:
    lines: list[str] = []
    with serving(ray_server) as address:
        server = JobServer(address, lines.append)
        assert server.ask(lambda client: client.list_jobs(), 1) == [] and lines == []
    port = int(address.rpartition(":")[2])
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(server.ask(lambda client: client.list_jobs(), 60)))
    asking.start()
    while not lines:
        time.sleep(0.01)
    assert not answers
    busy = iter([(500, "No available agent to submit job"), (503, "")])
    with serving(lambda path: next(busy, (200, [])), port):
        asking.join(60)
    assert answers == [[]]
    assert "does not answer" in lines[0] and "answers again" in lines[-1]


def test_waiting_ends_when_the_run_is_cancelled() -> None:
    with serving(ray_server) as address:
        server = JobServer(address, print)
    with pytest.raises(JobServerError):
        server.ask(lambda client: client.list_jobs(), 3600, lambda: True)


def test_a_server_that_hangs_is_not_waited_for_without_limit(impatient: None) -> None:
    with serving(ray_server) as address:
        server = JobServer(address, print)
    port = int(address.rpartition(":")[2])
    hang = threading.Event()

    def hanging(path: str) -> Answer:
        hang.wait(20)
        return 200, []

    with serving(hanging, port):
        with pytest.raises(JobServerError, match="did not answer"):
            server.ask(lambda client: client.list_jobs(), 0.1)
        hang.set()


def test_a_job_that_a_new_cluster_does_not_know_is_told_from_a_wrong_address() -> None:
    def forgetful(path: str) -> Answer:
        return (404, "Job steadydancer-1 does not exist") if "jobs" in path else ray_server(path)

    with serving(forgetful) as address:
        server = JobServer(address, print)
        with pytest.raises(JobUnknown, match="was started again"):
            server.ask(lambda client: client.get_job_info("steadydancer-1"), 10)
