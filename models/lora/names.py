"""Parse the keys of LoRA files for Wan transformers into layers and roles.

A key consists of a layer's name and a role. Trainers separate the words of a name by dots or underscores and add their
own prefixes and the names of wrappers; all spellings are compared as words joined by underscores. Supported are
diffusers' names, the official names, FastVideo's, and q, k, v in one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..checkpoints.key_maps import known_ours, renamed_to_official

SUPPORTED = (
    "supported are low-rank pairs (lora_A and lora_B, lora_down and lora_up, lora.down and lora.up, with alpha), LoKr, "
    "LoHa and diffs (diff, diff_b, set_weight) of the layers of a Wan transformer, named as in diffusers, in Wan's own "
    "code or in kohya's flattened form"
)

_ADAPTER = r"(?:\.(?!(?:weight|bias)$)[\w-]+)?"  # PEFT's name of the adapter: lora_A.default.weight
_ROLES = {
    "down": rf"\.lora_down{_ADAPTER}(?:\.weight)?|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight"
    rf"|\.lora_A{_ADAPTER}(?:\.weight)?",
    "up": rf"\.lora_up{_ADAPTER}(?:\.weight)?|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight"
    rf"|\.lora_B{_ADAPTER}(?:\.weight)?",
    "up_bias": rf"\.lora_B{_ADAPTER}\.bias",
    "alpha": r"\.(?:lora_)?alpha",
    "rank": r"\.lora_rank",
    "diff": r"\.diff|\.w_norm",
    "diff_bias": r"\.diff_b|\.b_norm",
    "diff_modulation": r"\.diff_m",
    "set": r"\.set_weight",
    **{
        name: rf"\.{name}{_ADAPTER}"
        for name in (
            "lokr_w1_a", "lokr_w1_b", "lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_w2",
            "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
        )
    },
}  # fmt: skip
_KEY = re.compile(r"(?P<name>.+?)(?:" + "|".join(f"(?P<{role}>{words})" for role, words in _ROLES.items()) + ")")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")

_OTHER_KINDS = {
    "DoRA": r"dora_scale|lora_magnitude_vector",
    "OFT": r"oft_blocks|oft_[rR]\b|oft_diag|boft_",
    "CP": r"lora_mid|lokr_t[12]|hada_t[12]",
    "GLoRA": r"\.[ab][12]\.weight$",
    "IA³": r"\.ia3_|\.on_input$",
    "VeRA": r"vera_lambda",
    "scaled fp8": r"\.scale_weight$|\.weight_scale$|scaled_fp8",
}
# Prefixes with dots that PEFT, ComfyUI, DiffSynth and diffusers put before a layer's name.
_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "pipe.dit.", "transformer.", "unet.")
# Flattened prefixes, and words that are stripped from layer names only: a pattern for alpha may start with `net.`.
_FLAT_PREFIX = re.compile(
    "(?:"
    + "|".join(
        [
            *dict.fromkeys(word for prefix in _PREFIXES for word in prefix.split(".") if word),
            *("lora", "lycoris", "diffusion", "pipeline", "student", "wan", "module", "network", "net", "generator"),
            *("generator_ema", "denoiser", "orig_mod", "fsdp_wrapped_module", "checkpoint_wrapped_module"),
        ]
    )
    + ")_"
)
_WRAPPERS = re.compile(
    r"_(?:processor|module|orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module|base_layer)(?=_|$)"
)
# Names inside a block or at the top: FastVideo's, and the output layer in older attention processors.
_OTHER_NAMES = {
    "attn1.to_q": ("to_q",),
    "attn1.to_k": ("to_k",),
    "attn1.to_v": ("to_v",),
    "attn1.to_out.0": ("to_out", "attn1.to_out"),
    "attn2.to_out.0": ("attn2.to_out",),
    "norm2": ("self_attn_residual_norm.norm",),
    "ffn.net.0.proj": ("ffn.fc_in",),
    "ffn.net.2": ("ffn.fc_out",),
    "condition_embedder.text_embedder.linear_1": ("condition_embedder.text_embedder.fc_in",),
    "condition_embedder.text_embedder.linear_2": ("condition_embedder.text_embedder.fc_out",),
    "condition_embedder.time_embedder.linear_1": ("condition_embedder.time_embedder.mlp.fc_in",),
    "condition_embedder.time_embedder.linear_2": ("condition_embedder.time_embedder.mlp.fc_out",),
    "condition_embedder.time_proj": ("condition_embedder.time_modulation.linear",),
    "condition_embedder.image_embedder.ff.net.0.proj": ("condition_embedder.image_embedder.ff.fc_in",),
    "condition_embedder.image_embedder.ff.net.2": ("condition_embedder.image_embedder.ff.fc_out",),
}
# Layers that some programs store as one matrix, concatenated along the rows.
_FUSED = {
    ("attn1.to_q", "attn1.to_k", "attn1.to_v"): ("self_attn.qkv", "attn1.to_qkv", "attn1.qkv", "to_qkv"),
    ("attn2.to_k", "attn2.to_v"): ("cross_attn.kv", "attn2.to_kv", "attn2.kv"),
    ("attn2.add_k_proj", "attn2.add_v_proj"): ("cross_attn.kv_img", "attn2.to_added_kv"),
}

FlatNames = dict[str, tuple[str, ...]]


def flat_names(weights: Iterable[str]) -> FlatNames:
    """Map every flat name of a layer or weight in a file to our weights' names: several for a fused layer.

    Args:
        weights: names of the transformer's parameters.
    """
    weights = list(weights)
    existing, found = set(weights), FlatNames()
    for block in sorted({match[0] for name in weights if (match := re.match(r"blocks\.\d+\.", name))}):
        for parts, names in _FUSED.items():
            of_the_block = tuple(f"{block}{part}.weight" for part in parts)
            if existing.issuperset(of_the_block):
                found |= {_flat(block + name): of_the_block for name in names}
    for name in weights:
        spelled = [name, *renamed_to_official(known_ours([name])).values(), *_others(name)]
        for alias in spelled:
            found[_flat(alias)] = found[_flat(alias.removesuffix(".weight"))] = (name,)
    return found


def _others(weight: str) -> list[str]:
    block, inside = re.fullmatch(r"(blocks\.\d+\.)?(.+)", weight).groups(default="")  # type: ignore[union-attr]
    layer, _, leaf = inside.rpartition(".")
    return [f"{block}{name}.{leaf}" for name in _OTHER_NAMES.get(layer, ())]


def parse_key(key: str, known: FlatNames) -> tuple[tuple[str, ...], str, str] | None:
    """Parse a file's key into (our weights' names, role, the layer's name in the file); None for an unknown key."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    (role,) = [role for role in _ROLES if match[role]]
    name = match["name"] + (".modulation" if role == "diff_modulation" else "")
    found = _find(name, known)
    return (found, role.removesuffix("_modulation"), match["name"]) if found else None


def _find(name: str, known: FlatNames) -> tuple[str, ...] | None:
    flat = _flat(name)
    while flat not in known:
        if not (prefix := _FLAT_PREFIX.match(flat)):
            return None
        flat = flat[prefix.end() :]
    return known[flat]


def _flat(name: str) -> str:
    return _WRAPPERS.sub("", re.sub(r"[._]+", "_", name).lstrip("_"))


def strip_prefixes(name: str) -> str:
    """Strip the prefixes that programs put before a layer's name or a pattern of names."""
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def unsupported_kinds(keys: Iterable[str]) -> dict[str, list[str]]:
    """Find the unsupported kinds of adapters in a file, with the keys that identify each."""
    keys = list(keys)
    found = {kind: [key for key in keys if re.search(words, key)] for kind, words in _OTHER_KINDS.items()}
    return {kind: which for kind, which in found.items() if which}
