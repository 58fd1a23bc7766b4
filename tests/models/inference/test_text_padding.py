"""Merged padding gives what 512 rows give, forward and backward, for Wan and for SteadyDancer."""

import copy

import pytest
import torch

from steadydancer.models.components import tiny_components
from steadydancer.models.condition_reconciliation import TEXT_LENGTH, pad_text
from steadydancer.models.inference.text_padding import MergedPadding, merge_text_padding, num_distinct_rows
from steadydancer.models.transformer import SteadyDancerTransformer3DModel


@pytest.fixture(scope="module")
def wan():
    return tiny_components(seed=1)["transformer"].double()


def inputs(num_tokens, channels=36):
    generator = torch.Generator().manual_seed(num_tokens)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return random(2, channels, 3, 4, 4), random(2, num_tokens, 64), random(2, 5, 32)


def results(network, *arguments, **named):
    network.zero_grad()
    output = network(*arguments, **named, return_dict=False)[0]
    output.square().sum().backward()
    return output, {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def assert_equal_results(plain, merged):
    torch.testing.assert_close(merged[0], plain[0], rtol=0, atol=1e-10)
    assert merged[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(merged[1][name], gradient, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("num_tokens", [0, 1, 7, TEXT_LENGTH - 1, TEXT_LENGTH])
def test_wan_gives_the_same_output_and_gradients(wan, num_tokens):
    noisy, text, image = inputs(num_tokens)
    merging = copy.deepcopy(wan)
    merge_text_padding(merging)
    assert all(isinstance(block.attn2.processor, MergedPadding) for block in merging.blocks)
    arguments = (noisy, torch.tensor([500.0, 20.0]), pad_text(text), image)
    assert_equal_results(results(wan, *arguments), results(merging, *arguments))


def test_steadydancer_gives_the_same_output_and_gradients(wan):
    plain = SteadyDancerTransformer3DModel.from_wan(wan)
    merging = copy.deepcopy(plain)
    merge_text_padding(merging)
    noisy, text, image = inputs(6, channels=16)
    named = {
        "encoder_hidden_states_pose_image": image.flip(0),
        "image_latents": torch.randn(2, 20, 3, 4, 4).double(),
        "pose_latents": torch.randn(2, 16, 3, 4, 4).double(),
    }
    arguments = (noisy, torch.tensor([500.0, 20.0]), text, image)
    assert_equal_results(results(plain, *arguments, **named), results(merging, *arguments, **named))


def test_rows_are_kept_up_to_the_longest_text_of_the_batch():
    text = torch.zeros(2, 9, 4)
    assert num_distinct_rows(text) == 1
    text[0, :2] = 1
    text[1, :5] = 1
    assert num_distinct_rows(text) == 6
    text[1, 8] = 2
    assert num_distinct_rows(text) == 9
