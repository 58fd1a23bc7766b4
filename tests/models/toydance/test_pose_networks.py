"""`DWPose` (rtmlib) reads the exported files as the released ones: known cells and places come out where they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from steadydancer.datasets.toydance import toy_clip
from steadydancer.models.pose.dwpose import DWPose
from steadydancer.models.toydance.pose import DETECTOR_FILE, KEYPOINT_FILE, export
from steadydancer.models.toydance.pose_data import (
    LabelledFrame,
    crop_example,
    detection_example,
    labelled_frames,
    whole_body,
)
from steadydancer.models.toydance.pose_networks import (
    CROP_HEIGHT,
    CROP_WIDTH,
    DETECTOR_SIDE,
    KeypointNetwork,
    PersonDetector,
    detector_loss,
    keypoint_loss,
)


class KnownDetector(PersonDetector):
    """Answer with given cells [5, 8, 8], whatever the picture."""

    def __init__(self, cells: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", cells)

    def cells(self, pictures: Tensor) -> Tensor:
        return self.known[None] + 0 * pictures.mean(dim=(1, 2, 3), keepdim=True)[:, :, :1, :1]


class KnownKeypoints(KeypointNetwork):
    """Answer with the brightest column and row of the crop for all keypoints, so that places follow the picture."""

    def logits(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        light = crops.mean(dim=1)
        x = light.amax(dim=1).repeat_interleave(2, dim=-1)
        y = light.amax(dim=2).repeat_interleave(2, dim=-1)
        seen = torch.full_like(x[:, :1], 9.0).expand(-1, 133)
        return 9 * x[:, None].expand(-1, 133, -1), 9 * y[:, None].expand(-1, 133, -1), seen


def write(folder: Path, detector: PersonDetector, keypoints: KeypointNetwork) -> DWPose:
    export(detector, torch.zeros(2, 3, DETECTOR_SIDE, DETECTOR_SIDE), folder / DETECTOR_FILE, ["output"])
    crops = torch.zeros(2, 3, CROP_HEIGHT, CROP_WIDTH)
    export(keypoints, crops, folder / KEYPOINT_FILE, ["simcc_x", "simcc_y"])
    return DWPose(folder, folder, short_side=256)


def test_rtmlib_reads_box_and_keypoints(tmp_path: Path) -> None:
    # A person in column 4, row 3: centre (4.5, 3.25) cells = (36, 26) of 64 pixels, 24 × 40 pixels large.
    cells = torch.zeros(5, 8, 8)
    cells[4] = -20
    cells[:, 3, 4] = torch.tensor([0.5, 0.25, np.log(3), np.log(5), 20.0])
    estimator = write(tmp_path, KnownDetector(cells), KnownKeypoints())
    frames = np.zeros((3, 128, 128, 3), np.uint8)
    spots = [(70, 40), (62, 60), (80, 66)]  # x, y inside the box
    for frame, (x, y) in zip(frames, spots, strict=True):
        frame[y - 1 : y + 2, x - 1 : x + 2] = 255
    ((boxes, scores),) = estimator._detector([estimator.prepare(frames[0])], 1)
    np.testing.assert_allclose(boxes / 4, [[24, 6, 48, 46]], atol=0.1)
    np.testing.assert_allclose(scores, [1], atol=1e-3)
    (track,) = estimator.estimate(frames)
    found = track.pose.body * 128
    # The flip test averages a place with its mirror image's, so only the row is that of a spot beside the middle.
    for points, (_, y) in zip(found, spots, strict=True):
        assert np.abs(points[:, 1] - (y + 0.5)).max() < 2.5


def test_points_of_a_pose_are_ordered_as_coco_wholebody() -> None:
    pose = toy_clip(5, "easy", 3, 64).pose
    points, visible = whole_body(pose)
    assert points.shape == (3, 133, 2) and visible.shape == (3, 133)
    track = DWPose.to_track(object.__new__(DWPose), points.astype(np.float32), visible.astype(np.float32))
    joints = [joint for joint in range(18) if joint != 1]
    np.testing.assert_allclose(track.pose.body[:, joints], pose.body[:, joints], atol=1e-6)
    neck = pose.body[:, [2, 5]].mean(axis=1)
    np.testing.assert_allclose(track.pose.body[:, 1], neck, atol=1e-6)
    seen = (pose.hands >= 0).all(-1)
    np.testing.assert_allclose(track.pose.hands[seen], pose.hands[seen], atol=1e-6)


def spot_frame(x: float, y: float) -> LabelledFrame:
    """A picture with one white spot, which is every keypoint."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[int(y) - 1 : int(y) + 1, int(x) - 1 : int(x) + 1] = 255
    points = np.tile(np.array([x, y]) / 64, (133, 1))
    return LabelledFrame(picture, points, np.ones(133, bool), np.array([16, 8, 48, 60]) / 64)


@pytest.mark.parametrize("seed", range(8))
def test_labels_of_a_crop_are_where_the_picture_shows_them(seed: int) -> None:
    crop, points, visible = crop_example(spot_frame(30, 24), np.random.default_rng(seed))
    weights = crop.astype(float).sum(-1) ** 2
    rows, columns = np.mgrid[:CROP_HEIGHT, :CROP_WIDTH]
    centre = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
    assert visible.all() and np.abs(centre - points[0]).max() < 2.5


def test_boxes_lie_on_their_dancers() -> None:
    """A white dancer on black: the box of every example holds the bright pixels."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[10:50, 24:40] = 255
    frame = LabelledFrame(picture, np.zeros((133, 2)), np.ones(133, bool), np.array([24, 10, 40, 50]) / 64)
    counts = []
    for seed in range(60):
        shown, boxes = detection_example(frame, [frame], np.random.default_rng(seed))
        counts.append(len(boxes))
        bright = shown.min(axis=-1) > 150
        covered = np.zeros_like(bright)
        for x1, y1, x2, y2 in np.round(boxes).astype(int):
            covered[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
            assert bright[y1:y2, x1:x2].mean() > 0.6
        assert (bright & ~covered).sum() <= 20 and shown.shape == (64, 64, 3)
    assert set(counts) == {0, 1, 2}


def test_a_detector_that_is_right_has_no_loss() -> None:
    box = torch.tensor([[20.0, 8.0, 44.0, 56.0]])  # centre (32, 32): cell 4, 4
    cells = torch.full((5, 8, 8), -30.0)
    cells[:, 4, 4] = torch.tensor([0.0, 0.0, np.log(3), np.log(6), 30.0])
    pictures = torch.zeros(1, 3, 64, 64)
    assert detector_loss(KnownDetector(cells), pictures, [box])["loss"] < 1e-6
    moved = cells.clone()
    moved[0, 4, 4] = 0.5  # half a cell to the right
    assert detector_loss(KnownDetector(moved), pictures, [box])["box"] > 0.05
    nobody = cells.clone()
    nobody[4] = -30
    assert detector_loss(KnownDetector(nobody), pictures, [box])["objectness"] > 1
    assert detector_loss(KnownDetector(cells), pictures, [torch.zeros(0, 4)])["objectness"] > 0.4


def test_the_keypoint_loss_is_least_at_the_true_place() -> None:
    crops = torch.full((1, 3, CROP_HEIGHT, CROP_WIDTH), -2.0)
    crops[:, :, 40, 30] = 2.0
    network = KnownKeypoints()
    visible = torch.ones(1, 133, dtype=torch.bool)

    def places(x: float, y: float) -> float:
        return keypoint_loss(network, crops, torch.tensor([x, y]).expand(1, 133, 2), visible)["places"].item()

    here = places(30.25, 40.25)
    assert here < places(34, 40.25) and here < places(30.25, 44)
    hidden = keypoint_loss(network, crops, torch.zeros(1, 133, 2), ~visible)
    assert hidden["places"] == 0 and hidden["visibility"] > 5


def test_half_of_the_clips_of_a_renders_size_are_seen_through_the_autoencoder() -> None:
    changed: dict[int, list[bool]] = {96: [], 160: []}
    for seed in range(60):
        plain, seen = labelled_frames(seed, lambda frames: frames), labelled_frames(seed, lambda frames: 255 - frames)
        for one, other in zip(plain, seen, strict=True):
            np.testing.assert_array_equal(one.points, other.points)
        if plain:
            differ = [not np.array_equal(one.picture, other.picture) for one, other in zip(plain, seen, strict=True)]
            assert len(set(differ)) == 1  # all frames of a clip, or none
            changed[len(plain[0].picture)].append(differ[0])
    assert 0.3 < np.mean(changed[96]) < 0.7 and not any(changed[160])
