"""Every command of docs/guides/deployment.md is executed, in its order, in a copy of what it needs.

Ports are replaced by free ones, and placeholders by what an operator would put there. `docker` and `kubectl`, for which
there is no daemon and no cluster here, are stood in for by a script that records what it was given.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "guides" / "deployment.md").read_text()
# Commands that run until they are interrupted, and what they print when they are ready.
LASTING = {
    "prefect server start": "",
    "prefect worker start": "started!",
    "python -m http.server": "Serving HTTP",
    "python infra/ray/local_cluster.py": "job server http",
}
IN_TEXT = ("prefect", "docker", "kubectl", "python")


def commands(page: str) -> list[str]:
    """The commands of a page's code blocks, in order, each on one line; then those in its text that have arguments."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        lines = (re.sub(r"\s+# .*$", "", line).strip() for line in block.replace("\\\n", " ").splitlines())
        found += [" ".join(line.split()) for line in lines if line]
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return found + [span for span in spans if re.match(rf"({'|'.join(IN_TEXT)}) \S+ \S+ \S", span)]


def test_commands_of_a_page_are_found() -> None:
    page = "```bash\na b \\\n    c   # why\n\nexport X=1\n```\nrun `prefect flow-run retry\nID` or `prefect deploy`"
    assert commands(page) == ["a b c", "export X=1", "prefect flow-run retry ID"]
    assert len(commands(GUIDE)) > 20


class Shell:
    """A shell whose exported variables stay, in which some commands last."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        self.lasting: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def run(self, command: str) -> str:
        """Run a command; keep what it exported."""
        script = f"set -e; {command}\nenv -0 > .environment"
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:], self.said()[-6000:])
        lines = (self.folder / ".environment").read_text().split("\0")
        self.env = dict(line.split("=", 1) for line in lines if "=" in line)
        return done.stdout

    def start(self, command: str, is_ready: Callable[[str], bool]) -> None:
        """Start a command that lasts, and wait until it is ready."""
        log = self.folder / f"lasting-{len(self.lasting)}.log"
        with log.open("wb") as out:
            words = ["bash", "-c", f"exec env {command}" if "=" in command.split()[0] else f"exec {command}"]
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.env, stdout=out, stderr=out, start_new_session=True
            )
        self.lasting.append((command, process, log))
        deadline = time.monotonic() + 240
        while not is_ready(log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, (command, log.read_text()[-3000:])
            time.sleep(0.5)

    def said(self) -> str:
        return "\n".join(log.read_text() for _, _, log in self.lasting)

    def end(self, words: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End the lasting commands that contain some words: SIGKILL also ends what they started."""
        for one in [one for one in self.lasting if words in one[0]]:
            self.lasting.remove(one)
            for pid in [*(descendants(one[1].pid) if number == signal.SIGKILL else []), one[1].pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            try:
                one[1].wait(60)
            except subprocess.TimeoutExpired:
                one[1].kill()


def descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found, new = set[int](), {pid}
    while new:
        new = {one for one, parent in pairs if parent in new} - found
        found |= new
    return sorted(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> {record}
case "$*" in *jsonpath*) printf dG9rZW4= ;; esac
"""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("infra", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", folder)
    (tmp_path / "bin").mkdir()
    for name in ("docker", "kubectl"):
        program = tmp_path / "bin" / name
        program.write_text(STAND_IN.format(record=tmp_path / "recorded"))
        program.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAY_"))}
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_CLI_PROMPT": "false", "OMP_NUM_THREADS": "1"}
    shell = Shell(folder, inherited | own | {"PATH": path, "PYTHONSAFEPATH": "1"})
    try:
        yield shell
    finally:
        for command, _, _ in list(shell.lasting):
            shell.end(command, signal.SIGTERM if "local_cluster" in command else signal.SIGKILL)


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_every_command_of_the_guide_runs(shell: Shell, database: str, tmp_path: Path) -> None:
    ports = {port: str(free_port()) for port in ("4200", "8265", "8300")}

    def with_free_ports(text: str) -> str:
        return re.sub(r"\b(4200|8265|8300)\b", lambda found: ports[found[0]], text)

    (shell.folder / "prefect.yaml").write_text(with_free_ports((ROOT / "prefect.yaml").read_text()))
    shell.env["PREFECT_SERVER_API_PORT"] = ports["4200"]
    ran: list[str] = []
    flow_run = ""
    for command in commands(GUIDE):
        here = with_free_ports(command)
        here = here.replace("USER:SECRET@HOST:5432/prefect", database.partition("://")[2])
        here = here.replace("REGISTRY", "registry.example").replace("DIGEST", "0" * 64)
        here = re.sub(r"(?<=retry |un_id=)(ID|NAME)\b", flow_run, here)
        if here in ran:  # named twice in the text
            continue
        lasting = next((words for words in LASTING if words in here), None)
        if lasting == "prefect server start":
            if again := [one for one in ran if lasting in one]:  # on another database
                shell.end("prefect worker", signal.SIGKILL)
                shell.end("prefect server", signal.SIGKILL)
            shell.start(here, lambda _: answers(f"http://127.0.0.1:{ports['4200']}/api/health"))
            if again:  # as the guide says
                for one in ran:
                    if re.match(r"prefect (work-pool create|deploy --all|automation create)", one):
                        shell.run(one)
        elif lasting:
            shell.start(here, lambda said, words=LASTING[lasting]: words in said)
            if "local_cluster" in here:
                shell.end("local_cluster", signal.SIGINT)  # Ctrl-C and again, at once, takes jobs like the first time
                shell.start(here, lambda said, words=LASTING[lasting]: words in said)
                # "It prints two variables": export them, and start another worker.
                shell.run(re.search(r"^export .*$", shell.said(), re.MULTILINE)[0])  # type: ignore[index]
                shell.end("prefect worker", signal.SIGKILL)
                worker = next(one for one in ran if one.startswith("prefect worker start"))
                shell.start(worker, lambda said: "started!" in said)
        else:
            answer = shell.run(here)
            if found := re.search(r"UUID: ([0-9a-f-]{36})", answer):
                flow_run = found[1]
        ran.append(here)
        print(f"ran: {here}", flush=True)
    for out in ("first", "on_cluster"):
        assert (shell.folder / "runs" / out / "latents" / "run.json").is_file()
    recorded = (tmp_path / "recorded").read_text()
    assert re.search(r"^docker build -f infra/docker/Dockerfile .*--build-arg BASE=\S+@sha256:\S+ \.$", recorded, re.M)
    assert re.search(r"^kubectl apply -k infra/ray$", recorded, re.M)
    for file in re.findall(r"(?:-f|-k) (infra\S+)", recorded):
        assert (ROOT / file).exists(), file


def answers(url: str) -> bool:
    return subprocess.run(["curl", "--silent", "--fail", "--output", "/dev/null", url]).returncode == 0
