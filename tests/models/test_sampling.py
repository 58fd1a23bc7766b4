from collections import Counter

import pytest
import torch

from steadydancer.models.conditions import Conditions
from steadydancer.models.flow_matching import sigma_grid
from steadydancer.models.guidance import branch_conditions, guide, in_pose_guidance_interval
from steadydancer.models.sampling import denoise, released_scheduler

SHAPE = (1, 16, 2, 4, 4)


def normal(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_guidance_is_equations_7_and_8():
    v_c, v_n, v_p = normal(0), normal(1), normal(2)
    v = guide({"conditional": v_c, "negative_text": v_n, "negative_pose": v_p}, 5.0, 1.5)
    torch.testing.assert_close(v, v_n + 5.0 * (v_c - v_n) + 1.5 * (v_c - v_p))
    torch.testing.assert_close(guide({"conditional": v_c, "negative_text": v_n}, 5.0, 1.5), v_n + 5.0 * (v_c - v_n))
    assert torch.equal(guide({"conditional": v_c}, 1.0, 0.0), v_c)


@pytest.mark.parametrize(("num_steps", "guided"), [(40, range(5, 16)), (50, range(6, 20)), (4, [1])])
def test_the_interval_is_strict_and_counted_in_steps(num_steps, guided):
    inside = [i for i in range(num_steps) if in_pose_guidance_interval(i / num_steps, (0.1, 0.4))]
    assert inside == list(guided)


def test_forty_steps_ask_ninety_one_times_and_only_where_it_counts():
    asked = []

    def velocity(latents, timestep, branch):
        asked.append((timestep.item(), branch))
        return torch.zeros_like(latents)

    denoise(velocity, normal(0), num_inference_steps=40)
    assert Counter(branch for _, branch in asked) == {"conditional": 40, "negative_text": 40, "negative_pose": 11}
    times = [t for t, branch in asked if branch == "conditional"]
    assert [t for t, branch in asked if branch == "negative_pose"] == times[5:16]

    asked.clear()
    denoise(velocity, normal(0), num_inference_steps=40, guidance_scale=1.0, pose_guidance_scale=0.0)
    assert Counter(branch for _, branch in asked) == {"conditional": 40}


def test_the_scheduler_runs_on_the_released_grid():
    scheduler = released_scheduler(40, 5.0)
    assert torch.equal(scheduler.sigmas, sigma_grid(40, 5.0))
    assert torch.equal(scheduler.timesteps, (1000 * sigma_grid(40, 5.0)[:-1].double()).long())
    assert scheduler.timesteps[0] == 999


def test_the_paper_counts_the_interval_in_timesteps():
    asked = []

    def velocity(latents, timestep, branch):
        asked.append((timestep.item(), branch))
        return torch.zeros_like(latents)

    denoise(velocity, normal(0), num_inference_steps=40, pose_guidance_unit="timestep")
    times = {t for t, branch in asked if branch == "negative_pose"}
    assert times == {t for t, _ in asked if 100 < t < 400}
    assert len(times) == 4


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
def test_both_solvers_run_on_the_released_grid(solver):
    scheduler = released_scheduler(7, 5.0, solver)
    assert torch.equal(scheduler.sigmas, sigma_grid(7, 5.0))
    assert torch.equal(scheduler.timesteps, (1000 * sigma_grid(7, 5.0)[:-1].double()).long())
    with pytest.raises(ValueError, match="'euler'"):
        released_scheduler(7, 5.0, "euler")


def test_a_velocity_that_is_not_finite_is_named():
    def velocity(latents, timestep, branch):
        broken = branch == "negative_text" and timestep.item() < 900
        return latents * (float("nan") if broken else 1.0)

    with pytest.raises(FloatingPointError, match=r"step \d+ of 10 .* in negative_text"):
        denoise(velocity, normal(0), num_inference_steps=10)


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 40])
def test_a_straight_path_is_followed_exactly(num_steps, solver):
    # Where every branch points from the data to this noise, the first step's x is noise and the last one's the data.
    data, noise = normal(1), normal(2)
    out = denoise(lambda latents, timestep, branch: noise - data, noise, num_inference_steps=num_steps, solver=solver)
    start = sigma_grid(num_steps, 5.0)[0]
    torch.testing.assert_close(out, noise - start * (noise - data), atol=2e-5, rtol=0)


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
def test_a_gaussian_is_carried_to_its_data_distribution(solver):
    # Data N(0, s²): v = (σ − (1−σ) s²) x / ((1−σ)² s² + σ²), and the exact flow maps noise to s · noise.
    s = 0.5

    def velocity(latents, timestep, branch):
        sigma = timestep.double() / 1000
        return (((sigma - (1 - sigma) * s**2) / ((1 - sigma) ** 2 * s**2 + sigma**2)) * latents).float()

    noise = normal(3)
    errors = [
        (denoise(velocity, noise, num_inference_steps=n, solver=solver) - s * noise).abs().max().item()
        / noise.abs().max().item()
        for n in (10, 40)
    ]
    assert errors[1] < 1e-2  # what is left at 40 steps comes from the truncated timesteps
    assert errors[1] < errors[0] / 2


def test_branches_asked_together_give_the_same_and_the_callback_sees_every_step():
    def velocity(latents, timestep, branch):
        return latents * {"conditional": 0.9, "negative_text": 0.7, "negative_pose": 0.8}[branch]

    class Together:
        def many(self, latents, timestep, branches):
            return {branch: velocity(latents, timestep, branch) for branch in branches}

    steps = []
    apart = denoise(velocity, normal(0), num_inference_steps=10, callback=lambda step, t, x: steps.append((step, x)))
    assert torch.equal(denoise(Together(), normal(0), num_inference_steps=10), apart)
    assert [step for step, _ in steps] == list(range(10))
    assert torch.equal(steps[-1][1], apart)


def test_each_negative_branch_changes_one_thing():
    conditions = Conditions(normal(0, (1, 20, 2, 4, 4)), normal(1), *normal(2, (3, 1, 4, 6)))
    branches = branch_conditions(conditions, normal(3, (1, 2, 6)), normal(4))
    assert branches["conditional"] is conditions
    for branch, differing in [("negative_text", {"prompt_embeds"}), ("negative_pose", {"pose_latents"})]:
        told = branches[branch].model_arguments()
        positive = conditions.replace(reference_pose_latents=branches[branch].reference_pose_latents).model_arguments()
        names = {"encoder_hidden_states": "prompt_embeds"}
        assert {names.get(n, n) for n in told if told[n] is not positive[n]} == differing
    # The perturbed clip must not become the pose reference.
    assert torch.equal(branches["negative_pose"].reference_pose_latents, conditions.pose_latents[:, :, :1])
