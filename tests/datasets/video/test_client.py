"""The decoding process may hang, crash or be killed; what it is asked for comes all the same, or a typed verdict."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from steadydancer.datasets.video import (
    VideoError,
    client,
    decode,
    decode_low_resolution,
    decode_sparse,
    decoding_counts,
    encode,
    frame_times_s,
    probe,
)
from steadydancer.datasets.video.client import Limits

# Runs in the child before it serves: the reader's method that decodes is put aside for another.
AS_THE_CHILD_STARTS = "from steadydancer.datasets.video import reader as r; import os, time, signal\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    encode(np.random.default_rng(0).integers(0, 256, (48, 48, 64, 3), np.uint8), path)
    return path


@pytest.fixture
def prepared(monkeypatch):
    """Start children with some code of the test's before their own."""

    finding, serving = client.START.split("; from ")

    def prepare(code: str) -> None:
        client.stop_worker()
        words = f"{AS_THE_CHILD_STARTS}{code}"
        monkeypatch.setattr(client, "START", f"{finding}; exec({words!r}); from {serving}")

    yield prepare
    client.stop_worker()  # the next test's child is an honest one


def worker_pid() -> int:
    pid = client.worker_pid()
    assert pid is not None
    return pid


def gone(pid: int) -> bool:
    """Ended: not there, or waiting for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def test_frames_are_equal_with_and_without_the_process(clip, monkeypatch):
    times_s = np.array([2.9, 0.0, 0.3, 0.3, 1.7])
    calls = [
        lambda: probe(clip),
        lambda: frame_times_s(clip),
        lambda: decode(clip, times_s),
        lambda: decode(clip, np.arange(48) / 16, 24, 32),
        lambda: decode_low_resolution(clip, 0.25, 40)[1],
        lambda: decode_sparse(clip, 0.5, 2.5, 4)[1],
    ]
    outside = [call() for call in calls]
    assert isinstance(client.worker_pid(), int)
    client.stop_worker()
    monkeypatch.setenv("STEADYDANCER_DECODE", "in-process")
    for call, expected in zip(calls, outside, strict=True):
        np.testing.assert_array_equal(call(), expected)
    assert client.worker_pid() is None
    monkeypatch.delenv("STEADYDANCER_DECODE")
    frames = outside[2]
    frames[:] = 7  # the memory is the caller's
    assert (frames == 7).all() and not (decode(clip, times_s) == 7).all()


def test_one_process_serves_many_requests_and_its_memory_is_flat(clip):
    def resident_bytes() -> int:
        return int(Path(f"/proc/{worker_pid()}/statm").read_text().split()[1]) * resource.getpagesize()

    def open_files() -> list[str]:
        return [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]

    pids, sizes = set(), []
    decode(clip, np.arange(12) / 16, 240, 320)  # a worker with its staging memory: its descriptors stay open
    open_before = open_files()
    for k in range(300):
        assert decode(clip, np.arange(12) / 16 + k * 1e-4, 240, 320).shape == (12, 240, 320, 3)  # 3 MB
        pids.add(worker_pid())
        sizes.append(resident_bytes())
    assert len(pids) == 1
    assert max(sizes[100:]) - sizes[50] < 20e6
    assert len(open_files()) <= len(open_before) + 3, Counter(open_files()) - Counter(open_before)


def test_an_old_child_is_replaced(clip, monkeypatch):
    client.stop_worker()
    monkeypatch.setattr(client, "MAX_REQUESTS", 3)
    pids = []
    for _ in range(5):
        decode(clip, np.zeros(1))
        pids.append(client.worker_pid())
    assert pids[0] == pids[1] and pids[3] == pids[4] != pids[0] and gone(pids[0])
    assert pids[2] is None  # it has answered three, and is replaced at the next request
    fat = worker_pid()
    monkeypatch.setattr(client, "MAX_RESIDENT_BYTES", 1)
    decode(clip, np.zeros(1))
    assert gone(fat)


@pytest.mark.parametrize("hang", ["time.sleep(1000)", "signal.pause()"])
def test_a_child_that_sleeps_is_killed(clip, prepared, monkeypatch, hang):
    prepared(f"r.VideoReader.frames = lambda *a: {hang}\n")
    probe(clip)
    monkeypatch.setattr(client, "LIMITS", Limits(idle_s=0.5))
    pid = worker_pid()
    with pytest.raises(VideoError, match="was idle") as hung:
        decode(clip, np.zeros(1))
    assert hung.value.reason == "timeout"
    assert gone(pid)
    assert probe(clip).num_frames == 48


def test_a_child_that_spins_is_killed_and_one_that_moves_a_little_in_the_end(clip, prepared, monkeypatch):
    prepared("def spin(*a):\n while True: pass\nr.VideoReader.frames = spin\n")
    probe(clip)
    monkeypatch.setattr(client, "LIMITS", Limits(base_s=0.2, factor=0, clock_factor=1000))
    with pytest.raises(VideoError, match="CPU time") as hung:
        decode(clip, np.zeros(1))
    assert hung.value.reason == "timeout"
    prepared("def doze(*a):\n while True: time.sleep(0.01)\nr.VideoReader.frames = doze\n")
    monkeypatch.setattr(client, "LIMITS", Limits())
    probe(clip)
    monkeypatch.setattr(client, "LIMITS", Limits(base_s=1, factor=0, clock_factor=1))
    with pytest.raises(VideoError) as hung:
        decode(clip, np.zeros(1))
    assert hung.value.reason == "timeout"


def test_a_child_that_works_gets_the_time_it_said_it_needs(clip, prepared, monkeypatch):
    work = "def work(self, *a):\n self._expect(1000)\n t = time.process_time()\n"
    prepared(f"{work} while time.process_time() < t + 1: pass\nr.VideoReader.frames = work\n")
    probe(clip)
    monkeypatch.setattr(client, "LIMITS", Limits(base_s=0.2, factor=0.01, idle_s=0.3))
    with pytest.raises(AssertionError):  # it brings no frames; it was not killed
        decode(clip, np.zeros(1))


@pytest.mark.parametrize("death", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_crash_is_tried_once_more_and_then_a_verdict(clip, prepared, death, tmp_path):
    crashes = decoding_counts().get("crashes", 0)
    prepared(f"r.VideoReader.frames = lambda *a: (os.write(2, b'bad luck'), os.kill(os.getpid(), signal.{death}))\n")
    with pytest.raises(VideoError, match=f"{death}: bad luck") as crashed:
        decode(clip, np.zeros(1))
    assert crashed.value.reason == "decoder_crash"
    assert decoding_counts()["crashes"] == crashes + 2
    once = tmp_path / "once"
    prepared(
        f"good, once = r.VideoReader.frames, {str(once)!r}\n"
        "def frames(*a):\n if not os.path.exists(once): open(once, 'w'); os.kill(os.getpid(), signal.SIGSEGV)\n"
        " return good(*a)\nr.VideoReader.frames = frames\n"
    )
    assert decode(clip, np.zeros(1)).shape == (1, 48, 64, 3)
    assert once.exists()


def test_a_child_killed_from_outside_costs_nothing(clip, prepared, tmp_path):
    expected = decode(clip, np.arange(48) / 16)
    os.kill(worker_pid(), signal.SIGKILL)  # idle
    np.testing.assert_array_equal(decode(clip, np.arange(48) / 16), expected)
    at_work = tmp_path / "at_work"
    prepared(
        f"good, at_work = r.VideoReader.frames, {str(at_work)!r}\n"
        "def frames(*a):\n if not os.path.exists(at_work): open(at_work, 'w'); time.sleep(1000)\n"
        " return good(*a)\nr.VideoReader.frames = frames\n"
    )
    probe(clip)
    pid = worker_pid()
    killer = threading.Thread(target=lambda: (wait_until(at_work.exists), os.kill(pid, signal.SIGKILL)))
    killer.start()
    np.testing.assert_array_equal(decode(clip, np.arange(48) / 16), expected)
    assert worker_pid() != pid


def test_a_fault_of_the_code_is_no_fault_of_the_file(clip, prepared):
    prepared("r.VideoReader.frames = lambda *a: 1 / 0\n")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        decode(clip, np.zeros(1))


PARENT = """
import os, sys, time, numpy as np
from steadydancer.datasets.video import client
from steadydancer.datasets.video import decode, probe
hang = "from steadydancer.datasets.video import reader as r; import time; r.VideoReader.frames = lambda *a: {hang}"
finding, serving = client.START.split("; from ")
client.START = f"{{finding}}; exec({{hang!r}}); from {{serving}}"
probe(sys.argv[1])
print(client.worker_pid(), flush=True)
{then}
"""


@pytest.mark.parametrize("then", ["decode(sys.argv[1], np.zeros(1))", "time.sleep(1000)"])
def test_the_child_ends_when_its_parent_is_killed(clip, then):
    # A long sort holds the interpreter's lock, as a hanging codec may: no thread of the child could end it.
    code = PARENT.format(hang="sorted(range(10**9), key=lambda k: -k)" if "decode" in then else "0", then=then)
    with subprocess.Popen([sys.executable, "-c", code, str(clip)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        time.sleep(0.3)
        parent.kill()
    wait_until(lambda: gone(pid), 10)


def test_a_parent_that_ends_leaves_no_child_and_a_thread_that_ends_leaves_it(clip):
    code = PARENT.format(hang="0", then="")
    ended = subprocess.run([sys.executable, "-c", code, str(clip)], capture_output=True, text=True, check=True)
    wait_until(lambda: gone(int(ended.stdout)), 10)
    assert ended.stderr == ""
    client.stop_worker()
    thread = threading.Thread(target=lambda: probe(clip))
    thread.start()
    thread.join()
    pid = worker_pid()
    decode(clip, np.zeros(1))
    assert worker_pid() == pid


def test_a_forked_process_asks_a_child_of_its_own(clip):
    expected = decode(clip, np.arange(48) / 16)
    pid = worker_pid()
    forked = os.fork()
    if forked == 0:
        try:
            same = (decode(clip, np.arange(48) / 16) == expected).all() and worker_pid() != pid
            client.stop_worker()
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    np.testing.assert_array_equal(decode(clip, np.arange(48) / 16), expected)
    assert worker_pid() == pid


def test_threads_take_turns(clip):
    expected = decode(clip, np.arange(48) / 16)
    equal = []
    ask = lambda: equal.append(np.array_equal(decode(clip, np.arange(48) / 16), expected))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 6


def test_an_interrupted_request_does_not_answer_the_next(clip, prepared):
    prepared("good = r.VideoReader.frames\nr.VideoReader.frames = lambda *a: (time.sleep(1), good(*a))[1]\n")
    probe(clip)
    pid = worker_pid()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(KeyboardInterrupt):
        decode(clip, np.full(3, 1.0))
    signal.signal(signal.SIGALRM, before)
    assert decode(clip, np.zeros(1)).shape[0] == 1
    assert worker_pid() != pid


def test_the_child_decodes_where_decord_is_not_installed(clip, prepared):
    times_s = np.arange(48) / 16
    expected = decode(clip, times_s)
    prepared("import sys; sys.modules['decord'] = None\n")
    before = decoding_counts()
    np.testing.assert_array_equal(decode(clip, times_s), expected)
    assert decoding_counts().get("pyav", 0) - before.get("pyav", 0) == 1
    assert decoding_counts().get("decord", 0) == before["decord"] > 0


def test_the_child_needs_no_torch_and_none_of_the_heavy(clip, prepared, tmp_path):
    prepared(
        "import sys, json\nr.VideoReader.index = lambda *a, **k: "
        f"(open({str(tmp_path / 'modules')!r}, 'w').write(json.dumps(sorted(sys.modules))), 1 / 0)\n"
    )
    with pytest.raises(RuntimeError):
        probe(clip)
    loaded = (tmp_path / "modules").read_text()
    assert '"av"' in loaded
    assert not any(f'"{name}"' in loaded for name in ("torch", "cv2", "pyarrow", "ray", "decord", "pydantic"))
