"""Conversions stream, come back bit by bit, and leave nothing half-made."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steadydancer.datasets.storage.digests import content_digest
from steadydancer.models.checkpoints.files import CheckpointError, open_checkpoint
from steadydancer.models.checkpoints.key_maps import to_official
from steadydancer.models.checkpoints.streaming import parse_size
from steadydancer.models.components import byte_tokenizer, load_components
from steadydancer.models.conversion.convert import convert, describe
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.models.transformer_loading import load_transformer

SIZES: dict[str, Any] = {
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "image_dim": 8,
}


def save_dancer(folder: Path, **sizes: Any) -> SteadyDancerTransformer3DModel:
    torch.manual_seed(0)
    model = SteadyDancerTransformer3DModel(**(SIZES | sizes))
    model.save_pretrained(folder / "transformer", max_shard_size="400KB")
    return model


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def config_of(folder: Path) -> dict[str, Any]:
    reported = json.loads((folder / "config.json").read_text())
    return {name: value for name, value in reported.items() if name != "_name_or_path"}


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_attention_heads": 4, "attention_head_dim": 32, "alignment_axis": "spatial"},
        {"temporal_kernel_size": 1, "reference_embedding": "shared"},
    ],
)
def test_there_and_back_keeps_every_bit_and_the_configuration(tmp_path: Path, sizes: dict[str, Any]) -> None:
    model = save_dancer(tmp_path / "ours", **sizes)
    convert(tmp_path / "ours", tmp_path / "official", "official", shard_size="300KB")
    assert len(list((tmp_path / "official").glob("*-of-*.safetensors"))) > 2
    official = tensors_of(tmp_path / "official")
    wanted = to_official(model.state_dict())
    assert official.keys() == wanted.keys()
    assert all(torch.equal(official[name], tensor) for name, tensor in wanted.items())

    convert(tmp_path / "official", tmp_path / "back", "diffusers")
    again = tensors_of(tmp_path / "back" / "transformer")
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    assert again.keys() == model.state_dict().keys()
    assert config_of(tmp_path / "back" / "transformer") == config_of(tmp_path / "ours" / "transformer")
    loaded = SteadyDancerTransformer3DModel.from_pretrained(tmp_path / "back", subfolder="transformer")
    assert torch.equal(loaded.proj_out.weight, model.proj_out.weight)


def test_the_written_files_are_the_librarys_own(tmp_path: Path) -> None:
    """safetensors reads them, diffusers' index is right, and every tensor begins where its type wants."""
    save_dancer(tmp_path / "ours")
    record = convert(tmp_path / "ours", tmp_path / "out", "diffusers", dtype="bfloat16", shard_size="200KB")
    folder = tmp_path / "out" / "transformer"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        assert name in load_file(folder / file)
    assert index["metadata"]["total_size"] == record["num_bytes"]
    checkpoint = open_checkpoint(folder)
    assert all(tensor.offset % 2 == 0 and tensor.dtype == "BF16" for tensor in checkpoint.tensors.values())
    assert max(file.stat().st_size for file in checkpoint.files) <= 200_000 + 20_000  # headers
    assert record["digest"] == content_digest(folder)
    assert record["source"]["digest"] and record["code_version"]


def test_types_are_cast_as_torch_casts_them(tmp_path: Path) -> None:
    model = save_dancer(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "half", "official", dtype="float16")
    wanted, written = to_official(model.state_dict()), tensors_of(tmp_path / "half")
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], tensor.half()) for name, tensor in wanted.items())
    loaded = load_transformer(tmp_path / "half", torch.float32)
    assert torch.equal(loaded.proj_out.weight, model.proj_out.weight.half().float())


def test_the_second_time_it_says_so_and_other_settings_are_refused(tmp_path: Path) -> None:
    save_dancer(tmp_path / "ours")
    first = convert(tmp_path / "ours", tmp_path / "out", "official")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    again = convert(tmp_path / "ours", tmp_path / "out", "official")
    assert again == {**first, "already_finished": True}
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    with pytest.raises(CheckpointError, match=r"written with different settings \(dtype None → bfloat16\)"):
        convert(tmp_path / "ours", tmp_path / "out", "official", dtype="bfloat16")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="was not written by a conversion"):
        convert(tmp_path / "ours", tmp_path / "mine", "official")


def test_a_run_that_breaks_off_leaves_no_folder_and_the_next_one_succeeds(tmp_path: Path) -> None:
    save_dancer(tmp_path / "ours")

    def break_off(num_bytes: int, total: int) -> None:
        done.append(num_bytes)
        if sum(done) > 0.7 * total:
            raise KeyboardInterrupt

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "ours", tmp_path / "out", "official", shard_size="200KB", advance=break_off)
    assert not (tmp_path / "out").exists()
    convert(tmp_path / "ours", tmp_path / "out", "official", shard_size="200KB")
    assert not list(tmp_path.glob(".out*"))
    assert load_transformer(tmp_path / "out", kind="steadydancer")


def test_what_cannot_be_converted_leaves_nothing(tmp_path: Path) -> None:
    save_dancer(tmp_path / "ours")
    file = next((tmp_path / "ours" / "transformer").glob("*.safetensors"))
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        convert(tmp_path / "ours", tmp_path / "out", "official")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "out", "official")
    with pytest.raises(CheckpointError, match="contains no adapter"):
        convert(tmp_path / "ours", tmp_path / "out", "lora")
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="'half'; expected one of"):
        convert(tmp_path / "ours", tmp_path / "out", "official", dtype="half")
    save_dancer(tmp_path / "ablation", pose_fusion="addition")
    with pytest.raises(CheckpointError, match=r"pose_patch_embedding\.weight; use --as diffusers"):
        convert(tmp_path / "ablation", tmp_path / "out", "official")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ablation", "ours"]


@pytest.mark.parametrize("sizes", [{}, {"pose_modulation_modules": (), "condition_augmentation": False}])
def test_added_latents_are_kept_by_diffusers_layout_and_refused_in_the_official_one(
    tmp_path: Path, sizes: dict[str, Any]
) -> None:
    model = save_dancer(tmp_path / "ours", pose_fusion="latent_addition", **sizes)
    with pytest.raises(CheckpointError, match=r"(?s)official layout: it adds pose latents.*use --as diffusers"):
        convert(tmp_path / "ours", tmp_path / "out", "official")
    convert(tmp_path / "ours", tmp_path / "out", "diffusers")
    again = load_transformer(tmp_path / "out" / "transformer", kind="steadydancer")
    assert isinstance(again, SteadyDancerTransformer3DModel)
    assert config_of(tmp_path / "out" / "transformer") == config_of(tmp_path / "ours" / "transformer")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    # Its tensors may be a plain Wan's, name by name; it is not taken for one.
    with pytest.raises(CheckpointError, match="is a SteadyDancer checkpoint, but a base is expected"):
        load_transformer(tmp_path / "out" / "transformer", kind="wan")
    (file,) = (tmp_path / "out" / "transformer").glob("*.safetensors")
    if sizes:
        with pytest.raises(CheckpointError, match="is a plain Wan 2.1 I2V checkpoint"):
            SteadyDancerTransformer3DModel.from_single_file(file)


def test_the_plan_is_told_from_headers_alone(tmp_path: Path) -> None:
    model = save_dancer(tmp_path / "ours")
    plan = describe(tmp_path / "ours", tmp_path / "out", "official", None, "5GB", "diffusers")
    assert not (tmp_path / "out").exists()
    assert plan["num_bytes"] == 4 * sum(weight.numel() for weight in model.parameters())
    assert set(plan["files"]) == {
        "diffusion_pytorch_model-00001-of-00001.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "config.json",
    }


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5MiB", 3 << 19), ("300kb", 300_000), ("7", 7)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "5XB", "0GB", "-1GB", "infGB", "1e999", "nan"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(CheckpointError):
        parse_size(text)


def test_a_released_folder_becomes_a_pipelines_folder(tmp_path: Path) -> None:
    """The encoders too: their tensors are taken out of the `.pth` where they lie."""
    release = tmp_path / "release"
    save_dancer(tmp_path / "ours")
    convert(tmp_path / "ours", release, "official")
    byte_tokenizer().save_pretrained(release / "google" / "umt5-xxl")
    text = {"token_embedding.weight": torch.randn(259, 16), "norm.weight": torch.ones(16)}
    text |= {f"blocks.0.attn.{name}.weight": torch.randn(16, 16) for name in "qkvo"}
    text |= {f"blocks.0.norm{n}.weight": torch.ones(16) for n in (1, 2)}
    text |= {f"blocks.0.ffn.{name}.weight": torch.randn(32, 16) for name in ("gate.0", "fc1")}
    text |= {"blocks.0.ffn.fc2.weight": torch.randn(16, 32)}
    text |= {"blocks.0.pos_embedding.embedding.weight": torch.randn(32, 2)}
    torch.save(text, release / "models_t5_umt5-xxl-enc-bf16.pth")

    record = convert(release, tmp_path / "out", shard_size="20KB")
    assert record["base"] == {"path": str(tmp_path / "out")}
    names = ("transformer", "text_encoder", "tokenizer", "scheduler")
    theirs, ours = load_components(release, names), load_components(tmp_path / "out", names)
    ids = torch.tensor([ours["tokenizer"]("she dances").input_ids])
    with torch.no_grad():
        expected = theirs["text_encoder"](ids).last_hidden_state
        assert torch.equal(ours["text_encoder"](ids).last_hidden_state, expected)
    assert ours["scheduler"].config.flow_shift == 5.0
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "SteadyDancerPipeline" and set(names) < set(index)
    assert not list((tmp_path / "out").rglob("*.pth"))


PEAK = """
import json, sys
from pathlib import Path
from steadydancer.models.conversion.convert import convert
import steadydancer.models.transformer, accelerate, diffusers  # what planning imports

def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

source, out = map(Path, sys.argv[1:])
for target, dtype in (("official", None), ("diffusers", "bfloat16")):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = status("VmRSS")
    convert(source, out / target, target, dtype=dtype, shard_size="32MB")
    print(json.dumps([target, status("VmHWM") - before]))
"""


@pytest.mark.acceptance
def test_the_peak_of_memory_is_less_than_a_shard(tmp_path: Path) -> None:
    """In a process of its own, all pages counted, over what the imports hold: at most 1.2 × the largest shard."""
    sizes = {"num_attention_heads": 4, "ffn_dim": 2048, "num_layers": 8, "text_dim": 512}
    with torch.device("meta"):
        model = SteadyDancerTransformer3DModel(**(SIZES | sizes))
    shapes = {name: tensor.shape for name, tensor in to_official(model.state_dict()).items()}
    save_file({name: torch.full(shape, 0.5) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "model.safetensors"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        target, peak = json.loads(line)
        shards = [file.stat().st_size for file in (tmp_path / target).rglob("*.safetensors")]
        assert len(shards) > 2
        print(f"{target}: {peak / 1e6:.1f} MB above the imports, largest shard {max(shards) / 1e6:.1f} MB")
        assert peak <= 1.2 * max(shards)


def test_components_load_from_a_converted_folder(tmp_path: Path) -> None:
    model = save_dancer(tmp_path / "ours")
    for target in ("official", "diffusers"):
        convert(tmp_path / "ours", tmp_path / target, target)
        (loaded,) = load_components(tmp_path / target, ["transformer"]).values()
        assert torch.equal(loaded.proj_out.weight, model.proj_out.weight)


def test_the_command_converts_says_so_twice_and_refuses_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steadydancer.flows import cli

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["steadydancer", "convert", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out + err

    monkeypatch.setattr(sys, "path", list(sys.path))
    save_dancer(tmp_path / "ours")
    words = ("--from", str(tmp_path / "ours"), "--to", str(tmp_path / "out"), "--as", "official")
    code, said = call(*words, "--dry-run")
    assert code == 0 and json.loads(said)["num_tensors"] == 129 and not (tmp_path / "out").exists()
    assert call(*words)[0] == 0
    code, said = call(*words)
    assert code == 0 and "129 tensors" in said and "already finished" in said
    code, said = call("--from", str(tmp_path / "out" / "config.json"), "--to", str(tmp_path / "more"))
    assert code == 1 and "is not a safetensors file, an index" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (tmp_path / "more").exists()
