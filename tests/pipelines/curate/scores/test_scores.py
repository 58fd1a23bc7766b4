"""Each score against pictures whose answer was drawn into them."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.clips import Clips
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.toydance import draw_dancer, save_supplied_pose, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.models.curation.text_detector import is_installed as text_is_installed
from steadydancer.pipelines.common.crop import to_frame
from steadydancer.pipelines.curate import job
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.gates import CHEAP_GATES, PERSON_GATES, PICTURE_GATES, TEXT_GATES, Gates
from steadydancer.pipelines.curate.networks import PoseTools, load_pose_tools
from steadydancer.pipelines.curate.scores.borders import Box, find_content
from steadydancer.pipelines.curate.scores.clipping import LIMBS, subject_clipped_ratio
from steadydancer.pipelines.curate.scores.frame_scores import blur
from steadydancer.pipelines.curate.scores.motion_scores import motion_scores, own_motion_ratio
from steadydancer.pipelines.curate.scores.noise import blockiness, noise
from steadydancer.pipelines.curate.scores.overlays import static_edge_ratio, text_scores
from steadydancer.pipelines.curate.scores.pose_scores import (
    MIRRORED,
    appearance_change,
    count_tracks,
    pose_scores,
    without_flips,
)
from steadydancer.pipelines.curate.selection.select import failed_gate
from steadydancer.pipelines.curate.steps import estimate_pose
from steadydancer.pipelines.runtime.runner import Engine

if TYPE_CHECKING:
    from steadydancer.models.curation.motion_smoothness import MotionSmoothness

FPS = 16.0


def dancer(seed: int = 2, num_frames: int = 8, height: int = 192, width: int = 144) -> np.ndarray:
    return draw_dancer(toy_pose(seed, num_frames, FPS, aspect=width / height), seed, height, width)


def landscape(side: int = 400) -> np.ndarray:
    """Blobs and specks: something to see at every scale."""
    rng = np.random.default_rng(0)
    layers = [cv2.GaussianBlur(rng.normal(0, 40 * s, (side, side, 3)), (0, 0), s) for s in (1.5, 4, 12)]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


def filmed(path: np.ndarray, side: int = 128) -> np.ndarray:
    """A landscape seen by a camera whose upper left corner goes along `path` [F, 2] (x, y) in pixels."""
    scene = landscape()
    matrices = [np.array([[1, 0, -x], [0, 1, -y]], np.float64) for x, y in path]
    return np.stack([cv2.warpAffine(scene, matrix, (side, side)) for matrix in matrices])


def test_blur_grows_with_what_was_blurred_and_not_with_what_is_plain() -> None:
    frames = dancer()
    blurred = [np.stack([cv2.GaussianBlur(frame, (0, 0), s) for frame in frames]) for s in (1, 2, 4)]
    values = [blur(one) for one in (frames, *blurred)]
    assert values == sorted(values) and values[0] < 0.4 and values[3] > 0.6
    plain = np.pad(frames, ((0, 0), (60, 60), (0, 0), (0, 0)), constant_values=255)
    assert abs(blur(plain) - values[0]) < 0.12


def test_a_pan_is_motion_without_shake_and_a_shaken_camera_is_both() -> None:
    index = np.arange(17.0)
    pan = np.stack([20 + 2 * index, 30 + 0 * index], axis=1)
    shaken = pan + np.where(index % 2, 1.5, -1.5)[:, None]
    diagonal = 128 * np.sqrt(2)
    smooth, rough = (motion_scores(filmed(path), FPS) for path in (pan, shaken))
    assert smooth["camera_motion"] == pytest.approx(2 * FPS / diagonal, rel=0.05)
    assert smooth["camera_shake"] is not None and smooth["camera_shake"] < 0.001
    # The path turns by (±6, ±6) pixels at every frame.
    assert rough["camera_shake"] == pytest.approx(6 * np.sqrt(2) / diagonal, rel=0.1)
    assert smooth["flow_residual"] is not None and smooth["flow_residual"] < 0.02


def test_a_dancer_before_a_still_camera_moves_and_the_camera_does_not() -> None:
    scores = motion_scores(dancer(num_frames=17, height=128, width=96), FPS)
    assert scores["camera_motion"] is not None and scores["camera_motion"] < 0.03
    assert scores["flow_residual"] is not None and scores["flow_residual"] > 0.002
    assert scores["frozen_ratio"] == 0


def test_a_camera_that_sees_nothing_is_not_measured() -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (9, 96, 96, 3), dtype=np.uint8)
    for frames in (np.full((9, 96, 96, 3), 90, np.uint8), noise):
        scores = motion_scores(frames, FPS)
        assert scores["camera_motion"] is None and scores["camera_shake"] is None


def own_motion(frames: np.ndarray) -> float:
    value = motion_scores(frames, FPS)["own_motion_ratio"]
    assert value is not None
    return value


def through_a_camera(frames: np.ndarray, zoom: float, pan: float) -> np.ndarray:
    """Frames seen by a camera that zooms in and goes across, both to the share that is given at the last one."""
    height, width = frames.shape[1:3]
    along = np.linspace(0, 1, len(frames))
    matrices = [
        np.array(
            [[1 + zoom * t, 0, -zoom * t * width / 2 - pan * t * width], [0, 1 + zoom * t, -zoom * t * height / 2]]
        )
        for t in along
    ]
    return np.stack([
        cv2.warpAffine(one, m, (width, height), borderMode=cv2.BORDER_REFLECT)
        for one, m in zip(frames, matrices, strict=True)
    ])  # fmt: skip


def test_a_photo_that_is_zoomed_or_panned_has_no_motion_of_its_own_and_a_dancer_has() -> None:
    scene, dance = landscape(), dancer(num_frames=33, height=128, width=96)
    lit = np.any(np.abs(dance.astype(int) - dance[0, 0, 0]) > 40, axis=3)[..., None]
    before_trees = np.where(lit, dance, scene[100:228, 100:196])
    bound = Gates().min_own_motion_ratio
    assert bound is not None
    for zoom, pan in ((0.2, 0.0), (0.0, 0.15), (0.1, -0.1)):
        photo = through_a_camera(before_trees[np.full(33, 12)], zoom, pan)
        assert motion_scores(photo, FPS)["flow_residual"] > 0  # type: ignore[operator]
        assert own_motion(photo) < bound / 3
        assert own_motion(through_a_camera(before_trees, zoom, pan)) > 3 * bound


def test_what_moves_by_itself_is_told_by_its_area() -> None:
    frames = filmed(np.zeros((17, 2)) + 60)[..., 0] // 2  # nothing in it is as bright as what passes
    for index, frame in enumerate(frames):
        frame[40:72, 10 + 4 * index : 30 + 4 * index] = 255
    rests, sure = np.tile(np.eye(2, 3), (16, 1, 1)), np.ones(16, bool)
    # In half a second it leaves its 20 × 32 pixels and fills as many elsewhere; the blur adds up to three round them.
    ratio = own_motion_ratio(frames, rests, sure, FPS)
    assert ratio is not None and 2 * 20 * 32 / 122**2 < ratio < 2 * 26 * 38 / 122**2
    assert own_motion_ratio(frames // 30, rests, sure, FPS) is None
    assert own_motion_ratio(frames, rests, np.arange(16) % 8 > 0, FPS) is None
    assert motion_scores(np.full((17, 96, 96, 3), 90, np.uint8), FPS)["own_motion_ratio"] is None


def test_noise_is_told_in_grey_levels_and_neither_texture_nor_motion_is_noise() -> None:
    def level(frames: np.ndarray) -> float:
        value = motion_scores(frames, FPS)["noise"]
        assert value is not None
        return value * 255

    rng, index = np.random.default_rng(3), np.arange(17.0)
    still = filmed(np.zeros((17, 2)) + 60)
    panned = filmed(np.stack([20 + 2.3 * index, 30 + 0.4 * index], axis=1))
    for frames in (still, panned):
        assert level(frames) < 1.5
    for sigma in (4, 8):
        noisy = np.clip(128 + 0.3 * (still - 128.0) + rng.normal(0, sigma, (*still.shape[:3], 1)), 0, 255)
        assert level(noisy.astype(np.uint8)) == pytest.approx(sigma, rel=0.15)
    two = np.zeros((2, 32, 32), np.uint8)
    assert noise(two, np.zeros((1, 2, 3)), np.zeros(1, bool)) is None


def test_blocks_are_told_from_texture_and_from_a_fence() -> None:
    bound = Gates().max_blockiness
    assert bound is not None
    fine = np.stack([landscape(256), landscape(256)[::-1]])
    shrunk = [cv2.resize(frame, (48, 48), interpolation=cv2.INTER_AREA) for frame in fine]
    blocks = np.stack([cv2.resize(frame, (256, 256), interpolation=cv2.INTER_NEAREST) for frame in shrunk])
    soft = np.stack([cv2.resize(frame, (256, 256), interpolation=cv2.INTER_CUBIC) for frame in shrunk])
    fence = fine.copy()
    fence[:, :, ::8] = 0
    assert blockiness(blocks) > 2 * bound
    for frames in (fine, soft, fence, np.full_like(fine, 255)):
        assert blockiness(frames) < bound / 2


def test_a_white_studio_is_not_overexposed_and_a_white_body_is() -> None:
    pose = toy_pose(5, 12, FPS, aspect=0.75)
    studio = np.full((12, 128, 96, 3), 255, np.uint8)
    for frame, body in zip(studio, pose.body * (96, 128), strict=True):
        for limb in LIMBS:
            first, last = (tuple(map(int, point)) for point in body[limb])
            cv2.line(frame, first, last, (90, 60, 50), 9)
    assert subject_clipped_ratio(studio, pose) == 0
    blown = cv2.add(studio, np.full_like(studio, 200))
    assert subject_clipped_ratio(blown, pose) == 1
    half = studio.copy()
    half[:6] = blown[:6]
    assert subject_clipped_ratio(half, pose) == pytest.approx(0.5, abs=0.05)
    nobody = PoseSequence(pose.body, np.zeros_like(pose.body_visible), pose.hands)
    assert subject_clipped_ratio(studio, nobody) is None


def test_flicker_and_frozen_frames() -> None:
    frames = dancer(num_frames=16, height=96, width=72)
    flickering = (frames * np.where(np.arange(16) % 2, 0.8, 1.0)[:, None, None, None]).astype(np.uint8)
    calm, unsteady = motion_scores(frames, FPS)["flicker"], motion_scores(flickering, FPS)["flicker"]
    assert calm is not None and unsteady is not None and calm < 0.002
    assert unsteady == pytest.approx(2 * 0.2 * frames.mean() / 255, rel=0.1)
    repeated = frames[np.arange(16) // 4]
    assert motion_scores(repeated, FPS)["frozen_ratio"] == pytest.approx(12 / 15)


@pytest.mark.parametrize("colour", [0, 255, 40])
@pytest.mark.parametrize("bars", [(20, 20, 0, 0), (0, 0, 30, 30), (16, 24, 36, 12), (0, 30, 0, 0)])
def test_bars_are_found_to_a_pixel_or_two(bars: tuple[int, int, int, int], colour: int) -> None:
    top, bottom, left, right = bars
    padding = ((0, 0), (top, bottom), (left, right), (0, 0))
    frames = np.pad(filmed(np.zeros((4, 2)) + 50), padding, constant_values=colour)
    height, width = frames.shape[1:3]
    box = find_content(frames)
    edges = (box.top * height, (1 - box.bottom) * height, box.left * width, (1 - box.right) * width)
    np.testing.assert_allclose(edges, bars, atol=2)


def test_a_studio_a_wall_and_a_dark_sky_are_no_bars() -> None:
    studio = np.pad(dancer()[:, 40:], ((0, 0), (50, 0), (60, 60), (0, 0)), mode="edge")
    sky = filmed(np.zeros((4, 2)) + 20)
    sky[:, :40] = (sky[:, :40] * (np.linspace(0, 1, 40) ** 2)[:, None, None]).astype(np.uint8)  # night fades in
    for frames in (dancer(), studio, sky, filmed(np.zeros((4, 2)))):
        assert find_content(frames) == Box()


def test_the_blurred_copy_beside_an_upright_video_is_border() -> None:
    upright = filmed(np.zeros((4, 2)) + 60, 160)[:, :, 35:125]
    wide = np.stack([cv2.GaussianBlur(cv2.resize(frame, (284, 160)), (0, 0), 9) for frame in upright])
    wide[:, :, 97:187] = upright
    box = find_content(wide)
    assert (box.left * 284, box.right * 284) == pytest.approx((97, 187), abs=2)
    assert (box.top, box.bottom) == (0, 1)


def test_text_counts_where_it_stays() -> None:
    masks = np.zeros((8, 40, 100), bool)
    masks[:, 30:36, 10:60] = True  # a caption: 300 of 4000
    for frame in range(8):
        masks[frame, 5:9, 10 * frame : 10 * frame + 8] = True  # letters on a shirt that passes
    scores = text_scores(masks)
    assert scores["text_ratio"] == 300 / 4000 and scores["any_text_ratio"] == pytest.approx((300 + 32) / 4000)
    assert scores["text_length"] == 0.5
    upright = np.zeros((2, 40, 100), bool)
    upright[:, 4:36, 90:96] = upright[:, 4:8, 2:30] = True  # a line that runs down is longer than one across
    assert text_scores(upright)["text_length"] == 0.8 and text_scores(np.zeros((2, 4, 4), bool))["text_length"] == 0


def test_a_faint_logo_stays_while_the_camera_passes() -> None:
    frames = filmed(np.stack([np.linspace(0, 200, 8), np.full(8, 60.0)], axis=1))
    logo = np.zeros((128, 128, 1), np.float32)
    for x in range(12, 48, 6):
        cv2.line(logo, (x, 12), (x, 30), 1, 2)
    marked = (frames * (1 - 0.5 * logo) + 255 * 0.5 * logo).astype(np.uint8)
    plain, with_logo = (static_edge_ratio(one, 0.1, 5.0) for one in (frames, marked))
    assert plain is not None and with_logo is not None
    assert plain < 0.003 and with_logo > 0.02
    assert static_edge_ratio(marked, 0.001, 5.0) is None and static_edge_ratio(marked, None, 5.0) is None


def turned(pose: PoseSequence, angles: np.ndarray) -> PoseSequence:
    """Every frame turned in the picture about its own hips, clockwise, by an angle in radians."""
    hips = (pose.body[:, [8]] + pose.body[:, [11]]) / 2
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = np.moveaxis(pose.body - hips, -1, 0)
    body = hips + np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)
    return PoseSequence(body.astype(np.float32), pose.body_visible, pose.hands)


def scored(pose: PoseSequence) -> dict[str, float | None]:
    return pose_scores(pose, pose.body_visible.astype(np.float32), 1.0, FPS)


def test_a_dance_is_upright_and_a_cartwheel_is_not() -> None:
    still = toy_pose(5, 1, FPS)[np.zeros(33, int)]
    upright, wheel = scored(toy_pose(5, 33, FPS)), scored(turned(still, np.arange(33) * 2 * np.pi / 32))
    gates = Gates()
    assert upright["torso_tilt_deg"] < gates.max_torso_tilt_deg  # type: ignore[operator]
    assert wheel["torso_tilt_deg"] > 150  # type: ignore[operator]
    assert wheel["rotation_rate"] == pytest.approx(2 * np.pi / 32 * FPS, rel=0.02)
    assert upright["airborne_height"] < 0.5  # type: ignore[operator]


def test_a_flight_is_told_in_torsos() -> None:
    pose = toy_pose(5, 1, FPS)[np.zeros(40, int)]
    torso = np.linalg.norm(pose.body[0, 1] - (pose.body[0, 8] + pose.body[0, 11]) / 2)
    body = pose.body.copy()
    body[10:14, :, 1] -= 1.5 * torso
    flight = scored(PoseSequence(body, pose.body_visible, pose.hands))
    assert flight["airborne_height"] == pytest.approx(1.5, rel=0.01)
    assert scored(pose)["airborne_height"] == 0


def test_place_gaps_and_a_track_that_jumps() -> None:
    pose = toy_pose(5, 30, FPS)
    body, visible = pose.body * np.float32(0.4), pose.body_visible.copy()
    body[15:] += (0.5, 0)  # somebody else, quite another place
    visible[3:8] = False
    scores = scored(PoseSequence(body, visible, pose.hands))
    assert scores["pose_gap"] == 5 and scores["missing_pose_ratio"] == pytest.approx(5 / 30)
    assert scores["track_continuity"] == pytest.approx(22 / 23)  # 25 seen frames, one gap, one jump
    centred = scored(pose)
    assert centred["track_continuity"] == 1 and centred["subject_offset"] < 0.1  # type: ignore[operator]
    boxes = np.ptp(pose.body, axis=1)  # all joints are seen, and inside
    assert centred["subject_area"] == pytest.approx(np.median(boxes.prod(axis=1)))
    assert centred["subject_height"] == pytest.approx(np.median(boxes[:, 1]))
    middles = (pose.body[..., 0].min(axis=1) + pose.body[..., 0].max(axis=1)) / 2
    assert centred["subject_offset"] == pytest.approx(np.median(np.abs(middles - 0.5)))


def test_a_body_cut_at_the_mouth_has_no_head_and_a_back_has() -> None:
    pose = toy_pose(4, 10, FPS)
    sure = np.ones(pose.body_visible.shape, np.float32)

    def head_ratio(hidden: list[int], frames: int) -> float | None:
        visible = pose.body_visible.copy()
        visible[:frames, hidden] = False
        return pose_scores(PoseSequence(pose.body, visible, pose.hands), sure, 1.0, FPS)["head_ratio"]

    assert head_ratio([0, 14, 15], 10) == 1.0  # from behind, ears alone
    assert head_ratio([14, 15, 16, 17], 4) == 0.6


def test_a_back_taken_for_a_front_is_no_motion() -> None:
    pose = toy_pose(4, 32, FPS)
    mirrored = pose.body.copy()
    mirrored[9:20] = mirrored[9:20][:, MIRRORED]
    mirrored[25] = mirrored[25][MIRRORED]
    flipped = PoseSequence(mirrored, pose.body_visible, pose.hands)
    sure = np.ones(pose.body_visible.shape, np.float32)
    true, seen = (pose_scores(one, sure, 1.0, FPS) for one in (pose, flipped))
    assert seen["pose_jerk"] == pytest.approx(true["pose_jerk"]) and seen["pose_motion"] == true["pose_motion"]
    restored, _ = without_flips(flipped.body, pose.body_visible)
    np.testing.assert_array_equal(restored, pose.body)
    # One foot that jumps is motion: the others did not change sides with it.
    mirrored = pose.body.copy()
    mirrored[9:20:2, [10, 13]] = mirrored[9:20:2, [13, 10]]
    one_foot = pose_scores(PoseSequence(mirrored, pose.body_visible, pose.hands), sure, 1.0, FPS)
    assert one_foot["pose_jerk"] is not None and true["pose_jerk"] is not None
    assert one_foot["pose_jerk"] > 1.5 * true["pose_jerk"]


def test_another_dancer_in_the_same_place_changes_at_once() -> None:
    pose = toy_pose(5, 12, FPS, aspect=0.75)
    one, other = draw_dancer(pose, 5, 128, 96), draw_dancer(pose, 8, 128, 96)
    same = appearance_change(one, pose)
    swapped = appearance_change(np.concatenate([one[:6], other[6:]]), pose)
    assert same is not None and swapped is not None and same < 0.05 < 0.2 < swapped


def test_people_count_from_a_third_of_the_main_ones_height() -> None:
    def small(scale: float) -> PoseSequence:
        pose = toy_pose(1, 3, FPS)
        return PoseSequence(pose.body * np.float32(scale), pose.body_visible, pose.hands)

    assert count_tracks([small(1)]) == (1, 0.0)
    assert count_tracks([small(1), small(0.5), small(0.2)]) == (2, pytest.approx(0.5))
    assert count_tracks([small(1), small(0.2)]) == (1, pytest.approx(0.2))


def test_gates_stand_in_the_order_of_what_their_scores_cost() -> None:
    assert PICTURE_GATES < TEXT_GATES < PERSON_GATES < CHEAP_GATES
    order = list(Gates.model_fields)
    assert set(order[: len(CHEAP_GATES)]) == CHEAP_GATES
    assert set(order[: len(PICTURE_GATES)]) == PICTURE_GATES


def test_smoothness_is_null_without_its_network_and_never_refuses_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pose = toy_pose(0, 16, FPS, aspect=0.75)
    encode(draw_dancer(pose, 0, 256, 192), tmp_path / "a.mp4", FPS)
    save_supplied_pose(tmp_path / "a.mp4", [pose], FPS)
    row = {"source_path": str(tmp_path / "a.mp4"), "start_s": 0.0, "num_frames": 9, "height": 256, "width": 192}
    config = CurateConfig(num_frames=9, pose_model="supplied", smoothness_model="auto")
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_pose_tools(config) == PoseTools()
    assert estimate_pose(row, config)["motion_smoothness"] is None
    with pytest.raises(SteadyDancerError, match=r"smoothness_model amt: .*amt-s\.pth.*weights fetch amt"):
        load_pose_tools(config.model_copy(update={"smoothness_model": "amt"}))

    shown: list[tuple[int, ...]] = []
    network = cast("MotionSmoothness", lambda frames, on_device: shown.append(frames.shape) or 0.25)
    row = estimate_pose(row, config, PoseTools(smoothness=network))
    assert row["motion_smoothness"] == 0.25 and shown == [(9, 256, 192, 3)]
    assert all(gate != "min_motion_smoothness" for gate, *_ in Gates().bounds())
    asked = Gates(min_motion_smoothness=0.5)
    failed = failed_gate(row, asked, {"min_motion_smoothness"})
    assert failed is not None and "motion_smoothness is 0.25, expected at least 0.5" in failed[1]
    assert failed_gate({**row, "motion_smoothness": None}, asked, {"min_motion_smoothness"}) is None


def test_a_row_of_flaws_ends_in_a_row_of_reasons(tmp_path: Path) -> None:
    """One dance: as it is, with a caption, in bars, as a small mirrored copy, and one that the test set has too."""
    clips, held_out = tmp_path / "clips", tmp_path / "held_out"
    clips.mkdir()
    held_out.mkdir()
    pose = toy_pose(0, 48, 16, aspect=0.75)
    good = draw_dancer(pose, 0, 256, 192)
    captioned = np.ascontiguousarray(draw_dancer(pose, 6, 256, 192))
    for frame in captioned:
        cv2.putText(frame, "BUY TWO NOW", (6, 40), cv2.FONT_HERSHEY_DUPLEX, 0.8, (255, 255, 255), 2, cv2.LINE_AA)
    # The second has its own dance: two that dance the same in one place are hard to tell apart.
    barred_pose, leaked_pose = (toy_pose(seed, 48, 16, aspect=0.75) for seed in (4, 3))
    barred = np.pad(draw_dancer(barred_pose, 4, 256, 192), ((0, 0), (0, 0), (40, 40), (0, 0)))
    frames = {"good": good, "captioned": captioned, "barred": barred}
    frames |= {"a_copy": np.stack([cv2.resize(one[:, ::-1], (168, 224)) for one in good])}
    frames |= {"leaked": draw_dancer(leaked_pose, 3, 256, 192)}
    for name, pixels in frames.items():
        encode(pixels, clips / f"{name}.mp4", 16)
    encode(frames["leaked"], held_out / "known.mp4", 16)
    wide = to_frame(barred_pose, (40 / 272, 0.0, 192 / 272, 1.0))
    for name, one in {"good": pose, "captioned": pose, "barred": wide, "a_copy": pose, "leaked": leaked_pose}.items():
        save_supplied_pose(clips / f"{name}.mp4", [one], 16)

    config = CurateConfig(num_frames=45, pose_model="supplied", shot_detector="threshold", exclude=str(held_out))
    engine = Engine(tmp_path / ".engine", in_process=True)
    job.run(config, clips=str(clips), out=tmp_path / "out", engine=engine)
    rows = {Path(row["source_path"]).stem: row for row in Artifact(tmp_path / "out" / "clips").read().to_pylist()}
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons == {
        "good": None,
        "captioned": "max_text_ratio" if text_is_installed() else None,
        "barred": None,
        "a_copy": "near_duplicate",
        "leaked": "max_leak_score",
    }
    assert rows["good"]["source_path"] in rows["a_copy"]["detail"]
    assert rows["leaked"]["leak_of"].endswith("known.mp4")
    content = [rows["barred"][f"crop_{side}_px"] for side in ("left", "top", "width", "height")]
    np.testing.assert_allclose(content, (40, 0, 192, 256), atol=2)
    # The kept keypoints are of the whole frame; what was judged of them was the picture.
    kept = PoseSequence.from_bytes(Clips(tmp_path / "out").poses([rows["barred"]])[rows["barred"]["clip_id"]])
    np.testing.assert_allclose(kept.body, wide.body[:45], atol=1e-5)
    inside = (barred_pose.body[:45, :, 0].min(axis=1) + barred_pose.body[:45, :, 0].max(axis=1)) / 2
    assert rows["barred"]["subject_offset"] == pytest.approx(np.median(np.abs(inside - 0.5)), abs=0.01)
