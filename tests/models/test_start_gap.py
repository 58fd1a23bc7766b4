"""The alternatives to pose simulation: what they are before training, what they move, and how a network gets one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steadydancer.models.checkpoints.key_maps import to_official
from steadydancer.models.start_gap import FeatureMapping, PoseGenerator, PoseWarping, make_start_gap_module

KINDS = ("warping", "generator", "mapping")


def latents(num_frames: int = 6) -> torch.Tensor:
    return torch.randn(2, 16, num_frames, 4, 6, generator=torch.Generator().manual_seed(1))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(2)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return module


def frames_changed(module: torch.nn.Module, given: torch.Tensor, frame: int) -> list[int]:
    """The frames of the output that a change of one frame reaches."""
    other = given.clone()
    other[:, :, frame] += 1
    difference = (module(other) - module(given)).abs().amax(dim=(0, 1, 3, 4))
    return difference.nonzero().flatten().tolist()


def test_feature_mapping_changes_nothing_before_training_and_reaches_the_neighbours_after() -> None:
    given, module = latents(), FeatureMapping()
    assert torch.equal(module(given), given)
    assert frames_changed(randomised(module), given, 3) == [2, 3, 4]


@pytest.mark.parametrize("kind", [PoseGenerator, PoseWarping])
def test_a_bridge_interpolates_before_training_and_depends_on_its_ends_alone(kind: type[torch.nn.Module]) -> None:
    given, module = latents(), kind()
    bridged = module(given)
    start, end = given[:, :, 0], given[:, :, 3]
    torch.testing.assert_close(bridged[:, :, 1], start + (end - start) / 3)
    torch.testing.assert_close(bridged[:, :, 2], start + (end - start) * 2 / 3)
    assert torch.equal(bridged[:, :, [0, 3, 4, 5]], given[:, :, [0, 3, 4, 5]])
    randomised(module)
    assert [frames_changed(module, given, frame) for frame in (0, 1, 3, 4)] == [[0, 1, 2], [], [1, 2, 3], [4]]


@pytest.mark.parametrize("kind", [PoseGenerator, PoseWarping])
def test_short_clips_get_a_shorter_bridge_or_none(kind: type[torch.nn.Module]) -> None:
    module = kind()
    assert torch.equal(module(latents(2)), latents(2))
    given = latents(3)
    torch.testing.assert_close(module(given)[:, :, 1], (given[:, :, 0] + given[:, :, 2]) / 2)


def test_warping_moves_the_start_along_its_flow() -> None:
    """A flow of the start by one pixel at the first third, and a blending that takes the start alone."""
    given, module = latents(), PoseWarping()
    width = given.shape[-1]
    with torch.no_grad():
        module.proj_out.bias[0] = 3 * 2 / width  # a third of it is one pixel: the picture is 2 wide
        module.proj_out.bias[4] = -1e4
    moved = module(given)[:, :, 1]
    torch.testing.assert_close(moved[..., :-1], given[:, :, 0, :, 1:])
    torch.testing.assert_close(moved[..., -1], given[:, :, 0, :, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_gets_a_module_keeps_it_and_gets_no_second_one(
    kind: Any, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    network = tiny_model()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    network.add_start_gap_module(kind)
    after = network.state_dict()
    new = after.keys() - before.keys()
    assert new and all(name.startswith("pose_modulation.start_gap.") for name in new)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    network.add_start_gap_module(kind)  # the same one: nothing to do
    with pytest.raises(ValueError, match=f"has the start gap module '{kind}' already"):
        network.add_start_gap_module("mapping" if kind != "mapping" else "warping")
    network.save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    assert again.config.start_gap_module == kind
    assert {name: tuple(w.shape) for name, w in again.state_dict().items()} == {
        n: tuple(w.shape) for n, w in after.items()
    }
    assert all(torch.equal(again.state_dict()[name], after[name]) for name in new)
    with pytest.raises(ValueError, match=r"start_gap"):
        to_official(after)


def test_an_unknown_module_is_named() -> None:
    with pytest.raises(ValueError, match="start_gap_module must be 'none', 'warping', 'generator', 'mapping', not 'x'"):
        make_start_gap_module("x")  # type: ignore[arg-type]
    assert make_start_gap_module("none") is None
