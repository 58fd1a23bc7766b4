from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steadydancer.models import encoders
from steadydancer.models.components import tiny_components
from steadydancer.models.pose_condition import resize_frames


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    return tiny_components(seed=0)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)


def test_first_latent_frame_is_the_first_pixel_frame_alone(components: dict[str, Any], clip: np.ndarray) -> None:
    vae = components["vae"]
    whole = encoders.encode_video(vae, clip)
    assert whole.shape == (16, 3, 4, 6)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole[:, :1], encoders.encode_video(vae, clip[:1]), atol=1e-5, rtol=0)


def test_latents_of_a_prefix_are_a_prefix_and_later_frames_do_move_later_latents(
    components: dict[str, Any], clip: np.ndarray
) -> None:
    vae = components["vae"]
    whole = encoders.encode_video(vae, clip)
    torch.testing.assert_close(whole[:, :2], encoders.encode_video(vae, clip[:5]), atol=1e-5, rtol=0)
    changed = clip.copy()
    changed[4] = 255 - changed[4]
    moved = (encoders.encode_video(vae, changed) - whole).abs().amax(dim=(0, 2, 3))
    assert moved[0] == 0
    assert (moved[1:] > 1e-3).all()


def test_image_condition_is_the_image_and_mid_grey(components: dict[str, Any], clip: np.ndarray) -> None:
    vae = components["vae"]
    condition = encoders.encode_image_condition(vae, clip[0], 5)
    torch.testing.assert_close(condition[:, :1], encoders.encode_video(vae, clip[:1]), atol=1e-5, rtol=0)
    pixels = torch.zeros(1, 3, 5, 32, 48)
    pixels[0, :, 0] = torch.from_numpy(clip[0]).permute(2, 0, 1) / 127.5 - 1
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.mean[0]
    mean, std = (torch.tensor(getattr(vae.config, f"latents_{kind}"))[:, None, None, None] for kind in ("mean", "std"))
    torch.testing.assert_close(condition * std + mean, raw, atol=1e-5, rtol=1e-5)


def test_decode_undoes_the_normalisation_and_ends_in_bytes(components: dict[str, Any], clip: np.ndarray) -> None:
    vae = components["vae"]
    frames = encoders.decode_latents(vae, encoders.encode_video(vae, clip))
    assert frames.shape == clip.shape
    assert frames.dtype == np.uint8
    pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        sample = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0]
    expected = ((sample.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    assert np.abs(frames - expected).max() < 0.51


class Plain:
    """Stands for the autoencoder: its latents are the pixels that it is given, its pixels the latents."""

    dtype, device = torch.float32, torch.device("cpu")
    use_tiling, _feat_map = True, None  # takes no clip at once

    class config:  # noqa: N801
        latents_mean, latents_std = [0.5, 0.0, -0.5], [2.0, 1.0, 0.5]

    def encode(self, pixels: torch.Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: pixels))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=latents)

    def clear_cache(self) -> None:
        pass


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(encoders, "execution_device", lambda module: torch.device("cpu"))
    return Plain()


def test_colours_frames_and_sides_arrive_where_they_belong(plain: Any) -> None:
    frames = np.zeros((5, 2, 4, 3), np.uint8)
    frames[1, 0, 3] = (255, 0, 51)  # of the second frame, its upper right corner: red, and a little blue
    latents = encoders.encode_video(plain, frames)
    assert latents.shape == (3, 5, 2, 4)
    mean, std = np.array(plain.config.latents_mean), np.array(plain.config.latents_std)
    np.testing.assert_allclose(latents[:, 1, 0, 3], (np.array([1, -1, -0.6]) - mean) / std, rtol=1e-6)
    black = torch.tensor((-1 - mean) / std)[:, None, None, None].float()
    assert (latents == black).sum() == 3 * (5 * 2 * 4 - 1) + 1  # and the corner's green
    np.testing.assert_array_equal(encoders.decode_latents(plain, latents), frames)
    beyond = torch.tensor([3.0, -3.0, 0.25]).view(3, 1, 1, 1)  # times 2, 1 and 0.5, and the means
    assert encoders.decode_pixels(plain, beyond).flatten().tolist() == [1, -1, -0.375]


def test_a_clip_is_resized_without_antialiasing_and_not_to_bytes(plain: Any) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (5, 12, 20, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values)[:, None, None, None] for values in ([0.5, 0.0, -0.5], [2.0, 1.0, 0.5]))
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1, (8, 16), mode="bicubic"
    ).transpose(0, 1)
    assert pixels.abs().max() > 1  # bicubic overshoots, and nothing is cut off
    torch.testing.assert_close(encoders.encode_video(plain, frames, 8, 16) * std + mean, pixels)
    condition = encoders.encode_image_condition(plain, frames[0], 5, 8, 16) * std + mean
    torch.testing.assert_close(condition[:, 0], pixels[:, 0])
    assert condition.shape == (3, 5, 8, 16) and condition[:, 1:].abs().max() < 1e-6
    only_width = encoders.encode_video(plain, frames, None, 16)
    assert only_width.shape == (3, 5, 12, 16) and encoders.encode_video(plain, frames, 8).shape == (3, 5, 8, 20)
    shown = encoders.resize_image(frames[0], 8, 16)
    np.testing.assert_array_equal(shown, np.clip(np.round((pixels[:, 0].permute(1, 2, 0) + 1) * 127.5), 0, 255))


def test_pixels_are_rounded_to_the_nearest_byte_and_cut_at_both_ends() -> None:
    values = (
        torch.tensor([-2.0, -1.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 0.0, 1.0, 2.0])
        .view(1, 7, 1, 1)
        .repeat(3, 1, 1, 1)
    )
    assert encoders.to_frames(values)[:, 0, 0, 2].tolist() == [0, 0, 1, 2, 128, 255, 255]


def test_drawn_frames_are_shrunk_as_pil_does_it() -> None:
    frames = np.random.default_rng(4).integers(0, 256, (2, 12, 20, 3), dtype=np.uint8)
    assert resize_frames(frames, 12, 20) is frames
    shrunk = resize_frames(frames, 6, 8)
    for frame, small in zip(frames, shrunk, strict=True):
        np.testing.assert_array_equal(small, Image.fromarray(frame).resize((8, 6), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("num_frames", [2, 4, 8])
def test_other_lengths_are_refused(components: dict[str, Any], clip: np.ndarray, num_frames: int) -> None:
    with pytest.raises(ValueError, match="4k \\+ 1"):
        encoders.encode_video(components["vae"], clip[:num_frames])


def test_resizing_keeps_a_flat_image_and_does_not_antialias() -> None:
    flat = np.full((10, 14, 3), 77, np.uint8)
    assert (encoders.resize_image(flat, 16, 8) == 77).all()
    # Halving without antialiasing looks at a few pixels around each centre: one white column in eight can vanish.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = 255
    assert encoders.resize_image(stripes, 8, 8).max() == 0
    assert resize_frames(stripes[None], 8, 8).min() > 15


def test_image_tokens_see_the_whole_image_whatever_its_aspect(components: dict[str, Any]) -> None:
    wide = np.random.default_rng(1).integers(0, 256, (56, 224, 3), dtype=np.uint8)
    tokens = encoders.encode_image(components["image_encoder"], wide)
    assert tokens.shape == (257, 32)
    edge = wide.copy()
    edge[:, -4:] = 0  # a centre crop would never see it
    moved = (encoders.encode_image(components["image_encoder"], edge) - tokens).abs()
    assert moved.max() > 1e-3


def test_image_preprocessing_is_clip_normalisation(components: dict[str, Any]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (encoders.CLIP_MEAN, encoders.CLIP_STD))
    pixels = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        expected = components["image_encoder"](pixels[None])[0]
    torch.testing.assert_close(
        encoders.encode_image(components["image_encoder"], image), expected, atol=1e-4, rtol=1e-4
    )


def test_prompts_are_trimmed_and_do_not_depend_on_their_neighbours(components: dict[str, Any]) -> None:
    parts = components["text_encoder"], components["tokenizer"]
    short, long, empty = encoders.encode_prompt(*parts, ["ab", "a much longer prompt", ""])
    assert [len(short), len(long), len(empty)] == [3, 21, 1]
    (alone,) = encoders.encode_prompt(*parts, ["ab"])
    torch.testing.assert_close(short, alone, atol=1e-5, rtol=1e-5)
    assert len(encoders.encode_prompt(*parts, ["x" * 2000])[0]) == 512


def test_text_is_cleaned() -> None:
    assert encoders.clean_text("  a\n\tb  &amp;amp;  c ") == "a b & c"
    assert encoders.clean_text("schÃ¶n") == "schön"
    assert encoders.clean_text("i <3 it &amp;amp; more") == "i <3 it & more"  # where ftfy leaves escapes alone


@pytest.fixture(scope="module")
def decoded(components: dict[str, Any]) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The autoencoder, latents of 9 frames, and their pixels, decoded by diffusers."""
    latents = torch.randn(16, 9, 2, 2, generator=torch.Generator().manual_seed(0))
    (whole,) = encoders.decode_chunks(components["vae"], latents, 9)
    return components["vae"], latents, whole


def assert_same(pieces: torch.Tensor, whole: torch.Tensor) -> None:
    """Equal up to rounding: on some CPUs oneDNN chooses another convolution for another number of frames."""
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk_frames", [1, 3, 9])
def test_decoded_in_pieces_a_video_is_the_same(decoded: Any, chunk_frames: int) -> None:
    vae, latents, whole = decoded
    pieces = list(encoders.decode_chunks(vae, latents, chunk_frames))
    assert pieces[0].shape[1] == 4 * chunk_frames - 3
    assert len(pieces) == 9 // chunk_frames
    assert_same(torch.cat(pieces, dim=1), whole)


def test_pieces_are_seamless_because_the_decoder_remembers(decoded: Any) -> None:
    vae, latents, whole = decoded
    alone = encoders.decode_pixels(vae, latents[:, 4:])
    assert (alone[:, 1:] - whole[:, 17:]).abs().max() > 0.01  # what forgetting would cost
    # Something else may be encoded and decoded between two pieces, and nothing is left behind.
    pieces = encoders.decode_chunks(vae, latents, 4)
    first = next(pieces)
    assert first.shape[1] == 13
    encoders.encode_video(vae, np.zeros((5, 32, 32, 3), np.uint8))
    encoders.decode_pixels(vae, latents[:, :1])
    assert_same(torch.cat([first, *pieces], dim=1), whole)
    assert "clear_cache" not in vars(vae)


def test_tiles_in_pieces_have_the_bits_of_diffusers_tiles(decoded: Any) -> None:
    vae, latents, _ = decoded
    latents = latents[:, :3].repeat(1, 1, 4, 3)
    tiles = {"min_height": 32, "min_width": 32, "stride_height": 24, "stride_width": 24}
    kept = {name: getattr(vae, f"tile_sample_{name}") for name in tiles}
    vae.enable_tiling(**{f"tile_sample_{name}": pixels for name, pixels in tiles.items()})
    try:
        pieces = list(encoders.decode_chunks(vae, latents, chunk_frames=1))
        piece = torch.cat(pieces, dim=1)
        assert [each.shape[1] for each in pieces] == [1, 4, 4]
        assert torch.equal(piece, encoders.decode_pixels(vae, latents))
        assert latents.shape[1] < encoders.TILED_FRAMES  # so that diffusers decodes the whole
    finally:
        vae.use_tiling = False
        vars(vae).update({f"tile_sample_{name}": pixels for name, pixels in kept.items()})
    assert not torch.equal(piece, encoders.decode_pixels(vae, latents)), "it was not tiled"
