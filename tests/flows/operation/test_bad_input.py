"""Mistakes of an operator fail within a minute, with one sentence that has the request, the answer and the remedy."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.toydance import make_toy_clips

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

WITHIN_S = 60.0


def failure(trial: Any, run: str) -> str:
    """The message of a run that failed; checked for what every message must be."""
    ended = trial.wait(lambda: trial.server.ended(run), 200)
    message = ended["state"]["message"]
    print(f"{ended['total_run_time']:.0f} s: {message}")
    assert ended["state_name"] == "Failed" and ended["total_run_time"] < WITHIN_S
    assert len(message) <= 500 and "Traceback" not in message
    return str(message)


@contextmanager
def serving(answers: Mapping[str, tuple[int, bytes]]) -> Iterator[str]:
    """A server that answers each method so, whatever the path; methods that are not named as GET."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answers.get(self.command, answers["GET"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_what_is_wrong_with_a_job_server_is_told(trial: Any, tmp_path: Path) -> None:
    """Nobody there, somebody else there, another Ray, and a token that the cluster no longer takes: all at once."""
    old = {"version": "4", "ray_version": "2.9.3", "ray_commit": "", "session_name": "s"}
    (tmp_path / "token").write_text("0" * 64)
    trial.start_worker(RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    with (
        serving({"GET": (200, json.dumps(old).encode())}) as other_ray,
        serving({"GET": (200, b"<html>a proxy</html>")}) as no_ray,
    ):
        expected = {
            "http://127.0.0.1:9": "did not answer for .*check the cluster, the port-forward and the address",
            no_ray: "answers, but not as a Ray job server .*pass http://HOST:8265",
            other_ray: r"runs Ray 2\.9\.3, but this machine has Ray .*install the same version",
            trial.cluster.address: "requires a token, and the one given .* is not accepted: set RAY_AUTH_MODE=token",
        }
        runs = {address: trial.run(tmp_path / f"out-{n}", address) for n, address in enumerate(expected)}
        for address, run in runs.items():
            message = failure(trial, run)
            first = message.splitlines()[0]
            assert re.search(f"{re.escape(address)} .*{expected[address]}", first), message


def test_a_store_that_denies_a_write_is_told(trial: Any, bucket: str) -> None:
    denied = 403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with serving({"GET": (404, b""), "PUT": denied, "POST": denied}) as endpoint:
        trial.start_worker(**env | {"AWS_ENDPOINT_URL": endpoint})
        run = trial.server.run("train-steadydancer/cluster", cluster=trial.cluster.address, latents="/nowhere",
                               out=f"{bucket}/run", preset="tiny_cluster", base="none")  # fmt: skip
        message = failure(trial, run)
    assert re.search(rf"{bucket}/run.*{endpoint} denies access .*check AWS_ACCESS_KEY_ID", message.splitlines()[0])


def test_a_node_without_the_package_is_told(cluster_on_trial: Any, tmp_path: Path) -> None:
    """A fourth node, whose Python has every library but this project, joins; a job that comes then names it."""
    bare = tmp_path / "bare"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, bare], check=True)
    (folder,) = bare.glob("lib/python*/site-packages")
    (folder / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # not what its own .pth files add
    state = cluster_on_trial.token.parent
    address = (state / "ray" / "ray_current_cluster").read_text().strip()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    env |= cluster_on_trial.env | {"RAY_TMPDIR": str(state), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONSAFEPATH": "1"}
    start = "from ray.scripts.scripts import main; main()"
    words = ["start", "--address", address, "--num-cpus", "1", "--object-store-memory", str(256 << 20), "--block"]
    make_toy_clips(tmp_path / "clips", num_good=1)
    command = Path(sys.executable).with_name("steadydancer")
    curate = [command, "curate", "--preset", "tiny", "--clips", tmp_path / "clips", "--out", tmp_path / "out",
              "--address", address]  # fmt: skip
    log = tmp_path / "node.log"
    with log.open("wb") as said:
        node = subprocess.Popen(
            [bare / "bin" / "python", "-c", start, *words], env=env, stdout=said, stderr=said, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while b"Ray runtime started" not in log.read_bytes():
            assert node.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        began = time.monotonic()
        answer = subprocess.run(curate, env=env, cwd=tmp_path, capture_output=True, text=True)
        print(f"{time.monotonic() - began:.0f} s: {answer.stderr.splitlines()[-1]}")
        assert answer.returncode == 1 and time.monotonic() - began < WITHIN_S
        assert re.search(r"steadydancer: node \S+ of the cluster has no package steadydancer: install", answer.stderr)
        assert "Traceback" not in answer.stderr
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait(60)
