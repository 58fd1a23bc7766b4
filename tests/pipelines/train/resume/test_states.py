import os
import resource
import signal
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steadydancer import SteadyDancerError
from steadydancer.datasets.storage.digests import json_digest
from steadydancer.pipelines.train import integrity
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data.prefetch import Prefetch
from steadydancer.pipelines.train.resume import states
from steadydancer.pipelines.train.resume.host_copy import HostCopy, num_bytes
from steadydancer.pipelines.train.resume.states import StateNotWritten, StateWriter, newest_state
from steadydancer.pipelines.train.resume.stop import preemption_watch, stop_requested, stops_on_sigterm
from steadydancer.pipelines.train.run_folder import intact_states


class Team:
    """Ranks that are threads of this process."""

    def __init__(self, rank: int = 0, world_size: int = 1, barrier: threading.Barrier | None = None) -> None:
        self.rank, self.world_size, self._barrier = rank, world_size, barrier

    def barrier(self) -> None:
        if self._barrier:
            self._barrier.wait(LONGEST_S)

    def any(self, flag: bool) -> bool:
        return flag


class PlusOne:
    """An optimizer that adds one; torch's own would import its compiler first."""

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights, self._hooks = weights, []

    def register_step_pre_hook(self, hook):
        self._hooks.append(hook)
        return SimpleNamespace(remove=lambda: self._hooks.remove(hook))

    def step(self) -> None:
        assert [hook(self, (), {}) for hook in self._hooks] in ([], [None])
        self._weights += 1


class Engine:
    """What training changes, and where DeepSpeed would put it."""

    def __init__(self, value: float = 0.0, size: int = 1000) -> None:
        self.weights = torch.full((size,), value)
        self.optimizer = SimpleNamespace(optimizer=PlusOne(self.weights))  # as DeepSpeed's, which wraps another

    def step(self) -> None:
        self.optimizer.optimizer.step()


LONGEST_S = 100.0


@pytest.fixture(autouse=True)
def nobody_waits_for_ever(monkeypatch):
    """A wait without a limit of its own ends with the test's: a rank, a thread or a copy that never comes is an error.

    Otherwise the thread would hold up the end of the test, and then that of the whole session.
    """
    end, original = time.monotonic() + LONGEST_S, threading.Event.wait

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        left = max(end - time.monotonic(), 0.0)
        came = original(event, left if timeout is None else min(timeout, left))
        if not came and time.monotonic() >= end:
            raise TimeoutError(f"nothing came within {LONGEST_S:g} s")
        return came

    monkeypatch.setattr(threading.Event, "wait", wait)


@pytest.fixture(autouse=True)
def engine_without_deepspeed(monkeypatch):
    def files(engine, folder, taken):
        (folder / "engine").mkdir(exist_ok=True)
        rank = (
            threading.current_thread().name.removeprefix("rank-") if "rank-" in threading.current_thread().name else 0
        )
        return {folder / "engine" / f"rank-{rank}.pt": taken({"weights": engine.weights, "step": 3})}

    monkeypatch.setattr(states, "collect_state_files", files)
    monkeypatch.setattr(states, "trained_names", lambda engine: ["weights"])


def config(**changes) -> TrainConfig:
    return TrainConfig(stage=1, num_workers=0, use_gpu=False, **changes)


def saved(folder: Path, rank: int = 0) -> torch.Tensor:
    return torch.load(folder / f"engine/rank-{rank}.pt", weights_only=True)["weights"]


def test_training_goes_on_while_a_state_is_written_and_does_not_change_it(tmp_path, monkeypatch):
    may_write, original = threading.Event(), torch.save

    def slow(*arguments):
        assert may_write.wait(LONGEST_S)
        original(*arguments)

    monkeypatch.setattr(torch, "save", slow)
    engine = Engine(1.0)
    with StateWriter(tmp_path, config(), Team()) as writer:
        writer.save(engine, 5)
        engine.step()  # before a byte is written
        writer.check()
        assert not list(intact_states(tmp_path))
        may_write.set()
        writer.save(engine, 6, wait=True)  # waits for the one before
        assert [steps for steps, _ in intact_states(tmp_path)] == [6, 5]
    five, six = tmp_path / "state/step-000005", tmp_path / "state/step-000006"
    assert (saved(five)[0], saved(six)[0]) == (1.0, 2.0)
    facts, file = states.read_state_record(five), (five / "engine/rank-0.pt").read_bytes()
    assert facts.pop("digest") == json_digest(facts)
    assert facts == {
        "world_size": 1, "zero_stage": 2, "optimizer": "adamw", "ema_decay": 0.0, "trained": ["weights"],
        "steps_done": 5,
        "files": {"engine/rank-0.pt": len(file)}, "crc32": {"engine/rank-0.pt": zlib.crc32(file)},
    }  # fmt: skip


def test_old_states_are_removed_and_torn_ones_neither_counted_nor_kept_in_the_way(tmp_path):
    with StateWriter(tmp_path, config(keep_checkpoints=2), Team()) as writer:
        for steps in (1, 2, 3):
            writer.save(Engine(), steps)
    assert [steps for steps, _ in intact_states(tmp_path)] == [3, 2]
    newest = tmp_path / "state/step-000003"
    (newest / "engine/rank-0.pt").write_bytes(b"cut")
    assert [steps for steps, _ in intact_states(tmp_path)] == [2]
    with StateWriter(tmp_path, config(), Team()) as writer:
        writer.save(Engine(7.0), 3)
    assert saved(newest)[0] == 7.0


def test_without_asynchronous_checkpoints_a_state_is_there_when_saving_returns(tmp_path):
    with StateWriter(tmp_path, config(asynchronous_checkpoints=False), Team()) as writer:
        for steps in (1, 2):
            writer.save(Engine(), steps)
            assert next(intact_states(tmp_path))[0] == steps


def test_names_and_metrics_are_on_the_disk_before_a_state_counts(tmp_path, monkeypatch):
    """And its own name after: a power cut leaves the state before it, or this one whole with the lines behind it."""
    place, synced = tmp_path / "state/step-000001", []
    monkeypatch.setattr(states, "sync", lambda path: synced.append((path.name, place.exists())))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with StateWriter(tmp_path, config(), Team()) as writer:
        writer.save(Engine(), 1, wait=True)
    assert sorted(synced[:-1]) == [(".step-000001.tmp", False), ("engine", False), ("metrics.jsonl", False)]
    assert synced[-1] == ("state", True)


def test_what_a_killed_attempt_left_aside_is_removed(tmp_path):
    left = tmp_path / "state/.step-000007.tmp/engine"
    left.mkdir(parents=True)
    with StateWriter(tmp_path, config(), Team()) as writer:
        writer.save(Engine(), 1, wait=True)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000001"]


def flip(file: Path, at: float = 0.5) -> None:
    """One bit of a file, its size and name the same."""
    data = bytearray(file.read_bytes())
    data[int(len(data) * at)] ^= 1
    file.write_bytes(data)
    os.utime(file, (1, 1))  # checksums are cached by time, and a clock may not have ticked since the last write


@pytest.mark.parametrize(
    "harm", ["cut", "flipped", "record_flipped", "record_missing", "record_no_json", "file_missing"]
)
def test_a_state_that_is_not_what_was_written_is_refused_with_a_word_and_the_one_before_used(tmp_path, harm, caplog):
    with StateWriter(tmp_path, config(), Team()) as writer:
        for steps in (2, 4):
            writer.save(Engine(size=100_000), steps)
    file, record = tmp_path / "state/step-000004/engine/rank-0.pt", tmp_path / "state/step-000004/complete.json"
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "flipped":
        flip(file)
    elif harm == "record_flipped":  # an e becomes a d: a weight's name, in a JSON that is one still
        record.write_text(record.read_text().replace("weights", "wdights"))
    elif harm == "record_no_json":
        flip(record, 0)
    else:
        (file if harm == "file_missing" else record).unlink()
    assert next(intact_states(tmp_path)) == (2, tmp_path / "state/step-000002")
    assert newest_state(tmp_path, Team()) == (2, tmp_path / "state/step-000002")
    (said,) = caplog.messages  # once, however often it is looked for
    named = "complete.json" if "record" in harm else "engine/rank-0.pt"
    assert said.startswith(f"skipping the damaged training state {tmp_path}/state/step-000004 ({named} is ")


def test_a_refused_state_does_not_push_out_the_sound_one_that_follows(tmp_path):
    kept = config(keep_checkpoints=1)
    with StateWriter(tmp_path, kept, Team()) as writer:
        writer.save(Engine(), 6)
    flip(tmp_path / "state/step-000006/engine/rank-0.pt")
    with StateWriter(tmp_path, kept, Team()) as writer:
        writer.save(Engine(), 5)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000005"]


def test_a_checksum_is_of_the_whole_file(tmp_path):
    """Larger than what is read at once."""
    data = bytes(range(256)) * 70_000
    (tmp_path / "large").write_bytes(data)
    assert len(data) > 1 << 24 and integrity._checksum(tmp_path / "large", 0) == zlib.crc32(data)
    assert integrity._checksum(tmp_path / "none", 0) is None


def test_ranks_share_out_the_reading_and_agree(tmp_path, monkeypatch):
    barrier, reported = threading.Barrier(2), [False, False]

    class Ranks(Team):
        def any(self, flag: bool) -> bool:
            reported[self.rank] = flag
            self.barrier()
            answer = any(reported)
            self.barrier()
            return answer

    def together(work) -> list:
        with ThreadPoolExecutor(2, thread_name_prefix="rank") as pool:
            return list(pool.map(work, (Ranks(0, 2, barrier), Ranks(1, 2, barrier))))

    names = iter((0, 1, 0, 1))

    def files(engine, folder, taken):
        return {folder / f"rank-{next(names)}.pt": taken({"weights": engine.weights})}

    def save(group: Ranks) -> None:
        with StateWriter(tmp_path, config(), group) as writer:
            for steps in (1, 2):
                writer.save(Engine(group.rank), steps, wait=True)

    monkeypatch.setattr(states, "collect_state_files", files)
    together(save)
    read: list[str] = []
    original = integrity._checksum
    monkeypatch.setattr(integrity, "_checksum", lambda file, changed: read.append(file.name) or original(file, changed))
    assert together(lambda group: newest_state(tmp_path, group)) == 2 * [(2, tmp_path / "state/step-000002")]
    assert sorted(read) == ["rank-0.pt", "rank-1.pt"]  # each file by one of them
    flip(tmp_path / "state/step-000002/rank-1.pt")
    assert together(lambda group: newest_state(tmp_path, group)) == 2 * [(1, tmp_path / "state/step-000001")]


def test_a_state_counts_when_every_rank_has_written_its_part(tmp_path, monkeypatch):
    second_may_write, original = threading.Event(), torch.save

    def save(state, file):
        assert state["weights"][0] == 0 or second_may_write.wait(LONGEST_S)
        original(state, file)

    monkeypatch.setattr(torch, "save", save)
    barrier, errors = threading.Barrier(2), []

    def run(rank: int) -> None:
        try:
            with StateWriter(tmp_path, config(), Team(rank, 2, barrier)) as writer:
                writer.save(Engine(rank), 4)
                if rank == 0:
                    time.sleep(0.3)
                    assert not list(intact_states(tmp_path))  # its own part has been on the disk for long
                    second_may_write.set()
                writer.wait()
        except BaseException as error:
            errors.append(error)

    ranks = [threading.Thread(target=run, args=(rank,), name=f"rank-{rank}") for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(LONGEST_S)
    assert not errors
    ((steps, folder),) = intact_states(tmp_path)
    assert (steps, saved(folder, 0)[0], saved(folder, 1)[0]) == (4, 0.0, 1.0)


def test_a_rank_that_fails_waits_for_no_other(tmp_path):
    with pytest.raises(KeyboardInterrupt), StateWriter(tmp_path, config(), Team(0, 2)) as writer:
        writer.save(Engine(), 4)
        writing = writer._writing
        raise KeyboardInterrupt
    assert writing.result() is None  # it was told to wait no longer, and has not run out of patience
    assert not list(intact_states(tmp_path))


def test_a_full_disk_is_one_clear_error_and_touches_nothing(tmp_path, monkeypatch):
    engine = Engine(size=100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StateWriter(tmp_path, config(), Team()) as writer:
        writer.save(engine, 1, wait=True)
        # A file may not grow past 100 kB: what writing to a full disk looks like from inside.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            writer.save(engine, 2)
            with pytest.raises(
                StateNotWritten,
                match=r"^disk: the state after 2 steps .*File too large.* the state of 1 steps is intact",
            ) as reported:
                writer.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert isinstance(reported.value, SteadyDancerError)
        assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000001"]

        usage = states.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(states.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
        with pytest.raises(StateNotWritten, match="0.00 GB free"):
            writer.save(engine, 2)
        monkeypatch.undo()
    assert [steps for steps, _ in intact_states(tmp_path)] == [1]


def test_what_went_wrong_in_writing_is_raised_at_a_later_step(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda *arguments: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with StateWriter(tmp_path, config(), Team()) as writer:
        writer.save(Engine(), 1)
        with pytest.raises(StateNotWritten, match="No space left on device.*there is no earlier state"):
            for _ in range(10_000):
                time.sleep(0.01)
                writer.check()


def test_the_optimizer_waits_until_what_it_would_change_is_copied(tmp_path, monkeypatch):
    may_copy, original = threading.Event(), HostCopy.finish

    def late(copies: HostCopy) -> None:
        assert may_copy.wait(LONGEST_S)
        original(copies)

    monkeypatch.setattr(HostCopy, "finish", late)
    engine = Engine(1.0)
    with StateWriter(tmp_path, config(), Team()) as writer:
        for steps, before in ((5, 1.0), (6, 2.0)):  # for each state anew
            may_copy.clear()
            writer.save(engine, steps)
            stepping = threading.Thread(target=engine.step, daemon=True)
            stepping.start()
            stepping.join(0.2)
            assert stepping.is_alive() and engine.weights[0] == before
            may_copy.set()
            stepping.join(LONGEST_S)
            assert engine.weights[0] == before + 1
    assert saved(tmp_path / "state/step-000005")[0] == 1.0
    assert saved(tmp_path / "state/step-000006")[0] == 2.0


def test_a_copy_on_the_host_is_the_same_and_its_own():
    state = {"a": torch.arange(6.0).view(2, 3), "b": [torch.ones(2, dtype=torch.bfloat16), {"lr": 0.1}], "c": (1, "x")}
    copies = HostCopy()

    def copied_of(state):
        copies.begin()
        copied = copies(state)
        assert not copies.wait(0)
        copies.finish()
        assert copies.wait(0)
        return copied

    copied = copied_of(state)
    state["a"] += 1
    state["b"][1]["lr"] = 0.2
    assert torch.equal(copied["a"], torch.arange(6.0).view(2, 3))
    assert copied["b"][0].dtype == torch.bfloat16 and copied["b"][1] == {"lr": 0.1} and copied["c"] == (1, "x")
    again = copied_of(state)
    assert again["a"] is copied["a"] and torch.equal(again["a"], state["a"])
    wider = copied_of({"a": torch.ones(9)})
    assert torch.equal(wider["a"], torch.ones(9)) and again["a"].shape == (2, 3)


def test_a_tensor_that_occurs_twice_is_copied_and_counted_once():
    copy, moment = HostCopy(), torch.arange(4.0)
    for _ in range(2):  # the second time into the same memory
        copy.begin()
        first = copy({"exp_avg": moment, "exp_avg_sq": moment, "step": torch.tensor(1.0)})
        second = copy({"exp_avg": moment.clone()})
        copy.finish()
        assert first["exp_avg"] is first["exp_avg_sq"] and first["exp_avg"] is not second["exp_avg"]
        assert torch.equal(first["exp_avg"], moment) and torch.equal(second["exp_avg"], moment)
        moment += 1
    assert num_bytes(first) == 16 + 4 and num_bytes([moment[:2], moment[2:], moment]) == 8 + 8 + 16


def test_batches_come_in_order_one_ahead_and_errors_at_their_step():
    begun: list[int] = []

    def load(step: int) -> int:
        begun.append(step)
        if step == 5:
            raise ValueError("sample of step 5")
        return 10 * step

    with Prefetch(load, range(3, 7)) as batches:
        assert batches(3) == 30
        assert batches(4) == 40  # step 5 is being read, and fails, meanwhile
        with pytest.raises(ValueError, match="sample of step 5"):
            batches(5)
        assert batches(6) == 60
    assert begun == [3, 4, 5, 6]
    with Prefetch(load, range(0)):
        pass


def test_batches_are_read_by_one_thread_one_after_another():
    """Poses that a batch encodes are written in the order of the steps."""
    under_way: list[int] = []

    def load(step: int) -> int:
        under_way.append(step)
        time.sleep(0.02)
        alone = under_way == [step]
        under_way.remove(step)
        assert alone
        return step

    with Prefetch(load, range(5)) as batches:
        assert [batches(step) for step in range(5)] == list(range(5))


def test_sigterm_asks_once_and_ends_the_second_time(tmp_path):
    (tmp_path / "state").mkdir()
    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    try:
        with stops_on_sigterm(tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
            assert (tmp_path / "state/stop").exists() and not ended
            os.kill(os.getpid(), signal.SIGTERM)
            assert ended == [signal.SIGTERM]
        assert not (tmp_path / "state/stop").exists()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stop_file_of_an_earlier_attempt_does_not_stop_this_one(tmp_path):
    """Nor does one stay behind: the next attempt would end after one step, and the next again."""
    file = tmp_path / "state/stop"
    file.parent.mkdir()
    file.touch()
    first, second, before = Team(0, 2), Team(1, 2), signal.getsignal(signal.SIGTERM)
    with stops_on_sigterm(tmp_path):
        assert not file.exists() and not stop_requested(tmp_path, first)
        file.touch()
        assert stop_requested(tmp_path, first) and not stop_requested(tmp_path, second)  # one rank looks, and tells all
    assert not file.exists()
    with pytest.raises(KeyError), stops_on_sigterm(tmp_path):
        file.touch()
        raise KeyError
    assert not file.exists() and signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_the_file_alone_stops_a_run(tmp_path):
    (tmp_path / "state").mkdir()
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with stops_on_sigterm(tmp_path):
            (tmp_path / "state/stop").touch()
            seen.append(stop_requested(tmp_path, Team()))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result(LONGEST_S)
    assert seen == [True] and signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "state/stop").exists()


def test_a_machine_that_leaves_is_told_of_once(monkeypatch):
    """Ray says so at every step; one more state is written and no more."""
    import ray.train

    news = iter([None, "leaving in 30 s", "leaving in 20 s", None])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(news))
    is_leaving = preemption_watch(config().model_copy(update={"num_workers": 2}))
    assert [is_leaving() for _ in range(4)] == [False, True, False, False]
    assert preemption_watch(config())() is False  # without Ray nobody is asked
