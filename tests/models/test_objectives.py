import dataclasses
import math

import pytest
import torch

from steadydancer.models.conditions import Conditions, NullConditions, frame_mask, stack_prompt_embeds, with_frame_mask
from steadydancer.models.flow_matching import add_noise, shift_sigma
from steadydancer.models.objectives import (
    TrainingBatch,
    action_supervision,
    condition_decoupled_distillation,
    gaussian_weight,
    simulate_first_latent_motion,
    steadydancer_velocity,
    wan_velocity,
)
from steadydancer.models.transformer import SteadyDancerTransformer3DModel


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(2, *shape, generator=generator)

    return TrainingBatch(
        latents=normal(16, 3, 4, 4),
        conditions=Conditions(
            image_latents=with_frame_mask(normal(16, 3, 4, 4)),
            pose_latents=normal(16, 3, 4, 4),
            image_embeds=normal(257, 8),
            pose_image_embeds=normal(257, 8),
            prompt_embeds=normal(5, 16),
        ),
        null=NullConditions(normal(16, 3, 4, 4), normal(257, 8), normal(1, 16)),
        noise=normal(16, 3, 4, 4),
        sigma=torch.tensor([0.3, 0.8]),
    )


def perfect(batch):
    return lambda latents, timestep, conditions: batch.noise - batch.latents


def test_a_perfect_velocity_has_no_loss_and_a_constant_error_its_square(batch):
    assert action_supervision()(perfect(batch), batch) == {"loss": 0.0, "fidelity": 0.0}
    off = action_supervision()(lambda *given: perfect(batch)(*given) + 0.5, batch)
    torch.testing.assert_close(off["loss"], torch.tensor(0.25))


def test_the_network_sees_the_noisy_latents_at_a_thousand_sigma(batch):
    def velocity(latents, timestep, conditions):
        assert torch.equal(latents, add_noise(batch.latents, batch.noise, batch.sigma))
        torch.testing.assert_close(timestep, torch.tensor([300.0, 800.0]))
        assert conditions is batch.conditions
        return latents

    action_supervision()(velocity, batch)


def test_the_weight_is_per_sample(batch):
    errors = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1)
    velocity = lambda *given: perfect(batch)(*given) + errors  # noqa: E731
    weighted = action_supervision(weight=lambda sigma: sigma)(velocity, batch)["loss"]
    torch.testing.assert_close(weighted, torch.tensor((0.3 * 1 + 0.8 * 4) / 2))


def test_each_sample_weighs_in_both_terms_of_the_distillation(batch):
    errors = {"fidelity": torch.tensor([1.0, 2.0]), "distillation": torch.tensor([3.0, 1.0])}

    def student(latents, timestep, conditions):
        posed = conditions.pose_latents is batch.conditions.pose_latents
        return perfect(batch)(latents, timestep, conditions) + errors["fidelity" if posed else "distillation"].view(
            2, 1, 1, 1, 1
        )

    terms = condition_decoupled_distillation(perfect(batch), distillation_weight=10.0, weight=lambda sigma: sigma)(
        student, batch
    )
    fidelity, distillation = (0.3 * 1 + 0.8 * 4) / 2, (0.3 * 9 + 0.8 * 1) / 2
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"loss": fidelity + 10 * distillation, "fidelity": fidelity, "distillation": distillation}, rel=1e-5
    )
    # What is logged holds no graph, what is minimised does.
    factor = torch.nn.Parameter(torch.tensor(1.0))
    for objective in (action_supervision(), condition_decoupled_distillation(perfect(batch))):
        terms = objective(lambda *given: factor * perfect(batch)(*given), batch)
        assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]


def test_by_default_the_terms_weigh_alike_and_v_u_keeps_the_text(batch):
    asked = []

    def student(latents, timestep, conditions):
        asked.append(conditions)
        return (
            perfect(batch)(latents, timestep, conditions) + 1.0 + (conditions.pose_latents is batch.null.pose_latents)
        )

    terms = condition_decoupled_distillation(perfect(batch))(student, batch)
    assert {name: term.item() for name, term in terms.items()} == {"loss": 5.0, "fidelity": 1.0, "distillation": 4.0}
    assert [reported.prompt_embeds is batch.conditions.prompt_embeds for reported in asked] == [True, True]


def test_errors_are_measured_in_float32(batch):
    small = TrainingBatch(
        torch.zeros(2, 1, 1, 1, 1), batch.conditions, batch.null, torch.full((2, 1, 1, 1, 1), 1.0), batch.sigma
    )
    # In bfloat16 1.0078125 − 1 squared would be right, and 300 of its squares would not add up.
    answer = torch.full((2, 1, 300, 1, 1), 1.0078125, dtype=torch.bfloat16)
    loss = action_supervision()(lambda *given: answer, small)["loss"]
    assert (loss.dtype, loss.item()) == (torch.float32, pytest.approx(2.0**-14, rel=1e-6))
    # In bfloat16 1.0078125 − −3 would be 4.
    teacher = torch.full_like(answer, -3.0)
    terms = condition_decoupled_distillation(lambda *given: teacher)(lambda *given: answer, small)
    assert terms["distillation"].item() == pytest.approx(4.0078125**2, rel=1e-6)


def test_a_batch_goes_elsewhere_member_by_member(batch):
    moved, here = batch.to("meta"), batch.to("cpu")
    for field in dataclasses.fields(batch):
        there = getattr(moved, field.name)
        if isinstance(there, torch.Tensor):
            assert there.is_meta and torch.equal(getattr(here, field.name), getattr(batch, field.name)), field.name
        else:
            assert {t.device.type for t in vars(there).values() if t is not None} == {"meta"}
            assert all(t is getattr(getattr(batch, field.name), n) for n, t in vars(getattr(here, field.name)).items())


def test_networks_are_called_as_velocity_fields(batch):
    calls = []

    def network(*given, **named):
        calls.append((given, named))
        return torch.tensor(7.0), "what else it returns"

    x, t = batch.latents, torch.tensor([3.0, 4.0])
    assert steadydancer_velocity(network, alignment_seeds=(5, 6))(x, t, batch.conditions) == 7
    assert steadydancer_velocity(network)(x, t, batch.conditions) == 7
    reported = batch.conditions.model_arguments()
    for (given, named), seeds in zip(calls, [(5, 6), None], strict=True):
        assert given[0] is x and given[1] is t and len(given) == 2
        assert (named.pop("alignment_seeds"), named.pop("return_dict")) == (seeds, False)
        assert named.keys() == reported.keys() and all(named[name] is value for name, value in reported.items())


def test_the_teacher_is_given_its_own_float_type_and_512_words(batch):
    calls = []

    class Base:
        patch_embedding = torch.nn.Linear(1, 1, dtype=torch.bfloat16)

        def __call__(self, *given, **named):
            calls.append((given, named))
            return torch.tensor(7.0), "what else it returns"

    t = torch.tensor([3.0, 4.0])
    assert wan_velocity(Base())(batch.latents, t, batch.conditions) == 7
    ((latents, timestep, words, image), named) = calls[0]
    assert named == {"return_dict": False} and timestep is t
    assert {each.dtype for each in (latents, words, image)} == {torch.bfloat16}
    assert torch.equal(latents, torch.cat([batch.latents, batch.conditions.image_latents], dim=1).bfloat16())
    assert words.shape == (2, 512, 16) and torch.equal(words[:, :5], batch.conditions.prompt_embeds.bfloat16())
    assert torch.equal(image, batch.conditions.image_embeds.bfloat16())


def test_the_gaussian_weight_is_its_formula_in_timesteps():
    for options, shift in (({}, 5.0), ({"shift": 3.0}, 3.0)):
        u = [1 - k / 1000 for k in range(1000)]
        bells = [math.exp(-2 * ((1000 * shift * v / (1 + (shift - 1) * v) - 500) / 1000) ** 2) for v in u]
        mean = sum(bells) / 1000 - min(bells)
        sigma = torch.tensor([0.0, 0.3, 0.5, 0.97, 1.0], dtype=torch.float64)
        expected = [(math.exp(-2 * (s - 0.5) ** 2) - min(bells)) / mean for s in sigma.tolist()]
        assert gaussian_weight(**options)(sigma).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_gaussian_weight_has_mean_one_and_spares_pure_noise():
    weight, grid = gaussian_weight(shift=5.0), shift_sigma(torch.arange(1, 1001) / 1000, 5.0)
    weights = weight(grid.double())
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-6)
    assert weights[-1].item() == pytest.approx(0.0, abs=1e-6)
    assert (weights >= -1e-6).all()
    assert weight(torch.tensor(0.5)) > weight(torch.tensor(0.9))


def test_distillation_is_zero_where_student_and_teacher_agree_and_counts_where_not(batch):
    def student(latents, timestep, conditions):
        return perfect(batch)(latents, timestep, conditions) + (conditions.pose_latents is batch.null.pose_latents)

    same = condition_decoupled_distillation(teacher=student)(student, batch)
    assert same == {"loss": 0.0, "fidelity": 0.0, "distillation": 0.0}

    # Off by 1 without pose only: the fidelity term does not see it, the distillation term does.
    terms = condition_decoupled_distillation(teacher=perfect(batch), distillation_weight=0.25)(student, batch)
    assert {name: term.item() for name, term in terms.items()} == {"loss": 0.25, "fidelity": 0.0, "distillation": 1.0}


@pytest.mark.parametrize("text", ["same", "empty"])
def test_without_pose_means_without_it_everywhere_and_with_everything_else(batch, text):
    asked = []

    def velocity(latents, timestep, conditions):
        asked.append((latents, timestep, conditions))
        return latents

    condition_decoupled_distillation(velocity, unconditional_text=text)(velocity, batch)
    conditional = next(given for given in asked if given[2] is batch.conditions)
    unconditional = [given for given in asked if given[2] is not batch.conditions]
    assert len(unconditional) == 2
    for latents, timestep, reported in unconditional:
        assert torch.equal(latents, conditional[0])
        assert torch.equal(timestep, conditional[1])
        assert reported.pose_latents is batch.null.pose_latents
        assert reported.pose_image_embeds is batch.null.pose_image_embeds
        assert reported.reference_pose_latents is None
        assert reported.image_latents is batch.conditions.image_latents
        assert reported.image_embeds is batch.conditions.image_embeds
        source = batch.conditions if text == "same" else batch.null
        assert reported.prompt_embeds is source.prompt_embeds


def test_normal_distillation_holds_the_student_to_the_teacher_where_it_follows_the_pose(batch):
    asked = []

    def student(latents, timestep, conditions):
        asked.append(conditions)
        return perfect(batch)(latents, timestep, conditions) + 2.0 * (
            conditions.pose_latents is batch.null.pose_latents
        )

    def teacher(latents, timestep, conditions):
        assert conditions.pose_latents is batch.null.pose_latents
        assert conditions.prompt_embeds is batch.conditions.prompt_embeds
        return perfect(batch)(latents, timestep, conditions) + torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)

    # The student is right about the data, and pays for every step away from the teacher: (1² + 3²) / 2.
    given = {"distillation_weight": 0.5, "unconditional_text": "empty"}
    terms = condition_decoupled_distillation(teacher, **given, decoupled=False)(student, batch)
    assert {name: term.item() for name, term in terms.items()} == {"loss": 2.5, "fidelity": 0.0, "distillation": 5.0}
    assert asked == [batch.conditions]  # v_student(c) serves both terms

    # The paper's own objective asks the teacher about the student without pose: (1² + 1²) / 2.
    terms = condition_decoupled_distillation(teacher, distillation_weight=0.5)(student, batch)
    assert {name: term.item() for name, term in terms.items()} == {"loss": 0.5, "fidelity": 0.0, "distillation": 1.0}


def test_normal_distillation_settles_between_the_data_and_the_teacher(batch):
    """Why it collapses: with a constant student the optimum is (data + λ teacher) / (1 + λ), the pose half lost."""
    answer = torch.nn.Parameter(torch.zeros_like(batch.noise))
    teacher = torch.full_like(batch.noise, 2.0)
    objective = condition_decoupled_distillation(lambda *given: teacher, distillation_weight=3.0, decoupled=False)
    objective(lambda *given: answer, batch)["loss"].backward()
    expected = (-2 * (batch.noise - batch.latents) - 6 * teacher) / answer.numel()
    torch.testing.assert_close(answer.grad, expected)


def test_the_teacher_has_answered_before_the_students_graph_is_there(batch):
    """Its layers are brought together where the student's activations are not yet kept."""
    asked = []

    def teacher(latents, timestep, conditions):
        asked.append(("teacher", torch.is_grad_enabled()))
        return latents

    def student(latents, timestep, conditions):
        asked.append(("student", torch.is_grad_enabled()))
        return latents

    for decoupled in (True, False):
        asked.clear()
        condition_decoupled_distillation(teacher, decoupled=decoupled)(student, batch)
        assert asked == [("teacher", False), ("student", True), ("student", True)][: 3 if decoupled else 2]


def test_only_the_student_learns(batch):
    student, teacher = (torch.nn.Parameter(torch.tensor(value)) for value in (0.5, 0.7))
    objective = condition_decoupled_distillation(lambda x, t, c: teacher * x)
    objective(lambda x, t, c: student * x, batch)["loss"].backward()
    assert student.grad.abs() > 0
    assert teacher.grad is None


def test_three_steps_of_stage_two_lower_its_loss(batch, plain_wan):
    base = plain_wan(seed=0, num_layers=1)
    model = SteadyDancerTransformer3DModel.from_wan(base)
    objective = condition_decoupled_distillation(wan_velocity(base))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        terms = objective(steadydancer_velocity(model), batch)
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(terms["loss"].item())
    assert losses == sorted(losses, reverse=True)
    assert all(parameter.grad is None for parameter in base.parameters())


@torch.no_grad()
def test_the_plain_teacher_never_sees_the_pose(batch, plain_wan):
    base = plain_wan(seed=0, num_layers=1)
    velocity, sigma = wan_velocity(base), batch.sigma * 1000
    out = velocity(batch.latents, sigma, batch.conditions)
    assert torch.equal(out, velocity(batch.latents, sigma, batch.conditions.without_pose(batch.null)))
    assert not torch.allclose(out, velocity(batch.latents, sigma, batch.conditions.without_text(batch.null)))


def test_latent_pose_simulation_takes_the_first_step_of_a_longer_way():
    clip = torch.randn(3, 16, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    out = simulate_first_latent_motion(clip, torch.tensor([1, 2, 4]))
    assert torch.equal(out[0], clip[0])
    torch.testing.assert_close(out[1, :, 1], (clip[1, :, 0] + clip[1, :, 2]) / 2)
    torch.testing.assert_close(out[2, :, 1], clip[2, :, 0] + (clip[2, :, 4] - clip[2, :, 0]) / 4)
    assert torch.equal(out[:, :, [0, 2, 3, 4]], clip[:, :, [0, 2, 3, 4]])

    steady = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 16, 5, 2, 2)
    torch.testing.assert_close(simulate_first_latent_motion(steady, torch.tensor([3])), steady)


def test_the_mask_knows_the_first_frame_only():
    assert torch.equal(frame_mask(3, 2, 2)[:, 0], torch.ones(4, 2, 2))
    assert not frame_mask(3, 2, 2)[:, 1:].any()
    image = torch.randn(2, 16, 3, 2, 2)
    assert torch.equal(with_frame_mask(image)[:, 4:], image)
    assert torch.equal(with_frame_mask(image)[1, :4], frame_mask(3, 2, 2))


def test_dropout_takes_pose_or_text_from_the_samples_it_names(batch):
    reported = batch.conditions.replace(reference_pose_latents=batch.conditions.pose_latents[:, :, :1])
    dropped = reported.with_dropout(batch.null, text=torch.tensor([True, False]), pose=torch.tensor([False, True]))
    assert torch.equal(dropped.prompt_embeds[0, :1], batch.null.prompt_embeds[0])
    assert not dropped.prompt_embeds[0, 1:].any()
    assert torch.equal(dropped.prompt_embeds[1], reported.prompt_embeds[1])
    assert torch.equal(dropped.pose_latents, torch.stack([reported.pose_latents[0], batch.null.pose_latents[1]]))
    assert torch.equal(dropped.pose_image_embeds[1], batch.null.pose_image_embeds[1])
    assert torch.equal(dropped.reference_pose_latents[1], batch.null.pose_latents[1, :, :1])
    assert torch.equal(dropped.reference_pose_latents[0], reported.reference_pose_latents[0])
    assert dropped.image_embeds is reported.image_embeds


def test_prompts_of_different_lengths_are_stacked_with_zeros():
    stacked = stack_prompt_embeds([torch.ones(2, 3), torch.ones(4, 3)])
    assert stacked.shape == (2, 4, 3)
    assert torch.equal(stacked.sum(dim=(1, 2)), torch.tensor([6.0, 12.0]))


def base_and_student(plain_wan, **fusion):
    base = plain_wan(seed=0, num_layers=1)
    return base, SteadyDancerTransformer3DModel.from_wan(base, **fusion)


@torch.no_grad()
def test_stage_one_without_pose_and_extra_frames_is_wans_own_flow_matching(batch, plain_wan):
    base, student = base_and_student(plain_wan, condition_augmentation=False)
    reported = batch.conditions.replace(pose_latents=torch.zeros_like(batch.conditions.pose_latents))
    given = TrainingBatch(batch.latents, reported, batch.null, batch.noise, batch.sigma)
    ours = action_supervision()(steadydancer_velocity(student), given)["loss"]

    x = (1 - batch.sigma.view(2, 1, 1, 1, 1)) * batch.latents + batch.sigma.view(2, 1, 1, 1, 1) * batch.noise
    predicted = base(
        torch.cat([x, reported.image_latents], dim=1),
        1000 * batch.sigma,
        torch.nn.functional.pad(reported.prompt_embeds, (0, 0, 0, 512 - reported.prompt_embeds.shape[1])),
        reported.image_embeds,
    ).sample
    torch.testing.assert_close(ours, torch.nn.functional.mse_loss(predicted, batch.noise - batch.latents))


@torch.no_grad()
def test_the_unconditional_term_vanishes_when_the_student_is_the_teacher(batch, plain_wan):
    """Before the first step the new weights are zero, and without the two reference frames nothing else is new."""
    base, student = base_and_student(plain_wan, condition_augmentation=False)
    terms = condition_decoupled_distillation(wan_velocity(base))(steadydancer_velocity(student), batch)
    assert terms["distillation"] < 1e-12 < terms["fidelity"]
    with_frames = base_and_student(plain_wan)[1]
    terms = condition_decoupled_distillation(wan_velocity(base))(steadydancer_velocity(with_frames), batch)
    assert terms["distillation"] > 1e-6


@pytest.mark.acceptance
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_batch_is_overfitted_by_each_objective(batch, stage, plain_wan):
    base, student = base_and_student(plain_wan)
    small = TrainingBatch(batch.latents[:1], _first(batch.conditions), batch.null, batch.noise[:1], batch.sigma[1:])
    if stage == 3:
        moved = simulate_first_latent_motion(small.conditions.pose_latents, torch.tensor([2]))
        small = TrainingBatch(
            small.latents, small.conditions.replace(pose_latents=moved), small.null, small.noise, small.sigma
        )
    objective = action_supervision()
    if stage == 2:
        small = TrainingBatch(small.latents, small.conditions, _first(small.null), small.noise, small.sigma)
        objective = condition_decoupled_distillation(wan_velocity(base.eval().requires_grad_(False)))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(300):
        terms = objective(steadydancer_velocity(student), small)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    print(f"stage {stage}: {losses[0]:.4f} before, {losses[-1]:.4f} after 300 steps on one batch")
    assert losses[-1] < 0.1 * losses[0], (losses[0], losses[-1])


def _first(reported):
    """The first sample of a batch of conditions."""
    return type(reported)(
        **{
            field.name: value if value is None else value[:1]
            for field in dataclasses.fields(reported)
            for value in [getattr(reported, field.name)]
        }
    )
