from collections import Counter
from itertools import pairwise

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


@pytest.mark.parametrize("sigma", [0.1, 0.9])
def test_guided_noise_predictions_are_those_of_the_guided_velocity(sigma):
    """The paper guides ε. With x = (1 − σ) x0 + σ ε and v = ε − x0, ε = x + (1 − σ) v."""
    names = ("conditional", "negative_text", "negative_pose")
    latents, *data = (normal(seed).double() for seed in range(4))
    noise = {name: (latents - (1 - sigma) * x0) / sigma for name, x0 in zip(names, data, strict=True)}
    velocities = {name: noise[name] - x0 for name, x0 in zip(names, data, strict=True)}
    e_c, e_n, e_p = noise.values()
    printed = e_n + 1.5 * (e_c - e_p) + 5.0 * (e_c - e_n)
    torch.testing.assert_close(latents + (1 - sigma) * guide(velocities, 5.0, 1.5), printed)


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


@pytest.mark.parametrize(("num_steps", "shift"), [(7, 5.0), (7, 3.0), (3, 1.0)])
@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
def test_both_solvers_run_on_the_released_grid(solver, num_steps, shift):
    scheduler, grid = released_scheduler(num_steps, shift, solver), sigma_grid(num_steps, shift)
    assert torch.equal(scheduler.sigmas, grid)
    assert torch.equal(scheduler.timesteps, (1000 * grid[:-1].double()).long())
    with pytest.raises(ValueError, match="'euler'"):
        released_scheduler(7, 5.0, "euler")


def test_a_velocity_that_is_not_finite_is_named():
    def velocity(latents, timestep, branch):
        broken = branch == "negative_text" and timestep.item() < 900
        return latents * (float("nan") if broken else 1.0)

    (step,) = (sigma_grid(10, 5.0) < 0.9).nonzero()[0].tolist()
    with pytest.raises(FloatingPointError, match=rf"step {step} of 10 .* in negative_text:"):
        denoise(velocity, normal(0), num_inference_steps=10)


def curved(latents, timestep, branch):
    """A velocity that every setting changes."""
    return torch.tanh(latents * {"conditional": 1.0, "negative_text": 0.8, "negative_pose": 0.6}[branch])


def test_the_defaults_are_the_released_settings():
    released = {
        "flow_shift": 5.0,
        "guidance_scale": 5.0,
        "pose_guidance_scale": 1.0,
        "pose_guidance_interval": (0.1, 0.4),
        "pose_guidance_unit": "step",
        "solver": "unipc",
    }
    default = denoise(curved, normal(0), num_inference_steps=5)
    assert torch.equal(denoise(curved, normal(0), num_inference_steps=5, **released), default)
    others = {
        "flow_shift": 3.0,
        "guidance_scale": 4.0,
        "pose_guidance_scale": 2.0,
        "pose_guidance_interval": (0.3, 0.7),  # steps 2 and 3 and not step 1
        "pose_guidance_unit": "timestep",
        "solver": "dpm++",
    }
    for name, value in others.items():
        assert not torch.equal(denoise(curved, normal(0), num_inference_steps=5, **{name: value}), default), name


def test_two_steps_of_dpm_solver_are_its_published_formula():
    """DPM-Solver++ (2M) on σ, with α = 1 − σ and λ = log(α / σ): the first step is of order 1, the last one too."""
    noise = normal(4).double()
    sigma_0, sigma_1, sigma_2 = sigma_grid(3, 5.0).double()[:3]

    def prediction(x, sigma):  # of the data: x − σ v, with Eq. 7's v where the pose does not guide
        timestep = (1000 * sigma).floor()
        v_c, v_n = curved_in_time(x, timestep, "conditional"), curved_in_time(x, timestep, "negative_text")
        return x - sigma * (v_n + 5.0 * (v_c - v_n))

    def logs(sigma):
        return torch.log((1 - sigma) / sigma)

    first = prediction(noise, sigma_0)
    h_1 = logs(sigma_1) - logs(sigma_0)
    x_1 = sigma_1 / sigma_0 * noise - (1 - sigma_1) * torch.expm1(-h_1) * first
    second = prediction(x_1, sigma_1)
    h_2 = logs(sigma_2) - logs(sigma_1)
    mixed = second + 0.5 * h_2 / h_1 * (second - first)
    x_2 = sigma_2 / sigma_1 * x_1 - (1 - sigma_2) * torch.expm1(-h_2) * mixed

    seen = []
    denoise(curved_in_time, normal(4), num_inference_steps=3, pose_guidance_scale=0.0, solver="dpm++",
            callback=lambda step, timestep, latents: seen.append(latents))  # fmt: skip
    torch.testing.assert_close(seen[0].double(), x_1, atol=2e-5, rtol=0)
    torch.testing.assert_close(seen[1].double(), x_2, atol=2e-5, rtol=0)


def curved_in_time(latents, timestep, branch):
    times = timestep.to(latents.dtype).view(-1, *[1] * (latents.ndim - 1) if timestep.ndim else [])
    return curved(latents, timestep, branch) + 0.2 * times / 1000


@pytest.mark.parametrize("together", [False, True])
def test_the_network_is_given_float32_latents_and_a_time_a_sample_and_may_answer_in_bfloat16(together):
    def velocity(latents, timestep, branch):
        assert latents.dtype == torch.float32
        assert timestep.shape == (2,) and timestep[0] == timestep[1]
        return curved(latents, timestep, branch).bfloat16()

    class Together:
        def many(self, latents, timestep, branches):
            return {branch: velocity(latents, timestep, branch) for branch in branches}

    noise = normal(0, (2, 16, 2, 4, 4)).bfloat16()
    out = denoise(Together() if together else velocity, noise, num_inference_steps=4)
    assert out.dtype == torch.float32
    # Guided in float32: 5 (v_c − v_n) of rounded velocities, itself not rounded.
    expected = denoise(lambda *given: velocity(*given).float(), noise.float(), num_inference_steps=4)
    assert torch.equal(out, expected)


def test_no_graph_of_the_network_is_kept():
    weight = torch.nn.Parameter(torch.tensor(0.5))
    assert not denoise(lambda latents, *reported: weight * latents, normal(0), num_inference_steps=2).requires_grad


def test_a_guided_sum_that_overflows_is_told_from_a_branch_that_does():
    def velocity(latents, timestep, branch):
        return torch.full_like(latents, 3e38 if branch == "conditional" else -3e38)

    with pytest.raises(FloatingPointError, match=r"step 0 of 4 \(timestep 999\) is not finite, in the guided sum"):
        denoise(velocity, normal(0), num_inference_steps=4)


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
    apart = denoise(velocity, normal(0), num_inference_steps=10, callback=lambda *reported: steps.append(reported))
    assert torch.equal(denoise(Together(), normal(0), num_inference_steps=10), apart)
    assert [step for step, _, _ in steps] == list(range(10))
    assert [timestep.item() for _, timestep, _ in steps] == released_scheduler(10, 5.0).timesteps.tolist()
    assert torch.equal(steps[-1][2], apart)
    assert all(not torch.equal(before[2], after[2]) for before, after in pairwise(steps))


def test_each_negative_branch_changes_one_thing():
    conditions = Conditions(normal(0, (1, 20, 2, 4, 4)), normal(1), *normal(2, (3, 1, 4, 6)))
    branches = branch_conditions(conditions, normal(3, (1, 2, 6)), normal(4))
    assert branches["conditional"] is conditions
    for branch, differing in [("negative_text", {"prompt_embeds"}), ("negative_pose", {"pose_latents"})]:
        reported = branches[branch].model_arguments()
        positive = conditions.replace(reference_pose_latents=branches[branch].reference_pose_latents).model_arguments()
        names = {"encoder_hidden_states": "prompt_embeds"}
        assert {names.get(n, n) for n in reported if reported[n] is not positive[n]} == differing
    # The perturbed clip must not become the pose reference.
    assert torch.equal(branches["negative_pose"].reference_pose_latents, conditions.pose_latents[:, :, :1])
