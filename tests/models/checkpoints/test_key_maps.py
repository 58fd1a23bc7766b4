import csv
import lzma
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from steadydancer.models.checkpoints.key_maps import config_from_official, from_official, to_official
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

RELEASED_KEYS = Path(__file__).parents[2] / "golden" / "checkpoint_keys_14b.tsv.xz"

TINY = {
    "num_attention_heads": 3,
    "attention_head_dim": 128,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "image_dim": 8,
}


def tiny_model():
    torch.manual_seed(0)
    return SteadyDancerTransformer3DModel(**TINY)


@pytest.fixture
def released():
    with lzma.open(RELEASED_KEYS, "rt") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    meta = {row["official_name"]: tuple(map(int, row["shape"].split("x"))) for row in rows}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in meta.items()}
    return tensors, {row["official_name"]: row["diffusers_name"] for row in rows}


def test_every_released_key_is_a_parameter_of_ours_and_back(released):
    official, diffusers_names = released
    assert len(official) == 1345
    ours = from_official(official)
    with torch.device("meta"):
        model = SteadyDancerTransformer3DModel(**config_from_official(official))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == expected

    back = to_official(ours)
    assert list(back) == list(official)
    assert all(back[name].shape == official[name].shape for name in official)

    # The published names of the backbone agree with ours, key by key.
    for (theirs, wanted), got in zip(diffusers_names.items(), ours, strict=True):
        assert got == wanted or (wanted == "-" and got.startswith(("patch_embedding_", "pose_modulation."))), theirs


def test_the_released_sizes_are_read_off_the_shapes(released):
    official, _ = released
    with torch.device("meta"):
        default, read = (
            SteadyDancerTransformer3DModel(),
            SteadyDancerTransformer3DModel(**config_from_official(official)),
        )
    assert dict(default.config) == dict(read.config)
    assert sum(parameter.numel() for parameter in read.parameters()) == 16_396_718_736


def test_there_and_back_is_the_identity():
    ours = tiny_model().state_dict()
    official = to_official(ours)
    again = from_official(official)
    assert list(again) == list(ours)
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    assert official["condition_embedding_align.norm1.weight"].shape == (1, 128, 1, 1)
    assert official["condition_embedding_align.proj_p_back.weight"].shape == (16, 128, 1, 1)


def test_the_configuration_is_read_off_the_shapes():
    model = tiny_model()
    read = SteadyDancerTransformer3DModel(**config_from_official(to_official(model.state_dict())))
    assert dict(read.config) == dict(model.config)


def test_sizes_are_what_most_of_the_tensors_that_show_them_say_and_else_the_released_ones():
    def read(heads=None, **shapes):
        return config_from_official({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, heads)

    patches = {"patch_embedding.weight": (256, 36, 2, 3, 4), "head.head.weight": (16 * 24, 256)}
    config = read(**patches)
    assert (config["patch_size"], config["out_channels"], config["in_channels"]) == ((2, 3, 4), 16, 36)
    assert (config["num_attention_heads"], config["attention_head_dim"]) == (2, 128)
    assert read(heads=4, **patches)["attention_head_dim"] == 64
    assert (config["num_layers"], config["ffn_dim"], config["freq_dim"], config["text_dim"]) == (40, 13824, 256, 4096)
    assert config["image_dim"] is None and config["added_kv_proj_dim"] is None and "alignment_axis" not in config

    wide, narrow = {"blocks.0.ffn.0.bias": (64,), "blocks.1.ffn.0.bias": (64,)}, {"blocks.6.ffn.0.bias": (32,)}
    for votes in ({**wide, **narrow}, {**narrow, **wide}):
        config = read(**votes)
        assert (config["ffn_dim"], config["num_layers"]) == (64, 7)
    small = {f"blocks.{i}.ffn.0.bias": (32,) for i in (2, 3, 4)}
    assert read(**wide, **small)["ffn_dim"] == 32

    config = read(**{"patch_embedding_ref_c.weight": (5120, 12, 1, 2, 2)})
    assert (config["pose_channels"], config["alignment_axis"]) == (12, "temporal")
    assert config["temporal_kernel_size"] == 3
    assert read(**{"condition_embedding_temporal.2.temporal.weight": (16, 16, 1, 1, 1)})["temporal_kernel_size"] == 1
    assert (config["image_dim"], config["added_kv_proj_dim"], config["in_channels"]) == (1280, 5120, 36)
    assert read(**{"blocks.0.cross_attn.k_img.weight": (5120, 640)})["added_kv_proj_dim"] == 640
    assert read(**{"time_embedding.0.weight": (5120, 128)})["in_channels"] == 16  # neither pose nor image: text alone
    assert read(**{"blocks.0.norm3.weight": (5120,)})["cross_attn_norm"] and not config["cross_attn_norm"]


def test_backbone_keys_equal_diffusers_own_converter():
    official = to_official(tiny_model().state_dict())
    backbone = {n: t for n, t in official.items() if not n.startswith(("condition_embedding", "patch_embedding_"))}
    theirs = convert_wan_transformer_to_diffusers(dict(backbone))
    ours = from_official(backbone)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_unknown_keys_are_named():
    state = dict.fromkeys(["blocks.0.norm1.weight", "patch_embedding.weight", "vace.proj", "head"], torch.zeros(1))
    with pytest.raises(ValueError, match=r"3 keys .*: blocks\.0\.norm1\.weight, head, vace\.proj"):
        from_official(state)
    with pytest.raises(ValueError, match=r"1 keys .*: img_emb\.proj\.0\.weight"):
        to_official({"img_emb.proj.0.weight": torch.zeros(1)})


def test_the_fixtures_configuration(golden_network):
    written, tensors = golden_network
    config = config_from_official({n[3:]: t for n, t in tensors.items() if n.startswith("sd.")}, written["num_heads"])
    assert config["num_attention_heads"] * config["attention_head_dim"] == written["dim"]
    for ours, theirs in [("ffn_dim", "ffn_dim"), ("num_layers", "num_layers"), ("freq_dim", "freq_dim")]:
        assert config[ours] == written[theirs]
    assert (config["text_dim"], config["image_dim"], config["in_channels"]) == (written["text_dim"], 1280, 36)
