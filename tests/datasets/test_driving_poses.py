"""From which frame a driving video's people are aligned, what they are measured by, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from steadydancer.datasets.driving_poses import NoStartError, driving_poses, start_frame
from steadydancer.datasets.skeleton import PoseSequence, align_people_to_reference
from steadydancer.datasets.toydance import toy_pose

DRIVING_ASPECT, REFERENCE_ASPECT = 1.6, 0.7
LEGS, RIGHT_SIDE, FACE = [9, 10, 12, 13], [2, 3, 4, 8, 9, 10, 14, 16], [0, 14, 15, 16, 17]


def dancer(seed: int = 7, num_frames: int = 24) -> PoseSequence:
    return toy_pose(seed, num_frames, 16, aspect=DRIVING_ASPECT)


def reference() -> PoseSequence:
    return toy_pose(3, 1, 16, aspect=REFERENCE_ASPECT)


def hidden(pose: PoseSequence, joints: list[int] | slice, frames: slice, at: float | None = -1.0) -> PoseSequence:
    """The same person with joints unseen in some frames: at −1, as estimators give them, or where they were (None)."""
    body, visible = pose.body.copy(), pose.body_visible.copy()
    some = np.zeros_like(visible)
    some[frames, joints] = True
    visible[some] = False
    if at is not None:
        body[some] = at
    return replace(pose, body=body, body_visible=visible)


def aligned(*people: PoseSequence, to: PoseSequence | None = None) -> tuple[list[PoseSequence], int | None]:
    driven = driving_poses(list(people), to or reference(), DRIVING_ASPECT, REFERENCE_ASPECT)
    assert driven.aligned
    return driven.people, driven.start_frame


def cut(people: list[PoseSequence], frames: slice) -> list[PoseSequence]:
    return [person[frames] for person in people]


def assert_same(people: list[PoseSequence], expected: list[PoseSequence]) -> None:
    for one, other in zip(people, expected, strict=True):
        for name in ("body", "body_visible", "hands"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_seen_whole_from_the_beginning_it_is_the_released_alignment_to_the_last_bit() -> None:
    people = [dancer(), dancer(8)]
    moved, start = aligned(*people)
    assert start == 0
    assert_same(moved, align_people_to_reference(people, reference(), DRIVING_ASPECT, REFERENCE_ASPECT))


@pytest.mark.parametrize("first", [1, 5, 18])
@pytest.mark.parametrize("at", [-1.0, 0.0, np.nan, None])
@pytest.mark.parametrize(
    "unseen", [slice(None), RIGHT_SIDE, LEGS, [1, 2, 5], [*range(2, 14)]], ids=["all", "side", "legs", "neck", "head"]
)
def test_what_comes_later_is_aligned_where_it_is_whole_and_held_before(
    unseen: list[int] | slice, at: float | None, first: int
) -> None:
    whole = dancer(num_frames=37)
    late = hidden(whole, unseen, slice(first), at)
    moved, start = aligned(late)
    expected = align_people_to_reference([whole[first:]], reference(), DRIVING_ASPECT, REFERENCE_ASPECT)
    assert start == first
    assert_same(cut(moved, slice(first, None)), expected)
    assert_same(cut(moved, slice(first)), [expected[0][np.zeros(first, int)]])
    assert moved[0].body_visible.all()


@pytest.mark.parametrize(
    "never", [LEGS, [*LEGS, 8, 11], FACE, [3, 4], [16, 14], [3, 4, 6, 7, *LEGS]],
    ids=["knees", "hips", "back of the head", "one arm", "one ear", "no limbs"],
)  # fmt: skip
def test_what_a_video_never_shows_is_not_asked_for(never: list[int]) -> None:
    moved, start = aligned(hidden(dancer(), never, slice(None), None))
    assert start == 0
    shown = [joint for joint in range(18) if joint not in never]
    expected = align_people_to_reference([dancer()], reference(), DRIVING_ASPECT, REFERENCE_ASPECT)
    # One toy arm is as long as the other, and one ear as far away: a side measures for both.
    np.testing.assert_allclose(moved[0].body[0, shown], expected[0].body[0, shown], atol=0.02)
    assert (moved[0].body_visible == hidden(dancer(), never, slice(None)).body_visible).all()


def test_a_limb_that_is_seen_now_and_then_holds_nothing_back_and_is_measured_where_it_is_seen() -> None:
    whole = dancer()
    lengths_of = lambda pose, frame: np.linalg.norm((pose.body[frame, 9] - pose.body[frame, 8]) * [REFERENCE_ASPECT, 1])  # noqa: E731
    moved, start = aligned(hidden(whole, LEGS, slice(0, 20), -1.0))
    assert start == 0
    right, left = (
        np.linalg.norm((whole.body[20, b] - whole.body[20, a]) * [DRIVING_ASPECT, 1]) for a, b in ((8, 9), (11, 12))
    )
    image = reference().body[0] * [REFERENCE_ASPECT, 1]
    wanted = [np.linalg.norm(image[b] - image[a]) / length for a, b, length in ((8, 9, right), (11, 12, left))]
    assert lengths_of(moved[0], 20) == pytest.approx(np.mean(wanted) * right, abs=1e-9)


@pytest.mark.parametrize(("sides", "starts"), [([[16], [17]], (0, 3)), ([[3, 4], [6, 7]], (0, 12))])
def test_sides_that_are_never_seen_at_once(sides: list[list[int]], starts: tuple[int, int]) -> None:
    """One side of a face is enough; of arms the one that is seen in most frames is waited for, unless both are."""
    turning = hidden(hidden(dancer(), sides[0], slice(0, 12), None), sides[1], slice(12, None), None)
    assert start_frame(turning, DRIVING_ASPECT) == starts[0]
    assert start_frame(hidden(turning, slice(None), slice(0, 3)), DRIVING_ASPECT) == starts[1]


def test_who_comes_late_and_bit_by_bit_is_waited_for() -> None:
    """Shares are of the frames in which the person is there."""
    walks_in = hidden(hidden(dancer(num_frames=81), slice(None), slice(60)), [*LEGS, 3, 4], slice(60, 66))
    moved, start = aligned(walks_in)
    assert start == 66
    expected = align_people_to_reference([dancer(num_frames=81)[66:]], reference(), DRIVING_ASPECT, REFERENCE_ASPECT)
    assert_same(cut(moved, slice(66, None)), expected)
    # Only the last frame: it stands still.
    still, start = aligned(hidden(dancer(), slice(None), slice(23)))
    assert start == 23 and (still[0].body == still[0].body[0]).all()


def test_a_head_that_shows_one_side_first_is_not_waited_for() -> None:
    assert start_frame(hidden(dancer(), [16], slice(5), None), DRIVING_ASPECT) == 0
    assert start_frame(hidden(dancer(), [16, 17], slice(5), None), DRIVING_ASPECT) == 5
    assert start_frame(hidden(dancer(), [0], slice(5), None), DRIVING_ASPECT) == 5


@pytest.mark.parametrize("unseen", [LEGS, [4, 7], [0]])
def test_a_part_that_nobody_measured_is_scaled_like_the_others(unseen: list[int]) -> None:
    """The dancer is the person of the image at twice the size: all that is measured asks for half."""
    image = reference()
    neck = image.body[:, [1]]
    large = replace(image, body=neck + 2 * (image.body - neck))
    for portrait in (hidden(image, unseen, slice(None), -1.0), hidden(image, unseen, slice(None), np.nan)):
        driven = driving_poses([large], portrait, REFERENCE_ASPECT, REFERENCE_ASPECT)
        np.testing.assert_allclose(driven.people[0].body, image.body, atol=1e-6)
    other = replace(large, body=large.body + 0.1)
    shy = hidden(large, unseen, slice(None), -1.0)
    driven = driving_poses([shy, other], image, REFERENCE_ASPECT, REFERENCE_ASPECT)
    np.testing.assert_allclose(driven.people[1].body, image.body + 0.1, atol=1e-6)


def test_a_limb_of_no_length_is_not_seen() -> None:
    pose = dancer()
    pose.body[:4, 9] = pose.body[:4, 8]
    assert start_frame(pose, DRIVING_ASPECT) == 4
    pose.body[4:6, 5] = pose.body[4:6, 2] + [4e-4, 0]
    assert start_frame(pose, DRIVING_ASPECT) == 6


@pytest.mark.parametrize("seen", [[], [0, 14, 15], LEGS, [1], [0, *range(2, 18)]])
def test_nobody_to_measure_is_refused(seen: list[int]) -> None:
    nobody = hidden(dancer(), [joint for joint in range(18) if joint not in seen], slice(None))
    with pytest.raises(NoStartError, match="none of its 24 frames shows a neck and a limb"):
        aligned(nobody)
    driven = driving_poses([nobody], None, DRIVING_ASPECT, REFERENCE_ASPECT)
    assert (driven.start_frame, driven.aligned) == (None, False)
    assert_same(driven.people, [nobody])


def test_the_first_person_of_whom_enough_is_seen_leads_and_the_others_come_and_go_as_they_do() -> None:
    nobody = hidden(dancer(5), slice(None), slice(1, None))  # in frame 0 alone, and without a neck
    nobody = hidden(nobody, [1], slice(None))
    late, other = hidden(dancer(), slice(None), slice(6)), hidden(dancer(8), slice(None), slice(10, None))
    moved, start = aligned(nobody, late, other)
    assert start == 6
    alone, _ = aligned(late)
    assert_same(moved[:1], alone)
    assert moved[2].body_visible.all(axis=1).tolist() == [True] * 10 + [False] * 14
    # The other one's neck is as far from the main one's as in the driving video, in picture heights.
    apart = (other.body[8, 1] - late.body[8, 1]) * [DRIVING_ASPECT, 1]
    np.testing.assert_allclose((moved[2].body[8, 1] - moved[0].body[8, 1]) * [REFERENCE_ASPECT, 1], apart, atol=1e-9)
    only = driving_poses([nobody, late, other], reference(), DRIVING_ASPECT, REFERENCE_ASPECT, main_person_only=True)
    assert_same(only.people, alone)


@pytest.mark.parametrize("unseen", [[1], slice(None)])
def test_without_a_person_in_the_image_the_pose_is_held_but_not_moved(unseen: list[int] | slice) -> None:
    late = hidden(dancer(), slice(None), slice(6))
    driven = driving_poses([late], hidden(reference(), unseen, slice(None)), DRIVING_ASPECT, REFERENCE_ASPECT)
    assert (driven.aligned, driven.start_frame) == (False, 6)
    assert_same(driven.people, [dancer()[np.maximum(np.arange(24), 6)]])
    assert [note.split(":")[0] for note in driven.notes()] == [
        "no pose found in the image", "the driving video does not fully show the person before frame 6",
    ]  # fmt: skip


def test_what_the_image_does_not_show_is_said_and_does_not_blow_up_what_is_drawn() -> None:
    portrait = hidden(reference(), LEGS, slice(None), -1.0)
    driven = driving_poses([dancer()], portrait, DRIVING_ASPECT, REFERENCE_ASPECT)
    assert driven.guessed == ("leg_upper", "leg_lower")
    assert driven.to_record() == {
        "num_people": 1, "aligned": True, "pose_start_frame": 0, "supposed_lengths": ["leg_upper", "leg_lower"],
    }  # fmt: skip
    assert driven.notes() == []
    whole, _ = aligned(dancer())
    np.testing.assert_allclose(driven.people[0].body, whole[0].body, atol=0.15)
    # Where the estimator supposes them, the release takes them.
    supposed = hidden(reference(), LEGS, slice(None), None)
    assert_same(aligned(dancer(), to=supposed)[0], whole)
