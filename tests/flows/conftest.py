"""Call commands as a user does; start Prefect servers and Ray clusters as an operator does."""

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steadydancer.flows import cli

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Call a command like a shell, in an empty folder, but in this process, which is faster."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Answer:
        monkeypatch.setattr(sys, "argv", ["steadydancer", *map(str, words)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run


@dataclass
class Server:
    """A Prefect server of this test's own, on the loopback, with its state in the test's folder."""

    folder: Path
    api: str
    env: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def auth(self) -> str:
        return self.env["PREFECT_API_AUTH_STRING"]

    def begin(self) -> None:
        """Start the server, on the port and the database that it had before."""
        log, port = self.folder / "server.log", self.api.rpartition(":")[2].removesuffix("/api")
        words = ("server", "start", "--host", "127.0.0.1", "--port", port)
        self.process = self.start(*words, cwd=self.folder, log=log, PREFECT_SERVER_API_AUTH_STRING=self.auth)

        def healthy() -> bool:
            try:
                return bool(self.call("/health"))
            except (urllib.error.URLError, OSError):
                return False

        self.wait_for(healthy, 300, log)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the server with a signal."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            self.process.wait(timeout=60)

    def prefect(self, *words: str, cwd: Path = ROOT) -> str:
        command = [Path(sys.executable).with_name("prefect"), *words]
        return subprocess.run(command, env=self.env, cwd=cwd, check=True, capture_output=True, text=True).stdout

    def start(self, *words: str, cwd: Path, log: Path, **env: str) -> subprocess.Popen[bytes]:
        command = [Path(sys.executable).with_name("prefect"), *words]
        with log.open("ab") as out:
            return subprocess.Popen(
                command, env=self.env | env, cwd=cwd, stdout=out, stderr=out, start_new_session=True
            )

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """POST with a body, else GET."""
        data = None if body is None else json.dumps(body).encode()
        basic = base64.b64encode(self.auth.encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {basic}"}
        request = urllib.request.Request(self.api + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def flow_runs(self, flow: str) -> list[dict[str, Any]]:
        return list(
            self.call("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"})
        )

    def wait_for(self, something: Callable[[], Any], timeout_s: float, log: Path) -> Any:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := something():
                return found
            time.sleep(0.5)
        raise TimeoutError(log.read_text()[-4000:])

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        stop(process)

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment; return its id."""
        found = self.call(f"/deployments/name/{deployment}")
        return str(self.call(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"])

    def ended(self, flow_run_id: str) -> dict[str, Any] | None:
        flow_run = self.call(f"/flow_runs/{flow_run_id}")
        return flow_run if flow_run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it started (a session of its own)."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)


def own_environment(home: Path, port: int) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAY_"))}
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The address of a database of an own PostgreSQL server on the loopback; it runs as `postgres` if we are root."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)  # Debian has them nowhere on PATH
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql-15")
    with tempfile.TemporaryDirectory(prefix="sd-pg-") as text, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port, folder, user = str(probe.getsockname()[1]), Path(text), "postgres" if os.getuid() == 0 else None
        probe.close()
        if user:
            shutil.chown(folder, user, user)

        def run(name: str, *words: str) -> None:
            subprocess.run([programs / name, *words], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        data = ("-D", str(folder / "data"))
        run("initdb", *data, "-U", "prefect", "--auth=trust")
        options = f"-p {port} -k {folder} -h 127.0.0.1"
        run("pg_ctl", *data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            run("createdb", "-h", "127.0.0.1", "-p", port, "-U", "prefect", "prefect")
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
        finally:
            run("pg_ctl", *data, "-m", "immediate", "stop")


@pytest.fixture
def database() -> Iterator[str]:
    """The address of an empty database on PostgreSQL."""
    with postgresql() as address:
        yield address


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with authentication, the deployments and the automation, and a pool for them.

    On SQLite, or with `PREFECT_ON_POSTGRESQL=1` on PostgreSQL.
    """
    folder = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = own_environment(folder / "home", port) | {"PREFECT_API_AUTH_STRING": f"admin:{secrets.token_hex(8)}"}
    with contextlib.ExitStack() as stack:
        if os.environ.get("PREFECT_ON_POSTGRESQL"):
            env["PREFECT_API_DATABASE_CONNECTION_URL"] = stack.enter_context(postgresql())
        yield from serve(Server(folder, f"http://127.0.0.1:{port}/api", env))


def serve(server: Server) -> Iterator[Server]:
    """Run a server with deployments, automation and pool until the tests have ended."""
    (server.folder / "home").mkdir()
    try:
        server.begin()
        server.call("/work_pools/", {"name": "local", "type": "process"})
        server.prefect("--no-prompt", "deploy", "--all")
        server.prefect("automation", "create", "--from-file", "infra/prefect/automations.yaml")
        yield server
    finally:
        server.end()


@dataclass(frozen=True)
class Nodes:
    """A Ray cluster of three nodes on this machine; `pid` is the process that started them."""

    address: str
    token: Path
    pid: int

    @property
    def env(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def jobs(self) -> dict[str, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.token.read_text()}"}
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return {job["submission_id"]: job for job in json.load(answer) if job["submission_id"]}


@contextlib.contextmanager
def nodes(folder: Path, command: Path | None = None, cpus: int = 1) -> Iterator[Nodes]:
    """Three nodes of some cores each, whose jobs run `steadydancer`, or the given command of that name."""
    env = own_environment(folder, 1)
    if command is not None:
        env["PATH"] = f"{command.parent}{os.pathsep}{env['PATH']}"
    script = ROOT / "infra" / "ray" / "local_cluster.py"
    words = ["--nodes", "3", "--cpus-per-node", str(cpus), "--state", folder / "ray"]
    process = subprocess.Popen([sys.executable, script, *words], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        address = re.search(r"job server (http://\S+)", process.stdout.readline())
        assert address
        yield Nodes(address[1], folder / "ray" / "token", process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Nodes]:
    """Three nodes with this project."""
    with nodes(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def cluster_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Start three nodes, of as many cores as asked for, whose command `steadydancer` may be a given script."""
    return lambda *arguments, **options: nodes(tmp_path_factory.mktemp("nodes"), *arguments, **options)
