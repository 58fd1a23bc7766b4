"""What the transformer is told, member by member; dropout and objectives use it in test_objectives.py."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from steadydancer.models.conditions import Conditions, NullConditions, frame_mask, stack_prompt_embeds, with_frame_mask


def members(batch_size: int = 3, length: int = 4) -> Conditions:
    """Every number tells its member and its sample: 10 · member + sample."""

    def numbered(member: int, *shape: int) -> Tensor:
        samples = torch.arange(batch_size).view(-1, *[1] * len(shape))
        return (10.0 * member + samples).expand(batch_size, *shape)

    return Conditions(
        image_latents=numbered(1, 20, 3, 2, 2),
        pose_latents=numbered(2, 16, 3, 2, 2),
        image_embeds=numbered(3, 257, 4),
        pose_image_embeds=numbered(4, 257, 4),
        prompt_embeds=numbered(5, length, 6),
        reference_latents=numbered(6, 16, 1, 2, 2),
        reference_pose_latents=numbered(7, 16, 1, 2, 2),
    )


def null(length: int, batch_size: int = 1) -> NullConditions:
    frames = torch.tensor([-2.0, -3.0, -4.0]).view(1, 1, 3, 1, 1).expand(batch_size, 16, 3, 2, 2)
    return NullConditions(frames, torch.full((batch_size, 257, 4), -5.0), torch.full((batch_size, length, 6), -6.0))


def test_each_member_has_its_name_in_the_network() -> None:
    reported = members()
    assert {name: float(value[0].flatten()[0]) for name, value in reported.model_arguments().items()} == {
        "image_latents": 10.0,
        "pose_latents": 20.0,
        "encoder_hidden_states_image": 30.0,
        "encoder_hidden_states_pose_image": 40.0,
        "encoder_hidden_states": 50.0,
        "reference_latents": 60.0,
        "reference_pose_latents": 70.0,
    }


@pytest.mark.parametrize("record", [members(), null(2)])
def test_another_float_type_is_given_to_every_member(record: Conditions | NullConditions) -> None:
    moved = record.to(dtype=torch.bfloat16)
    assert type(moved) is type(record)
    for field in fields(record):
        value = getattr(moved, field.name)
        assert value.dtype == torch.bfloat16, field.name
        assert torch.equal(value, getattr(record, field.name).bfloat16()), field.name
    assert {getattr(record.to("meta"), field.name).device.type for field in fields(record)} == {"meta"}
    assert {getattr(record.to("meta"), field.name).dtype for field in fields(record)} == {torch.float32}


def test_what_is_absent_stays_absent() -> None:
    reported = members().replace(reference_latents=None, reference_pose_latents=None).to(dtype=torch.float16)
    assert reported.reference_latents is None and reported.reference_pose_latents is None
    assert NullConditions(torch.zeros(1), torch.zeros(1)).to("cpu").prompt_embeds is None


def test_the_mask_is_of_the_latents_kind_and_before_them() -> None:
    mask = frame_mask(3, 2, 5)
    assert (mask.shape, mask.dtype) == ((4, 3, 2, 5), torch.float32)
    assert mask.sum(dim=(0, 2, 3)).tolist() == [4 * 2 * 5, 0, 0]
    image = torch.full((2, 16, 3, 2, 5), 7.0, dtype=torch.bfloat16)
    both = with_frame_mask(image)
    assert (both.shape, both.dtype) == ((2, 20, 3, 2, 5), torch.bfloat16)
    assert both[:, :4].unique().tolist() == [0, 1] and both[:, 4:].unique().tolist() == [7]


@pytest.mark.parametrize(("length", "null_length"), [(4, 1), (1, 4), (3, 3)])
def test_text_and_pose_are_dropped_each_by_its_own_draws(length: int, null_length: int) -> None:
    reported = members(length=length)
    dropped = reported.with_dropout(
        null(null_length), text=torch.tensor([True, False, False]), pose=torch.tensor([False, False, True])
    )
    longest = max(length, null_length)
    assert dropped.prompt_embeds.shape == (3, longest, 6)
    words = [[-6.0] * null_length, [51.0] * length, [52.0] * length]
    filled = [row + [0.0] * (longest - len(row)) for row in words]
    assert dropped.prompt_embeds[:, :, 0].tolist() == filled and dropped.prompt_embeds[:, :, -1].tolist() == filled
    assert dropped.pose_latents[:, 0, :, 0, 0].tolist() == [[20.0] * 3, [21.0] * 3, [-2.0, -3.0, -4.0]]
    assert dropped.pose_image_embeds[:, 256, 0].tolist() == [40.0, 41.0, -5.0]
    assert dropped.reference_pose_latents is not None
    assert dropped.reference_pose_latents.shape == (3, 16, 1, 2, 2)
    assert dropped.reference_pose_latents[:, 0, 0, 0, 0].tolist() == [70.0, 71.0, -2.0]
    for name in ("image_latents", "image_embeds", "reference_latents"):
        assert getattr(dropped, name) is getattr(reported, name)
    unnamed = reported.replace(reference_pose_latents=None)
    poses = unnamed.with_dropout(null(1), torch.zeros(3, dtype=bool), torch.ones(3, dtype=bool)).reference_pose_latents
    assert poses is None


def assert_same_tensors(one: Conditions, other: Conditions) -> None:
    """The very same ones: since Python 3.13, `==` of dataclasses compares tensors even with themselves."""
    assert {name: id(value) for name, value in vars(one).items()} == {
        name: id(value) for name, value in vars(other).items()
    }


def test_without_pose_or_text_the_rest_is_left_alone() -> None:
    reported, nothing = members(), null(2)
    posed = reported.without_pose(nothing)
    expected = reported.replace(
        pose_latents=nothing.pose_latents, pose_image_embeds=nothing.pose_image_embeds, reference_pose_latents=None
    )
    assert_same_tensors(posed, expected)
    assert_same_tensors(reported.without_text(nothing), reported.replace(prompt_embeds=nothing.prompt_embeds))


def test_without_an_empty_prompt_no_text_is_dropped() -> None:
    nothing = NullConditions(null(1).pose_latents, null(1).pose_image_embeds)
    draws = torch.zeros(3, dtype=torch.bool)
    for drop in (lambda: members().without_text(nothing), lambda: members().with_dropout(nothing, draws, draws)):
        with pytest.raises(
            ValueError, match="null.prompt_embeds is None: set it to the text features of the empty prompt"
        ):
            drop()


def test_prompts_are_filled_up_at_their_end() -> None:
    stacked = stack_prompt_embeds([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])])
    assert stacked.tolist() == [[[1, 2], [0, 0]], [[3, 4], [5, 6]]]
