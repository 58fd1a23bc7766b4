import json

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.flows import presets
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.runtime.nodes import shortage
from steadydancer.pipelines.train import flops
from steadydancer.pipelines.train.config import GalleryConfig, TrainConfig
from steadydancer.pipelines.train.job import needed_workers
from steadydancer.pipelines.train.preflight import footprint, forecast, fork, table
from steadydancer.pipelines.train.preflight import plan as preflight
from steadydancer.pipelines.train.preflight.base import constructor_arguments, find_base
from steadydancer.pipelines.train.preflight.inputs import check_inputs, identity
from steadydancer.pipelines.train.run_folder import TrainingRefused, append_metrics

CLIP = (81, 640, 640)


@pytest.fixture(scope="module")
def networks() -> dict[int, flops.Network]:
    """Wan 14B as stages 1 and 2 train it; counted, not made."""
    return {stage: flops.count(TrainConfig(stage=stage), {}) for stage in (1, 2)}


def test_the_released_shapes_cost_what_is_known_of_them(networks):
    """2.016 PFLOP a forward pass; LoRA 7.74 (5.16 needed), all parameters 8.63 (6.05), a step of stage 2 19.0."""
    lora, full = networks[1], networks[2]
    assert flops.num_tokens(lora, CLIP) == 36_800
    assert flops.num_tokens(lora, (81, 1024, 576)) == 52_992
    assert sum(flops._forward(lora, 36_800)) == pytest.approx(2.016e15, rel=1e-3)
    assert sum(flops._forward(lora, 52_992)) == pytest.approx(3.604e15, rel=1e-3)
    lora_step = flops.step_flops(TrainConfig(stage=1), lora, CLIP)
    assert (lora_step.hardware, lora_step.model) == pytest.approx((7.74e15, 5.16e15), rel=1e-3)
    assert flops.step_flops(TrainConfig(stage=1, keep_attention_outputs=True), lora, CLIP).hardware == pytest.approx(
        6.63e15, rel=1e-3
    )
    assert flops.step_flops(TrainConfig(stage=2), full, CLIP).hardware == pytest.approx(19.0e15, rel=1e-3)
    one_branch = flops.step_flops(TrainConfig(stage=2, distillation="normal"), full, CLIP)
    teacher = sum(flops._forward(full, 33_600))
    assert (one_branch.hardware - teacher, one_branch.model - teacher) == pytest.approx((8.63e15, 6.05e15), rel=1e-3)


def test_the_network_that_is_counted_is_the_variant_that_the_stage_trains():
    naive = {"pose_fusion": "latent_addition", "pose_modulation_modules": (), "condition_augmentation": False}
    for stage in (1, 2):
        counted, released = (flops.count(TrainConfig(stage=stage, **changes), {}) for changes in (naive, {}))
        assert released.parameters == 16_396_718_736
        assert counted.parameters == released.parameters - 1_839_952  # Eq. 2 adds none to the base's
        assert counted.trained == (counted.adapters if stage == 1 else counted.parameters)
        assert counted.adapters == released.adapters
        assert counted.teacher == released.teacher == (counted.parameters if stage == 2 else 0)
        assert flops.num_tokens(counted, CLIP) == 33_600 and flops.num_tokens(released, CLIP) == 36_800
    pointwise = flops.count(TrainConfig(stage=1, temporal_kernel_size=1), {})
    assert released.parameters - pointwise.parameters == 3 * 16 * 16 * 2


def test_the_memory_of_the_released_shapes_is_what_is_known_of_it(networks):
    """LoRA 60 to 64 GB (weights 32.8, block inputs 15, one block); all parameters 16 bytes each, 262 GB."""
    lora = footprint.gpu_memory(TrainConfig(stage=1), networks[1], CLIP)
    assert lora["kept_activations"] == pytest.approx(15.0e9, rel=0.01)
    adapters = 2 * networks[1].adapters
    assert lora["weights"] - adapters == pytest.approx(32.8e9, rel=0.01)
    assert 60e9 < lora["weights"] - adapters + lora["kept_activations"] + lora["one_block"] < 64e9

    alone = footprint.gpu_memory(TrainConfig(stage=2, num_workers=1, global_batch_size=1), networks[2], CLIP)
    assert alone["weights"] + alone["gradients_and_optimizer"] == pytest.approx(262e9, rel=0.01)
    assert alone["teacher"] == pytest.approx(32.8e9, rel=0.01)
    shared = footprint.gpu_memory(TrainConfig(stage=2), networks[2], CLIP)
    for name in ("weights", "gradients_and_optimizer"):
        assert shared[name] == pytest.approx(alone[name] / 8, rel=1e-6)

    # One GPU and 128 GB of host memory are too little even with the optimizer offloaded: 12 bytes a weight are 197 GB.
    offloaded = TrainConfig(stage=2, num_workers=1, offload_optimizer=True, asynchronous_checkpoints=False)
    host = footprint.host_memory(offloaded, networks[2], CLIP)
    assert host["offloaded_optimizer"] * 12 / 16 == pytest.approx(197e9, rel=0.01)
    (refusal,) = preflight._too_little_host_memory(host, int(128e9))
    assert refusal.startswith("host_memory: 328 GB are needed (offloaded_optimizer 262.3, export 65.6)")
    assert "has 128 GB: try offload_optimizer off, machines with more memory" in refusal


def test_muon_has_one_moment_of_a_matrix_and_an_average_takes_four_bytes_a_weight(networks):
    """Of 16.4 B weights of stage 2, 16.2 B are in matrices of the blocks."""
    full = networks[2]
    assert full.matrices / full.parameters == pytest.approx(0.988, abs=0.01)
    assert networks[1].matrices == networks[1].adapters

    def sizes(**changes):
        told = TrainConfig(stage=2, **changes)
        offloaded = TrainConfig(stage=2, offload_optimizer=True, **changes)
        return (
            footprint.gpu_memory(told, full, CLIP)["gradients_and_optimizer"] * 8,
            footprint.host_memory(offloaded, full, CLIP)["offloaded_optimizer"],
            footprint.training_state_bytes(told, full),
        )

    for changes, more in ((("muon", 0.0), -4 * full.matrices), (("adamw", 0.9), 4 * full.parameters)):
        other = sizes(optimizer=changes[0], ema_decay=changes[1])
        assert [a - b for a, b in zip(other, sizes(), strict=True)] == pytest.approx([more] * 3, abs=8)


def test_simulated_poses_take_a_vae_beside_the_step_where_they_are_encoded(networks):
    per_unit = {
        unit: footprint.gpu_memory(TrainConfig(stage=3, pose_simulation_unit=unit), networks[1], CLIP)
        for unit in ("frame", "latent")
    }
    assert per_unit["latent"]["pose_encoder"] == 0
    assert per_unit["frame"]["total"] - per_unit["latent"]["total"] == per_unit["frame"]["pose_encoder"]
    # 126,892,531 weights in float32; five tensors of four frames of 96 channels at full size are the least for a block.
    least = 126_892_531 * 4 + 5 * 4 * 96 * CLIP[1] * CLIP[2] * 4
    assert least < per_unit["frame"]["pose_encoder"] < 2 * least
    assert footprint.gpu_memory(TrainConfig(stage=1), networks[1], CLIP)["pose_encoder"] == 0


def test_zero_stages_and_offload_move_what_they_are_said_to_move(networks):
    def parts(**changes):
        return footprint.gpu_memory(TrainConfig(stage=2, **changes), networks[2], CLIP)

    assert parts(zero_stage=2)["weights"] == pytest.approx(8 * parts(zero_stage=3)["weights"], rel=1e-6)
    assert parts(zero_stage=2)["gradients_and_optimizer"] == parts(zero_stage=3)["gradients_and_optimizer"]
    assert parts(offload_optimizer=True)["gradients_and_optimizer"] == 0
    everything = parts(gradient_checkpointing=False)
    # What a block saves, and what is live beside it in its backward pass, are the peak of a recomputed block.
    assert everything["kept_activations"] / 80 + everything["one_block"] == parts()["one_block"]
    kept, twice = parts()["kept_activations"], parts(keep_attention_outputs=True)["kept_activations"]
    assert twice == pytest.approx(2 * kept, rel=0.03)
    assert parts(global_batch_size=16)["kept_activations"] == 2 * kept


def test_stage_two_fits_on_eight_gpus_of_80_gb(networks):
    """With the teacher whole on each it would not: it has 32.8 beside 4.1 of weights and 46 of activations."""
    config = TrainConfig(stage=2, offload_optimizer=True)
    parts = footprint.gpu_memory(config, networks[2], CLIP)
    assert parts["teacher"] == networks[2].teacher * 2 // 8
    assert parts["total"] == pytest.approx(61.4e9, rel=0.01)
    assert not list(preflight._too_little_gpu_memory(config, networks[2], CLIP, int(80e9)))
    (refusal,) = preflight._too_little_gpu_memory(
        TrainConfig(stage=2, offload_optimizer=True, shard_teacher=False), networks[2], CLIP, int(80e9)
    )
    assert "needs 90 GB per GPU" in refusal and "shard_teacher (61 GB)" in refusal

    # Block inputs on the hosts: 2 branches × 40 blocks × 377 MB leave, but for two of them.
    less = TrainConfig(stage=2, offload_optimizer=True, offload_activations=True)
    left = footprint.gpu_memory(less, networks[2], CLIP)
    assert left["kept_activations"] == pytest.approx(parts["kept_activations"] / 40, rel=1e-6)
    gone = footprint.host_memory(less, networks[2], CLIP)["offloaded_activations"]
    assert gone == 8 * parts["kept_activations"]
    # It fits where the networks do before they are cut up: an eighth of the student and all of the teacher.
    assert left["total"] == left["loading"] == pytest.approx((4.1 + 32.79) * 1e9, rel=0.01)


def test_a_step_that_does_not_fit_names_what_would_help(networks):
    config = TrainConfig(stage=1, gradient_checkpointing=False)
    (refusal,) = preflight._too_little_gpu_memory(config, networks[1], CLIP, int(80e9))
    assert refusal.startswith("gpu_memory: a step needs 475 GB per GPU")
    assert "try gradient_checkpointing (66 GB), zero_stage 3 (" in refusal
    assert not list(preflight._too_little_gpu_memory(TrainConfig(stage=1), networks[1], CLIP, int(80e9)))
    assert not list(preflight._too_little_gpu_memory(config, networks[1], CLIP, None))
    for way, needed in forecast.memory_reductions(config, networks[1], CLIP):
        assert needed < 475e9, way


def test_every_way_to_spread_a_step_is_laid_out(networks):
    config = TrainConfig(stage=2, offload_optimizer=True)
    rows = forecast.memory_by_setting(config, networks[2], CLIP)
    assert len(rows) == 16 and [row["is_set"] for row in rows].count(True) == 1
    (own,) = [row for row in rows if row["is_set"]]
    assert own["gpu_memory_bytes"] == footprint.gpu_memory(config, networks[2], CLIP)["total"]
    assert (own["zero_stage"], own["offload_optimizer"], own["kept_for_backward"]) == (3, True, "block inputs")
    smaller = forecast.memory_by_size(config, networks[2], [(81, 320, 320), CLIP, CLIP])
    assert [(row["tokens"], row["clips"]) for row in smaller] == [(36_800, 2), (9_200, 1)]
    assert smaller[0]["gpu_memory_bytes"] > smaller[1]["gpu_memory_bytes"]


def test_hours_follow_a_rate_that_was_given_or_measured(networks, tmp_path):
    config = TrainConfig(stage=1)

    def rate(**changes):
        return forecast.seconds_a_step(config, networks[1], [CLIP], **{"out": tmp_path / "out", **changes})

    assert rate() == (None, None)
    seconds, where = rate(tflops=395.0)
    assert (seconds, where) == (pytest.approx(19.6, abs=0.05), "given")  # 7.74 PFLOP a clip, one a GPU

    # Another run kept everything, and so computed nothing again: 5.16 PFLOP and flash attention's backward.
    fork = tmp_path / "fork"
    fork.mkdir()
    other = TrainConfig(stage=1, gradient_checkpointing=False)
    (fork / "start.json").write_text(json.dumps({"config": other.model_dump(mode="json")}))
    append_metrics(fork, {"step": 0, "seconds": 10.0})
    ratio = flops.step_flops(config, networks[1], CLIP).hardware / flops.step_flops(other, networks[1], CLIP).hardware
    assert rate(fork=fork) == (pytest.approx(10.0 * ratio), "measured in the forked run")
    for step, taken in enumerate((100.0, 3.0, 4.0)):
        append_metrics(_made(tmp_path / "out"), {"step": step, "seconds": taken})
    assert rate(fork=fork) == (4.0, "measured")


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def test_a_plan_is_put_down_for_a_person(networks):
    config = TrainConfig(stage=2, offload_optimizer=True)
    step_flops = forecast.mean_step_flops(config, networks[2], [CLIP])
    reported = table.table({
        "stage": 2, "steps": 2000, "steps_done": 500, "workers": 8, "epochs": 2.18, "samples": 7338,
        "trained_parameters": networks[2].trained, "parameters": networks[2].parameters,
        "hardware_flops_a_step": step_flops.hardware, "model_flops_a_step": step_flops.model,
        "seconds_a_step": 48.0, "rate_from": "given", "hours_left": 20.0,
        "base": {"source": "s3://b/wan", "path": None}, "sizes_assumed": "Wan 14B",
        "forked_from": {"path": "/old", "steps": 500, "changes": ["config.distillation_weight: 1.0 → 0.5"]},
        "gpu_bytes": int(80e9), "gpu_memory_bytes": footprint.gpu_memory(config, networks[2], CLIP),
        "host_memory_bytes": footprint.host_memory(config, networks[2], CLIP), "repeated_per_epoch": 6,
        "disk_bytes": {"engine_states": int(688.7e9), "checkpoint": int(32.8e9), "gallery_weights": 0},
        "disk_free_bytes": int(2e12),
        "memory_by_size": forecast.memory_by_size(config, networks[2], [CLIP]),
        "memory_by_setting": forecast.memory_by_setting(config, networks[2], CLIP),
        "refusals": [],
    })  # fmt: skip
    for line in (
        "stage   2: 2000 steps, 500 done, 8 workers, 2.2 epochs of 7338 clips, 6 repeated to fill batches",
        "step    152.0",
        "time    20.0 h at 48.00 s per step (given)",
        "base    s3://b/wan (not on this machine), counted as Wan 14B",
        "fork    of /old after 500 steps; config.distillation_weight: 1.0 → 0.5",
        "while loading ",
    ):
        assert line in reported, line
    assert "61.4 of 80.0" in next(line for line in reported.splitlines() if line.startswith("total"))
    own = next(line for line in reported.splitlines() if "set, fits" in line)
    assert own.startswith("3, on the hosts, block inputs ") and "61.4" in own


def test_what_a_block_keeps_is_what_torch_keeps(monkeypatch):
    """The count on the meta device against the tensors of a real forward pass.

    Also after a stage with ZeRO-3 in this process, which leaves a linear layer of DeepSpeed's in the place of torch's.
    """

    class Wasteful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tokens, weight, bias):
            ctx.save_for_backward(tokens.clone(), tokens.clone(), weight)
            return torch._C._nn.linear(tokens, weight, bias)

        @staticmethod
        def backward(ctx, *gradients):
            raise NotImplementedError

    # What another test of this process may have left.
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 64, "num_layers": 1, "text_dim": 8}
    sizes |= {"freq_dim": 8, "image_dim": 8}
    config = TrainConfig(stage=2, dtype="float32")
    network = flops.count(config, sizes)
    block = SteadyDancerTransformer3DModel(**sizes).blocks[0]
    kept = {}

    weights = {weight.untyped_storage().data_ptr() for weight in block.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held: no other gets its address
        return tensor

    tokens = torch.randn(1, 100, 32, requires_grad=True)
    given = torch.randn(1, 769, 32), torch.randn(1, 6, 32), tuple(torch.randn(1, 100, 1, 16) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(tokens, *given)
    assert out.shape == tokens.shape
    footprint._counted.cache_clear()
    with monkeypatch.context() as patched:
        left = lambda tokens, weight, bias=None: Wasteful.apply(tokens, weight, bias)  # noqa: E731
        patched.setattr(torch.nn.functional, "linear", left)
        assert footprint._block_activations(config, network, 100)[0] == sum(map(len, kept.values()))
        assert torch.nn.functional.linear is left


@pytest.mark.parametrize("use_gpu", [True, False])
def test_workers_that_would_be_waited_for_without_end_are_refused(use_gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert not list(preflight._missing_workers(TrainConfig(stage=1, num_workers=1, use_gpu=use_gpu)))
    (refusal,) = preflight._missing_workers(TrainConfig(stage=1, num_workers=2, use_gpu=use_gpu))
    assert refusal.startswith("num_workers: 2 ") and "has 1" in refusal


def test_the_cluster_that_we_ship_holds_the_papers_training_and_its_galleries():
    """Eight GPUs on one machine: a gallery takes one of them after the training, so that it must exist, no more."""
    gpus = [{"CPU": 0.0}, {"CPU": 64.0, "GPU": 8.0}]
    for stage in (1, 2, 3):
        assert shortage(needed_workers(presets.paper().stage(stage)), gpus) is None
    large = presets.change(presets.paper(), "stage2", gallery=GalleryConfig(num_clips=1, num_gpus=9))
    assert "1 worker with 9 GPU asked for" in str(shortage(needed_workers(large.stage2), gpus))


def upload(folder, target):
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            upload_file(file, target / file.relative_to(folder).as_posix())


def test_a_base_on_a_store_is_planned_with_by_its_sizes_alone(cached, components, bucket, tmp_path, monkeypatch):
    config = presets.tiny().stage1
    given = {"latents": cached, "out": tmp_path / "out", "tflops": 1.0}
    here = preflight.plan(config, base=str(components), **given)
    upload(components / "transformer", ObjectPath.parse(bucket) / "wan/transformer")
    asked = []
    monkeypatch.setattr(
        "steadydancer.models.checkpoints.folders.local_folder", lambda *reported: asked.append(reported)
    )
    there = preflight.plan(config, base=f"{bucket}/wan", **given)
    assert not asked
    assert there["base"] == {"source": f"{bucket}/wan", "path": None, "digest": None}
    same = set(here) - {"base", "disk_free_bytes"}
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert here["rate_from"] == "given" and here["parameters"] < 1e7 and here["sizes_assumed"] is None

    # A base whose sizes are not stated is taken for Wan 14B, and then this cache is another's.
    with pytest.raises(TrainingRefused, match="image_dim is 1280"):
        preflight.plan(config, base=f"{bucket}/nothing", **given)


def test_a_base_on_a_hub_is_not_fetched_for_a_plan(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **named: pytest.fail("fetched"))
    monkeypatch.setattr("steadydancer.models.weights.lookup.find", lambda row: None)
    config = TrainConfig(stage=1)
    assert find_base(config, presets.WAN_480P, None, fetch=False)["path"] is None
    assert constructor_arguments(presets.WAN_480P, fetch=False) == {}  # Wan 14B
    asked = []

    def hub(repository: str, name: str) -> str:
        asked.append((repository, name))
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    with pytest.raises(TrainingRefused, match="base: some/body is not a folder, and the model hub cannot be reached"):
        constructor_arguments("some/body", fetch=False)
    assert asked == [("some/body", "transformer/config.json")]


def test_a_fork_is_planned_with_from_its_state_and_rate(cached, components, tmp_path, monkeypatch):
    config, old = presets.tiny().stage1, _made(tmp_path / "old")
    given = {"latents": cached, "base": str(components), "out": tmp_path / "new", "fork": old}
    assert "has no intact training state" in preflight.plan(config, **given)["refusals"][0]

    record = check_inputs(config, cached, str(components), None).record
    (old / "start.json").write_text(json.dumps(identity(record)))
    for step in range(7):
        append_metrics(old, {"step": step, "seconds": 2.0})
    monkeypatch.setattr(fork, "newest_intact_state", lambda folder: (7, folder / "state") if folder == old else None)
    changed = config.model_copy(update={"learning_rate": 1e-5})
    plan = preflight.plan(changed, **given)
    assert plan["refusals"] == []
    assert plan["forked_from"] == {"path": str(old), "steps": 7, "changes": ["config.learning_rate: 0.002 → 1e-05"]}
    assert (plan["steps_done"], plan["seconds_a_step"], plan["rate_from"]) == (7, 2.0, "measured in the forked run")
    assert plan["hours_left"] == pytest.approx((config.steps - 7) * 2.0 / 3600)
    assert f"fork    of {old} after 7 steps" in table.table(plan)
    refused = preflight.plan(config.model_copy(update={"lora_rank": 2}), **given)["refusals"]
    assert "config.lora_rank: 16 → 2" in refused[0]
    assert not (tmp_path / "new").exists()  # a plan makes nothing

    # The old run itself, with another rate: not its own any more.
    (refusal,) = preflight.plan(changed, **{**given, "out": old, "fork": None})["refusals"]
    assert "was started with different settings" in refusal and "config.learning_rate: 0.002 → 1e-05" in refusal
