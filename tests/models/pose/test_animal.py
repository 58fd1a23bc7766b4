"""Animals end to end on painted pictures: two ONNX models that see coloured dots stand for the two networks."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.datasets.skeleton import align_to_reference
from steadydancer.models.pose.animal import AnimalPose

pytest.importorskip("onnxruntime")

WIDTH, HEIGHT = 96, 128  # of the toy network's crops
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
NAMES = "leye,reye,nose,neck,tail,lsho,lelb,lpaw,rsho,relb,rpaw,lhip,lkne,lank,rhip,rkne,rank"
COLOURS = [np.array([(n % 3) * 127.5, (n // 3 % 3) * 127.5, 255.0]).round() for n in range(9)] + [
    np.array([255.0, (n % 3) * 127.5, (n // 3) * 51.0]).round() for n in range(8)
]


@pytest.fixture
def animals(tmp_path: Path, onnx_graph: Any, write_toy_yolox: Any) -> AnimalPose:
    """A detector of marks, and a network with a heat map of a quarter of the crop's size for each colour."""
    write_toy_yolox(tmp_path / "yolox_l.onnx", "batch")
    colours = (np.stack(COLOURS) - MEAN) / STD  # red first: the order it was trained on
    graph = onnx_graph()
    squares = graph.add("Conv", graph.add("Mul", "input", "input"), np.full((1, 3, 1, 1), 5.0))
    near = graph.add("Conv", "input", 10 * colours.reshape(17, 3, 1, 1), 1 - 5 * (colours**2).sum(axis=1))
    dots = graph.add("Relu", graph.add("Sub", near, squares))
    heat = graph.add("AveragePool", dots, kernel_shape=[4, 4], strides=[4, 4])
    path = tmp_path / "onnx" / "apt36k" / "vitpose-b-apt36k.onnx"
    graph.save(path, ["batch", 3, HEIGHT, WIDTH], {heat: ["batch", 17, HEIGHT // 4, WIDTH // 4]})
    return AnimalPose(tmp_path, tmp_path, batch_size=2)


def paint(frame: np.ndarray, cell: tuple[int, int], missing: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """A dog around a cell's centre in a picture of 640 × 640; where its keypoints are, in shares of the picture."""
    centre = np.array(cell) * 32.0 + 16
    cv2.rectangle(frame, (centre - 5).astype(int).tolist(), (centre + 4).astype(int).tolist(), (90, 100, 200), -1)
    places = {}
    for number, (name, colour) in enumerate(zip(NAMES.split(","), COLOURS, strict=True)):
        column, row = number % 4, number // 4
        point = np.round(centre + np.array([column * 44 - 66, row * 50 - 100 + (row > 1) * 20]))
        places[name] = point / 640
        if name not in missing:
            cv2.circle(frame, point.astype(int).tolist(), 12, colour.tolist(), thickness=-1)
    # The detector is shown blue first: its red 200 and kind 100 are this picture's blue and green.
    return places


def test_a_dog_is_a_person_on_four_legs(animals: AnimalPose) -> None:
    frames = np.zeros((3, 640, 640, 3), np.uint8)
    for frame in frames:
        places = paint(frame, (9, 9), missing=("rkne",))
    (track,) = animals.estimate(frames)
    names = "nose,neck,rsho,relb,rpaw,lsho,lelb,lpaw,rhip,rkne,rank,lhip,lkne,lank,reye,leye"
    order = names.split(",")
    seen = np.array([*(name != "rkne" for name in order), False, False])
    assert (track.pose.body_visible == seen).all()
    expected = np.stack([places[name] for name in order])
    # A cell of the heat map is four pixels of a crop that is 1.25 boxes of 240 high.
    cell = 4 * 1.25 * 240 / HEIGHT / 640
    for body in track.pose.body:
        np.testing.assert_allclose(body[seen], expected[seen[:16]], atol=cell)
    assert (track.pose.hands == -1).all()
    assert track.pose.faces is None
    assert (track.confidence[:, 16:] == 0).all()
    head = track.pose.body[0]
    np.testing.assert_allclose(head[[16, 17]] - head[[14, 15]], head[[14, 15]] - head[0], atol=1e-6)
    assert np.isfinite(align_to_reference(track.pose, track.pose, 1.0, 1.0).body).all()


def test_several_animals_are_tracked_and_people_are_none(animals: AnimalPose) -> None:
    frames = np.zeros((4, 640, 640, 3), np.uint8)
    for frame in frames:
        paint(frame, (4, 9))
        paint(frame, (14, 9))
        frame[40:48, 312:320] = (90, 200, 200)  # the mark of a person, who would be as large
    tracks = animals.estimate(frames)
    assert len(tracks) == 2
    assert animals.counts_people
    necks = np.stack([track.pose.body[:, 1] for track in tracks])
    np.testing.assert_allclose(sorted(necks[:, 0, 0]), [(144 + 66) / 640, (464 + 66) / 640], atol=0.02)
    assert (np.ptp(necks, axis=1) < 1e-6).all()
    assert animals.estimate(np.zeros((2, 64, 48, 3), np.uint8)) == []
