"""Trials: run the tests of a module on a copy of the project, in a forked process with preloaded libraries."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "__init__.py",
    "pyproject.toml",
    "prefect.yaml",
    "README.md",
    "datasets",
    "models",
    "pipelines",
    "flows",
    "infra",
    "docs",
    "tests",
)
# Importing these would take half of a trial's time. The project itself is imported from the copy, in the fork.
PRELOADED = (
    *("numpy", "pyarrow", "pyarrow.parquet", "pyarrow.compute", "cv2", "av", "safetensors.torch", "torch", "pytest"),
    *("diffusers", "transformers", "peft", "webdataset", "pydantic", "diffusers.models.transformers.transformer_wan"),
)
SECONDS_MORE = 30.0


class Outcome(NamedTuple):
    """The outcome of a trial.

    `how` is `passed`, `failed`, `timeout`, or `broken` (the module cannot be imported); `by` is the first failed test.
    """

    how: str
    by: str
    seconds: float


class Copy:
    """A copy of the project to which `steadydancer` resolves in trials."""

    def __init__(self, folder: Path) -> None:
        """Make a fresh copy; the old content of `folder` is removed."""
        shutil.rmtree(folder, ignore_errors=True)
        self.root = folder.resolve() / "steadydancer"
        self.root.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy2(source, self.root / name)

    @contextlib.contextmanager
    def holding(self, file: str, text: str) -> Any:
        """Replace the text of one file in the copy, within the context."""
        place = self.root / file
        before = place.read_text()
        place.write_text(text)
        try:
            yield
        finally:
            place.write_text(before)

    def trial(self, file: str, tests: Sequence[str], seconds: float) -> Outcome:
        """Import a module of the copy, then run test files until one test fails."""
        start = time.perf_counter()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _run(self.root, file, tests, writer)  # never returns
        os.close(writer)
        answer = _read(reader, seconds)
        if answer is None:
            # Kill the whole group, because tests start commands, decoders and Ray.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        how, _, by = (answer if answer is not None else "timeout").partition(" ")
        return Outcome(how or "failed", by or ("" if how else "the process died"), time.perf_counter() - start)


def preload() -> None:
    """Import the libraries once for all forks."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for name in PRELOADED:
        __import__(name)


def tests_of(patterns: Sequence[str]) -> list[str]:
    """List test files relative to the root, in the order of their patterns."""
    found = [path.relative_to(ROOT).as_posix() for one in patterns for path in sorted((ROOT / "tests").glob(one))]
    return list(dict.fromkeys(found))


def _read(reader: int, seconds: float) -> str | None:
    """Return what the child wrote before it ended; None if the time limit passed first."""
    with os.fdopen(reader) as file:
        ready, _, _ = select.select([file], [], [], seconds)
        return file.readline().strip() if ready else None


def _run(root: Path, file: str, tests: Sequence[str], writer: int) -> None:
    os.setsid()
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root.parent)
    sys.path[:] = [str(root.parent), *(entry for entry in sys.path if entry not in ("", str(root.parent)))]
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    answer = "broken"
    try:
        module = __import__(f"steadydancer.{file.removesuffix('.py').replace('/', '.')}", fromlist=["x"])
        assert str(module.__file__) == str(root / file), module.__file__
        answer = _tested(tests)
    except BaseException as error:
        answer = f"broken {type(error).__name__}"
    finally:
        os.write(writer, f"{answer}\n".encode())
        os._exit(0)


def _tested(tests: Sequence[str]) -> str:
    import pytest

    failed: list[str] = []

    class First:
        """Record failed tests; a file that cannot be collected counts as one."""

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                failed.append(report.nodeid)

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                failed.append(report.nodeid)

        @pytest.hookimpl(tryfirst=True)
        def pytest_unconfigure(self) -> None:
            raise Finished

    words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-m", "not acceptance", "--durations=0"]
    code = -1
    with contextlib.suppress(Finished):
        code = int(pytest.main([*words, *tests], plugins=[First()]))
    return f"failed {failed[0]}" if failed else "passed" if code in (-1, 0) else f"failed pytest's exit status {code}"


class Finished(Exception):
    """Ends a pytest run before the suite's own conftest leaves the process."""


def describe_machine() -> str:
    """Return processor count and commit, for the report."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return f"{os.cpu_count()} cores, commit {commit.stdout.strip() or 'unknown'}"
