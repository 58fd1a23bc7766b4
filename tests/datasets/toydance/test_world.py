"""Scenes are what they claim: exact silhouettes and keypoints, true captions, and every element in `standard`."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from steadydancer.datasets.toydance import toy_clip
from steadydancer.datasets.toydance.captions import attributes_of, caption_of
from steadydancer.datasets.toydance.colours import COLOURS, brightness
from steadydancer.datasets.toydance.difficulties import DIFFICULTIES
from steadydancer.datasets.toydance.film import Film
from steadydancer.datasets.toydance.look import BOTTOMS, HAIR_STYLES, HATS, PATTERNS, PROPS, TOPS
from steadydancer.datasets.toydance.occluders import OCCLUDERS
from steadydancer.datasets.toydance.render import render
from steadydancer.datasets.toydance.scenes import make_duo, make_scene
from steadydancer.datasets.toydance.walls import WALL_KINDS, draw_wall


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_clip_is_a_function_of_its_arguments(difficulty):
    one, again, other = (toy_clip(seed, difficulty, 5, 48) for seed in (11, 11, 12))
    assert one.frames.shape == (5, 48, 48, 3) and one.frames.dtype == np.uint8
    assert one.frames.tobytes() == again.frames.tobytes() and one.masks.tobytes() == again.masks.tobytes()
    assert one.pose.to_bytes() == again.pose.to_bytes()
    assert (one.caption, one.attributes) == (again.caption, again.attributes)
    assert one.frames.tobytes() != other.frames.tobytes()


def test_a_clip_has_the_size_and_the_number_of_frames_that_were_asked_for():
    clip = toy_clip(5, "easy", 9, (48, 64))
    assert clip.frames.shape == (9, 48, 64, 3) and clip.masks.shape == (9, 48, 64) and len(clip.pose) == 9
    assert toy_clip(5, "easy", 1, 48).frames.shape == (1, 48, 48, 3)


def test_an_unknown_difficulty_is_named():
    with pytest.raises(ValueError, match="difficulty is 'medium', expected one of easy, standard, hard"):
        toy_clip(0, "medium")


@pytest.mark.parametrize("seed", range(8))
def test_the_silhouette_is_where_the_picture_differs_from_the_empty_scene(seed):
    scene = replace(make_scene(seed, "easy", 4), shadow=False)
    size = 96
    rendered = render(scene, size, size)
    wall = draw_wall(scene.wall, scene.main.look.wall, seed, 2 * size, 2 * size, scene.floor)
    wall = cv2.resize(wall, (size, size), interpolation=cv2.INTER_AREA)
    difference = np.abs(rendered.frames.astype(int) - wall).max(axis=-1)
    grown = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) for mask in rendered.masks]) > 0
    assert difference[~grown].max() <= 2  # of the last anti-aliased corner
    # Inside, only colours that happen to be near the wall's may hide a difference.
    assert (difference[rendered.masks] > 10).mean() > 0.97


def test_joints_are_inside_the_silhouette():
    for seed in range(12):
        clip = toy_clip(seed, "easy", 9, 128)
        x, y = np.moveaxis((clip.pose.body[:, :14] * 128).astype(int), -1, 0)
        inside = clip.masks[np.arange(9)[:, None], y, x]
        assert inside.mean() > 0.97, seed


def test_every_visible_wrist_shows_the_colour_of_the_skin():
    for seed in range(12):
        scene = make_scene(seed, "easy", 9)
        rendered = render(scene, 160, 160)
        skin = np.array(scene.main.look.skin) * 0.97
        x, y = np.moveaxis((rendered.poses[0].body[:, [4, 7]] * 160).astype(int), -1, 0)
        painted = rendered.frames[np.arange(9)[:, None], y, x].astype(float)
        near = np.abs(painted - skin).max(axis=-1) < 25
        assert near.mean() > 0.7, seed  # the trunk hides some


def test_a_moving_camera_moves_keypoints_as_it_moves_the_picture():
    scene = replace(make_scene(3, "easy", 9), shadow=False)
    still = render(scene, 128, 128)
    panned = render(replace(scene, film=Film(pan=(0.06, 0.0))), 128, 128)
    shift = panned.poses[0].body[-1, :, 0] - still.poses[0].body[-1, :, 0]
    np.testing.assert_allclose(shift, 0.06, atol=1e-12)
    np.testing.assert_allclose(panned.poses[0].body[0], still.poses[0].body[0], atol=1e-12)

    def centre(mask):
        return np.argwhere(mask).mean(axis=0)

    moved = centre(panned.masks[-1]) - centre(still.masks[-1])
    np.testing.assert_allclose(moved, [0, 0.06 * 128], atol=0.25)
    zoomed = render(replace(scene, film=Film(zoom=0.1)), 128, 128)
    assert zoomed.masks[-1].sum() / still.masks[-1].sum() == pytest.approx(1.1**2, rel=0.03)


def test_light_changes_what_it_says():
    scene = make_scene(3, "easy", 2)
    plain = render(scene, 64, 64).frames.astype(float)

    def lit(**film):
        return render(replace(scene, film=Film(**film)), 64, 64).frames.astype(float)

    assert lit(exposure=0.5).mean() == pytest.approx(0.5 * plain.mean(), rel=0.02)
    warm = lit(warmth=1.0).mean(axis=(0, 1, 2)) / plain.mean(axis=(0, 1, 2))
    assert warm[0] > 1.05 and warm[2] < 0.95
    side = lit(side_light=1.0) / np.maximum(plain, 1)
    assert side[:, :, -8:].mean() > 1.1 and side[:, :, :8].mean() < 0.9
    top = lit(top_light=1.0) / np.maximum(plain, 1)
    assert top[:, :8].mean() > 1.1 and top[:, -8:].mean() < 0.9
    noisy = lit(grain=4.0) - plain
    assert 3 < noisy.std() < 5


def test_motion_blur_averages_and_keeps_what_stands_still():
    scene = replace(make_scene(3, "easy", 7), shadow=False)
    sharp, blurred = (render(replace(scene, film=Film(blur=share)), 96, 96) for share in (0.0, 0.8))
    np.testing.assert_array_equal(sharp.poses[0].body, blurred.poses[0].body)
    assert np.abs(sharp.frames[3].astype(int) - blurred.frames[3]).max() > 30
    far = ~np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((17, 17))) for mask in sharp.masks]).astype(bool)
    assert np.abs(sharp.frames.astype(int) - blurred.frames)[far].max() <= 1


def test_what_stands_in_front_hides_dancer_and_keypoints():
    hidden: list[bool] = []
    for seed in range(6):
        scene = replace(make_scene(seed, "easy", 3), shadow=False)
        free = render(scene, 96, 96)
        for kind in OCCLUDERS:
            behind = render(replace(scene, occluder=kind), 96, 96)
            assert not (behind.masks & ~free.masks).any()
            lost = free.masks & ~behind.masks
            x, y = np.moveaxis((np.clip(free.poses[0].body, 0, 0.999) * 96).astype(int), -1, 0)
            gone = free.poses[0].body_visible & ~behind.poses[0].body_visible
            hidden += lost[np.arange(3)[:, None], y, x][gone].tolist()
    assert len(hidden) > 20 and np.mean(hidden) > 0.8


def test_a_dancer_who_turns_away_shows_no_face():
    for seed in range(200):
        scene = make_scene(seed, "easy", 33)
        front = scene.main.figure.dance.head[:, 2, 2]
        if front.min() < -0.9:
            break
    (pose,) = render(scene, 32, 32).poses
    away, towards = front < -0.8, front > 0.95
    assert not pose.body_visible[away][:, [0, 14, 15]].any() and (pose.faces[away][:, 27:] == -1).all()
    assert pose.body_visible[towards][:, [0, 14, 15, 16, 17]].all() and (pose.faces[towards] > 0).all()


def test_every_element_occurs_in_standard_and_none_of_the_disturbing_ones_in_easy():
    seen = {name: [attributes_of(make_scene(seed, name, 17)) for seed in range(300)] for name in ("easy", "standard")}
    counts = {key: Counter(one[key] for one in seen["standard"]) for key in seen["standard"][0]}
    for key, values in {
        "style": ("natural", "cartoon"), "top": TOPS, "bottom": BOTTOMS, "pattern": PATTERNS, "hair": HAIR_STYLES,
        "hat": HATS, "prop": PROPS, "wall": WALL_KINDS, "occluder": ("none", *OCCLUDERS), "beard": ("beard", "none"),
        "glasses": ("glasses", "none"), "framing": ("whole body", "waist up"), "blur": ("motion blur", "none"),
        "camera": ("stands still", "shakes", "pans slowly", "zooms in"),
        "light": ("plain", "dim", "glaring", "warm", "cold"),
    }.items():  # fmt: skip
        assert set(counts[key]) >= set(values), key
        assert min(counts[key][value] for value in values) >= 3, key
    for key, value in {
        "hat": "none", "glasses": "none", "prop": "none", "wall": "plain", "occluder": "none", "camera": "stands still",
        "light": "plain", "blur": "none", "framing": "whole body",
    }.items():  # fmt: skip
        assert {one[key] for one in seen["easy"]} == {value}, key
    assert len({tuple(one.values()) for one in seen["standard"]}) == 300
    hard = [attributes_of(make_scene(seed, "hard", 17)) for seed in range(100)]

    def disturbed(scenes):
        plain = {
            "occluder": "none",
            "camera": "stands still",
            "light": "plain",
            "blur": "none",
            "framing": "whole body",
        }
        return np.mean([sum(one[key] != value for key, value in plain.items()) for one in scenes])

    assert disturbed(hard) > disturbed(seen["standard"]) + 0.5 > 0.5


def test_clothes_of_easy_dancers_differ_from_the_wall_in_brightness_or_hue():
    for seed in range(100):
        look = make_scene(seed, "easy", 1).main.look
        for name in (look.top_colour, look.bottom_colour):
            wall = np.array(draw_wall("plain", look.wall, 1, 8, 8, 2.0)[2, 2], int)
            colour = np.array(COLOURS[name])
            assert np.linalg.norm(colour - wall) > 60 or abs(brightness(tuple(colour)) - brightness(tuple(wall))) > 60


def test_captions_say_what_the_attributes_are():
    for seed in range(150):
        scene = make_scene(seed, "standard", 33)
        caption, facts = caption_of(scene), attributes_of(scene)
        for key in ("top_colour", "bottom_colour", "hair_colour", "hat", "hat_colour", "prop", "prop_colour", "shoes"):
            if facts[key] != "none":
                assert facts[key] in caption, (seed, key)
        assert ("cartoon" in caption) == (facts["style"] == "cartoon")
        assert ("from the waist up" in caption) == (facts["framing"] == "waist up")
        assert (" holding " in caption) == (facts["prop"] != "none")
        assert facts["move"] in caption and facts["camera"] in caption and facts["wall_colour"] in caption
        assert ("stands in front" in caption) == (facts["occluder"] != "none")
        assert " a orange" not in caption
        if facts["framing"] == "waist up":
            assert not any(word in caption for word in ("jumps", "kicks", "lunges", "squats", "steps", "knees"))


def test_the_moves_of_a_caption_are_danced():
    turning = [make_scene(seed, "easy", 33) for seed in range(60)]
    for scene in turning:
        back = scene.main.figure.dance.hips[:, 2, 2].min() < -0.3
        airborne = scene.main.steps.named("moves", scene.seconds)
        assert not back or "turns around" in airborne
        feet = scene.main.figure.pose.body[:, [10, 13], 1].max(axis=1)
        assert "jumps" in airborne or np.ptp(feet) < 0.05


def test_two_dancers_share_a_picture_and_the_second_is_behind():
    scene = make_duo(7, "easy", 9)
    rendered = render(scene, 96, 96)
    assert len(rendered.poses) == 2 and rendered.masks.any()
    left, right = rendered.poses
    assert left.body[..., 0].max() < right.body[:, 1, 0].min()
    assert scene.dancers[0].look != scene.dancers[1].look
