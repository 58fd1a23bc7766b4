"""Pairs of two people and of animals: a truth that alignment gives, and joints on the body."""

import json

import cv2
import numpy as np
import pytest

from steadydancer.datasets.skeleton import align_people_to_reference
from steadydancer.datasets.toydance import load_masks, load_supplied_pose
from steadydancer.datasets.toydance.quadruped import ACTIONS, SPECIES, action_of, animal_pose, make_animal
from steadydancer.datasets.toydance.zero_shot import draw_animal, make_toy_zero_shot
from steadydancer.datasets.video import decode, frame_times_s
from steadydancer.models.pose.animal import ANIMAL_JOINTS


@pytest.mark.parametrize(("kind", "num_people"), [("two people", 2), ("quadruped", 1)])
def test_the_truth_is_the_alignment_of_the_driving_pose(tmp_path, kind, num_people):
    path = make_toy_zero_shot(tmp_path, kind, num_pairs=2, num_frames=7, size=(96, 96))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["pair_0", "pair_1"]
    for row in rows:
        truth_path = tmp_path / "truth" / f"{row['id']}.mp4"
        image, driving, truth = (
            load_supplied_pose(one)[0] for one in (tmp_path / row["image"], tmp_path / row["driving"], truth_path)
        )
        assert len(image) == len(driving) == len(truth) == num_people
        for one, expected in zip(truth, align_people_to_reference(driving, image[0], 1.0, 1.0), strict=True):
            seen = one.body_visible.all(axis=0)
            np.testing.assert_allclose(one.body[:, seen], expected.body[:, seen], atol=1e-5)
        frames, masks = decode(truth_path, frame_times_s(truth_path)), load_masks(truth_path)
        assert masks.shape == frames.shape[:3] and 0.03 < masks.mean() < 0.5
        assert cv2.imread(str(tmp_path / row["image"])).shape == (96, 96, 3)


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match="kind is 'birds', expected one of two people, quadruped"):
        make_toy_zero_shot(tmp_path, "birds")


def test_animals_have_the_joints_that_the_animal_network_gives():
    assert {make_animal(seed).species for seed in range(30)} == set(SPECIES)
    assert {action_of(seed) for seed in range(30)} == set(ACTIONS)
    for seed in range(12):
        animal = make_animal(seed)
        pose = animal_pose(animal, 17, dance_seed=seed)
        # Sixteen joints come from the network; ears are marked as unseen behind the eyes, as there.
        assert pose.body_visible[:, : len(ANIMAL_JOINTS)].all() and not pose.body_visible[:, 16:].any()
        np.testing.assert_allclose(pose.body[:, 16:], 2 * pose.body[:, 14:16] - pose.body[:, :1])
        assert (pose.hands == -1).all()
        rendered = draw_animal(pose, animal, "pink", seed, 128, 128)
        inside = ((pose.body > 0) & (pose.body < 1)).all(-1)
        x, y = np.moveaxis((np.clip(pose.body, 0, 0.999) * 128).astype(int), -1, 0)
        on = rendered.masks[np.arange(17)[:, None], y, x][:, :14]
        assert on[inside[:, :14]].mean() > 0.97, seed
        assert np.linalg.norm(np.diff(pose.body, axis=0), axis=-1).max() < 0.12
        front, hind = pose.body[0, [4, 7], 0].mean(), pose.body[0, [10, 13], 0].mean()
        assert np.sign(front - hind) == animal.facing
