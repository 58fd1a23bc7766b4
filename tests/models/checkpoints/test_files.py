"""Published files are opened, understood, and refused with all that is wrong in one message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadydancer import SteadyDancerError
from steadydancer.models import transformer_loading
from steadydancer.models.checkpoints.files import CheckpointError, open_checkpoint
from steadydancer.models.checkpoints.key_maps import to_official
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.models.transformer_loading import load_transformer, open_transformer

TINY: dict[str, Any] = {
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
}
IMAGE: dict[str, Any] = {"in_channels": 36, "image_dim": 8, "added_kv_proj_dim": 128}


@pytest.fixture(scope="module")
def dancer() -> SteadyDancerTransformer3DModel:
    torch.manual_seed(0)
    return SteadyDancerTransformer3DModel(**TINY, image_dim=8).eval()


def wan(**sizes: Any) -> WanTransformer3DModel:
    return WanTransformer3DModel(**({**TINY, **IMAGE} | sizes))


def official(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in to_official(model.state_dict()).items()}


def save_sharded(state: dict[str, Tensor], folder: Path, num_shards: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = list(state)
    where = {}
    for i in range(num_shards):
        file = f"diffusion_pytorch_model-{i + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: state[name] for name in names[i::num_shards]}
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def one_file(model: Any, folder: Path) -> Path:
    save_file(official(model), folder / "model.safetensors")
    return folder / "model.safetensors"


def prefixed(model: Any, folder: Path) -> Path:
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in official(model).items()}
    save_file(state, folder / "comfy.safetensors")
    return folder / "comfy.safetensors"


def shards(model: Any, folder: Path) -> Path:
    save_sharded(official(model), folder)
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel", "num_heads": 1, "dim": 128}))
    return folder


def index_file(model: Any, folder: Path) -> Path:
    return shards(model, folder) / "diffusion_pytorch_model.safetensors.index.json"


def diffusers_folder(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder / "transformer", max_shard_size="300KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    return folder / "transformer"


def diffusers_file(model: Any, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "ours.safetensors")
    return folder / "ours.safetensors"


LAYOUTS = (one_file, prefixed, shards, index_file, diffusers_folder, diffusers_file)


@pytest.mark.parametrize("save", LAYOUTS)
def test_every_layout_gives_the_same_network(dancer: Any, tmp_path: Path, save: Callable[..., Path]) -> None:
    loaded = load_transformer(save(dancer, tmp_path))
    assert isinstance(loaded, SteadyDancerTransformer3DModel)
    reported, wanted = (
        json.loads(json.dumps({name: value for name, value in model.config.items() if not name.startswith("_")}))
        for model in (loaded, dancer)
    )
    assert reported == wanted
    assert not loaded.training and not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    weights = dancer.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("save", [one_file, diffusers_folder])
@pytest.mark.parametrize("width", [128, 1536])
def test_bases_of_both_widths_load_in_both_layouts(tmp_path: Path, save: Callable[..., Path], width: int) -> None:
    torch.manual_seed(1)
    base = wan(num_attention_heads=width // 128, added_kv_proj_dim=width, num_layers=1)
    loaded = load_transformer(save(base, tmp_path), kind="wan")
    assert type(loaded) is WanTransformer3DModel
    assert loaded.config.num_attention_heads == width // 128
    assert all(torch.equal(tensor, base.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    dancer = SteadyDancerTransformer3DModel.from_wan(loaded)
    assert torch.equal(dancer.patch_embedding.weight, base.patch_embedding.weight)


def test_diffusers_door_for_single_files_leads_to_our_maps(dancer: Any, tmp_path: Path) -> None:
    half = SteadyDancerTransformer3DModel.from_single_file(
        one_file(dancer, tmp_path), torch_dtype=torch.bfloat16, num_attention_heads=4
    )
    assert (half.config.num_attention_heads, half.proj_out.weight.dtype) == (4, torch.bfloat16)
    loaded = SteadyDancerTransformer3DModel.from_single_file(one_file(dancer, tmp_path))
    weights = dancer.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(ValueError, match=r"not \['quantization_config'\]"):
        SteadyDancerTransformer3DModel.from_single_file(tmp_path / "model.safetensors", quantization_config=1)
    with pytest.raises(CheckpointError, match="plain Wan 2.1 I2V"):
        SteadyDancerTransformer3DModel.from_single_file(one_file(wan(), tmp_path))


def test_weights_stay_in_the_file_until_they_are_used(dancer: Any, tmp_path: Path) -> None:
    """A change of the mapped file is seen through the parameter: it is the same memory, not a copy."""
    file = one_file(dancer, tmp_path)
    loaded = load_transformer(file)
    place = open_checkpoint(file).tensors["blocks.0.ffn.0.bias"]
    with file.open("r+b") as opened:
        opened.seek(place.offset)
        opened.write(torch.full((48,), 7.0).numpy().tobytes())
    assert loaded.blocks[0].ffn.net[0].proj.bias.tolist() == [7.0] * 48


def test_types_are_those_of_diffusers_and_pose_modules_stay_float32(dancer: Any, tmp_path: Path) -> None:
    folder = diffusers_folder(dancer, tmp_path)
    ours = load_transformer(folder, torch.bfloat16).state_dict()
    theirs = SteadyDancerTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16).state_dict()
    assert {name: tensor.dtype for name, tensor in ours.items()} == {n: t.dtype for n, t in theirs.items()}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())

    released = {name: tensor.bfloat16() for name, tensor in official(dancer).items()}
    save_file(released, tmp_path / "released.safetensors")
    for name, tensor in load_transformer(tmp_path / "released.safetensors").state_dict().items():
        assert tensor.dtype == (torch.float32 if name.startswith("pose_modulation.") else torch.bfloat16)


def test_heads_that_no_shape_tells_can_be_given(tmp_path: Path) -> None:
    small = SteadyDancerTransformer3DModel(**{**TINY, "num_attention_heads": 4, "attention_head_dim": 32}, image_dim=8)
    assert load_transformer(one_file(small, tmp_path), num_attention_heads=4).config.attention_head_dim == 32


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        (
            {"in_channels": 16, "image_dim": None, "added_kv_proj_dim": None},
            "text-to-video model: it has 16 input channels",
        ),
        ({"in_channels": 48, "image_dim": None, "added_kv_proj_dim": None, "out_channels": 48}, "48 input channels"),
        ({"image_dim": None, "added_kv_proj_dim": None}, "no image embedding, like the experts of Wan 2.2"),
        ({"in_channels": 32}, "has 32 input channels; Wan 2.1 I2V has 36"),
        ({"pos_embed_seq_len": 514}, "embeds two images together"),
    ],
)
@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_other_wans_are_refused_with_the_reason(
    tmp_path: Path, layout: str, sizes: dict[str, Any], reason: str
) -> None:
    model = wan(**sizes)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if layout == "official":
        joined = state.pop("condition_embedder.image_embedder.pos_embed", None)
        state = {name: tensor.contiguous() for name, tensor in to_official(state).items()}
        state |= {} if joined is None else {"img_emb.emb_pos": joined}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=reason):
        load_transformer(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vace_blocks.0.after_proj.bias", "VACE"),
        ("blocks.0.self_attn.q.scale_weight", "quantised"),
        ("blocks.0.self_attn.q.lora_A.weight", "is a LoRA"),
        ("face_adapter.fuser_blocks.0.q_norm.weight", "faces or audio"),
    ],
)
def test_relatives_are_refused_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    save_file(official(wan()) | {name: torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=reason):
        open_transformer(tmp_path / "model.safetensors")


def test_something_else_entirely_is_told_by_its_keys(tmp_path: Path) -> None:
    save_file({"encoder.layers.0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no Wan transformer \(encoder\.layers\.0\.weight\)"):
        open_transformer(tmp_path / "model.safetensors")


@pytest.mark.parametrize("pose_fusion", ["concatenation", "addition", "adapter"])
def test_a_dancer_is_known_by_any_one_of_its_new_modules(tmp_path: Path, pose_fusion: str) -> None:
    changes = {"pose_fusion": pose_fusion, "condition_augmentation": False, "pose_modulation_modules": []}
    model = SteadyDancerTransformer3DModel(**TINY, image_dim=8, **changes)
    assert len(model.pose_module_names) == 1
    model.save_pretrained(tmp_path)
    assert open_transformer(tmp_path).kind == "steadydancer"
    loaded = load_transformer(tmp_path, kind="steadydancer").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_a_dancer_is_no_base_and_a_base_is_no_dancer(dancer: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a SteadyDancer checkpoint, but a base is expected"):
        open_transformer(one_file(dancer, tmp_path), kind="wan")
    with pytest.raises(CheckpointError, match="plain Wan 2.1 I2V checkpoint without pose modules, but SteadyDancer"):
        open_transformer(one_file(wan(), tmp_path), kind="steadydancer")


@pytest.mark.parametrize("save", [one_file, diffusers_file])
def test_one_message_names_all_that_is_wrong(dancer: Any, tmp_path: Path, save: Callable[..., Path]) -> None:
    file = save(dancer, tmp_path)
    state = load_file(file)
    query = "blocks.0.self_attn.q.weight" if save is one_file else "blocks.0.attn1.to_q.weight"
    gone = [name for name in state if name.startswith("blocks.1.") and name.endswith(".bias")]
    for name in ("patch_embedding_fuse.weight", *gone):
        del state[name]
    state[query] = torch.zeros(5, 128)
    state["vocals.weight"] = torch.zeros(1)
    save_file(state, file)
    with pytest.raises(CheckpointError) as error:
        load_transformer(file)
    assert isinstance(error.value, SteadyDancerError)
    message = str(error.value)
    assert f"{1 + len(gone)} missing: patch_embedding_fuse.weight" in message
    assert f"… and {len(gone) - 4} more" in message
    assert "1 unexpected: vocals.weight" in message
    assert f"1 with the wrong shape: {query} [5, 128] (expected [128, 128])" in message


def test_any_single_tensor_that_is_missing_is_the_only_one_named(
    dancer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that the sizes are read from."""
    expected_shapes, known = transformer_loading.expected_shapes, {}

    def remembered(*given: Any) -> Any:  # nearly always the same network: most of the time would go into making it
        key = repr(given)
        if key not in known:
            known[key] = expected_shapes(*given)
        return known[key]

    monkeypatch.setattr(transformer_loading, "expected_shapes", remembered)
    state = official(dancer)
    for name in state:
        if ".1." in name and name.startswith("blocks."):
            continue  # as in the other block
        save_file({key: tensor for key, tensor in state.items() if key != name}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError) as error:
            open_transformer(tmp_path / "model.safetensors")
        message = str(error.value)
        if name in ("text_embedding.0.weight", "time_embedding.0.weight"):  # nothing else shows their size
            assert name in message
        else:
            assert f"1 missing: {name}\n" in message and "wrong shape" not in message, name


def test_cut_and_broken_files_are_named(dancer: Any, tmp_path: Path) -> None:
    file = one_file(dancer, tmp_path)
    content = file.read_bytes()
    for spoiled, message in (
        (content[:-1000], "truncated or damaged: it has .* its header specifies"),
        (content[:200], "is truncated"),
        (b"", "is truncated"),
        (b"\xff" * 4000, "is not a safetensors file"),
        (content[:8] + b"x" + content[9:], "is not a safetensors file"),
    ):
        file.write_bytes(spoiled)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(file)


def test_a_missing_shard_is_named(dancer: Any, tmp_path: Path) -> None:
    folder = shards(dancer, tmp_path)
    (folder / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of the 3 files that .* lists are missing \(.*00002-of-00003"):
        load_transformer(folder)


def test_pickles_and_empty_places_are_refused(tmp_path: Path) -> None:
    torch.save({"patch_embedding.weight": torch.zeros(1)}, tmp_path / "model.pt")
    for source in (tmp_path / "model.pt", tmp_path):
        with pytest.raises(CheckpointError, match="is a pickle, which can run code"):
            open_checkpoint(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="contains no safetensors"):
        open_checkpoint(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nothing.safetensors")
    for name in ("a", "b"):
        save_file({name: torch.zeros(1)}, tmp_path / "empty" / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="several sets of weights"):
        open_checkpoint(tmp_path / "empty")
