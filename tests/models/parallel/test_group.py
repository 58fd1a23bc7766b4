"""A group as the renderer uses it: processes of their own, which load the network from a folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from steadydancer.models.components import load_network
from steadydancer.models.guidance import branch_velocity
from steadydancer.models.long_video import FusedVelocity, plan_windows
from steadydancer.models.parallel.group import ParallelError, ParallelGroup, check_devices
from steadydancer.models.parallel.processes import Parallel
from steadydancer.models.parallel.worker import on_device
from steadydancer.models.sampling import denoise
from steadydancer.models.video_velocity import VideosVelocity, all_branches

GRID = (4, 4, 6)
SETTINGS: dict[str, Any] = {"num_inference_steps": 4, "pose_guidance_interval": (0.1, 0.6)}
PATIENCE_S = 60
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: Callable[..., Any]) -> Path:
    """A folder with the transformer of a pipeline."""
    tiny_model().save_pretrained(tmp_path / "transformer")
    return tmp_path


@pytest.fixture
def video(tiny_branches: Callable[..., Any]) -> Callable[..., Tensor]:
    """`video(make, model, num_windows=1, **changes)`: latents sampled with a maker of velocities."""
    branches = tiny_branches(GRID)
    first, negative_text = branches["conditional"], branches["negative_text"].prompt_embeds

    def sample(make: Any, model: Any, num_windows: int = 1, **changes: Any) -> Tensor:
        windows = plan_windows(13 + 8 * (num_windows - 1), 13, 4)
        assert len(windows) == num_windows
        later = [first.replace(pose_latents=normal(20 + k, 16, *GRID)) for k in range(1, num_windows)]
        negative = [normal(30 + k, 16, *GRID) for k in range(num_windows)]
        of_all = all_branches([first, *later], negative_text, [negative], 1)
        fuse = partial(FusedVelocity, windows=windows) if num_windows > 1 else None
        velocity = VideosVelocity(make(model, of_all, branch_evaluation="interleaved"), 1, fuse)
        return denoise(velocity, normal(8, 16, windows[-1].stop, *GRID[1:]), **SETTINGS | changes)

    return sample


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def loader(checkpoint: Path) -> Any:
    return partial(load_network, str(checkpoint), None)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(pids: list[int]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(is_running, pids))


@pytest.mark.parametrize("parallel", ["guidance", "context"])
def test_a_group_gives_the_bits_of_one_process_for_one_video_after_another(
    checkpoint: Path, parallel: Parallel, video: Callable[..., Tensor]
) -> None:
    model = load_network(checkpoint, None, "cpu")
    expected = {num_windows: video(branch_velocity, model, num_windows) for num_windows in (1, 2)}
    without_text = video(branch_velocity, model, guidance_scale=1.0)
    with ParallelGroup(parallel, 2, loader(checkpoint)) as group:
        pids = group.pids
        for num_windows in (2, 1):
            assert torch.equal(video(group.branch_velocity, model, num_windows), expected[num_windows])
        assert torch.equal(video(group.branch_velocity, model, guidance_scale=1.0), without_text)
        with pytest.raises(ParallelError, match="evaluates one network"):
            group.branch_velocity(load_network(checkpoint, None, "cpu"), {}, "interleaved")
    assert ended(pids) and not distributed.is_initialized()


def test_a_group_takes_threads_on_the_cpu_and_gives_them_back(checkpoint: Path) -> None:
    torch.set_num_threads(4)  # `one_thread` sets what was before
    with ParallelGroup("guidance", 2, loader(checkpoint)) as group:
        assert torch.get_num_threads() == 2
        group.close()
        assert torch.get_num_threads() == 4
    with pytest.raises(TypeError):  # what cannot be sent ends the process that was started for it
        ParallelGroup("guidance", 2, (_ for _ in ()))  # type: ignore[arg-type]
    assert torch.get_num_threads() == 4


def test_a_process_that_cannot_load_says_why(tmp_path: Path) -> None:
    with ParallelGroup("guidance", 2, loader(tmp_path)) as group:
        with pytest.raises(ParallelError, match="did not start: ComponentsError: .*transformer"):
            group.branch_velocity(nn.Identity(), {}, "sequential")
        assert group.pids == []


def test_a_process_that_is_killed_ends_the_run_with_a_sentence(checkpoint: Path, video: Callable[..., Tensor]) -> None:
    model = load_network(checkpoint, None, "cpu")
    with ParallelGroup("guidance", 2, loader(checkpoint)) as group:

        def kill(step: int, timestep: Tensor, latents: Tensor) -> None:
            if step == 1:
                os.kill(group.pids[0], signal.SIGKILL)

        with pytest.raises(ParallelError, match="a process of the group (failed|ended)"):
            video(group.branch_velocity, model, callback=kill)
        with pytest.raises(ParallelError, match="make another group"):
            video(group.branch_velocity, model)


def test_an_error_of_this_process_ends_the_others(checkpoint: Path, video: Callable[..., Tensor]) -> None:
    model = load_network(checkpoint, None, "cpu")
    with ParallelGroup("guidance", 2, loader(checkpoint)) as group:
        pids = group.pids

        def fail(*_: Any) -> None:
            raise FloatingPointError("of this process")

        model.blocks[1].register_forward_pre_hook(fail)
        with pytest.raises(FloatingPointError, match="of this process"):
            video(group.branch_velocity, model)
        assert ended(pids)


PARENT = """
import sys, time
from functools import partial
from steadydancer.models.components import load_network
from steadydancer.models.parallel.group import ParallelGroup
group = ParallelGroup("guidance", 3, partial(load_network, sys.argv[1], None))
print(*group.pids, flush=True)
time.sleep(600)
"""


def test_a_group_ends_with_its_process_even_when_that_is_killed(checkpoint: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-P", "-c", PARENT, str(checkpoint)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(map(is_running, pids))
    finally:
        parent.kill()
        parent.wait()
    assert ended(pids)


def test_more_processes_than_gpus_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ParallelError, match="2 processes need a GPU each, but this machine has 1: ask for fewer"):
        ParallelGroup("guidance", 2, nn.Identity(), "cuda")
    check_devices(2, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2, "cuda")


def test_tensors_that_branches_share_stay_shared_on_another_device(tiny_branches: Callable[..., Any]) -> None:
    moved = on_device(tiny_branches(GRID), "meta")
    assert moved["conditional"].pose_latents is moved["negative_text"].pose_latents
    assert moved["conditional"].prompt_embeds is moved["negative_pose"].prompt_embeds
    assert moved["conditional"].prompt_embeds.is_meta and moved["conditional"].reference_latents is None
    assert moved["conditional"].pose_latents is not moved["negative_pose"].pose_latents
