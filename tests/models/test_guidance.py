"""Which branches are asked, what each is told, and how the network is called for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from steadydancer.models.conditions import Conditions
from steadydancer.models.guidance import (
    branch_conditions,
    branch_velocity,
    guide,
    in_pose_guidance_interval,
    needed_branches,
)
from steadydancer.models.inference.step_memory import StepMemory


def branch_inputs() -> dict[Any, Conditions]:
    conditions = Conditions(*(torch.full((1, 20, 2, 2, 2), float(value)) for value in range(5)))
    return branch_conditions(conditions, torch.full((1, 3, 2), 10.0), torch.full((1, 16, 2, 2, 2), 11.0))


class Network:
    """Stands for the transformer: answers with its call's number and notes what it was given, in which context."""

    def __init__(self) -> None:
        self.context: Any = None
        self.resets = 0
        self.calls: list[dict[str, Any]] = []

    def _reset_stateful_cache(self) -> None:
        self.resets += 1

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        assert self.context is None
        self.context = name
        yield
        self.context = None

    def __call__(self, latents: Tensor, timestep: Tensor, **given: Any) -> tuple[Tensor, str]:
        self.calls.append({"latents": latents, "timestep": timestep, "context": self.context, **given})
        return torch.tensor(float(len(self.calls))), "what else it returns"


def test_a_branch_is_asked_in_its_own_context_with_what_it_is_told() -> None:
    network, branches = Network(), branch_inputs()
    velocity = branch_velocity(network, branches)
    assert network.resets == 1  # what a loop before this one left is gone
    latents, timestep = torch.zeros(1), torch.ones(1)
    for number, branch in enumerate(branches, 1):
        assert velocity(latents, timestep, branch) == number
        call = network.calls[-1]
        assert call.pop("latents") is latents and call.pop("timestep") is timestep
        assert (call.pop("context"), call.pop("return_dict")) == (branch, False)
        assert isinstance(call.pop("step_memory"), StepMemory)
        expected = branches[branch].model_arguments()
        assert call.keys() == expected.keys()
        assert all(call[name] is value for name, value in expected.items())
    assert network.resets == 1


def test_each_branch_keeps_its_memory_and_shares_what_the_branches_have_in_common() -> None:
    network = Network()
    velocity = branch_velocity(network, branch_inputs())
    for branch in ("conditional", "negative_text", "negative_pose", "conditional"):
        velocity(torch.zeros(1), torch.zeros(1), branch)
    positive, text, pose, again = (call["step_memory"] for call in network.calls)
    assert again is positive
    assert positive.grid is text.grid is pose.grid
    assert positive.pose is text.pose is not pose.pose
    assert positive.context is pose.context is not text.context

    forgetful = branch_velocity(network, branch_inputs(), use_step_memory=False)
    forgetful(torch.zeros(1), torch.zeros(1), "conditional")
    assert network.calls[-1]["step_memory"] is None
    assert network.resets == 2


def test_the_named_pose_reference_stays_in_the_negative_branch() -> None:
    named = branch_inputs()["conditional"].replace(reference_pose_latents=torch.full((1, 16, 1, 2, 2), 12.0))
    branches = branch_conditions(named, torch.zeros(1, 3, 2), torch.zeros(1, 16, 2, 2, 2))
    assert all(each.reference_pose_latents is named.reference_pose_latents for each in branches.values())
    assert all(each.image_latents is named.image_latents for each in branches.values())
    assert all(each.pose_image_embeds is named.pose_image_embeds for each in branches.values())


@pytest.mark.parametrize(
    ("guidance_scale", "pose_guidance_scale", "pose_guided", "expected"),
    [
        (5.0, 1.0, True, ["conditional", "negative_text", "negative_pose"]),
        (5.0, 1.0, False, ["conditional", "negative_text"]),
        (5.0, 0.0, True, ["conditional", "negative_text"]),
        (1.0, 1.0, True, ["conditional", "negative_pose"]),
        (1.0, 1.0, False, ["conditional"]),
        (0.0, -1.0, True, ["conditional", "negative_text", "negative_pose"]),  # 0: the negative prompt alone
    ],
)
def test_only_branches_that_count_are_asked(
    guidance_scale: float, pose_guidance_scale: float, pose_guided: bool, expected: list[str]
) -> None:
    assert needed_branches(guidance_scale, pose_guidance_scale, pose_guided) == expected


def test_guidance_of_numbers_known_by_hand() -> None:
    v_c, v_n, v_p = (torch.tensor(value) for value in (2.0, 3.0, 7.0))
    assert guide({"conditional": v_c, "negative_text": v_n, "negative_pose": v_p}, 5.0, 0.5) == 3 - 5 - 2.5
    assert guide({"conditional": v_c, "negative_pose": v_p}, 9.0, 0.5) == 2 - 2.5
    assert guide({"conditional": v_c, "negative_text": v_n}, 0.0, 9.0) == 3


def test_the_ends_of_the_interval_are_outside() -> None:
    inside = [share for share in (0.0, 0.1, 0.11, 0.39, 0.4, 1.0) if in_pose_guidance_interval(share, (0.1, 0.4))]
    assert inside == [0.11, 0.39]
