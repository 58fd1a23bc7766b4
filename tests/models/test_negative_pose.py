"""The negative pose: its draws, and what they make of keypoints and of drawings."""

import numpy as np
import pytest
import torch

from steadydancer.datasets.skeleton import PoseSequence, perturb
from steadydancer.datasets.toydance import toy_pose
from steadydancer.models.negative_pose import Perturbation, negative_motion, stretch_drawing


def person(num_frames: int, seed: int = 7) -> PoseSequence:
    return toy_pose(seed, num_frames, 16, aspect=80 / 48)


def assert_same(people: list[PoseSequence], expected: list[PoseSequence]) -> None:
    for one, other in zip(people, expected, strict=True):
        for name in ("body", "body_visible", "hands"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_negative_pose_draws_scale_then_aspect_from_the_generator() -> None:
    drawn = Perturbation.draw(5, torch.Generator().manual_seed(3))
    uniform = torch.rand(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64).numpy()
    np.testing.assert_allclose(drawn.scale, 0.7 + 0.6 * uniform[:, 0], atol=1e-12)
    np.testing.assert_allclose(drawn.aspect, 0.6 + 0.8 * uniform[:, 1], atol=1e-12)
    some = drawn[[4, 0]]
    assert some.scale.tolist() == drawn.scale[[4, 0]].tolist() and some.aspect.tolist() == drawn.aspect[[4, 0]].tolist()


def test_a_shift_is_drawn_last_and_moves_everything_by_its_share_of_the_picture() -> None:
    """As printed; as released there is none, and the other draws are the same."""
    generator, twin = (torch.Generator().manual_seed(3) for _ in range(2))
    released, printed = Perturbation.draw(5, generator), Perturbation.draw(5, twin, has_shift=True)
    assert released.shift is None and released[[4, 0]].shift is None
    np.testing.assert_array_equal(printed.scale, released.scale)
    np.testing.assert_array_equal(printed.aspect, released.aspect)
    uniform = torch.rand(5, 2, generator=generator, dtype=torch.float64).numpy()  # what comes next
    np.testing.assert_allclose(printed.shift, -0.2 + 0.4 * uniform, atol=1e-12)
    assert printed[[4, 0]].shift.tolist() == printed.shift[[4, 0]].tolist()

    people = [person(5), person(5, 8)]
    for moved, still in zip(negative_motion(people, printed), negative_motion(people, released), strict=True):
        np.testing.assert_allclose(moved.body - still.body, printed.shift[:, None].repeat(18, 1), atol=1e-12)
        np.testing.assert_allclose(
            moved.hands - still.hands, np.broadcast_to(printed.shift[:, None, None], still.hands.shape), atol=1e-12
        )

    frames = np.zeros((1, 120, 160, 3), np.uint8)
    frames[0, 40:61, 60:101] = 255
    moved = negative_motion(frames, Perturbation(np.ones(1), np.ones(1), np.array([[0.1, -0.2]])))
    np.testing.assert_array_equal(moved, np.roll(frames, (-24, 16), axis=(1, 2)))


def test_negative_keypoints_are_each_persons_own_and_a_drawing_is_stretched_along_its_axes() -> None:
    draws = Perturbation(np.array([1.2, 0.7]), np.array([0.6, 1.4]))
    people = [person(2), person(2, 8)]
    assert_same(negative_motion(people, draws), [perturb(one, draws.scale, draws.aspect) for one in people])

    frames = np.zeros((3, 120, 160, 3), np.uint8)
    frames[:2, 40:61, 60:101] = (255, 128, 0)  # 21 rows about 50, 41 columns about 80
    draws = Perturbation(np.array([1.0, 1.3, 1.0]), np.array([1.0, 0.5, 1.4]))
    stretched = negative_motion(frames, draws)
    assert stretched.dtype == np.uint8 and stretched.shape == frames.shape
    np.testing.assert_array_equal(stretched[0], frames[0])
    rows, columns = (np.flatnonzero((stretched[1, ..., 0] > 127).any(axis=axis)) for axis in (1, 0))
    assert (rows.min(), rows.max()) == pytest.approx((50 - 13, 50 + 13), abs=1)  # y by scale alone
    assert (columns.min(), columns.max()) == pytest.approx((80 - 13, 80 + 13), abs=1)  # x by scale · aspect = 0.65
    np.testing.assert_array_equal(stretched[1, 50, 80], (255, 128, 0))
    assert not stretched[2].any()
    with pytest.raises(ValueError, match="zip"):
        negative_motion(frames, Perturbation(np.ones(2), np.ones(2)))


def test_the_negative_pose_perturbs_each_person_about_the_own_neck() -> None:
    one = person(5)
    other = PoseSequence(one.body + 0.2, one.body_visible, one.hands)
    draws = Perturbation.draw(5, torch.Generator().manual_seed(0))
    for original, perturbed in zip([one, other], negative_motion([one, other], draws), strict=True):
        np.testing.assert_allclose(perturbed.body[:, 1], original.body[:, 1])
        offsets = [each.body[:, 8] - each.body[:, 1] for each in (perturbed, original)]
        np.testing.assert_allclose(offsets[0][:, 1], offsets[1][:, 1] * draws.scale)
        np.testing.assert_allclose(offsets[0][:, 0], offsets[1][:, 0] * draws.scale * draws.aspect)


def test_perturbation_draws_its_ranges_and_stretches_drawings_about_their_middle() -> None:
    draws = Perturbation.draw(4000, torch.Generator().manual_seed(0))
    assert 0.7 <= draws.scale.min() < 0.71
    assert 1.29 < draws.scale.max() <= 1.3
    assert 0.6 <= draws.aspect.min() < 0.61
    assert 1.39 < draws.aspect.max() <= 1.4
    assert abs(np.corrcoef(draws.scale, draws.aspect)[0, 1]) < 0.05

    frames = np.zeros((2, 100, 100, 3), np.uint8)
    frames[:, 40:61, 30:51] = 255
    twice_as_wide = Perturbation(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    stretched = stretch_drawing(frames, twice_as_wide)
    assert (stretched[0] == frames[0]).all()
    drawn = np.argwhere(stretched[1].max(axis=-1) > 127)
    assert drawn.min(axis=0).tolist() == pytest.approx([40, 20], abs=1)
    assert drawn.max(axis=0).tolist() == pytest.approx([60, 60], abs=1)
    assert not stretch_drawing(np.zeros_like(frames), twice_as_wide).any()
