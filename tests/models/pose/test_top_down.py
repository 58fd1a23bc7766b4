from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.arrays import Floats, Frames
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.models.pose.top_down import BoxDetector, TopDownEstimator, _cells, _colours, open_network
from steadydancer.models.pose.track import PoseTrack

HERE, THERE = (10.0, 10.0, 30.0, 60.0), (60.0, 5.0, 90.0, 80.0)
# Who is found in each of eight frames; the frame's number is its first pixel.
FOUND = [[HERE, THERE], [THERE], [], [THERE, HERE], [HERE], [HERE], [HERE, THERE], [THERE]]


class Corners(TopDownEstimator):
    """Two keypoints: the corners of the box. Keeps count of how many frames are in hand at a time."""

    name = "corners"

    def __init__(self, batch_size: int, max_people: int | None = None) -> None:
        super().__init__(self.find, self.look, batch_size, max_people)

    def prepare(self, frame: Frames) -> Frames:
        return frame.repeat(2, axis=0).repeat(2, axis=1)  # boxes are in pixels of these

    def find(self, images: Sequence[Frames], batch_size: int) -> list[tuple[Floats, Floats]]:
        assert len(images) <= self.batch_size
        found = [2 * np.array(FOUND[image[0, 0, 0]]).reshape(-1, 4) for image in images]
        return [(boxes, np.full(len(boxes), 0.9)) for boxes in found]

    def look(self, people: list[tuple[Frames, Floats]], batch_size: int) -> tuple[Floats, Floats]:
        assert 0 < len(people) <= self.batch_size
        assert all(image.shape == (200, 240, 3) for image, _ in people)
        numbers = [image[0, 0, 0] / 10 for image, _ in people]
        return np.stack([box.reshape(2, 2) for _, box in people]), np.stack([numbers, np.ones(len(people))], axis=1)

    def to_track(self, points: Floats, scores: Floats) -> PoseTrack:
        body = np.repeat(points[:, :1], 18, axis=1)
        body[:, 1:] = points[:, 1:]
        no_hands = np.full((len(body), 2, 21, 2), -1.0)
        return PoseTrack(PoseSequence(body, np.repeat(scores[:, 1:] > 0, 18, axis=1), no_hands), scores)


def test_each_box_is_looked_at_once_in_its_own_frame_and_few_frames_are_in_hand() -> None:
    frames = np.zeros((8, 100, 120, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(8)
    for batch_size in (1, 3, 8):
        there, here = Corners(batch_size).estimate(frames)
        for track, box, seen in ((there, THERE, [0, 1, 2, 3, 6, 7]), (here, HERE, [0, 3, 4, 5, 6])):
            assert np.flatnonzero(track.pose.body_visible.all(axis=1)).tolist() == seen
            corners = np.tile(np.array(box).reshape(2, 2) / (120, 100), (8, 1, 1))
            corners[2] = [[0, 0], [1, 1]]  # nobody found: the whole picture, for the main person
            np.testing.assert_allclose(track.pose.body[seen, :2], corners[seen], rtol=1e-6)
            np.testing.assert_allclose(track.confidence[seen, 0], np.array(seen) / 10, rtol=1e-6)
            unseen = np.setdiff1d(np.arange(8), seen)
            assert (track.pose.body[unseen] == -1).all()
            assert (track.confidence[unseen] == 0).all()
    (main,) = Corners(3, max_people=1).estimate(frames)
    np.testing.assert_array_equal(main.pose.body, there.pose.body)
    assert Corners(3).counts_people
    assert not Corners(3, max_people=1).counts_people


def test_one_person_a_frame_is_one_track_of_every_frame() -> None:
    frames = np.zeros((4, 100, 120, 3), np.uint8)
    frames[:, 0, 0, 0] = [1, 4, 7, 2]  # THERE, HERE, THERE, nobody
    (track,) = Corners(2).estimate(frames)
    expected = np.array([THERE, HERE, THERE, (0, 0, 120, 100)]).reshape(4, 2, 2) / (120, 100)
    np.testing.assert_allclose(track.pose.body[:, :2], expected, rtol=1e-6)


def test_colours_of_a_box_are_those_of_its_middle_half_in_four_stripes() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    for stripe, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 153)]):
        image[4 + 8 * stripe : 12 + 8 * stripe, 15:25] = colour  # of a box from 10 to 30 and from 4 to 36
    of_box, beyond, empty = _colours(image, np.array([[10.0, 4, 30, 36], [-60, -10, 20, 70], [70, 0, 90, 30]]))
    np.testing.assert_allclose(of_box, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.4, 0.6]])
    assert not beyond.any()  # its middle half ends where the picture begins
    assert not empty.any()
    clipped = _colours(image, np.array([[10.0, -28, 30, 12]]))[0]  # what lies above the picture is left out
    np.testing.assert_allclose(clipped, [[0, 0, 0], [2 / 3, 0, 0], [1, 0, 0], [1, 0, 0]], atol=2 / 255)


def test_cells_of_the_detector_are_counted_row_by_row_fine_grids_first() -> None:
    cells = _cells(64, 96)
    assert len(cells) == 8 * 12 + 4 * 6 + 2 * 3
    assert cells[[0, 1, 12, 95, 96, 97, 102, 120, 123, -1]].tolist() == [
        [0, 0, 8], [1, 0, 8], [0, 1, 8], [11, 7, 8], [0, 0, 16], [1, 0, 16], [0, 1, 16], [0, 0, 32], [0, 1, 32],
        [2, 1, 32],
    ]  # fmt: skip


def test_boxes_are_read_off_their_cells_scored_by_both_numbers_and_the_best_come_first() -> None:
    pytest.importorskip("rtmlib")
    detector = object.__new__(BoxDetector)
    detector._yolox = SimpleNamespace(model_input_size=(64, 64))
    detector.classes, detector.min_score, detector.max_overlap = [0, 2], 0.5, 0.7
    rows = np.zeros((84, 85), np.float32)

    def put(cell: int, place: tuple[float, float], size: tuple[float, float], sure: float, **classes: float) -> None:
        """Offsets from the cell's corner and sides in its strides."""
        rows[cell, :5] = [*place, *np.log(size), sure]
        for name, value in classes.items():
            rows[cell, 5 + int(name.removeprefix("class_"))] = value

    put(10, (0.5, 0.25), (2, 3), 0.75, class_0=0.75)  # stride 8, row 1, column 2: around (20, 10), 16 × 24
    put(11, (-0.5, 0.25), (2, 2.4), 0.75, class_0=0.7)  # four fifths of it, from a cell further right, and less sure
    put(12, (-1.5, 0.25), (2, 1.8), 0.75, class_0=0.7)  # three fifths of it: somebody else
    put(69, (0.0, 0.0), (1, 1), 0.75, class_2=1.0, class_0=0.1)  # stride 16, row 1, column 1
    put(83, (0.5, 0.5), (1, 1), 1.0, class_1=1.0, class_3=1.0)  # another thing
    put(30, (0.5, 0.5), (1, 1), 1.0, class_0=0.5)  # no likelier than not
    put(40, (0.5, 0.5), (1, 1), 0.6, class_0=0.6, class_2=0.6)  # 0.36
    put(41, (0.5, 0.5), (1, 1), 0.4, class_0=1.0)
    boxes, scores = detector._boxes(rows, 2.0)
    assert scores.tolist() == pytest.approx([0.75, 0.5625, 0.525])
    expected = np.array([[8, 8, 24, 24], [12, -2, 28, 22], [12, 2.8, 28, 17.2]]) / 2  # of the picture as it was
    np.testing.assert_allclose(boxes, expected, rtol=1e-5)


def test_a_files_own_size_is_taken_in_the_order_that_the_tool_wants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "network.onnx").write_bytes(b"")

    def tool(sizes: list[Any]) -> Any:
        def kind(path: str, device: str, **options: Any) -> Any:
            print("load", path)
            assert (path, device) == (str(tmp_path / "network.onnx"), "cuda")
            session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(shape=[1, 3, *sizes])])
            return SimpleNamespace(session=session, **options)

        return kind

    path = tmp_path / "network.onnx"
    assert open_network(tool([8, 12]), path, "cuda").model_input_size == (12, 8)
    assert open_network(tool([8, 12]), path, "cuda", height_first=True).model_input_size == (8, 12)
    for sizes in (["height", "width"], [8, "width"]):  # the file takes any: what was given stays
        assert open_network(tool(sizes), path, "cuda", model_input_size=(6, 4)).model_input_size == (6, 4)
    assert capsys.readouterr().out == ""
