"""Training runs whose processes are killed, against the same runs left alone: the same bits.

Everything is real: the engine, the loop, the files, and SIGKILL. Runs of one process are forked from one that has the
imports behind it; runs under Ray are commands.
"""

import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steadydancer.flows import presets
from steadydancer.models.components import save_components, tiny_components
from steadydancer.pipelines.train.metrics_file import PARTS, read_rows
from steadydancer.pipelines.train.run_folder import intact_states, state_folders

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

STEPS, EVERY = 20, 4
MEASURED = {"seconds", "samples_per_second", "memory_bytes", "mfu", *(f"{part}_share" for part in PARTS)}


def settings(stage: int, **changes) -> presets.Run:
    """The tiny preset with one stage changed: a state every four steps, a validation every five."""
    small = {
        "steps": STEPS, "checkpoint_every_steps": EVERY, "global_batch_size": 2, "evaluation_samples": 2,
        "validation_share": 0.7, "validation_clips": 1, "validation_sigmas": (0.5,), "validation_every_steps": 5,
        "lora_rank": 4, "trackers": (), "zero_stage": 3 if stage == 2 else 2, "gradient_checkpointing": True,
        "text_dropout": 0.3, "pose_dropout": 0.3, "alignment_dropout": 0.1,
    }  # fmt: skip
    return presets.change(presets.load("tiny"), f"stage{stage}", **{**small, **changes})


class World:
    """What a run needs, and how it is begun here."""

    def __init__(self, root: Path, latents: Path, components: Path) -> None:
        self.root, self.latents, self.components = root, latents, components
        self._log = root / "told.log"
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["steadydancer.pipelines.train.loop", "deepspeed", "ray.train"])

    def parent(self, stage: int) -> Path | None:
        """The straight run of the stage before, trained here if it has not been."""
        return self.straight(stage - 1) if stage > 1 else None

    def straight(self, stage: int, **changes) -> Path:
        """A run that nobody disturbs."""
        out = self.root / "-".join(["straight", str(stage), *(f"{name}={changes[name]}" for name in sorted(changes))])
        if not (out / "checkpoint").exists():
            self.finish(stage, out, **changes)
        return out

    def begin(self, stage: int, out: Path, before: str = "", **changes) -> BaseProcess:
        """A process that trains; `before` is run in it first."""
        arguments = {
            "latents": self.latents, "base": str(self.components), "out": out, "from_checkpoint": self.parent(stage)
        }  # fmt: skip
        code = f"{PRELUDE}\n{before}\njob.run(config, **arguments)"
        self._log.unlink(missing_ok=True)
        names = {"config": settings(stage, **changes).stage(stage), "arguments": arguments, "log": self._log}
        process = self._processes.Process(target=exec, args=(code, names))
        process.start()
        return process

    def log_text(self) -> str:
        """What the process that was begun last has said."""
        return self._log.read_text()

    def finish(self, stage: int, out: Path, **changes) -> None:
        """The same run again, to its end."""
        process = self.begin(stage, out, **changes)
        process.join()
        assert process.exitcode == 0, self.log_text()

    def command(
        self, stage: int, out: Path, *options: str, env: dict[str, str] | None = None, **changes
    ) -> subprocess.Popen:
        """The command line, in a session of its own."""
        preset = out.with_suffix(".json")
        preset.write_text(settings(stage, **changes).model_dump_json())
        words = ["--preset", preset, "--stage", stage, "--out", out, "--latents", self.latents, *options]
        words += ["--from", self.parent(stage)] if stage > 1 else ["--base", self.components]
        call = "from steadydancer.flows.cli import main; main()"
        with out.with_suffix(".log").open("ab") as reported:
            return subprocess.Popen(
                [sys.executable, "-c", call, "train", *map(str, words)],
                stdout=reported,
                stderr=reported,
                env=env,
                start_new_session=True,
            )


PRELUDE = """
import multiprocessing, os, signal
log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log_file, 1), os.dup2(log_file, 2)
multiprocessing.set_start_method("fork", force=True)  # as in a command; or the bar's lock outlives the process
from pathlib import Path
from steadydancer.pipelines.train import run_folder
from steadydancer.pipelines.train import job
from steadydancer.pipelines.train import loop
from steadydancer.pipelines.train.resume import states

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, cached: Path, components: Path) -> Iterator[World]:
    root = tmp_path_factory.mktemp("kills")
    shutil.copytree(components, root / "base")
    shape = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16}
    save_components({"transformer": tiny_components(seed=0, transformer=shape)["transformer"]}, root / "base")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DS_ACCELERATOR", "cpu")
        environment.setenv("OMP_NUM_THREADS", "1")  # sums are the same for as many threads
        yield World(root, cached, root / "base")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def family(pid: int) -> dict[int, str]:
    """Command lines of all processes that descend from a process, and its own, by their ids."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = parent_of(int(entry.name))
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return {child: lines[child] for child in found if child in lines}


def shared_memory(pids: Iterable[int]) -> set[Path]:
    """Files in /dev/shm that processes have open, and that have a name to outlive them by."""
    found = set()
    for pid in pids:
        try:
            mapped = Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            continue
        found |= {
            Path(line.split(maxsplit=5)[5]) for line in mapped if " /dev/shm/" in line and "(deleted)" not in line
        }
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], process: BaseProcess | subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        ended = process.exitcode if isinstance(process, BaseProcess) else process.poll()
        assert ended is None, f"the run ended with {ended}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lines(out: Path) -> list[dict]:
    """What must not depend on the machine, of every step."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in read_rows(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint/transformer/diffusion_pytorch_model.safetensors")


def assert_same(run: Path, straight: Path) -> None:
    """Losses, draws, validations and weights to the bit; no step twice, and nothing left lying about."""
    assert [row["step"] for row in read_rows(run)] == list(range(len(lines(straight))))
    assert lines(run) == lines(straight)
    ours, theirs = weights(run), weights(straight)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    reported, wanted = (json.loads((out / "checkpoint/run.json").read_text()) for out in (run, straight))
    assert {name: reported[name] for name in ("loss_before", "loss_after", "validation_loss", "digest")} == {
        name: wanted[name] for name in ("loss_before", "loss_after", "validation_loss", "digest")
    }
    assert [steps for steps, _ in intact_states(run)] == [steps for steps, _ in intact_states(straight)]
    assert {path.name for path in (run / "state").iterdir()} == {path.name for path in (straight / "state").iterdir()}
    assert not [path for path in run.iterdir() if path.name.startswith(".") and path.name != ".lock"]


@pytest.mark.parametrize(("stage", "changes"), [(1, {}), (2, {}), (2, {"offload_optimizer": True}), (3, {})])
def test_killed_at_three_random_steps(world, tmp_path, stage, changes):
    straight, run = world.straight(stage, **changes), tmp_path / "run"
    draw = random.Random(stage)
    step_s = sorted(row["seconds"] for row in read_rows(straight))[STEPS // 2]
    for step in sorted(draw.sample(range(2, STEPS), 3)):
        process = world.begin(stage, run, **changes)
        wait_until(lambda step=step: len(read_rows(run)) >= step, process)
        time.sleep(draw.uniform(0, step_s))  # anywhere in the step
        shared = shared_memory([process.pid])
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not (run / "checkpoint").exists()
        assert not [file for file in shared if file.exists()]
    world.finish(stage, run, **changes)
    assert_same(run, straight)


# Where a process dies by its own hand, at one moment that a kill from outside could hardly hit.
MOMENTS = {
    "half_a_line": """
def append(out, row, original=loop.append_metrics):
    original(out, row)
    if row["step"] == 10:
        file = out / "metrics.jsonl"
        os.truncate(file, file.stat().st_size - 20)
        die()
loop.append_metrics = append
""",
    "half_a_file": """
def save(state, file, original=states.torch.save):
    if save.calls == 2:
        file.write(b"half")
        die()
    save.calls += 1
    original(state, file)
save.calls = 0
states.torch.save = save
""",
    "before_its_record": """
def write(path, value, original=states.write_json):
    die() if path.name == "complete.json" and "000008" in str(path) else original(path, value)
states.write_json = write
""",
    "before_the_rename": """
def rename(self, target, original=Path.rename):
    die() if self.name == ".step-000008.tmp" else original(self, target)
Path.rename = rename
""",
    "old_ones_half_removed": """
def remove(folder, *arguments, original=states.shutil.rmtree, **named):
    if folder.name == "step-000004":
        next(folder.rglob("*.pt")).unlink()
        die()
    original(folder, *arguments, **named)
states.shutil.rmtree = remove
""",
    "the_checkpoint_before_its_record": """
def write(path, value, original=run_folder.write_json):
    die() if ".checkpoint.tmp" in str(path) else original(path, value)
run_folder.write_json = write
""",
    "the_checkpoint_before_its_rename": """
def rename(self, target, original=Path.rename):
    die() if self.name == ".checkpoint.tmp" else original(self, target)
Path.rename = rename
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_of_writing(world, tmp_path, moment):
    straight, run = world.straight(1), tmp_path / "run"
    process = world.begin(1, run, before=MOMENTS[moment])
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (run / "checkpoint").exists()
    world.finish(1, run)
    assert_same(run, straight)


def test_killed_between_putting_one_checkpoint_aside_and_the_next_in_its_place(world, tmp_path):
    straight, run = world.straight(1), tmp_path / "run"
    world.finish(1, run, steps=12)
    process = world.begin(1, run, before=MOMENTS["the_checkpoint_before_its_rename"])
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (run / "checkpoint-000012").exists() and not (run / "checkpoint").exists()
    world.finish(1, run)
    shutil.rmtree(run / "checkpoint-000012")
    assert_same(run, straight)


@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_state_is_not_resumed_from(world, tmp_path, harm):
    straight, run = world.straight(1), tmp_path / "run"
    process = world.begin(1, run)
    wait_until(lambda: (run / "state/step-000012/complete.json").exists(), process)
    process.kill()
    process.join()
    (newest, folder), (before, _) = list(intact_states(run))[:2]
    file = max(folder.rglob("*.pt"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data[:-1] if harm == "cut" else data)
    taken = run.with_suffix(".steps")
    world.begin(1, run, before=f"loop.set_learning_rate = lambda *given, original=loop.set_learning_rate: "
                f"open({str(taken)!r}, 'a').write(f'{{given[-1]}}\\n') and original(*given)").join()  # fmt: skip
    assert [int(step) for step in taken.read_text().split()] == list(range(before, STEPS))
    assert f"skipping the damaged training state {folder} ({file.relative_to(folder)} is " in world.log_text()
    assert before < newest
    assert_same(run, straight)


def test_a_second_run_is_refused_until_the_first_is_killed(world, tmp_path):
    straight, run = world.straight(1), tmp_path / "run"
    first = world.begin(1, run)
    wait_until(lambda: len(read_rows(run)) >= 3, first)
    second = world.begin(1, run)
    second.join()
    assert second.exitcode == 1 and first.exitcode is None
    assert f"{run} is in use by another run (process {first.pid})" in world.log_text()
    first.kill()
    world.finish(1, run)  # at once: nobody has to remove a lock
    first.join()
    assert_same(run, straight)


def sizes(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}


LIMITED = {
    "state": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))",
    "checkpoint": """
def commit(*arguments, original=loop.commit_checkpoint):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    original(*arguments)
loop.commit_checkpoint = commit
""",
}


@pytest.mark.parametrize("what", LIMITED)
def test_a_file_that_cannot_be_written_to_its_end(world, tmp_path, what):
    """A file may not grow past a size: what writing to a full disk looks like from inside, at a known place."""
    straight, run = world.straight(1), tmp_path / "run"
    limit = max(sizes(straight / what).values()) // 2
    process = world.begin(1, run)
    wait_until(lambda: (run / "state/step-000008").exists(), process)
    process.kill()
    process.join()
    before = sizes(run / "state/step-000008")
    process = world.begin(1, run, before=LIMITED[what].format(limit=limit))
    process.join()
    reported = world.log_text()
    assert process.exitcode == 1 and "File too large" in reported
    if what == "state":
        assert f"disk: the state after 12 steps could not be written to {run}/state (" in reported
        assert "the state of 8 steps is intact" in reported and sizes(run / "state/step-000008") == before
        assert next(intact_states(run))[0] == 8
    else:
        assert f"disk: the checkpoint of 20 steps could not be written to {run}/checkpoint (" in reported
    assert "the same command" in reported and not (run / "checkpoint").exists()
    assert not [path for path in (*run.iterdir(), *(run / "state").iterdir()) if path.name.endswith(".tmp")]
    world.finish(1, run)
    assert_same(run, straight)


@pytest.mark.parametrize("room", [0, 16_384])
def test_a_disk_that_fills_up_while_it_trains(world, tmp_path, room):
    """A file system that is really full: not a byte free, or enough for lines but not for a state."""
    straight, disk = world.straight(1), tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk], capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        run, filler = disk / "run", disk / "filler"
        process = world.begin(1, run)
        wait_until(lambda: (run / "state/step-000008").exists(), process)
        filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - room)))
        process.join()
        reported = world.log_text()
        assert process.exitcode == 1 and "disk: " in reported and "free disk space" in reported and str(run) in reported
        newest, _ = next(intact_states(run))
        assert newest >= 8 and not (run / "checkpoint").exists()
        again = world.begin(1, run)  # nothing has changed: refused again, and nothing is lost
        again.join()
        assert again.exitcode == 1 and next(intact_states(run))[0] == newest
        assert "No space left on device" in (reported := world.log_text()) or "disk: " in reported
        filler.unlink()
        world.finish(1, run)
        assert_same(run, straight)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def train_workers(driver: subprocess.Popen) -> list[int]:
    """Ids of the processes in which the loop runs."""
    return [pid for pid, line in family(driver.pid).items() if "RayTrainWorker" in line]


def end(driver: subprocess.Popen, number: int) -> int:
    """Signal a command; its exit status. None of its processes lives on, and nothing of theirs in shared memory."""
    everybody = family(driver.pid)
    shared = shared_memory(everybody)
    os.kill(driver.pid, number)
    status, ended = driver.wait(300), time.monotonic()
    while alive := {pid: line for pid, line in everybody.items() if is_alive(pid)}:
        # Ray's agents look for their raylet from time to time; all else goes with the driver.
        seconds = 300 if all("Agent" in line for line in alive.values()) else 30
        assert time.monotonic() < ended + seconds, alive
        time.sleep(0.05)
    print(f"all processes were gone {time.monotonic() - ended:.1f} s after the command")
    assert not [file for file in shared if file.exists()]
    return status


def undisturbed(world: World, stage: int, **changes) -> Path:
    """The same run under Ray Train that nobody kills."""
    out = world.root / f"straight-{stage}-two-{changes.get('steps', STEPS)}"
    driver = world.command(stage, out, **changes)
    assert driver.wait(600) == 0, out.with_suffix(".log").read_text()
    return out


def test_ray_workers_and_drivers_killed(world, tmp_path):
    """Two workers, ZeRO-2: one worker, all workers, the driver; then to the end."""
    changes = {"num_workers": 2, "steps": 80, "max_restarts": 2}  # more than workers take while their driver dies
    run = tmp_path / "run"

    driver = world.command(1, run, **changes)
    for step, share in ((6, slice(1)), (14, slice(None))):
        wait_until(lambda step=step: len(read_rows(run)) >= step, driver)
        victims = train_workers(driver)
        assert len(victims) == 2
        for pid in victims[share]:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda pids=victims: not any(map(is_alive, pids)), driver)
        assert len(read_rows(run)) < 80
    wait_until(lambda: len(read_rows(run)) >= 22, driver)
    assert end(driver, signal.SIGKILL) == -signal.SIGKILL
    assert not (run / "checkpoint").exists()

    assert world.command(1, run, **changes).wait(600) == 0
    assert_same(run, undisturbed(world, 1, **changes))


def test_a_ray_driver_that_is_asked_to_stop(world, tmp_path):
    """SIGTERM: a whole step and its state, and the same command goes on."""
    run, changes = tmp_path / "run", {"num_workers": 2, "steps": 120}
    driver = world.command(1, run, **changes)
    wait_until(lambda: len(read_rows(run)) >= 6, driver)
    assert end(driver, signal.SIGTERM) == 75
    steps = len(read_rows(run))
    assert 6 <= steps < 120 and next(intact_states(run))[0] == steps
    assert f"stopped after {steps} of 120 steps" in run.with_suffix(".log").read_text()
    assert world.command(1, run, **changes).wait(600) == 0
    assert_same(run, undisturbed(world, 1, **changes))


@pytest.mark.parametrize(("stage", "changes"), [(2, {"offload_optimizer": True}), (3, {})])
def test_a_killed_ray_worker_of_the_later_stages(world, tmp_path, stage, changes):
    changes = {**changes, "num_workers": 2, "max_restarts": 1}
    run = tmp_path / "run"
    driver = world.command(stage, run, **changes)
    wait_until(lambda: len(read_rows(run)) >= 7, driver)
    os.kill(train_workers(driver)[1], signal.SIGKILL)
    assert driver.wait(600) == 0
    assert_same(run, undisturbed(world, stage, **changes))


def test_a_lost_worker_without_restarts_is_one_error_and_the_same_command_goes_on(world, tmp_path):
    run, changes = tmp_path / "run", {"num_workers": 2}
    driver = world.command(1, run, **changes)
    wait_until(lambda: len(read_rows(run)) >= 6, driver)
    everybody = family(driver.pid)
    os.kill(train_workers(driver)[0], signal.SIGKILL)
    assert driver.wait(300) == 1
    assert not [line for pid, line in everybody.items() if is_alive(pid) and "Agent" not in line]
    reported = run.with_suffix(".log").read_text()
    assert (
        "a worker was lost" in reported and "run the same command to resume" in reported and "Traceback" not in reported
    ), reported[-3000:]
    assert world.command(1, run, **changes).wait(600) == 0
    assert_same(run, undisturbed(world, 1, **changes))


# Where the loop runs, asked of a cluster by a process of its own: [node id, process id, whether the node is the head].
NODES = """
import json, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
heads = {node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"]}
actors = ray._private.state.actors().values()
workers = [one for one in actors if "RayTrainWorker" in one["ActorClassName"] and one["State"] == "ALIVE"]
print(json.dumps([[one["Address"]["NodeID"], one["Pid"], one["Address"]["NodeID"] in heads] for one in workers]))
"""


@contextlib.contextmanager
def cluster(folder: Path, num_nodes: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Nodes of one core each: their address, and the environment of commands that join them."""
    script, state = Path(__file__).parents[3] / "infra/ray/local_cluster.py", folder / "cluster"
    call = [sys.executable, script, "--nodes", str(num_nodes), "--state", state]
    with (
        (folder / "cluster.log").open("wb") as reported,
        subprocess.Popen(call, stdout=reported, stderr=reported) as process,
    ):
        try:
            wait_until(lambda: b"job server" in (folder / "cluster.log").read_bytes(), process)
            env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(state / "token")}
            yield (state / "ray/ray_current_cluster").read_text().strip(), env
        finally:
            process.terminate()


def worker_beside_the_head(address: str, env: dict[str, str]) -> tuple[str, int]:
    """Node id and process id of a worker of the training that is not on the head."""
    asked = subprocess.run([sys.executable, "-c", NODES, address], env=env, capture_output=True, check=True)
    return next((node, pid) for node, pid, is_head in json.loads(asked.stdout.splitlines()[-1]) if not is_head)


def kill_machine(pid: int) -> None:
    """Kill a worker and its raylet, as the machine would go."""
    for victim in (parent_of(pid), pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def test_a_machine_that_is_taken_away(world, tmp_path):
    """A node is drained as for a preemption, then killed: a state is saved in time, and Ray continues without it."""
    run, changes = tmp_path / "run", {"num_workers": 2, "steps": 120}
    with cluster(tmp_path, 4) as (address, env):
        driver = world.command(1, run, "--address", address, env=env, **changes)
        wait_until(lambda: len(read_rows(run)) >= 6, driver, 600)
        node, pid = worker_beside_the_head(address, env)
        words = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        ray = Path(sys.executable).with_name("ray")
        subprocess.run(
            [ray, "drain-node", "--address", address, *words, "--deadline-remaining-seconds", "20"],
            env=env,
            check=True,
        )

        def in_time() -> bool:
            return any(steps % EVERY for steps, _ in state_folders(run))

        wait_until(in_time, driver)  # a state that was not due
        kill_machine(pid)
        assert driver.wait(900) == 0, run.with_suffix(".log").read_text()
    assert_same(run, undisturbed(world, 1, **changes))


# Follows a job as a flow does, and cancels it after some steps: [job server, run's folder, words of the command].
CANCEL = """
import sys, time
from pathlib import Path
from steadydancer.pipelines.runtime.job_server import JobServer
from steadydancer.pipelines.runtime.submit import JobCancelled, Order, submit_job
from steadydancer.pipelines.train.metrics_file import read_rows
address, run, *words = sys.argv[1:]
order = Order(words, run, lambda: False, is_cancelled=lambda: len(read_rows(Path(run))) >= 6, stop_grace_s=120)
try:
    submit_job(address, order, print)
except JobCancelled:
    client = JobServer(address, print).client
    while not client.get_job_status(order.name).is_terminal():
        time.sleep(0.5)
    sys.exit(75)
"""


def test_a_cancelled_job_of_a_cluster_keeps_its_work(world, tmp_path):
    """Ray asks the command to stop, and waits for its last step and the state; another job resumes from it."""
    run, changes = tmp_path / "run", {"num_workers": 2, "steps": 120}
    with cluster(tmp_path, 2) as (address, env):
        server = re.search(r"job server (http://\S+)", (tmp_path / "cluster.log").read_text())[1]
        preset = run.with_suffix(".json")
        preset.write_text(settings(1, **changes).model_dump_json())
        words = ["train", "--preset", preset, "--stage", "1", "--out", run, "--latents", world.latents,
                 "--base", world.components, "--address", "auto"]  # fmt: skip
        command = [sys.executable, "-P", "-c", CANCEL, server, run, *words]
        assert subprocess.run(list(map(str, command)), env=env).returncode == 75
        steps = len(read_rows(run))
        assert 6 <= steps < 120 and next(intact_states(run))[0] == steps
        print(f"cancelled after {steps} steps, all of them in a state")
        assert world.command(1, run, "--address", address, env=env, **changes).wait(600) == 0
    assert_same(run, undisturbed(world, 1, **changes))


def test_nodes_that_cannot_hold_the_workers_are_told(world, tmp_path):
    """From the start, and after the loss of a machine that nobody replaces: what was asked, and what is there."""
    run = tmp_path / "run"
    with cluster(tmp_path, 2) as (address, env):
        began = time.monotonic()
        eight = {"num_workers": 8, "global_batch_size": 8}
        assert world.command(1, tmp_path / "large", "--address", address, env=env, **eight).wait(120) == 1
        print(f"eight workers on two cores: refused after {time.monotonic() - began:.0f} s")
        assert time.monotonic() - began < 60
        told = (tmp_path / "large.log").read_text()
        assert "8 workers with 1 CPU each asked for, but the cluster has 2 nodes" in told and "Traceback" not in told

        driver = world.command(1, run, "--address", address, env=env, num_workers=2, steps=2000, max_restarts=5)
        wait_until(lambda: len(read_rows(run)) >= 6, driver, 600)
        _, pid = worker_beside_the_head(address, env)
        kill_machine(pid)
        lost = time.monotonic()
        assert driver.wait(240) == 1
        print(f"a lost node: told after {time.monotonic() - lost:.0f} s")
    told = run.with_suffix(".log").read_text()
    assert "2 workers with 1 CPU each asked for, but the cluster has 1 node" in told and "finished work is kept" in told
    assert "Traceback" not in told and next(intact_states(run))[0] >= 4
