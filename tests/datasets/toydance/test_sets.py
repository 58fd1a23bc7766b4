"""The dancers are what they claim: known keypoints, a truth that alignment reaches, flaws that can be found."""

import json
import re

import cv2
import numpy as np
import pytest

from steadydancer.datasets.skeleton import align_to_reference
from steadydancer.datasets.toydance import (
    draw_dancer,
    load_masks,
    load_supplied_pose,
    make_toy_clips,
    make_toy_pairs,
    save_supplied_pose,
    toy_pose,
)
from steadydancer.datasets.toydance.clips import FLAWS, good_seed
from steadydancer.datasets.toydance.colours import contrast
from steadydancer.datasets.toydance.look import wall_colour
from steadydancer.datasets.toydance.pairs import PAIR_SEEDS
from steadydancer.datasets.toydance.scenes import make_scene
from steadydancer.datasets.video import VideoError, decode, frame_times_s, probe


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return {path.stem: path for path in make_toy_clips(folder, seed=3, num_good=2, flaws=FLAWS)}


def whole(path):
    return decode(path, frame_times_s(path))


def frame_change(frames):
    return np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))


def test_the_set_is_what_the_docstring_says(clips):
    flawed = ["static", "cut_short", "cut_long", "dark", "two_people", "truncated", "shaky", "duplicate"]
    assert list(clips) == ["dancer_0", "dancer_1", *flawed]
    for path in clips.values():
        assert re.match("A (cartoon )?dancer with", path.with_suffix(".txt").read_text())
        persons, fps = load_supplied_pose(path)
        assert (len(persons), fps) == (2 if path.stem == "two_people" else 1, 24)
        if path.stem != "truncated":
            assert probe(path).num_frames == len(persons[0])
            assert probe(path).fps == pytest.approx(24)


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(clips, tmp_path):
    few = ("static", "two_people", "truncated", "shaky")
    again, other = (make_toy_clips(tmp_path / name, seed, 1, flaws=few) for name, seed in (("again", 3), ("other", 4)))
    for path, different in zip(again, other, strict=True):
        assert path.read_bytes() == clips[path.stem].read_bytes()
        assert different.read_bytes() != clips[path.stem].read_bytes()
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names == {f"{path.stem}{suffix}" for path in again for suffix in (".mp4", ".txt", ".pose.safetensors")}


def test_the_keypoints_lie_on_the_body_in_the_decoded_video(clips):
    frames, (pose,) = whole(clips["dancer_0"]), load_supplied_pose(clips["dancer_0"])[0]
    height, width = frames.shape[1:3]
    scene = make_scene(good_seed(3, 0), "easy", len(frames), aspect=width / height, fps=24)
    np.testing.assert_allclose(pose.body, scene.main.figure.pose.body, atol=1e-6)
    look = scene.main.look
    for joint in (4, 7):
        x, y = np.round(pose.body[:, joint].T * [[width], [height]]).astype(int)
        painted = np.median(frames[np.arange(len(frames)), y, x], axis=0)
        np.testing.assert_allclose(painted, 0.97 * np.array(look.skin), atol=25)
    elsewhere = frames[:, height // 20, width // 20]
    assert contrast(tuple(np.median(elsewhere, axis=0)), look.skin) > 20
    assert contrast(tuple(np.median(elsewhere, axis=0)), wall_colour(look.wall)) < 25


def test_good_dancers_move_stay_in_the_picture_and_keep_their_bones():
    for seed in range(30):
        pose = toy_pose(seed, 72, aspect=0.75)
        inside = (pose.body > 0) & (pose.body < 1)
        assert inside.all(-1).mean() > 0.97, seed
        units = pose.body * [0.75, 1]
        assert np.linalg.norm(np.diff(units[:, [4, 7]], axis=0), axis=-1).mean() * 24 > 0.1, seed
        for start, end in ((2, 3), (3, 4), (8, 9), (9, 10), (0, 1)):
            length = np.linalg.norm(units[:, start] - units[:, end], axis=-1)
            np.testing.assert_allclose(length, length[0], atol=1e-12)
        np.testing.assert_allclose(units[:, [10, 13], 1].max(axis=1), 0.92, atol=1e-12)  # one foot is on the floor


@pytest.mark.parametrize(("driving_aspect", "aspect"), [(0.75, 0.75), (1.3, 0.8)])
def test_aligning_the_driver_gives_the_truth_exactly(driving_aspect, aspect):
    truth = toy_pose(7, 40, 16, aspect=aspect, motion_seed=8)
    driving = toy_pose(8, 40, 16, aspect=driving_aspect, centre_x=0.4)
    aligned = align_to_reference(driving, truth[:1], driving_aspect, aspect)
    np.testing.assert_allclose(aligned.body, truth.body, atol=1e-12)
    np.testing.assert_allclose(aligned.hands, truth.hands, atol=1e-12)
    assert np.abs(driving.body - truth.body).max() > 0.02  # there was something to align


def test_flaws_can_be_seen(clips):
    assert frame_change(whole(clips["static"])).max() < 0.2
    assert frame_change(whole(clips["dancer_0"])).mean() > 0.6
    for name, cut_s, lengths in (("cut_short", 1.5, (1.5, 1.5)), ("cut_long", 1.25, (1.25, 2.75))):
        frames = whole(clips[name])
        assert np.argmax(frame_change(frames)) + 1 == round(cut_s * 24)
        assert len(frames) == round(sum(lengths) * 24)
        assert [length > 33 / 16 for length in lengths] == [False, name == "cut_long"]
    assert whole(clips["dark"]).mean() < 0.12 * 255 < whole(clips["dancer_0"]).mean()
    left, right = load_supplied_pose(clips["two_people"])[0]
    assert left.body[..., 0].max() < right.body[:, 1, 0].min()
    edges = {name: whole(clips[name])[:, :, :3] for name in ("shaky", "dancer_0")}
    assert frame_change(edges["shaky"]).mean() > 3 * frame_change(edges["dancer_0"]).mean()
    original, copy = (whole(clips[name]) for name in ("dancer_0", "duplicate"))
    assert clips["duplicate"].read_bytes() != clips["dancer_0"].read_bytes()
    assert np.abs(original.astype(int) - copy).mean() < 2
    with pytest.raises(VideoError) as error:
        probe(clips["truncated"])
    assert error.value.reason == "truncated"


def test_pairs_have_a_truth_that_begins_with_the_image(tmp_path):
    pairs = make_toy_pairs(tmp_path, seed=1, num_pairs=2, num_frames=17)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["pair_0", "pair_1"]
    for row in rows:
        image = cv2.imread(str(tmp_path / row["image"]))[..., ::-1]
        truth, driving = whole(tmp_path / "truth" / f"{row['id']}.mp4"), whole(tmp_path / row["driving"])
        assert len(truth) == len(driving) == 17
        assert np.abs(truth[0].astype(int) - image).mean() < 5 < np.abs(truth[0].astype(int) - truth[-1]).max()
        assert probe(tmp_path / row["driving"]).fps == pytest.approx(16)
        (reference,), _ = load_supplied_pose(tmp_path / row["image"])
        assert len(reference) == 1
        look = make_scene(3 * (PAIR_SEEDS + 1000 + rows.index(row))).main.look
        assert look.top_colour in row["prompt"] and look.wall in row["prompt"]
        masks = load_masks(tmp_path / "truth" / f"{row['id']}.mp4")
        assert masks.shape == truth.shape[:3] and 0.03 < masks.mean() < 0.4
        assert load_supplied_pose(tmp_path / "truth" / f"{row['id']}.mp4")[1] == 16
        assert driving.shape[1:3] != truth.shape[1:3] or np.abs(driving[0].astype(int) - truth[0]).mean() > 10


def test_supplied_keypoints_round_trip_and_broken_ones_are_named(tmp_path):
    video = tmp_path / "clip.v1.mp4"
    assert load_supplied_pose(video) is None
    persons = [toy_pose(seed, 5) for seed in range(11)]
    save_supplied_pose(video, persons, 29.97)
    loaded, fps = load_supplied_pose(video)
    assert fps == 29.97
    for person, original in zip(loaded, persons, strict=True):
        np.testing.assert_allclose(person.body, original.body, atol=1e-7)
        np.testing.assert_allclose(person.hands, original.hands, atol=1e-7)
        assert person.body_visible.all()
    (tmp_path / "clip.v1.pose.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"clip\.v1\.pose\.safetensors does not have the format of save_supplied_pose"):
        load_supplied_pose(video)


def test_a_dancer_is_drawn_at_any_size():
    pose = toy_pose(2, 2, aspect=1.0)
    small, large = draw_dancer(pose, 2, 64, 64), draw_dancer(pose, 2, 128, 128)
    assert small.shape == (2, 64, 64, 3)
    half = np.stack([cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA) for frame in large])
    # lines and grain of the wall have another width; the figure has not
    assert np.median(np.abs(small.astype(int) - half)) < 8


def test_a_wrong_truth_shows_the_same_dancer_in_another_dance(tmp_path):
    make_toy_pairs(tmp_path, seed=2, num_pairs=1, num_frames=9, start_gap=True, wrong=True, size=(128, 128))
    truth, wrong = (whole(tmp_path / folder / "pair_0.mp4") for folder in ("truth", "wrong"))
    masks, other = (load_masks(tmp_path / folder / "pair_0.mp4") for folder in ("truth", "wrong"))
    outside = ~np.stack([cv2.dilate(one.astype(np.uint8), np.ones((15, 15))) for one in masks | other]).astype(bool)
    outside[:, 100:] = False  # shadows
    assert np.abs(truth.astype(int) - wrong)[outside].mean() < 2
    assert (masks[-1] ^ other[-1]).sum() > 0.3 * masks[-1].sum()
