"""One LoRA in the spellings of other programs, each written here by hand, against W + s · B A computed by hand."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from steadydancer.models.checkpoints.files import CheckpointError
from steadydancer.models.lora.export import export_lora
from steadydancer.models.lora.loading import load_lora, read_lora
from steadydancer.models.lora.names import flat_names
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

WIDTH, FFN = 32, 48
SIZES: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 16, "freq_dim": 16, "ffn_dim": FFN, "num_layers": 2,
    "image_dim": 24,
}  # fmt: skip

# The layers that are adapted: official name → (diffusers', FastVideo's), rows and columns.
LAYERS = {
    "self_attn.q": ("attn1.to_q", "to_q", WIDTH, WIDTH),
    "self_attn.o": ("attn1.to_out.0", "to_out", WIDTH, WIDTH),
    "cross_attn.k": ("attn2.to_k", "attn2.to_k", WIDTH, WIDTH),
    "cross_attn.o": ("attn2.to_out.0", "attn2.to_out", WIDTH, WIDTH),
    "cross_attn.v_img": ("attn2.add_v_proj", "attn2.add_v_proj", WIDTH, WIDTH),
    "ffn.0": ("ffn.net.0.proj", "ffn.fc_in", FFN, WIDTH),
    "ffn.2": ("ffn.net.2", "ffn.fc_out", WIDTH, FFN),
}
RANKS = dict(zip(LAYERS, (2, 3, 2, 4, 1, 2, 3), strict=True))  # not one rank for all
ALPHAS = dict(zip(LAYERS, (6.0, 1.5, 2.0, 1.0, 3.0, 0.5, 9.0), strict=True))
State, Pairs = dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def plain() -> State:
    """Weights of the network before."""
    return {name: weight.clone() for name, weight in network().state_dict().items()}


def network() -> SteadyDancerTransformer3DModel:
    torch.manual_seed(0)
    return SteadyDancerTransformer3DModel(**SIZES).eval()


def known_pairs() -> Pairs:
    """Official layer, with its block, to (A, B)."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        f"blocks.{block}.{layer}": (random(RANKS[layer], columns), random(rows, RANKS[layer]))
        for block in (0, 1)
        for layer, (_, _, rows, columns) in LAYERS.items()
    }


PAIRS = known_pairs()


def of(name: str) -> str:
    """Without the block."""
    return name.split(".", 2)[2]


def diffusers(name: str) -> str:
    return ".".join([*name.split(".")[:2], LAYERS[of(name)][0]])


def fastvideo(name: str) -> str:
    return ".".join([*name.split(".")[:2], LAYERS[of(name)][1]])


def flat(name: str) -> str:
    return name.replace(".", "_")


def official(name: str) -> str:
    return name


def loaded(file: Path, **options: Any) -> State:
    """The weights after loading, the adapter merged into them."""
    model = network()
    found = load_lora(model, file, **options)
    if found.pairs:
        model.fuse_lora()
        model.unload_lora()
    return {name: weight.float() for name, weight in model.state_dict().items()}


def merged(plain: State, strengths: dict[str, float]) -> State:
    """By hand: official layer's s · B A added to diffusers' weight of that layer."""
    weights = dict(plain)
    for name, (down, up) in PAIRS.items():
        weights[f"{diffusers(name)}.weight"] = plain[f"{diffusers(name)}.weight"] + strengths[of(name)] * (up @ down)
    return weights


def same(ours: State, expected: State, atol: float = 1e-5) -> None:
    assert ours.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(
            ours[name], weight, atol=atol, rtol=1e-5, msg=lambda expected_scales, at=name: f"{at}: {expected_scales}"
        )


def written(
    name_of: Callable[[str], str], down: str, up: str, alpha: str | None = None, prefix: str = "", pairs: Pairs = PAIRS
) -> State:
    """A file's tensors: prefix + the layer's name + the endings."""
    state = {}
    for name, (a, b) in pairs.items():
        layer = prefix + name_of(name)
        state |= {layer + down: a.clone(), layer + up: b.clone()}
        if alpha is not None:
            state[layer + alpha] = torch.tensor(ALPHAS[of(name)])
    return state


KOHYA = (".lora_down.weight", ".lora_up.weight", ".alpha")
PEFT = (".lora_A.weight", ".lora_B.weight")
DEFAULT = (".lora_A.default.weight", ".lora_B.default.weight")

# What a file may look like whose layers tell their alpha.
WITH_ALPHA = {
    "kohya": written(flat, *KOHYA, "lora_unet_"),
    "kohya, dots partly kept": written(
        lambda name: ".".join([flat(".".join(name.split(".")[:3])), *name.split(".")[3:]]), *KOHYA, "lora_unet_"
    ),
    "kohya, only the block's dots": written(
        lambda name: ".".join(name.split(".")[:2]) + "_" + flat(of(name)), *KOHYA, "lora_unet_"
    ),
    "kohya, dots kept": written(official, *KOHYA, "lora_unet."),
    "kohya, two underscores": written(flat, *KOHYA, "lora_unet__"),
    "kohya of diffusers' layers": written(lambda name: flat(diffusers(name)), *KOHYA, "lora_unet_"),
    "OneTrainer": written(lambda name: flat(diffusers(name)), *KOHYA, "lora_transformer_"),
    "LyCORIS": written(lambda name: flat(diffusers(name)), *KOHYA, "lycoris_"),
    "ComfyUI": written(official, *KOHYA, "diffusion_model."),
    "ComfyUI, nested": written(official, *KOHYA, "model.diffusion_model."),
    "PEFT around ComfyUI": written(official, *PEFT, ".alpha", "base_model.model.diffusion_model."),
    "transformer": written(diffusers, *KOHYA, "transformer."),
    "unet": written(diffusers, *KOHYA, "unet."),
    "dit": written(official, *KOHYA, "dit."),
    "DiffSynth's pipeline": written(official, *DEFAULT, ".alpha", "pipe.dit."),
    "no prefix": written(official, *KOHYA),
    "a pipeline's, PEFT's end": written(
        diffusers, ".lora_down.default.weight", ".lora_up.default.weight", ".alpha", "pipeline.transformer."
    ),
    "distilled": written(official, *KOHYA, "student.model."),
    "kohya of Wan": written(flat, *KOHYA, "lora_wan_"),
    "lora.down": written(diffusers, ".lora.down.weight", ".lora.up.weight", ".alpha", "transformer."),
    "_lora.down": written(diffusers, "_lora.down.weight", "_lora.up.weight", ".alpha", "unet."),
    "lora_linear_layer": written(
        diffusers, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", ".alpha", "unet."
    ),
    "FastVideo": written(fastvideo, ".lora_A", ".lora_B", ".lora_alpha", "transformer.")
    | {f"transformer.{fastvideo(name)}.lora_rank": torch.tensor(RANKS[of(name)]) for name in PAIRS},
    "self-forcing": written(
        lambda name: name.replace(".self_attn", "._fsdp_wrapped_module.self_attn"), *KOHYA, "generator.model."
    ),
    "compiled": written(official, *KOHYA, "diffusion_model._orig_mod."),
}


@pytest.mark.parametrize("spelling", WITH_ALPHA)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_layers_that_tell_their_alpha(tmp_path: Path, plain: State, spelling: str, scale: float) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(WITH_ALPHA[spelling], file)
    expected = merged(plain, {layer: scale * ALPHAS[layer] / RANKS[layer] for layer in LAYERS})
    same(loaded(file, scale=scale), expected)
    found = read_lora(network(), file)
    assert not found.unused and not found.assumed_alpha and len(found.pairs) == len(PAIRS)


def test_older_attention_processors_name_their_layers_so(tmp_path: Path, plain: State) -> None:
    """`attn1.processor.to_q_lora.down.weight`, and `to_out_lora` for `to_out.0`."""

    def name_of(name: str) -> str:
        block, (attention, layer) = name.rsplit(".", 2)[0], diffusers(name).removesuffix(".0").rsplit(".", 2)[1:]
        return f"{block}.{attention}.processor.{layer}"

    pairs = {name: pair for name, pair in PAIRS.items() if "attn" in name}
    save_file(written(name_of, "_lora.down.weight", "_lora.up.weight", pairs=pairs), tmp_path / "lora.safetensors")
    expected = merged(plain, {layer: float("attn" in layer) for layer in LAYERS})
    same(loaded(tmp_path / "lora.safetensors"), expected)


WITHOUT_ALPHA = {
    "diffusers": written(diffusers, *PEFT, None, "transformer."),
    "diffusion-pipe": written(official, *PEFT, None, "diffusion_model."),
    "PEFT": written(official, *PEFT, None, "base_model.model."),
    "DiffSynth": written(official, *DEFAULT),
    "DiffSynth, no weight": written(official, ".lora_A.default", ".lora_B.default", None, "pipe.dit."),
    "FastVideo": written(fastvideo, ".lora_A", ".lora_B"),
}


@pytest.mark.parametrize("spelling", WITHOUT_ALPHA)
def test_a_file_that_tells_no_alpha_counts_it_as_the_rank_and_says_so(
    tmp_path: Path, plain: State, spelling: str
) -> None:
    save_file(WITHOUT_ALPHA[spelling], tmp_path / "lora.safetensors")
    same(loaded(tmp_path / "lora.safetensors"), merged(plain, dict.fromkeys(LAYERS, 1.0)))
    assert sorted(read_lora(network(), tmp_path / "lora.safetensors").assumed_alpha) == sorted(
        f"{diffusers(name)}.weight" for name in PAIRS
    )


# What PEFT writes of an adapter: alpha 8, and of two kinds of layers another.
CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 8, "rank_pattern": {"self_attn.o": 3, r"ffn\.2": 3},
    "alpha_pattern": {"self_attn.o": 5, r"blocks\.\d\.ffn\.2": 7.5},
}  # fmt: skip


def expected_scales(alpha_of: dict[str, float], stabilised: bool) -> dict[str, float]:
    """alpha / r, or alpha / √r, of every layer."""
    alphas = {layer: alpha_of.get(layer, 8.0) for layer in LAYERS}
    return {layer: alpha / (math.sqrt(RANKS[layer]) if stabilised else RANKS[layer]) for layer, alpha in alphas.items()}


def in_diffusers_words(config: dict[str, Any], prefix: str = "transformer.") -> dict[str, str]:
    names = {"self_attn.o": "attn1.to_out.0", r"blocks\.\d\.ffn\.2": r"blocks\.\d\.ffn\.net\.2"}
    pattern = {names[name]: alpha for name, alpha in config["alpha_pattern"].items()}
    whole = {**config, "alpha_pattern": pattern}
    return {"lora_adapter_metadata": json.dumps({prefix + name: value for name, value in whole.items()})}


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("where", ["beside", "header", "diffusers", "diffusers, no prefix", "flat"])
def test_alpha_of_a_whole_file_with_patterns_and_rank_stabilised(
    tmp_path: Path, plain: State, where: str, stabilised: bool
) -> None:
    config, metadata = {**CONFIG, "use_rslora": stabilised}, None
    name_of, file = official, tmp_path / "adapter_model.safetensors"
    if where == "beside":
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    elif where == "header":
        metadata = {"format": "pt", "adapter_config": json.dumps(config)}
    elif where == "flat":
        metadata = {
            "lora_alpha": "8",
            "use_rslora": str(stabilised),
            "alpha_pattern": json.dumps(CONFIG["alpha_pattern"]),
        }
    else:
        name_of = diffusers
        metadata = in_diffusers_words(config, "" if "no prefix" in where else "transformer.")
    save_file(written(name_of, *PEFT, None, "base_model.model."), file, metadata)
    expected = merged(plain, expected_scales({"self_attn.o": 5.0, "ffn.2": 7.5}, stabilised))
    same(loaded(tmp_path), expected)
    same(loaded(file), expected)
    assert not read_lora(network(), file).assumed_alpha


def test_a_configuration_beside_belongs_to_pefts_file_or_to_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    state = written(official, *PEFT)
    save_file(state, tmp_path / "mine.safetensors")
    assert not read_lora(network(), tmp_path / "mine.safetensors").assumed_alpha
    save_file(state, tmp_path / "other.safetensors")
    assert len(read_lora(network(), tmp_path / "mine.safetensors").assumed_alpha) == len(PAIRS)
    with pytest.raises(CheckpointError, match=r"contains neither .*mine.safetensors, other.safetensors"):
        load_lora(network(), tmp_path)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/adapter_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"adapter_model.bin is a pickle"):
        load_lora(network(), tmp_path / "pickled")
    for text in ('{"lora_alpha": "much"}', "{", '{"lora_alpha": NaN}'):
        (tmp_path / "adapter_config.json").write_text(text)
        (tmp_path / "other.safetensors").unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match=r"mine.safetensors: invalid scale settings"):
            read_lora(network(), tmp_path / "mine.safetensors")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"])
def test_a_folder_of_several_files_is_loaded_by_the_usual_names(tmp_path: Path, plain: State, name: str) -> None:
    save_file(written(official, *KOHYA), tmp_path / name)
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    same(loaded(tmp_path), merged(plain, {layer: ALPHAS[layer] / RANKS[layer] for layer in LAYERS}))


def test_what_the_header_tells_goes_before_what_lies_beside(tmp_path: Path, plain: State) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    save_file(written(official, *PEFT), tmp_path / "adapter_model.safetensors", {"lora_alpha": "3"})
    same(loaded(tmp_path), merged(plain, {layer: 3.0 / RANKS[layer] for layer in LAYERS}))


def test_a_layers_own_alpha_goes_before_the_files(tmp_path: Path, plain: State) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({**CONFIG, "use_rslora": True}))
    save_file(written(official, *KOHYA), tmp_path / "lora.safetensors")
    same(loaded(tmp_path), merged(plain, {layer: ALPHAS[layer] / RANKS[layer] for layer in LAYERS}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_narrow_types_are_taken_for_their_values(tmp_path: Path, plain: State, dtype: torch.dtype) -> None:
    """The product of what the file holds, in the network's own precision."""
    state = {name: tensor.to(dtype) for name, tensor in written(official, *KOHYA, "diffusion_model.").items()}
    save_file(state, tmp_path / "lora.safetensors")
    expected = dict(plain)
    for name in PAIRS:
        down, up, alpha = (state[f"diffusion_model.{name}{end}"].float() for end in KOHYA)
        key = f"{diffusers(name)}.weight"
        expected[key] = plain[key] + alpha / RANKS[of(name)] * (up @ down)
    same(loaded(tmp_path / "lora.safetensors"), expected)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("self_attn.qkv", "attn1.to_qkv"), ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
        (("cross_attn.kv", "attn2.to_kv"), ("attn2.to_k", "attn2.to_v")),
        (("cross_attn.kv_img", "attn2.to_added_kv"), ("attn2.add_k_proj", "attn2.add_v_proj")),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_layers_in_one_matrix_take_their_rows(
    tmp_path: Path, plain: State, names: tuple[str, str], parts: tuple[str, ...], which: int
) -> None:
    torch.manual_seed(4)
    down, up, bias = torch.randn(3, WIDTH), torch.randn(WIDTH * len(parts), 3), torch.randn(WIDTH * len(parts))
    name = f"transformer.blocks.1.{names[which]}"
    state = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.alpha": torch.tensor(1.5)}
    save_file({**state, f"{name}.diff_b": bias}, tmp_path / "lora.safetensors")
    expected = dict(plain)
    for i, part in enumerate(parts):
        rows = slice(i * WIDTH, (i + 1) * WIDTH)
        expected[f"blocks.1.{part}.weight"] = plain[f"blocks.1.{part}.weight"] + 0.5 * up[rows] @ down
        expected[f"blocks.1.{part}.bias"] = plain[f"blocks.1.{part}.bias"] + bias[rows]
    same(loaded(tmp_path / "lora.safetensors"), expected)


def lokr(form: str) -> tuple[State, Tensor, float]:
    """(tensors of ffn.0, their product, alpha / rank) with alpha 3 and rank 2."""
    torch.manual_seed(5)
    first, second = torch.randn(4, 8), torch.randn(FFN // 4, WIDTH // 8)
    a, b, c, d = torch.randn(4, 2), torch.randn(2, 8), torch.randn(FFN // 4, 2), torch.randn(2, WIDTH // 8)
    if form == "whole":  # then LyCORIS takes 1, whatever alpha is
        return {"lokr_w1": first, "lokr_w2": second}, torch.kron(first, second), 1.0
    if form == "second":
        return {"lokr_w1": first, "lokr_w2_a": c, "lokr_w2_b": d}, torch.kron(first, c @ d), 1.5
    if form == "first":
        return {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2": second}, torch.kron(a @ b, second), 1.5
    return {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": c, "lokr_w2_b": d}, torch.kron(a @ b, c @ d), 1.5


@pytest.mark.parametrize("form", ["whole", "first", "second", "both"])
def test_lokr_is_added_to_the_weight(tmp_path: Path, plain: State, form: str) -> None:
    state, product, strength = lokr(form)
    file = tmp_path / "lokr.safetensors"
    save_file({f"lycoris_blocks_0_ffn_net_0_proj.{role}": t for role, t in state.items()}
              | {"lycoris_blocks_0_ffn_net_0_proj.alpha": torch.tensor(3.0)}, file)  # fmt: skip
    name = "blocks.0.ffn.net.0.proj.weight"
    same(loaded(file, scale=0.5), {**plain, name: plain[name] + 0.5 * strength * product})


def test_pefts_lokr_divides_by_the_rank_of_its_configuration(tmp_path: Path, plain: State) -> None:
    state, product, _ = lokr("whole")
    save_file({f"base_model.model.blocks.1.ffn.0.{role}": t for role, t in state.items()}, tmp_path / "a.safetensors")
    name = "blocks.1.ffn.net.0.proj.weight"
    same(loaded(tmp_path), {**plain, name: plain[name] + product})
    assert read_lora(network(), tmp_path / "a.safetensors").assumed_alpha == [name]
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOKR", "r": 4, "alpha": 10}))
    same(loaded(tmp_path), {**plain, name: plain[name] + 2.5 * product})


def test_loha_is_added_to_the_weight_of_a_fused_layer_too(tmp_path: Path, plain: State) -> None:
    torch.manual_seed(6)
    a, b, c, d = torch.randn(3 * WIDTH, 2), torch.randn(2, WIDTH), torch.randn(3 * WIDTH, 2), torch.randn(2, WIDTH)
    state = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(5.0)}
    save_file({f"lora_unet_blocks_0_self_attn_qkv.{role}": t for role, t in state.items()}, tmp_path / "x.safetensors")
    product, expected = 2.5 * (a @ b) * (c @ d), dict(plain)
    for i, part in enumerate(("to_q", "to_k", "to_v")):
        name = f"blocks.0.attn1.{part}.weight"
        expected[name] = plain[name] + product[i * WIDTH : (i + 1) * WIDTH]
    same(loaded(tmp_path / "x.safetensors"), expected)


def test_diffs_are_added_under_every_name_that_they_have(tmp_path: Path, plain: State) -> None:
    """CausVid's and self-forcing's `diff`, `diff_b`, `diff_m`; LyCORIS' `diff`, `w_norm`, `b_norm`."""
    torch.manual_seed(7)
    full, bias, norm = torch.randn(FFN, WIDTH), torch.randn(WIDTH), torch.randn(WIDTH)
    modulation, head = torch.randn(1, 6, WIDTH), torch.randn(1, 2, WIDTH)
    save_file({
        "diffusion_model.blocks.0.ffn.0.diff": full, "diffusion_model.blocks.0.norm3.diff_b": bias,
        "diffusion_model.blocks.1.norm3.w_norm": norm, "diffusion_model.blocks.1.norm3.b_norm": bias.clone(),
        "diffusion_model.blocks.1.diff_m": modulation, "diffusion_model.head.diff_m": head,
        "lora_unet_blocks_0_cross_attn_norm_k.diff": norm.clone(),
    }, tmp_path / "x.safetensors")  # fmt: skip
    changes = {
        "blocks.0.ffn.net.0.proj.weight": full, "blocks.0.norm2.bias": bias, "blocks.1.norm2.weight": norm,
        "blocks.1.norm2.bias": bias, "blocks.1.scale_shift_table": modulation, "scale_shift_table": head,
        "blocks.0.attn2.norm_k.weight": norm,
    }  # fmt: skip
    for scale in (1.0, 0.5):
        expected = {**plain, **{name: plain[name] + scale * by for name, by in changes.items()}}
        same(loaded(tmp_path / "x.safetensors", scale=scale), expected)


def test_biases_of_pairs_are_scaled_with_them(tmp_path: Path, plain: State) -> None:
    """PEFT's lora_bias: (alpha / r)(B A x + b)."""
    bias, name = torch.randn(WIDTH), "blocks.0.attn1.to_q"
    pairs = {"blocks.0.self_attn.q": PAIRS["blocks.0.self_attn.q"]}
    state = written(official, *PEFT, ".alpha", pairs=pairs) | {"blocks.0.self_attn.q.lora_B.bias": bias}
    save_file(state, tmp_path / "x.safetensors")
    down, up = pairs["blocks.0.self_attn.q"]
    expected = {
        f"{name}.weight": plain[f"{name}.weight"] + 3.0 * up @ down,
        f"{name}.bias": plain[f"{name}.bias"] + 3.0 * bias,
    }
    same(loaded(tmp_path / "x.safetensors"), {**plain, **expected})


def test_a_linear_layers_pair_may_be_written_as_a_convolution(tmp_path: Path, plain: State) -> None:
    pairs = {name: (a[..., None, None], b[..., None, None]) for name, (a, b) in PAIRS.items()}
    save_file(written(flat, *KOHYA, "lora_unet_", pairs=pairs), tmp_path / "x.safetensors")
    same(loaded(tmp_path / "x.safetensors"), merged(plain, {layer: ALPHAS[layer] / RANKS[layer] for layer in LAYERS}))


LAYER = "lora_unet_blocks_0_ffn_0"
REFUSED: dict[str, tuple[State, str]] = {
    "DoRA": ({f"{LAYER}.dora_scale": torch.ones(FFN, 1)}, r"is a DoRA adapter \(.*ffn_0.dora_scale\); only LoRA"),
    "PEFT's DoRA": ({"blocks.0.ffn.0.lora_magnitude_vector.weight": torch.ones(FFN)}, "is a DoRA adapter"),
    "OFT": ({f"{LAYER}.oft_blocks": torch.ones(2, 4, 4)}, "is a OFT adapter"),
    "CP": ({f"{LAYER}.lora_mid.weight": torch.ones(2, 2, 1, 1)}, "is a CP adapter"),
    "GLoRA": ({f"{LAYER}.a1.weight": torch.ones(2, 2)}, "is a GLoRA adapter"),
    "scaled": ({f"{LAYER}.lora_down.scale_weight": torch.ones(1)}, "is a scaled fp8 adapter"),
    "text encoder": ({"lora_te_encoder_block_0_q.lora_down.weight": torch.ones(2, 2)}, "1 unexpected: lora_te_encoder"),
    "second network": (
        {"transformer_2.blocks.0.ffn.0.lora_A.weight": torch.ones(2, WIDTH)}, "1 unexpected: transformer_2.blocks"
    ),
    "unknown role": ({f"{LAYER}.gate": torch.ones(2)}, "1 unexpected: lora_unet_blocks_0_ffn_0.gate"),
    "other layer": ({"lora_unet_blocks_9_ffn_0.lora_down.weight": torch.ones(2, WIDTH)}, "1 unexpected"),
    "modulation": ({"lora_unet_blocks_0_modulation.lora_down.weight": torch.ones(2, WIDTH)}, "1 unexpected"),
    "two adapters": (
        {f"{LAYER}.lora_A.one.weight": torch.ones(2, WIDTH)}, "two adapters for one layer .*ffn_0.lora_down.weight"
    ),
    "LoKr of another size": (
        {"lora_unet_blocks_0_self_attn_k.lokr_w1": torch.ones(4, 4),
         "lora_unet_blocks_0_self_attn_k.lokr_w2": torch.ones(4, 4)}, r"product .* does not have the shape \[32, 32\]"
    ),
    "half a LoKr": ({"lora_unet_blocks_0_self_attn_k.lokr_w1": torch.ones(4, 4)}, "its factors are incomplete"),
    "alpha": ({f"{LAYER}.alpha": torch.tensor(math.nan)}, "ffn_0.alpha is nan, not a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_whole_with_one_message(tmp_path: Path, plain: State, case: str) -> None:
    more, message = REFUSED[case]
    save_file(written(flat, *KOHYA, "lora_unet_") | more, tmp_path / "x.safetensors")
    model = network()
    with pytest.raises(CheckpointError, match=message) as expected_scales:
        load_lora(model, tmp_path / "x.safetensors")
    assert case in ("two adapters", "alpha") or "LoKr" in str(expected_scales.value)  # what is read
    same(model.state_dict(), plain, atol=0.0)


@pytest.mark.parametrize(
    ("begun", "changes_base"),
    [("pissa_niter_4", True), ("olora", True), ("LoftQ", True), ("gaussian", False), (True, False)],
)
def test_an_adapter_whose_beginning_was_taken_out_of_the_base_is_refused(
    tmp_path: Path, plain: State, begun: str | bool, changes_base: bool
) -> None:
    save_file(written(official, *PEFT, None, "base_model.model."), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "init_lora_weights": begun}))
    if changes_base:
        with pytest.raises(CheckpointError, match=f"initialisation {str(begun).lower()} changes the base's weights"):
            loaded(tmp_path)
    else:
        same(loaded(tmp_path), merged(plain, expected_scales({}, False)))


def test_no_two_layers_share_a_name() -> None:
    """A flat name leads to the weights that have it and to no others."""
    weights = [name for name, _ in network().named_parameters()]
    known = flat_names(weights)
    assert {names for names in known.values() if len(names) == 1} == {(name,) for name in weights}
    for name in weights:
        assert known[flat(name)] == (name,)
        if name.endswith(".weight"):
            assert known[flat(name.removesuffix(".weight"))] == (name,)


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_a_rank_stabilised_adapter_is_exported_with_its_strength(tmp_path: Path, plain: State, layout: Any) -> None:
    """alpha / √r, 4 / √4 = 2 for attn1.to_q and 6 / √4 = 3 for ffn.net.2, not alpha / r."""
    model = network()
    model.add_adapter(
        LoraConfig(
            r=4, lora_alpha=4, use_rslora=True, alpha_pattern={"ffn.net.2": 6}, target_modules=["to_q", "ffn.net.2"]
        )
    )
    torch.manual_seed(8)
    expected = dict(plain)
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "lora_A"):
                down, up = module.lora_A.default.weight, module.lora_B.default.weight
                up.copy_(torch.randn_like(up))
                expected[f"{name}.weight"] = plain[f"{name}.weight"] + (3.0 if "ffn" in name else 2.0) * up @ down
    export_lora(model, tmp_path / "ours.safetensors", layout)
    (tmp_path / "pose_modules.safetensors").unlink(missing_ok=True)
    same(loaded(tmp_path / "ours.safetensors"), expected)
