"""An autoencoder with a patch size reads p × p pixels as 3p² channels; its configuration must survive everywhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors import safe_open

from steadydancer.models import encoders
from steadydancer.models.checkpoints.files import CheckpointError
from steadydancer.models.checkpoints.official_encoders import load_autoencoder
from steadydancer.models.components import ComponentsError, load_components, save_components, tiny_components
from steadydancer.models.diffusers_internals import decode_at_once, encode_at_once
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.toydance.autoencoder import SIZES
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

TINY = SIZES | {"base_dim": 8, "dim_mult": [1, 2, 2]}


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    return tiny_components(seed=0, vae=TINY)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "residual"])
def vae(request: pytest.FixtureRequest) -> Any:
    return tiny_components(seed=0, vae=TINY | {"is_residual": request.param})["vae"]


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (33, 32, 48, 3), dtype=np.uint8)


def test_a_patch_and_two_levels_compress_like_wans_three_levels(vae: Any, clip: np.ndarray) -> None:
    latents = encoders.encode_video(vae, clip)
    assert latents.shape == (16, 9, 4, 6)
    assert encoders.decode_pixels(vae, latents).shape == (3, 33, 32, 48)


@pytest.mark.parametrize("chunk_frames", [1, 3, 4, 9])
def test_chunks_have_the_bits_of_the_whole(vae: Any, clip: np.ndarray, chunk_frames: int) -> None:
    latents = encoders.encode_video(vae, clip)
    chunks = list(encoders.decode_chunks(vae, latents, chunk_frames))
    assert [chunk.shape[1] for chunk in chunks[:2]] == [4 * chunk_frames - 3, 4 * chunk_frames][: len(chunks)]
    (whole,) = encoders.decode_chunks(vae, latents, 99)
    assert torch.equal(torch.cat(chunks, dim=1), whole)
    assert not vae.decoder._forward_pre_hooks and "clear_cache" not in vars(vae)


@pytest.mark.parametrize("num_frames", [1, 5, 33])
def test_a_small_clip_at_once_is_what_diffusers_computes_in_pieces(
    vae: Any, clip: np.ndarray, num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = encoders.encode_video(vae, clip[:num_frames])
    pixels = encoders.decode_pixels(vae, latents)
    monkeypatch.setattr(encoders, "MAX_LATENTS_AT_ONCE", 0)
    torch.testing.assert_close(latents, encoders.encode_video(vae, clip[:num_frames]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pixels, encoders.decode_pixels(vae, latents), rtol=1e-4, atol=1e-5)
    assert (pixels.std() > 0.05 and not torch.equal(pixels[:, :1], pixels[:, -1:])) or num_frames == 1


def test_clips_at_once_keep_gradients_also_outside_the_range_of_pixels(components: dict[str, Any]) -> None:
    vae = components["vae"]
    pixels = torch.rand(2, 3, 9, 32, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean = encode_at_once(vae, pixels).chunk(2, dim=1)[0]
    decoded = decode_at_once(vae, 50 * mean)
    assert decoded.abs().max() > 1
    decoded[decoded.abs() > 1].sum().backward()
    vae.clear_cache()
    assert vae.decoder.conv_out.weight.grad.abs().sum() > 0 and vae.encoder.conv_in.weight.grad.abs().sum() > 0
    vae.zero_grad()


def test_a_residual_decoder_that_fails_between_chunks_decodes_the_next_video(clip: np.ndarray) -> None:
    vae = tiny_components(seed=0, vae=TINY | {"is_residual": True})["vae"]
    latents = encoders.encode_video(vae, clip[:9])
    whole = encoders.decode_pixels(vae, latents)
    chunks = encoders.decode_chunks(vae, latents, 1)
    next(chunks)
    failing = vae.decoder.conv_in.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(chunks)
    failing.remove()
    assert torch.equal(encoders.decode_pixels(vae, latents), whole)


@pytest.fixture
def tiled(components: dict[str, Any]) -> Iterator[Any]:
    vae = components["vae"]
    names = [f"tile_sample_{name}" for name in ("min_height", "min_width", "stride_height", "stride_width")]
    kept = {name: getattr(vae, name) for name in names}
    vae.enable_tiling(**dict(zip(names, (64, 64, 48, 48), strict=True)))
    yield vae
    vae.use_tiling = False
    vars(vae).update(kept)


def test_tiles_are_measured_in_pixels_not_in_patches(tiled: Any) -> None:
    large = np.random.default_rng(1).integers(0, 256, (5, 96, 160, 3), dtype=np.uint8)
    latents = encoders.encode_video(tiled, large)
    (piece,) = encoders.decode_chunks(tiled, latents)
    tiled.use_tiling = False
    exact = encoders.encode_video(tiled, large)
    assert latents.shape == exact.shape == (16, 2, 12, 20)
    assert piece.shape == (3, 5, 96, 160)
    assert (latents - exact).abs().mean() < 0.5 * exact.abs().mean()
    whole = encoders.decode_pixels(tiled, latents)
    assert not torch.equal(piece, whole), "it was not tiled"
    assert (piece - whole).abs().mean() < 0.5 * whole.abs().mean()


def test_half_precision_on_disk_is_float32_in_memory_with_the_same_configuration(tmp_path: Path) -> None:
    components = tiny_components(seed=0, vae=TINY)
    dancer = SteadyDancerTransformer3DModel.from_wan(components["transformer"])
    save_components(components | {"transformer": dancer, "vae": components["vae"].half()}, tmp_path)
    with safe_open(tmp_path / "vae/diffusion_pytorch_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.offset_keys()} == {torch.float16}
    saved = components["vae"].state_dict()
    for vae in (
        load_components(tmp_path, ("vae",), dtype=torch.bfloat16)["vae"],
        SteadyDancerPipeline.from_pretrained(tmp_path).vae,
        SteadyDancerPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).vae,
    ):
        assert {name: vae.config[name] for name in TINY} == TINY
        assert vae.config.latents_std == components["vae"].config.latents_std
        assert {weight.dtype for weight in vae.parameters()} == {torch.float32}
        assert all(torch.equal(weight, saved[name].float()) for name, weight in vae.state_dict().items())


def test_the_pipeline_saves_it_as_it_loaded_it(components: dict[str, Any], tmp_path: Path) -> None:
    dancer = SteadyDancerTransformer3DModel.from_wan(components["transformer"])
    save_components(components | {"transformer": dancer}, tmp_path / "first")
    SteadyDancerPipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "vae/config.json").read_text()) for name in ("first", "second"))
    assert {**second, "_name_or_path": None} == {**first, "_name_or_path": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim_mult": [1, 1, 2, 2]}, r"turns 4 frames of 16 × 16 pixels into 16 numbers; .* 4 frames of 8 × 8"),
        ({"patch_size": None, "in_channels": 3, "out_channels": 3}, r"4 frames of 4 × 4 pixels into 16 numbers"),
        ({"temperal_downsample": [False, True]}, r"2 frames of 8 × 8 pixels into 16"),
        ({"z_dim": 48}, r"4 frames of 8 × 8 pixels into 48 numbers"),
        ({"in_channels": 3}, r"in_channels is 3 and out_channels 12; with patch_size 2 both must be 12"),
        ({"out_channels": 3}, r"in_channels is 12 and out_channels 3; with patch_size 2 both must be 12"),
        ({"scale_factor_spatial": 4}, r"scale_factor_temporal is 4 and scale_factor_spatial 4, but .*set them to 4"),
    ],
)
def test_an_autoencoder_with_other_latents_is_refused_where_it_is_loaded(
    components: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    dancer = SteadyDancerTransformer3DModel.from_wan(components["transformer"])
    save_components(components | {"transformer": dancer}, tmp_path)
    file = tmp_path / "vae/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ComponentsError, match=message):
        load_components(tmp_path, ("vae",))
    with pytest.raises(ComponentsError, match=message):
        SteadyDancerPipeline.from_pretrained(tmp_path)


def test_wans_own_autoencoder_is_accepted_from_a_configuration_without_the_newer_fields(tmp_path: Path) -> None:
    vae = tiny_components(seed=0, vae={"base_dim": 4})["vae"]
    save_components({"vae": vae}, tmp_path)
    file = tmp_path / "vae/config.json"
    older = {
        "patch_size",
        "in_channels",
        "out_channels",
        "is_residual",
        "scale_factor_spatial",
        "scale_factor_temporal",
    }
    config = {name: value for name, value in json.loads(file.read_text()).items() if name not in older}
    file.write_text(json.dumps(config))
    assert dict(load_components(tmp_path, ("vae",))["vae"].config).items() >= config.items()


def test_wans_own_layout_cannot_hold_it(tmp_path: Path) -> None:
    """It stores tensors alone; a patch size would have to be guessed."""
    state = AutoencoderKLWan(**TINY).state_dict()
    names = {
        "encoder.conv_in": "encoder.conv1",
        "decoder.conv_in": "decoder.conv1",
        "decoder.conv_out": "decoder.head.2",
    }
    renamed = {names.get(name.rpartition(".")[0], name.rpartition(".")[0]) + "." + name.rpartition(".")[2]: tensor
               for name, tensor in state.items()}  # fmt: skip
    torch.save(renamed, tmp_path / "Wan_VAE.pth")
    message = r"Wan_VAE.pth is not Wan 2.1's autoencoder: its encoder reads 12 channels, .* no field for a patch size"
    with pytest.raises(CheckpointError, match=message):
        load_autoencoder(tmp_path / "Wan_VAE.pth")
    with pytest.raises(CheckpointError, match=message):
        load_components(tmp_path, ("vae",))
