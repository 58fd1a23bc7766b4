"""Eq. 1 to 4: which channel, frame or token stands where. The network's whole input is compared in test_transformer."""

import pytest
import torch
from torch import Tensor, nn

from steadydancer.models.condition_reconciliation import (
    NUM_REFERENCE_FRAMES,
    PoseAdapter,
    add_pose,
    add_pose_latents,
    append_reference_frames,
    append_reference_latents,
    concatenate_poses,
    fuse,
    image_to_video_channels,
    image_tokens,
    pad_text,
    reference_image_channels,
)


def filled(value: float, channels: int, frames: int = 3) -> Tensor:
    return torch.full((2, channels, frames, 2, 2), value)


NOISE, POSE, ALIGNED = filled(1, 16), filled(4, 16), filled(5, 16)
IMAGE = torch.cat([filled(2, 4), filled(3, 16)], dim=1)


def channels(joined: Tensor) -> list[float]:
    """The value of each channel, the same everywhere in it."""
    assert torch.equal(joined, joined[:1, :, :1, :1, :1].expand_as(joined))
    return joined[0, :, 0, 0, 0].tolist()


def test_the_channels_stand_in_the_order_of_the_equations() -> None:
    base = [1.0] * 16 + [2.0] * 4 + [3.0] * 16
    assert channels(image_to_video_channels(NOISE, IMAGE)) == base
    both = concatenate_poses(POSE, ALIGNED)
    assert channels(both) == [4.0] * 16 + [5.0] * 16
    assert channels(fuse(NOISE, IMAGE, both)) == [*base, *[4.0] * 16, *[5.0] * 16]
    assert concatenate_poses(POSE, None) is POSE
    assert channels(fuse(NOISE, IMAGE, POSE)) == [*base, *[4.0] * 16]
    assert channels(add_pose(NOISE, POSE)) == [5.0] * 16
    assert channels(add_pose_latents(NOISE, IMAGE, POSE)) == [1.0] * 16 + [2.0] * 4 + [7.0] * 16
    assert channels(add_pose_latents(NOISE, IMAGE, both)) == [1.0] * 16 + [2.0] * 4 + [12.0] * 16


def test_the_reference_image_is_a_frame_that_is_clean_and_known() -> None:
    latents = filled(7, 16, frames=1)
    assert channels(reference_image_channels(latents)) == [7.0] * 16 + [1.0] * 4 + [7.0] * 16
    assert reference_image_channels(latents.bfloat16()).dtype == torch.bfloat16


def test_the_image_follows_the_video_and_the_pose_the_image() -> None:
    appended = append_reference_frames(filled(1, 6), filled(8, 6, frames=1), filled(9, 6, frames=1))
    assert appended.shape[2] == 3 + NUM_REFERENCE_FRAMES
    assert appended[1, 5, :, 1, 1].tolist() == [1, 1, 1, 8, 9]


def test_printed_references_are_frames_before_any_embedding() -> None:
    """The image fills noise, mask and image, the pose noise and p*; what is left is 0."""
    image, pose = filled(8, 16, frames=1), filled(9, 16, frames=1)
    given = (NOISE, IMAGE, concatenate_poses(POSE, ALIGNED))
    appended = append_reference_latents(*given, image, pose)
    for before, after in zip(given, appended, strict=True):
        assert torch.equal(after[:, :, :3], before) and after.shape[2] == 3 + NUM_REFERENCE_FRAMES
    frame_of_image, frame_of_pose = (torch.cat([each[:, :, 3 + i, None] for each in appended], dim=1) for i in (0, 1))
    assert channels(frame_of_image) == [8.0] * 16 + [1.0] * 4 + [8.0] * 16 + [0.0] * 32
    assert channels(frame_of_pose) == [9.0] * 16 + [0.0] * 20 + [9.0] * 16 + [0.0] * 16
    (_, _, alone) = append_reference_latents(NOISE, IMAGE, POSE, image, pose)
    assert alone[1, 3, :, 1, 1].tolist() == [4, 4, 4, 0, 9]


def test_image_features_are_embedded_apart_and_joined() -> None:
    embedder = nn.Linear(3, 3, bias=False)
    nn.init.eye_(embedder.weight)
    embed = nn.Sequential(embedder, nn.ReLU())  # not linear: embedding the sum would be something else
    image, pose = torch.randn(2, 1, 257, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(image_tokens(embed, image, pose), image.relu() + pose.relu())
        assert torch.equal(image_tokens(embed, image, pose, "sum"), image.relu() + pose.relu())
        side_by_side = image_tokens(embed, image, pose, "concatenation")
        assert torch.equal(side_by_side, torch.cat([image.relu(), pose.relu()], dim=1))
        assert torch.equal(image_tokens(embed, image, None), image.relu())


@pytest.mark.parametrize("length", [0, 1, 511, 512])
def test_text_is_filled_with_zeros_to_512(length: int) -> None:
    words = torch.ones(2, length, 3)
    padded = pad_text(words)
    assert padded.shape == (2, 512, 3)
    assert torch.equal(padded[:, :length], words) and not padded[:, length:].any()
    with pytest.raises(ValueError, match="prompt_embeds has 513 text tokens, but the model takes at most 512"):
        pad_text(torch.ones(1, 513, 3))


@torch.no_grad()
def test_the_adapter_embeds_patches_and_gives_the_reference_frames_nothing() -> None:
    torch.manual_seed(0)
    adapter = PoseAdapter(channels=3, inner_dim=5, num_layers=4, patch_size=(1, 2, 2), width=7)
    assert len(adapter.injections) == 4
    pose = torch.randn(2, 3, 2, 4, 6, dtype=torch.float64)
    features = adapter(pose, num_reference_frames=2)
    assert features.shape == (2, (2 + 2) * 2 * 3, 7)
    assert not features[:, 2 * 2 * 3 :].any()
    kernel, bias = adapter.patch_embedding.weight[:, :, 0], adapter.patch_embedding.bias
    for token, (frame, row, column) in {0: (0, 0, 0), 4: (0, 1, 1), 11: (1, 1, 2)}.items():
        patch = pose[:, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].float()
        embedded = torch.einsum("bchw,dchw->bd", patch, kernel) + bias
        torch.testing.assert_close(features[:, token], embedded * embedded.sigmoid())

    tokens = torch.randn(2, 24, 5).bfloat16()
    injected = adapter.inject(3, tokens, features)
    assert injected.dtype == torch.bfloat16
    assert torch.equal(injected, tokens + (features @ adapter.injections[3].weight.T).bfloat16())
    assert torch.equal(injected[:, 12:], tokens[:, 12:])
    assert PoseAdapter(3, 5, 1, (1, 2, 2)).patch_embedding.out_channels == 256
