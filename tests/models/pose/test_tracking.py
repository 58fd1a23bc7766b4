import itertools

import numpy as np
import pytest

from steadydancer.models.pose.tracking import MAX_GAP_FRAMES, Detections, _covered_shares, _match, _Track, assign, link

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


def square(x: float, y: float, side: float, colour: float | Colour = 0.5, score: float = 1.0) -> Detections:
    """One square, by its centre, in one colour, with two stripes."""
    box = np.array([[x - side / 2, y - side / 2, x + side / 2, y + side / 2]])
    return Detections(box, np.array([score]), np.broadcast_to(np.asarray(colour), (1, 2, 3)).astype(float))


def cost(track: _Track, frame: int, detections: Detections) -> float:
    (value,) = track.costs(frame, detections)
    return float(value)


def test_a_unit_of_cost_is_a_third_of_a_box_a_half_in_log_area_or_an_eighth_of_the_colours() -> None:
    track = _Track(0, square(100, 100, 40), 0)
    assert cost(track, 1, square(100, 100, 40)) == 0
    assert cost(track, 1, square(100 + 0.3 * 40, 100, 40)) == pytest.approx(1)
    assert cost(track, 1, square(100, 100 - 0.6 * 40, 40)) == pytest.approx(4)
    for growth in (0.25, -0.25):  # of the side; twice that of the area
        assert cost(track, 1, square(100, 100, 40 * np.exp(growth))) == pytest.approx(1)
    # A distance is counted in the mean size of both boxes, the geometric one.
    assert cost(track, 1, square(100 + 0.3 * 80, 100, 160)) == pytest.approx(1 + (2 * np.log(4) / 0.5) ** 2)
    assert cost(track, 1, square(100, 100, 40, 0.62)) == pytest.approx(1)
    assert cost(track, 1, square(100, 100, 40, (0.5, 0.5, 0.5 + 0.12 * 3**0.5))) == pytest.approx(1)
    shoes = square(100, 100, 40)
    shoes.colours[0, 1] += 0.12 * 2**0.5  # the second stripe alone
    assert cost(track, 1, shoes) == pytest.approx(1)
    everything = square(100 + 0.3 * 40, 100, 40, 0.62)
    assert cost(track, 1, everything) == pytest.approx(2)


def test_an_absence_widens_the_search_up_to_three_steps_and_people_slow_down() -> None:
    track = _Track(0, square(100, 100, 40), 0)
    assert cost(track, 4, square(100 + 0.6 * 40, 100, 40)) == pytest.approx(1)  # the root of the gap
    assert cost(track, 25, square(100, 100 + 0.9 * 40, 40)) == pytest.approx(1)
    track.add(1, square(110, 104, 40), 0, hidden=False)
    assert cost(track, 2, square(120, 108, 40)) == pytest.approx(0)
    coasted = 1 + 0.85 + 0.85**2
    assert cost(track, 4, square(110 + 10 * coasted, 104 + 4 * coasted, 40)) == pytest.approx(0)


def test_a_track_remembers_where_how_fast_how_large_and_in_which_colours() -> None:
    track = _Track(3, square(100, 100, 40, 0.5, score=0.5), 0)
    track.add(5, square(104, 96, 40, 1.0), 0, hidden=False)
    assert track.velocity.tolist() == [2, -2]  # a frame
    track.add(6, square(110, 96, 20, 0.0, score=0.25), 0, hidden=True)
    assert track.velocity.tolist() == [4, -1]  # half of it is new
    assert (track.centre.tolist(), track.size.tolist()) == ([[110, 96]], [20])
    np.testing.assert_allclose(track.colours, 0.8 * 0.5 + 0.2 * 1.0)  # who covers the third box gives it its colours
    assert (track.members, track.last_frame) == ({3: 0, 5: 0, 6: 0}, 6)
    assert track.importance == pytest.approx(0.5 * 1600 + 1600 + 0.25 * 400)


def test_what_covers_a_box_is_the_one_other_box_that_covers_most_of_it() -> None:
    boxes = np.array(
        [
            [0, 0, 10, 10],
            [5, 0, 25, 10],  # half of the first, which is a quarter of this
            [0, 8, 10, 10],  # a fifth of the first, and wholly within it
            [40, 40, 50, 50],  # apart in both directions
            [60, 0, 70, 10],  # beside the first in one
        ],
        float,
    )
    assert _covered_shares(boxes).tolist() == pytest.approx([0.5, 0.25, 1.0, 0.0, 0.0])
    assert _covered_shares(boxes[:1]).tolist() == [0.0]
    assert _covered_shares(boxes[:0]).tolist() == []


def test_colours_are_not_learned_where_another_covers_more_than_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: list[tuple[int, bool]] = []
    add = _Track.add

    def watched(self: _Track, frame: int, detections: Detections, found: int, is_hidden: bool) -> None:
        hidden.append((frame, is_hidden))
        add(self, frame, detections, found, is_hidden)

    monkeypatch.setattr(_Track, "add", watched)
    both = np.array([RED, BLUE])[:, None].repeat(2, axis=1)
    frames = [  # the second, of half the area, has twice the share covered
        Detections(np.array([[0.0, 0, 100, 100], [left, 0, left + 50, 100]]), np.ones(2), both)
        for left in (101.0, 91.0, 89.0, 81.0, 79.0)  # 0, 9, 11, 19 and 21 % of the first; 0, 18, 22, … of the second
    ]
    assert len(link(frames)) == 2
    assert hidden == [
        (1, False), (1, False), (2, False), (2, True), (3, False), (3, True), (4, True), (4, True)
    ]  # fmt: skip


def test_a_track_stays_without_where_the_likeliest_is_too_unlike() -> None:
    track = _Track(0, square(100, 100, 40), 0)
    for away, is_found in ((3.46, True), (3.47, False)):  # squared: 11.97 and 12.04, and 12 is the most
        matched = _match([track], square(100 + away * 0.3 * 40, 100, 40), 1)
        assert matched == ({0: track} if is_found else {})
    assert _match([], square(0, 0, 40), 1) == {}
    nobody = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 2, 3)))
    assert _match([track], nobody, 1) == {}


@pytest.mark.parametrize(("num_away", "num_tracks"), [(MAX_GAP_FRAMES - 1, 2), (MAX_GAP_FRAMES, 3)])
def test_who_is_away_for_thirty_frames_may_come_back(num_away: int, num_tracks: int) -> None:
    away: Path = [None] * num_away
    back = line((200, 200), (0, 0), 10) + away + line((200, 200), (0, 0), 10)
    frames, _ = scene((line((500, 200), (0, 0), len(back)), 100, GREY), (back, 100, RED))
    assert len(link(frames)) == num_tracks


@pytest.mark.parametrize(
    ("num_frames", "num_seen", "is_kept"),
    [(20, 2, False), (20, 3, True), (40, 3, False), (31, 3, False), (31, 4, True), (2, 2, True), (2, 1, False)],
)
def test_a_track_is_kept_from_three_frames_and_a_tenth_of_them(num_frames: int, num_seen: int, is_kept: bool) -> None:
    company: Path = line((400, 100), (0, 0), num_seen) + [None] * (num_frames - num_seen)
    frames, _ = scene((line((100, 100), (0, 0), num_frames), 100, RED), (company, 50, BLUE))
    assert len(link(frames)) == 1 + is_kept


def test_the_main_person_is_kept_however_shortly_seen() -> None:
    main: Path = [(100.0, 100.0), (101.0, 100.0), *[None] * 28]
    other: Path = [(300.0, 100.0), (301.0, 100.0), *[None] * 28]
    frames, truth = scene((other, 80, RED), (main, 120, BLUE))
    assert link(frames).tolist() == [truth[1]]
