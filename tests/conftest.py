"""Fixtures of job and command tests, built once per session on first use. Tests must not change them."""

import atexit
import logging
import os
import re
import subprocess
import sys
import textwrap
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# As in Ray's workers: on two cores, two processes of two threads each are up to forty times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files whose tests start Ray or a Prefect server run in one pytest worker, because two at once overload two cores.
ENGINES = {
    *("pipelines/runtime/test_runner.py", "pipelines/runtime/test_submit.py", "pipelines/test_jobs_on_a_store.py"),
    *("pipelines/train/test_loop.py", "pipelines/train/test_kills.py", "pipelines/train/gallery/test_folder.py"),
    *("flows/test_deployments.py", "flows/test_train_flow.py", "flows/test_watchers_die.py", "flows/demo/test_run.py"),
    *("flows/demo/test_toydance.py", "pipelines/runtime/test_beside.py"),
}

_exit_status: list[int] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Assign all tests of a file, which share fixtures, to one pytest worker."""
    for item in items:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        item.add_marker(pytest.mark.xdist_group("engines" if name in ENGINES else name))


def pytest_sessionfinish(exitstatus: int) -> None:
    """Record the exit status of the session."""
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Exit before destructors of native libraries run: Ray, gloo and the S3 client leave threads in this process.

    One of them caused a segmentation fault after all tests had passed (docs/log.md). Python's exit functions still run.
    Commands are tested in separate processes, which exit normally.
    """
    if _exit_status:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status[-1])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: the order of sums depends on their number, and a group of processes divides them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Capture log lines also after a flow has run in this process, because Prefect stops their propagation."""
    monkeypatch.setattr(logging.getLogger("steadydancer"), "propagate", True)
    return caplog


@pytest.fixture(scope="session")
def dancers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clips/`: two good procedural dancers and six flawed ones; `pairs.jsonl` with images, drivings and truths."""
    from steadydancer.datasets.toydance import make_toy_clips, make_toy_pairs

    folder = tmp_path_factory.mktemp("dancers")
    make_toy_clips(folder / "clips", seed=0, num_good=2)
    make_toy_pairs(folder, seed=1, num_pairs=1, num_frames=13)
    return folder


@pytest.fixture(scope="session")
def curated(dancers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The --out folder of a finished `curate`."""
    from steadydancer.flows.presets import tiny
    from steadydancer.pipelines.curate import job
    from steadydancer.pipelines.runtime.runner import Engine

    # In a separate parent folder, because a removal also looks at selections in sibling folders.
    out = tmp_path_factory.mktemp("curated") / "run"
    config = tiny().curate.model_copy(update={"pose_model": "supplied", "packet_size": 3})
    job.run(config, clips=str(dancers / "clips"), out=out, engine=Engine(out / ".engine", in_process=True))
    return out


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of tiny components."""
    from steadydancer.models.components import save_components, tiny_components

    folder = tmp_path_factory.mktemp("components")
    save_components(tiny_components(seed=0), folder)
    return folder


@pytest.fixture(scope="session")
def small_pipeline() -> Any:
    """A pipeline of tiny components whose transformer, of one layer, sees the pose."""
    import torch

    from steadydancer.models.components import tiny_components
    from steadydancer.models.pipeline import SteadyDancerPipeline
    from steadydancer.models.transformer import SteadyDancerTransformer3DModel

    parts = tiny_components(seed=0, transformer={"num_layers": 1})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SteadyDancerTransformer3DModel.from_wan(parts.pop("transformer")).eval()
        transformer.patch_embedding_fuse.weight.data.normal_(std=0.3)  # a new network does not see the pose
    made = SteadyDancerPipeline(transformer=transformer, **parts)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="session")
def checkpoint(components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint in the layout of a training stage."""
    from steadydancer.datasets.storage.atomic import write_json
    from steadydancer.models.components import load_components
    from steadydancer.models.transformer import SteadyDancerTransformer3DModel

    folder = tmp_path_factory.mktemp("checkpoint")
    base = load_components(components, ("transformer",))["transformer"]
    SteadyDancerTransformer3DModel.from_wan(base).save_pretrained(folder / "transformer")
    write_json(folder / "run.json", {"kind": "checkpoint", "stage": 3, "base": {"path": str(components)}})
    return folder


@pytest.fixture(scope="session")
def cached(curated: Path, components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `latents` written by `cache` from the accepted clips."""
    from steadydancer.flows.presets import tiny
    from steadydancer.pipelines.cache import job
    from steadydancer.pipelines.runtime.runner import Engine

    out = tmp_path_factory.mktemp("cached")
    config = tiny().cache.model_copy(update={"components": str(components), "packet_size": 2})
    job.run(config, clips=curated, out=out, engine=Engine(out / ".engine", in_process=True))
    return out / "latents"


KILLING = """
import os
from steadydancer.datasets.artifact import Artifact
write, written = Artifact.write_part, []
def kill_at_the_second(self, packet, table):
    if written:
        os.kill(os.getpid(), 9)
    write(self, packet, table)
    written.append(packet)
Artifact.write_part = kill_at_the_second
"""


@pytest.fixture
def killed_at_second_part() -> Callable[[str], None]:
    """Run code in a separate process that is killed (-9) before it writes its second part."""

    def run(code: str) -> None:
        words = [sys.executable, "-c", KILLING + textwrap.dedent(code)]
        killed = subprocess.run(words, capture_output=True, text=True)
        assert killed.returncode == -9, killed.stderr

    return run


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an in-memory S3 server on this machine, stopped after the session."""
    log = tmp_path_factory.mktemp("object_store") / "log"
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]  # the server takes a free port itself
    with log.open("wb") as output, subprocess.Popen(words, stdout=output, stderr=output) as server:
        try:
            while not (endpoint := re.search(r"Running on (http://127\.0\.0\.1:\d+)\s", log.read_text())):
                assert server.poll() is None, f"the S3 server did not start:\n{log.read_text()}"
                time.sleep(0.1)
            yield endpoint[1]
        finally:
            server.terminate()


@pytest.fixture
def bucket(object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://NAME` of an empty bucket; the environment selects its endpoint and a temporary folder for local copies."""
    from steadydancer.datasets.storage.requests import filesystem, upload_filesystem

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("STEADYDANCER_SCRATCH", str(tmp_path / "scratch"))
    filesystem.cache_clear()
    upload_filesystem.cache_clear()
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    urllib.request.urlopen(urllib.request.Request(f"{object_store}/{name}", method="PUT")).close()
    return f"s3://{name}"
