"""One body is one person however often it is found; two beside each other are two."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from steadydancer.datasets.toydance import toy_pose
from steadydancer.datasets.video import decode, probe
from steadydancer.models.curation.person_counter import (
    Person,
    PersonCounter,
    drop_duplicates,
    joint_overlap,
    non_maximum_suppression,
    tiles,
)
from steadydancer.models.weights import lookup as weights

CORPUS = Path(__file__).resolve().parents[4] / "shared" / "corpus"
FOLDER = weights.find(weights.weight("blazepose"))
# BlazePose's numbers of OpenPose's joints without the neck.
JOINTS = {0: 0, 2: 12, 3: 14, 4: 16, 5: 11, 6: 13, 7: 15, 8: 24, 9: 26, 10: 28, 11: 23, 12: 25, 13: 27, 14: 5, 15: 2}


def person(x: float, scale: float = 1.0, *, seed: int = 0, score: float = 0.9, seen: float = 0.95) -> Person:
    """A procedural dancer's body, 400 · scale pixels high, as the landmark network would give it."""
    body = toy_pose(seed, 1, 16).body[0] * 400 * scale
    points = np.repeat(body[:1], 33, axis=0)
    for openpose, blazepose in JOINTS.items():
        points[blazepose] = body[openpose]
    points = points + np.array([x, 400 * (1 - scale)])
    torso = np.linalg.norm(points[[11, 12]].mean(axis=0) - points[[23, 24]].mean(axis=0))
    return Person(points, np.full(33, seen), score, float(torso))


def test_what_lies_on_a_body_belongs_to_it() -> None:
    assert joint_overlap(person(0), person(3)) == 1.0
    assert joint_overlap(person(250), person(0)) < 0.1
    assert joint_overlap(person(0, seen=0.2), person(500)) == 1.0  # nothing sure: nobody of their own


@pytest.mark.parametrize(
    ("found", "count"),
    [
        ([], 0),
        ([person(0)], 1),
        ([person(0), person(4, 0.97), person(120, 0.3)], 1),  # twice, and the legs as a child
        ([person(0), person(250, seed=3)], 2),
        ([person(0), person(250, 0.5), person(480, 0.6)], 3),
        ([person(0), person(250, 0.25)], 1),  # far behind
        ([person(0), person(250, 0.9, score=0.55)], 1),
        ([person(0), person(250, seen=0.4)], 1),
    ],
)
def test_people_are_told_apart(found: list[Person], count: int) -> None:
    people = drop_duplicates(found[::-1])
    assert len(people) == count
    assert all(people[0].torso >= other.torso for other in people)


def test_tiles_cover_the_picture_and_overlap_by_half() -> None:
    for height, width in ((256, 256), (455, 256), (256, 640)):
        squares = tiles(height, width)
        assert squares[0] == (0, 0, height, width)
        covered = np.zeros((height, width), int)
        for top, left, rows, columns in squares[1:]:
            assert top >= 0 and left >= 0 and top + rows <= height and left + columns <= width
            covered[top : top + rows, left : left + columns] += 1
        assert covered.min() >= 1


def test_a_likelier_box_hides_those_it_overlaps() -> None:
    boxes = np.array([(0, 0, 10, 10, 0.8), (1, 1, 11, 11, 0.9), (20, 0, 30, 10, 0.6), (0, 0, 100, 100, 0.5)])
    assert non_maximum_suppression(boxes).tolist() == [1, 2, 3]


@pytest.mark.skipif(not (CORPUS / "clips").is_dir(), reason="../shared/corpus is not here")
@pytest.mark.skipif(
    FOLDER is None or importlib.util.find_spec("ai_edge_litert") is None, reason="BlazePose's weights are not here"
)
@pytest.mark.parametrize("name", ["dance_duo_night.mp4", "fashion_sequin.mp4", "juggle_football.mp4"])
def test_people_of_real_clips_are_counted(name: str) -> None:
    assert FOLDER is not None
    with (CORPUS / "clips.tsv").open() as file:
        expected = next(int(row["persons"]) for row in csv.DictReader(file, delimiter="\t") if row["file"] == name)
    info = probe(CORPUS / "clips" / name)
    scale = 256 / min(info.height, info.width)
    size = (round(info.height * scale / 2) * 2, round(info.width * scale / 2) * 2)
    frames = decode(CORPUS / "clips" / name, np.array([0.5, 1.0, 1.5]), *size)
    number, ratio = PersonCounter(FOLDER).count(frames)
    assert number == expected and (ratio > 0.5) == (expected == 2)
