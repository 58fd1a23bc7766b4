"""The forecast of a rendering GPU's memory, from the folders of a job."""

from types import SimpleNamespace

import pytest
import torch

from steadydancer.models.components import save_components, tiny_components
from steadydancer.models.modes import ModeError
from steadydancer.models.preflight.networks import weight_bytes
from steadydancer.models.preflight.sizes import Sizes
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.render import job, preflight
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.runtime.runner import Engine

SMALL = RenderConfig(num_gpus=1, num_frames=9, window_frames=9, window_overlap=0, max_area_px=64 * 48, dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parts = tiny_components(seed=0)
    parts["transformer"] = SteadyDancerTransformer3DModel.from_wan(parts["transformer"])
    place = tmp_path_factory.mktemp("pipeline")
    save_components(parts, place)
    return place, parts


def test_a_job_on_the_cpu_needs_no_gpu(folder):
    place, _ = folder
    assert preflight.gpu_memory(SMALL.model_copy(update={"num_gpus": 0.0}), str(place), str(place)) is None


def test_sizes_are_read_from_the_folders(folder):
    place, parts = folder
    planned = preflight.gpu_memory(SMALL, str(place), str(place))
    assert planned["sizes_assumed"] == []
    weights = {name: weight_bytes(part) for name, part in parts.items() if name not in ("tokenizer", "scheduler")}
    workers = planned["bytes"]
    assert workers["total"] == workers["encode"] + workers["denoise"] + workers["write"]
    encoders = weights["text_encoder"] + weights["image_encoder"] + weights["vae"]
    for worker, its in (("encode", encoders), ("denoise", weights["transformer"]), ("write", weights["vae"])):
        assert its < workers[worker] < its + 60e6, worker
    assert planned["refusal"] is None and planned["gpu_bytes"] is None


def test_halves_of_a_gpu_hold_twice_the_workers_and_whole_gpus_one_for_all(folder):
    place, _ = folder
    sizes, _ = preflight._sizes(str(place), str(place))
    one, half, two = (
        preflight.worker_bytes(SMALL.model_copy(update={"num_gpus": share}), sizes) for share in (1.0, 0.5, 2.0)
    )
    assert half["total"] == 2 * one["total"]
    assert max(one["encode"], one["denoise"]) < two["render"] == two["total"] < one["total"]


def test_of_several_processes_the_first_is_counted(folder):
    place, _ = folder
    sizes, _ = preflight._sizes(str(place), str(place))
    alone = preflight.worker_bytes(SMALL, sizes)
    together, all_three = (
        preflight.worker_bytes(SMALL.model_copy(update={"parallel": "guidance", "num_processes": number}), sizes)
        for number in (2, 3)
    )
    assert together.keys() == {"render", "total"}  # one worker has the GPUs of all processes
    assert all_three["total"] <= together["total"] < alone["total"]


def test_a_gpu_that_is_too_small_is_told_in_one_sentence():
    needed = {"encode": int(15e9), "denoise": int(40e9), "write": int(5e9), "total": int(60e9)}
    assert preflight.too_little(needed, int(80e9), SMALL) is None
    said = preflight.too_little(needed, int(24e9), SMALL)
    begin = (
        "gpu_memory: rendering needs 60.0 GB of GPU memory (encode 15.0, denoise 40.0, write 5.0), but the GPU has 24.0"
    )
    assert said.startswith(begin)
    assert "park_context_projections" in said
    parked = SMALL.model_copy(update={"park_context_projections": True})
    assert "park_context_projections" not in preflight.too_little(needed, int(24e9), parked)


def have_gpus(monkeypatch, number, total_memory=int(80e9)):
    """Let torch report GPUs of a size."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=total_memory))


def test_fewer_gpus_than_one_worker_needs_are_told_in_one_sentence(monkeypatch):
    two = SMALL.model_copy(update={"parallel": "guidance", "num_processes": 2})
    on_cpu = two.model_copy(update={"num_gpus": 0.0})
    have_gpus(monkeypatch, 2)
    assert preflight.missing_gpus(two) is preflight.missing_gpus(SMALL) is None
    have_gpus(monkeypatch, 1)
    assert preflight.missing_gpus(SMALL) is None
    asked = "num_gpus: rendering asks for 2 processes with a GPU each, but this machine has 1 that torch can use: ask"
    assert preflight.missing_gpus(two).startswith(asked)
    have_gpus(monkeypatch, 0)
    asked = "num_gpus: rendering asks for 1 GPU, but this machine has none that torch can use: "
    assert preflight.missing_gpus(SMALL).startswith(asked)
    assert preflight.missing_gpus(on_cpu) is None


@pytest.mark.parametrize("mode", ["exact", "low_memory"])
def test_a_plan_forecasts_for_a_machine_that_cannot_run_it_and_says_so_once(checkpoint, monkeypatch, tmp_path, mode):
    """The forecast is printed without a GPU, or with a small one, and then the refusal; `run` starts nothing."""
    config = RenderConfig(**{**SMALL.model_dump(exclude={"mode", "branch_evaluation"}), "mode": mode})
    given = ([{"id": "a", "image": "a.png", "driving": "a.mp4"}], {"a": checkpoint, "b": checkpoint})

    def forecast(address=None):
        plan = job.plan(config, *given, tmp_path / "out", address=address)
        return plan["refusals"], [each["gpu_memory"] for each in plan["checkpoints"].values()]

    have_gpus(monkeypatch, 0)
    (refusal,), (memory, _) = forecast()
    assert "but this machine has none" in refusal or "torch finds no GPU here" in refusal
    assert memory["bytes"]["total"] > 1e6 and memory["gpu_bytes"] is None
    assert forecast("ray://somewhere:10001")[0] == []
    pairs, checkpoints = given
    with pytest.raises(ModeError) as refused:
        job.run_checkpoints(
            config, checkpoints=checkpoints, pairs=pairs, out=tmp_path / "out", engine=Engine(tmp_path / "engine")
        )
    assert str(refused.value) == refusal and list(tmp_path.iterdir()) == []
    have_gpus(monkeypatch, 1, total_memory=100)
    refusals, _ = forecast()
    assert len([one for one in refusals if one.startswith("gpu_memory: rendering needs")]) == 1
    assert forecast("ray://somewhere:10001")[0] == []


def test_a_window_of_the_configured_area_is_what_is_counted():
    clip = preflight.largest_clip(RenderConfig(num_frames=241, window_frames=81))
    assert clip.num_frames == 81
    assert clip.height % 16 == clip.width % 16 == 0
    assert 0.97 * 1024 * 576 < clip.height * clip.width <= 1024 * 576


def test_low_memory_is_forecast_with_its_savings():
    """At 14B: stored in float8 and loaded block by block, the transformer's worker needs less than a third."""
    config = RenderConfig(num_gpus=1)
    exact = preflight.worker_bytes(config, Sizes())
    low = preflight.worker_bytes(RenderConfig(num_gpus=1, mode="low_memory"), Sizes())
    kept = preflight.worker_bytes(RenderConfig(num_gpus=1, mode="low_memory:10"), Sizes())
    assert low["render"] < kept["render"] < exact["denoise"] and low["render"] < exact["denoise"] / 3
    assert low["total"] == low["render"] < 9e9  # one worker does all in turn
    half = preflight.worker_bytes(RenderConfig(num_gpus=0.5, mode="low_memory"), Sizes())
    assert half == {"render": low["render"], "total": 2 * low["render"]}
    assert "mode low_memory" in str(preflight.too_little(exact, 1, config))
    assert "low_memory" not in str(preflight.too_little(low, 1, config.model_copy(update={"mode": "low_memory"})))
