"""DWPose end to end on painted pictures: two ONNX models that see coloured dots stand for the two networks.

The toy pose network knows each pair of left and right keypoints by one colour and tells them apart as a real one does
for somebody who faces the camera: what is left of the crop's middle is on the right.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.models.pose import dwpose
from steadydancer.models.pose.dwpose import DWPose, decode_simcc, detection_size, mirrored_keypoints
from steadydancer.models.pose.top_down import run_in_batches
from steadydancer.models.weights import lookup as weights

pytest.importorskip("onnxruntime")

WIDTH, HEIGHT = 96, 128  # of the toy network's crops, a ninth of DWPose-l's pixels
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
MIRRORED = mirrored_keypoints()
PAIRS = sorted({tuple(sorted((left, right))) for left, right in enumerate(MIRRORED)})
LEVELS = np.arange(7) * 42.5
# Full in one channel at least, so that a dot's rim, which is darker, is no other dot's colour.
COLOURS = [c.round() for c in np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), axis=-1).reshape(-1, 3) if c.max() == 255]
COLOUR_OF = {keypoint: COLOURS[number] for number, pair in enumerate(PAIRS) for keypoint in pair}


def is_left(keypoint: int) -> bool:
    """Of two mirror images, COCO-WholeBody's left one has the lower number, but in the face."""
    return keypoint > MIRRORED[keypoint] if 23 <= keypoint < 91 else keypoint < MIRRORED[keypoint]


def places() -> np.ndarray:
    """[133, 2] in shares of a person's box: twelve columns of dots, left keypoints in the right half, none amid."""
    lefts = [k for k in range(133) if is_left(k)]
    rights = [k for k in range(133) if MIRRORED[k] != k and not is_left(k)][::-1]  # no mirror image of the lefts
    middles = [k for k in range(133) if MIRRORED[k] == k]
    slots = [(column, row) for row in range(12) for column in range(12) if {column, row} - {5, 6}]
    out = np.zeros((133, 2))
    for keypoints, is_right in ((lefts + middles[:9], True), (rights + middles[9:], False)):
        half = [slot for slot in slots if (slot[0] >= 6) == is_right]
        out[keypoints] = (np.array(half[: len(keypoints)]) + 0.5) / 12
    return out


PLACES = places()


def paint(
    frame: np.ndarray, cell: tuple[int, int], box_width: int, dim: tuple[int, ...] = (), red: int = 200
) -> np.ndarray:
    """A person around a cell's centre; the keypoints [133, 2] in shares of the picture.

    `box_width` counts the detector's pixels; `dim` dots are off their colours; `red` sets the score.
    """
    size = np.array(frame.shape[1::-1])
    shown = np.array(detection_size(*frame.shape[:2])[::-1])
    unit = max(shown) / 640 * size / shown  # pixels of the frame in one of the detector, along x and y
    centre = (np.array(cell) * 32 + 16) * unit
    points = centre + (PLACES - 0.5) * (box_width, box_width * 4 / 3) * unit
    for keypoint, point in enumerate(points):
        at, radius = np.round(point * 16).astype(int).tolist(), round(box_width * unit[0] / 34 * 16)
        colour = COLOUR_OF[keypoint] - 15 * (COLOUR_OF[keypoint] == 255) * (keypoint in dim)
        cv2.circle(frame, at, radius, colour.tolist(), thickness=-1, shift=4)
    # The mark is for the detector: too dark to be a dot.
    left, top = np.round(centre - 5 * unit).astype(int)
    right, bottom = np.round(centre + 5 * unit).astype(int)
    frame[top:bottom, left:right] = (red, 200, box_width // 2)
    return points / size


def write_toy_dwpose(graph: Any, path: Path, batch: int | str, glare: bool = True) -> None:
    """Dots of the right colour, summed along rows and columns; with `glare` it sees less the further to the right."""
    colours = (np.stack([COLOUR_OF[k][::-1] for k in range(133)]) - MEAN) / STD  # it is shown blue first
    squares = graph.add("Conv", graph.add("Mul", "input", "input"), np.ones((1, 3, 1, 1)))
    squares = graph.add("Mul", squares, np.array(10.0))
    # 1 − 10 · |colour − c|², where that is positive
    near = graph.add("Conv", "input", 20 * colours.reshape(133, 3, 1, 1), 1 - 10 * (colours**2).sum(axis=1))
    dots = graph.add("Relu", graph.add("Sub", near, squares))
    half = np.arange(WIDTH) >= WIDTH // 2
    side = np.stack([np.ones(WIDTH) if MIRRORED[k] == k else half == is_left(k) for k in range(133)])
    sight = side * (1.5 - np.arange(WIDTH) / (WIDTH - 1) if glare else 1.0)
    dots = graph.add("Mul", dots, sight.reshape(1, 133, 1, WIDTH))
    outputs = {}
    for axis, length in ((2, WIDTH), (3, HEIGHT)):
        profile = graph.add("Unsqueeze", graph.add("ReduceSum", dots, np.array([axis]), keepdims=0), np.array([3]))
        doubled = graph.add("Reshape", graph.add("Concat", profile, profile, axis=3), np.array([0, 0, -1]))
        smooth = graph.add("AveragePool", doubled, kernel_shape=[3], pads=[1, 1])
        outputs[graph.add("Mul", smooth, np.array(0.19))] = [batch, 133, 2 * length]
    graph.save(path, [batch, 3, HEIGHT, WIDTH], outputs)


@pytest.fixture
def open_toy(tmp_path: Path, onnx_graph: Any, write_toy_yolox: Any) -> Callable[..., DWPose]:
    def open_(batch: int | str = "batch", glare: bool = True, **options: Any) -> DWPose:
        folder = tmp_path / f"{batch}_{glare}"
        write_toy_yolox(folder / "yolox_l.onnx", batch)
        write_toy_dwpose(onnx_graph(), folder / "dw-ll_ucoco_384.onnx", batch, glare)
        return DWPose(folder, folder, **options)

    return open_


def openpose(points: np.ndarray) -> np.ndarray:
    """[18, 2] of [133, 2], written out joint by joint."""
    neck = (points[5] + points[6]) / 2
    order = [0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    return np.stack([neck if k is None else points[k] for k in order])


@pytest.mark.parametrize(("shape", "cell", "width"), [((1024, 1024), (10, 9), 180), ((450, 800), (9, 5), 200)])
def test_every_keypoint_comes_back_from_where_it_was_painted(
    open_toy: Callable[..., DWPose], shape: tuple[int, int], cell: tuple[int, int], width: int
) -> None:
    frame = np.zeros((*shape, 3), np.uint8)
    points = paint(frame, cell, width)
    (track,) = open_toy().estimate(frame[None])
    # A pixel of the crop, which is 1.25 boxes wide; the answer comes in halves of it.
    shown = detection_size(*shape)
    pixel = 1.25 * width * max(shown) / 640 / WIDTH / np.array(shown[::-1])
    assert track.pose.body_visible.all()
    assert track.pose.faces is not None
    parts = [
        (track.pose.body[0], openpose(points)),
        (track.pose.hands[0, 0], points[91:112]),  # the left hand first
        (track.pose.hands[0, 1], points[112:133]),
        (track.pose.faces[0], points[23:91]),
    ]
    off = np.abs(np.concatenate([(found - painted) / pixel for found, painted in parts]))
    assert off.max() <= 1.5
    assert np.median(off) <= 0.5


def test_what_is_not_seen_is_marked_as_released(open_toy: Callable[..., DWPose]) -> None:
    frame = np.zeros((1024, 1024, 3), np.uint8)
    points = paint(frame, (10, 9), 180, dim=(0, 6, 40, 100, 112))
    (track,) = open_toy().estimate(frame[None])
    assert np.flatnonzero(~track.pose.body_visible[0]).tolist() == [0, 1, 2]  # the neck goes with a shoulder
    np.testing.assert_allclose(track.pose.body[0], openpose(points), atol=0.005)  # but all keep their places
    assert track.pose.hands[0, 0, 9].tolist() == track.pose.hands[0, 1, 0].tolist() == [-1, -1]
    assert track.pose.faces is not None
    assert track.pose.faces[0, 17].tolist() == [-1, -1]
    assert (track.pose.hands == -1).sum() == 4
    assert (track.pose.faces == -1).sum() == 2
    assert (track.confidence[0, [0, 1, 2]] < 0.35).all()
    assert (track.confidence[0, 3:] > 0.5).all()


def test_the_mirror_image_is_seen_too_with_left_and_right_exchanged(open_toy: Callable[..., DWPose]) -> None:
    frame = np.zeros((1024, 1024, 3), np.uint8)
    paint(frame, (10, 9), 180)
    glared = open_toy(glare=True).estimate(frame[None])[0]
    even = open_toy(glare=False).estimate(frame[None])[0]
    # What the glare takes from one image it gives to the other: their mean is what is seen without it.
    np.testing.assert_allclose(glared.confidence, even.confidence, atol=0.03)
    np.testing.assert_array_equal(glared.pose.body_visible, even.pose.body_visible)
    np.testing.assert_allclose(glared.pose.hands, even.pose.hands, atol=0.008)


def test_several_people_keep_their_tracks_and_the_batch_changes_nothing(open_toy: Callable[..., DWPose]) -> None:
    frames = np.zeros((4, 1024, 1024, 3), np.uint8)
    big, small = np.zeros((4, 133, 2)), np.zeros((4, 133, 2))
    for index, frame in enumerate(frames):
        big[index] = paint(frame, (4 + (index > 2), 10), 180)
        if index != 2:
            small[index] = paint(frame, (15, 14 - (index > 2)), 110)
    tracks = open_toy(batch_size=2).estimate(frames)
    assert len(tracks) == 2
    for track, points in zip(tracks, (big, small), strict=True):
        seen = track.pose.body_visible.all(axis=1)
        assert seen.tolist() == [bool(row.any()) for row in points]
        np.testing.assert_allclose(track.pose.body[seen], [openpose(row) for row in points[seen]], atol=0.005)
    gone = tracks[1]
    assert (gone.pose.body[2] == -1).all()
    assert (gone.pose.hands[2] == -1).all()
    assert (gone.confidence[2] == 0).all()
    two = frames[:2]  # dear ones
    for other in (open_toy(batch_size=1), open_toy(batch=1, batch_size=2)):  # one by one; a file that is for one only
        for track, same in zip(tracks, other.estimate(two), strict=True):
            np.testing.assert_array_equal(track.pose.body[:2], same.pose.body)
            np.testing.assert_array_equal(track.pose.hands[:2], same.pose.hands)
            np.testing.assert_array_equal(track.confidence[:2], same.confidence)
    (main,) = open_toy(max_people=1).estimate(two)
    np.testing.assert_array_equal(main.pose.body, tracks[0].pose.body[:2])


def test_one_person_in_company_is_the_same_as_alone(open_toy: Callable[..., DWPose]) -> None:
    frames = np.zeros((1, 1024, 1024, 3), np.uint8)
    for frame in frames:
        paint(frame, (4, 10), 180)
    (alone,) = open_toy().estimate(frames)
    for frame in frames:
        paint(frame, (15, 14), 100)
    main, _ = open_toy().estimate(frames)
    np.testing.assert_array_equal(main.pose.body, alone.pose.body)
    np.testing.assert_array_equal(main.pose.hands, alone.pose.hands)
    np.testing.assert_array_equal(main.confidence, alone.confidence)


def test_unsure_boxes_count_for_nothing_and_then_the_whole_picture_is_searched(
    open_toy: Callable[..., DWPose],
) -> None:
    frames = np.zeros((2, 1344, 1024, 3), np.uint8)
    for frame, red in zip(frames, (209, 204), strict=True):  # scores 1 − 0.81, nobody says the detector, and 1 − 0.16
        points = paint(frame, (7, 10), 400, red=red)
    toy = open_toy()
    (track,) = toy.estimate(frames)
    assert track.pose.body_visible.all()
    np.testing.assert_allclose(track.pose.body, np.tile(openpose(points), (2, 1, 1)), atol=0.03)
    boxes, _ = toy._find_people(frames)
    np.testing.assert_allclose(boxes[0, 0], [0, 0, 1024, 1344])
    unit = 1344 / 640
    painted = np.array([240 - 200, 336 - 800 / 3, 240 + 200, 336 + 800 / 3]) * unit
    np.testing.assert_allclose(boxes[0, 1], painted, rtol=1e-3)
    assert open_toy().estimate(np.zeros((2, 256, 320, 3), np.uint8)) == []
    assert open_toy().estimate(np.zeros((0, 256, 320, 3), np.uint8)) == []


def test_simcc_is_decoded_like_the_release() -> None:
    x, y = np.zeros((1, 3, 8), np.float32), np.zeros((1, 3, 6), np.float32)
    x[0, 0, 5], y[0, 0, 2] = 0.9, 0.4
    x[0, 1, 7], y[0, 1] = 0.8, -0.1
    x[0, 2, [1, 6]], y[0, 2, 3] = 0.5, 0.7
    points, scores = decode_simcc(x, y)
    np.testing.assert_allclose(scores[0], [0.4, -0.1, 0.5])
    np.testing.assert_array_equal(points[0], [[2.5, 1], [-0.5, -0.5], [0.5, 1.5]])


def test_a_mirror_exchanges_what_has_a_left_and_a_right() -> None:
    assert [MIRRORED[MIRRORED[k]] for k in range(133)] == list(range(133))
    assert MIRRORED[:23] == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 20, 21, 22, 17, 18, 19]
    assert MIRRORED[91:] == [*range(112, 133), *range(91, 112)]
    face = [k - 23 for k in MIRRORED[23:91]]
    assert face[:17] == list(range(16, -1, -1))  # the jaw's seventeen points, ear to ear
    assert [k for k in range(68) if face[k] == k] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert (face[36], face[39], face[48]) == (45, 42, 54)  # outer and inner corners of the eyes, corners of the mouth


@pytest.mark.parametrize(
    ("shape", "shown"), [((64, 32), (2048, 1024)), ((1080, 1920), (1024, 1792)), ((720, 1280), (1024, 1792))]
)
def test_frames_are_shown_with_a_short_side_of_1024(shape: tuple[int, int], shown: tuple[int, int]) -> None:
    assert detection_size(*shape) == shown


def test_a_file_that_is_no_model_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(weights.WeightsError, match=r"file .*yolox_l\.onnx does not exist: pass the folder"):
        DWPose(tmp_path, tmp_path)
    (tmp_path / "yolox_l.onnx").write_bytes(b"cut off")
    with pytest.raises(weights.WeightsError, match=r"yolox_l\.onnx cannot be opened .* download it again"):
        DWPose(tmp_path, tmp_path)


def test_a_network_is_run_in_batches_where_its_file_allows() -> None:
    class Session:
        def __init__(self, batch: int | str) -> None:
            self.shape, self.sizes = [batch, 3, 4, 5], []

        def get_inputs(self) -> list[Any]:
            return [type("Node", (), {"name": "in", "shape": self.shape})]

        def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            assert feed["in"].shape[1:] == (3, 4, 5)
            assert feed["in"].dtype == np.float32
            self.sizes.append(len(feed["in"]))
            return [feed["in"].sum(axis=(1, 2, 3)), feed["in"][:, 0]]

    inputs = np.random.default_rng(0).random((7, 4, 5, 3))
    for batch, sizes in (("n", [3, 3, 1]), (1, [1] * 7)):
        session = Session(batch)
        sums, planes = run_in_batches(session, inputs, 3)
        assert session.sizes == sizes
        np.testing.assert_allclose(sums, inputs.sum(axis=(1, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(planes, inputs[..., 0], rtol=1e-6)


def test_nothing_is_written_where_a_command_reports(open_toy: Callable[..., DWPose], capsys: Any) -> None:
    open_toy()
    assert capsys.readouterr().out == ""
    assert dwpose.MIN_VISIBLE == 0.35
