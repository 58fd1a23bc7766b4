import itertools

import numpy as np
import pytest

from steadydancer.models.tracking import MAX_GAP_FRAMES, Detections, assign, link

RED, BLUE, GREY = (0.8, 0.1, 0.1), (0.1, 0.2, 0.8), (0.5, 0.5, 0.5)


Path = list[tuple[float, float] | None]
Colour = tuple[float, float, float]


def scene(*people: tuple[Path, float, Colour], seed: int = 0) -> tuple[list[Detections], list[list[int]]]:
    """(detections of each frame in random order, each person's index in them) of people given as centres (None: not
    found), height in pixels and colour. Boxes tremble by 3 %, colours by 3 %."""
    rng = np.random.default_rng(seed)
    frames, truth = [], [[-1] * len(people[0][0]) for _ in people]
    for frame in range(len(people[0][0])):
        seen = [number for number, (path, _, _) in enumerate(people) if path[frame] is not None]
        rng.shuffle(seen)
        boxes, colours = np.zeros((len(seen), 4)), np.zeros((len(seen), 4, 3))
        for index, number in enumerate(seen):
            path, height, colour = people[number]
            half = height / 2 * np.array([0.4, 1.0])
            corners = np.stack([path[frame] - half, path[frame] + half])  # type: ignore[operator]
            boxes[index] = (corners + rng.normal(0, 0.03 * height, (2, 2))).reshape(4)
            colours[index] = colour + rng.normal(0, 0.03, (4, 3))
            truth[number][frame] = index
        frames.append(Detections(boxes, np.full(len(seen), 0.9), colours))
    return frames, truth


def line(start: tuple[float, float], step: tuple[float, float], num_frames: int) -> Path:
    return [(start[0] + step[0] * i, start[1] + step[1] * i) for i in range(num_frames)]


@pytest.mark.parametrize("height", [300, 24])
@pytest.mark.parametrize("colours", [(RED, BLUE), (GREY, GREY)])
def test_people_who_cross_keep_their_identities(height: float, colours: tuple[Colour, ...]) -> None:
    one = line((100, 200), (0.08 * height, 0), 60)
    other = line((100 + 59 * 0.08 * height, 202), (-0.08 * height, 0), 60)
    for hidden in (0, 6):  # frames in the middle in which the one behind is not found
        other_seen = [None if abs(i - 29.5) < hidden / 2 else place for i, place in enumerate(other)]
        frames, truth = scene((one, height, colours[0]), (other_seen, 0.96 * height, colours[1]))
        tracks, far = link(frames), np.abs(np.arange(60) - 29.5) > 5
        np.testing.assert_array_equal(tracks[:, far], np.array(truth)[:, far])
        if colours[0] != colours[1]:  # alike, and only one of them found: nobody knows which
            np.testing.assert_array_equal(tracks, truth)


def test_people_who_meet_and_turn_back_are_told_by_their_clothes() -> None:
    there = [(100 + 8.0 * i, 200.0) for i in range(20)]
    one = there + there[::-1]
    other = [(500 - place[0], 200.0) for place in one]
    other_seen = [None if 16 <= i < 24 else place for i, place in enumerate(other)]  # behind the one, unseen
    frames, truth = scene((one, 120, RED), (other_seen, 110, BLUE))
    np.testing.assert_array_equal(link(frames), truth)


def test_who_comes_goes_or_is_hidden_for_a_while() -> None:
    stays = line((100, 300), (1, 0), 50)
    comes = [None] * 20 + line((600, 300), (-2, 0), 30)
    goes = line((400, 300), (3, 0), 15) + [None] * 35
    hidden = line((800, 300), (0.5, 0.5), 50)
    hidden[22:40] = [None] * 18
    frames, truth = scene((stays, 200, RED), (comes, 190, BLUE), (goes, 180, GREY), (hidden, 170, (0.1, 0.8, 0.1)))
    tracks = link(frames)
    assert sorted(tracks.tolist()) == sorted(truth)
    assert tracks[0].tolist() == truth[0]


def test_somebody_else_in_the_same_place_is_not_the_same_person() -> None:
    first = line((200, 200), (0, 0), 20) + [None] * 40
    second = [None] * 30 + line((205, 200), (0, 0), 30)
    company = line((500, 200), (0, 0), 60)
    frames, truth = scene((company, 100, GREY), (first, 100, RED), (second, 60, BLUE))
    assert sorted(link(frames).tolist()) == sorted(truth)
    back = [None] * (21 + MAX_GAP_FRAMES) + line((200, 200), (0, 0), 9 + 30 - MAX_GAP_FRAMES)  # away for too long
    frames, truth = scene((company, 100, GREY), (first, 100, RED), (back, 100, RED))
    assert len(link(frames)) == 3


def test_the_main_person_is_large_long_seen_and_sure() -> None:
    small, large = line((100, 100), (0, 0), 20), line((400, 100), (0, 0), 20)
    frames, truth = scene((small, 100, RED), (large, 200, BLUE))
    assert link(frames).tolist() == [truth[1], truth[0]]
    shortly = [None] * 15 + large[15:]  # 4 × the area, a quarter of the time, and then less sure
    frames, truth = scene((small, 100, RED), (shortly, 190, BLUE))
    assert link(frames).tolist() == [truth[0], truth[1]]
    frames, truth = scene((small, 100, RED), (large, 120, BLUE))
    unsure = [
        Detections(found.boxes, np.where(np.arange(2) == truth[1][index], 0.55, 0.95), found.colours)
        for index, found in enumerate(frames)
    ]
    assert link(frames).tolist() == [truth[1], truth[0]]
    assert link(unsure).tolist() == [truth[0], truth[1]]  # 1.44 × the area, but 0.58 × the score


def test_false_alarms_are_dropped() -> None:
    dancer = line((300, 300), (2, 0), 60)
    flicker = [None] * 60
    flicker[10] = flicker[30] = (900.0, 100.0)
    flicker[31] = (905.0, 100.0)
    frames, truth = scene((dancer, 400, RED), (flicker, 80, GREY))
    assert link(frames).tolist() == [truth[0]]


def test_alone_a_person_is_one_track_however_far_she_jumps() -> None:
    jumps = [None, (100.0, 100.0), (900.0, 700.0), None, (100.0, 900.0), (500.0, 5.0)]
    frames, _ = scene((jumps, 50, RED))
    assert link(frames).tolist() == [[-1, 0, 0, -1, 0, 0]]
    nobody, _ = scene(([None] * 4, 50, RED))
    assert link(nobody).shape == (0, 4)
    assert link([]).shape == (0, 0)


def test_a_picture_of_two_is_two() -> None:
    frames, truth = scene(([(100.0, 100.0)], 80, RED), ([(300.0, 100.0)], 120, BLUE))
    assert link(frames).tolist() == [truth[1], truth[0]]


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (4, 4), (4, 6)])
def test_the_assignment_is_the_cheapest_of_all(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0] * 10 + shape[1])
    for _ in range(20):
        costs = rng.random(shape)
        pairs = dict(assign(costs))
        assert sorted(pairs) == list(range(shape[0]))
        assert len(set(pairs.values())) == shape[0]
        best = min(
            sum(costs[row, column] for row, column in enumerate(columns))
            for columns in itertools.permutations(range(shape[1]), shape[0])
        )
        assert sum(costs[row, column] for row, column in pairs.items()) == pytest.approx(best)
