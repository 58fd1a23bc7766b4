"""Packets end in the same rows on Ray and in this process, whatever dies on the way, and faults are readable."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.schema import Row, to_table
from steadydancer.datasets.storage import StorageError, StoreUnavailableError
from steadydancer.pipelines.runtime import ray_data, runner
from steadydancer.pipelines.runtime.packets import JobInterrupted
from steadydancer.pipelines.runtime.runner import SECONDS_BETWEEN_LINES, Engine, Job, JobStopped, progress, run_packets
from steadydancer.pipelines.runtime.stage import BadClip, Stage

IDS = [f"clip{i}" for i in range(6)]
SCHEMA = pa.schema([*((name, pa.string()) for name in ("id", "verdict", "reason", "detail")), ("value", pa.int64())])

in_process_or_ray = pytest.mark.parametrize("in_process", [True, False], ids=["in_process", "ray"])


@pytest.fixture(scope="module")
def own_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One private Ray for all tests here, in an environment that names another cluster."""
    from ray import cloudpickle

    from steadydancer.pipelines.runtime.local_ray import local_ray

    # The workers cannot import this file.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        state_dir = tmp_path_factory.mktemp("ray")
        with local_ray(state_dir):
            yield state_dir
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def measure(row: Row, config: dict[str, Any], tools: int) -> Row:
    """Ten times the clip's number; `config` says which clip does what else."""
    action = config.get(row["id"])
    if "begun" in config:
        with open(config["begun"], "a") as file:  # noqa: PTH123
            file.write(row["id"] + "\n")
    if action == "bad":
        raise BadClip("truncated", "half of it")
    if action == "fault":
        raise ZeroDivisionError("a fault\nof two lines")
    if action == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "/full/disk")
    if action == "store away":
        raise StoreUnavailableError(errno.EIO, "cannot be reached", "s3://bucket/x")
    if action == "store denies":
        raise StorageError(errno.EIO, "access denied", "s3://bucket/x")
    if action == "die" or (action == "die once" and not os.path.exists(config["marker"])):  # noqa: PTH110
        with open(config["marker"], "w"):  # noqa: PTH123 - nothing of this file's imports is needed there
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return {**row, "value": tools * int(row["id"][4:])}


def load_ten(config: dict[str, Any]) -> int:
    if "missing" in config:
        raise SteadyDancerError("the weights are not here: fetch them")
    return 10


def increase(row: Row, config: dict[str, Any], tools: None) -> Row:
    return {**row, "value": row["value"] + 1}


def make_job(out: Path, config: dict[str, Any]) -> Job:
    artifact = Artifact(out)
    artifact.begin({})
    return Job(
        name="trial",
        stages=[
            Stage("measure", measure, ("id",), ("value",), load=load_ten),
            Stage("increase", increase, ("value",), ("value",), num_cpus=config.get("second_share", 1.0)),
        ],
        config=config,
        schema=SCHEMA,
        open_row=lambda name: {"id": name},
        write_packet=lambda packet, rows: artifact.write_part(packet, to_table(rows, SCHEMA)),
    )


def run(out: Path, config: dict[str, Any], engine: Engine) -> dict[str, int | str]:
    """Run what is left to do; id → value or reason of all that is done."""
    run_packets(make_job(out, config), Artifact(out), plan_packets(IDS, 1), engine)
    return done(out)


def done(out: Path) -> dict[str, int | str]:
    return {row["id"]: row["reason"] or row["value"] for row in Artifact(out).read().to_pylist()}


EXPECTED = {name: 10 * i + 1 for i, name in enumerate(IDS)}


@pytest.fixture
def engine(in_process: bool, tmp_path: Path, request: pytest.FixtureRequest) -> Engine:
    if not in_process:
        request.getfixturevalue("own_ray")
    return Engine(tmp_path / "state", in_process, command="steadydancer trial")


@in_process_or_ray
def test_all_rows_arrive_with_their_verdicts(engine: Engine, tmp_path: Path) -> None:
    """Stages that need two shares of a machine: on Ray the rows travel between two kinds of workers."""
    config = {"clip3": "bad", "second_share": 0.5}
    assert run(tmp_path / "out", config, engine) == {**EXPECTED, "clip3": "truncated"}


@in_process_or_ray
def test_a_fault_is_told_in_few_lines_and_the_same_command_goes_on(
    engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packets = plan_packets(IDS, 1)
    for name in ("clip0", "clip1"):
        packet = next(packet for packet in packets if packet.ids == (name,))
        in_process = Engine(tmp_path / "state", in_process=True)
        run_packets(make_job(tmp_path / "out", {}), Artifact(tmp_path / "out"), [packet], in_process)
    capfd.readouterr()
    with pytest.raises(JobStopped) as caught:
        run(tmp_path / "out", {"clip3": "fault"}, engine)
    spilled = capfd.readouterr()
    message = str(caught.value).splitlines()
    log = tmp_path / "state" / "faults" / "measure-clip3.log"
    assert message[0] == "trial stopped: stage `measure` failed on clip clip3 (None)"
    assert message[1] == "  ZeroDivisionError: a fault of two lines"
    assert message[2].startswith("  at runtime/test_runner.py:") and message[2].endswith("in measure")
    assert message[3] == f"  full traceback: {log}" and "a fault\nof two lines" in log.read_text()
    options = "" if engine.in_process else " --in-process"
    assert message[4] == f"  reproduce in one process: steadydancer trial{options}"
    assert len(message) + len(spilled.err.splitlines()) <= 15 and "Traceback" not in spilled.err + spilled.out
    kept = done(tmp_path / "out")
    assert kept.items() >= {"clip0": 1, "clip1": 11}.items() and "clip3" not in kept
    assert run(tmp_path / "out", {}, engine) == EXPECTED


@in_process_or_ray
def test_a_full_disk_is_a_sentence(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(JobStopped, match=r"^trial stopped: No space left on device \(/full/disk\)\n.*free disk space"):
        run(tmp_path / "out", {"clip3": "full"}, engine)


@in_process_or_ray
def test_a_store_that_does_not_answer_is_a_fault_that_passes(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(JobInterrupted, match=r"^trial stopped: cannot be reached \(s3://bucket/x\)\nFinished") as ended:
        run(tmp_path / "out", {"clip3": "store away"}, engine)
    assert ended.value.exit_status == 75
    with pytest.raises(JobStopped, match=r"^trial stopped: access denied") as refused:
        run(tmp_path / "other", {"clip3": "store denies"}, engine)
    assert refused.value.exit_status == 1


@in_process_or_ray
def test_what_a_person_can_mend_arrives_in_its_own_words(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SteadyDancerError, match="^the weights are not here: fetch them$"):
        run(tmp_path / "out", {"missing": True}, engine)


@pytest.mark.parametrize("in_process", [True, pytest.param(False, marks=pytest.mark.acceptance)])
def test_rows_are_opened_when_their_turn_comes(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver holds one wave of them, however many there are."""
    opened: list[str] = []
    job = make_job(tmp_path / "out", {"second_share": 0.5})
    lazily = replace(job, open_row=lambda name: opened.append(name) or {"id": name})  # type: ignore[func-returns-value]
    monkeypatch.setattr(ray_data, "WAVE_BYTES", 1)
    waiting: list[int] = []

    def watched(items: Iterable[Any], *words: Any) -> Iterator[Any]:
        for done, item in enumerate(items, 1):
            waiting.append(len(opened) - done)
            yield item

    monkeypatch.setattr(runner, "progress", watched)
    run_packets(lazily, Artifact(tmp_path / "out"), plan_packets(IDS[:3], 1), engine)
    assert done(tmp_path / "out") == {name: EXPECTED[name] for name in IDS[:3]}
    assert opened == IDS[:3] and waiting == [0, 0, 0]


@pytest.mark.parametrize("second_share", [1.0, 0.5], ids=["actors", "ray_data"])
def test_a_killed_worker_costs_no_row(own_ray: Path, tmp_path: Path, second_share: float) -> None:
    config = {"clip3": "die once", "marker": str(tmp_path / "died"), "second_share": second_share}
    assert run(tmp_path / "out", config, Engine(tmp_path / "state")) == EXPECTED
    assert (tmp_path / "died").exists()


def test_what_a_killed_worker_had_finished_of_its_block_is_not_begun_again(
    own_ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_data, "BLOCKS_A_WORKER", 1)  # two of three packets
    config = {"clip1": "die once", "marker": str(tmp_path / "died"), "begun": str(tmp_path / "begun")}
    packets = plan_packets(IDS, 1)
    answered = list(ray_data.ray_results(make_job(tmp_path / "out", config), Artifact(tmp_path / "out"), packets))
    assert sorted(item["packet"] for item in answered) == sorted(packet.id for packet in packets)
    assert done(tmp_path / "out") == EXPECTED
    begun = (tmp_path / "begun").read_text().split()
    assert begun.count("clip0") == 1 and begun.count("clip1") == 2


@pytest.mark.parametrize("second_share", [1.0, pytest.param(0.5, marks=pytest.mark.acceptance)],
                         ids=["actors", "ray_data"])  # fmt: skip
def test_a_clip_that_kills_every_worker_does_not_hold_the_job_for_ever(
    own_ray: Path, tmp_path: Path, second_share: float
) -> None:
    config = {"clip3": "die", "marker": str(tmp_path / "died"), "second_share": second_share}
    with pytest.raises(JobStopped, match=r"workers die .* on one of \d+ inputs"):
        run(tmp_path / "out", config, Engine(tmp_path / "state"))
    assert "clip3" not in done(tmp_path / "out")
    if second_share == 1:  # the packets of all other clips are finished
        assert done(tmp_path / "out") == {name: value for name, value in EXPECTED.items() if name != "clip3"}
    assert run(tmp_path / "out", {}, Engine(tmp_path / "state")) == EXPECTED


def test_a_job_goes_on_with_the_cpu_that_is_free(own_ray: Path, tmp_path: Path) -> None:
    """Another job holds the others for good: a worker that waits for a CPU holds no packet."""
    import ray

    taken = int(ray.cluster_resources()["CPU"]) - 1

    @ray.remote(num_cpus=taken)
    class Other:
        def is_there(self) -> bool:
            return True

    other = Other.remote()
    assert ray.get(other.is_there.remote())
    assert run(tmp_path / "out", {}, Engine(tmp_path / "state")) == EXPECTED
    ray.kill(other)


def test_curation_on_ray_gives_the_rows_that_one_process_gives(
    own_ray: Path, dancers: Path, curated: Path, tmp_path: Path
) -> None:
    """Whole rows, verdicts, scores and keypoints' bytes."""
    from steadydancer.flows.presets import tiny
    from steadydancer.pipelines.curate import job

    config = tiny().curate.model_copy(update={"pose_model": "supplied", "packet_size": 2})
    record = job.run(config, clips=str(dancers / "clips"), out=tmp_path, engine=Engine(tmp_path / ".engine"))
    assert record["counts"] == Artifact(curated / "clips").record()["counts"]
    here, there = Artifact(curated / "clips").read(), Artifact(tmp_path / "clips").read()
    assert sum(pose is not None for pose in there["pose_digest"].to_pylist()) == 4
    # Packets of another size have other names.
    assert there.drop(["measured_part"]).equals(here.drop(["measured_part"]))


def test_a_gpu_that_never_comes_is_not_waited_for(own_ray: Path, tmp_path: Path) -> None:
    import ray

    job = make_job(tmp_path / "out", {})
    stages = [Stage("measure", measure, ("id",), ("value",), load=load_ten, num_gpus=100.0)]
    here = int(ray.cluster_resources().get("GPU", 0))
    with pytest.raises(JobStopped, match=rf"needs 100 GPU per worker, but this machine has {here}"):
        greedy = Job(job.name, stages, {}, SCHEMA, job.open_row, job.write_packet)
        run_packets(greedy, Artifact(tmp_path / "out"), plan_packets(IDS, 1), Engine(tmp_path))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nix:words"])
def test_a_cluster_that_does_not_answer_is_said_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(JobStopped, match=f"trial stopped: cannot connect to the Ray cluster at {address}"):
        run(tmp_path / "out", {}, Engine(tmp_path / "state", address=address))


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: is_terminal  # type: ignore[method-assign]


def stderr_of(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, work: Callable[[], None]) -> str:
    stream = Stream(is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    work()
    return stream.getvalue()


def test_progress_is_a_bar_on_a_terminal_and_a_few_lines_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        assert list(progress(range(500), "curate", "packets", total=600, initial=100)) == list(range(500))

    bar = stderr_of(monkeypatch, True, work)
    assert "\r" in bar and "curate" in bar and "600/600" in bar
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: 7.0))
    log = stderr_of(monkeypatch, False, work)
    assert log.splitlines() == ["curate: 100 of 600 packets done", "curate: 600 of 600 packets, 0 s"]


def test_a_long_job_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 7))
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: next(clock)))  # Ray's threads have theirs
    log = stderr_of(monkeypatch, False, lambda: list(progress(range(30), "cache", "packets", total=30)) and None)
    lines = log.splitlines()
    assert 3 <= len(lines) - 2 <= 30 * 7 / SECONDS_BETWEEN_LINES
    assert lines[1] == "cache: 3 of 30 packets, 21 s" and lines[-1].startswith("cache: 30 of 30")
