"""The forecast of a rendering GPU's memory, from the folders of a job."""

from types import SimpleNamespace

import pytest
import torch

from steadydancer.models.components import save_components, tiny_components
from steadydancer.models.preflight.networks import weight_bytes
from steadydancer.models.preflight.sizes import Sizes
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.render import job, preflight
from steadydancer.pipelines.render.config import RenderConfig

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


def test_a_plan_refuses_once_for_checkpoints_of_one_size():
    planned = {"gpu_memory": {"refusal": "gpu_memory: too much"}}
    assert job.refusals({"gpu_memory": None}) == []
    assert job.refusals(planned) == job.refusals({"checkpoints": {"a": planned, "b": planned}}) != []


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


def test_fewer_gpus_than_one_worker_needs_are_told_in_one_sentence(folder, monkeypatch):
    place, _ = folder
    two = SMALL.model_copy(update={"parallel": "guidance", "num_processes": 2})
    assert preflight.too_few(2, two) is None and preflight.too_few(1, SMALL) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=int(80e9)))
    planned = preflight.gpu_memory(two, str(place), str(place))
    assert planned["refusal"].startswith("num_gpus: 2 processes with 1 GPUs each are asked for, but this machine has 1")
    assert preflight.gpu_memory(SMALL, str(place), str(place))["refusal"] is None


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
