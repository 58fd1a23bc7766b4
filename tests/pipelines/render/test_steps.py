"""What one pair becomes on its way to the pipeline: picture, poses, words and settings, each where it belongs."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.datasets import driving_poses
from steadydancer.datasets.schema import Row
from steadydancer.datasets.skeleton import PoseSequence, align_people_to_reference
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.toydance import save_supplied_pose, toy_pose
from steadydancer.datasets.video import VideoError, encode
from steadydancer.datasets.video.sound import Sound
from steadydancer.models import pipeline_inputs
from steadydancer.models.modes import get_mode
from steadydancer.models.pose.track import PoseTrack
from steadydancer.models.pose_condition import released_aspect
from steadydancer.models.render_record import input_digest
from steadydancer.pipelines.render import job, sound
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.render.motion import sidecar_notes
from steadydancer.pipelines.render.task import SCHEMA
from steadydancer.pipelines.runtime.stage import BadClip

HEIGHT, WIDTH, FPS, NUM_FRAMES = 96, 64, 24, 13
IMAGE_SIZE = (78, 112)  # another aspect than the driving video's, and than the release measures it at
CONFIG = RenderConfig(
    on_missing_reference="keep",
    num_frames=9, window_frames=17, window_overlap=8, window_opening="none",
    max_area_px=64 * 48, drawing_area_px=96 * 64,
    num_inference_steps=3, guidance_scale=4.5, pose_guidance_scale=0.5, pose_guidance_interval=(0.2, 0.7),
    pose_guidance_unit="timestep", negative_pose_shift=True, solver="dpm++", flow_shift=3.0, negative_prompt="stills",
    seed=11, fps=12, crf=23, chroma="4:4:4", pose_model="supplied",
)  # fmt: skip


class SlowDancer:
    """An estimator that sees one dancer, from a frame on, at the size of what it is shown."""

    name, counts_people = "slow-dancer", True

    def __init__(self, first: int = 0) -> None:
        self.first, self.shown = first, [(0, 0, 0)]

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        self.shown.append(frames.shape[:3])
        pose = late(toy_pose(7, len(frames), FPS, aspect=frames.shape[2] / frames.shape[1]), self.first)
        if len(frames) == 1:
            pose = toy_pose(3, 1, FPS, aspect=IMAGE_SIZE[1] / IMAGE_SIZE[0])
        return [PoseTrack(pose, pose.body_visible.astype(np.float32))]


def late(pose: PoseSequence, first: int) -> PoseSequence:
    visible = pose.body_visible.copy()
    visible[:first] = False
    return PoseSequence(np.where(visible[..., None], pose.body, -1), visible, pose.hands)


def reference_pose() -> PoseSequence:
    return toy_pose(3, 1, FPS, aspect=IMAGE_SIZE[1] / IMAGE_SIZE[0])


@pytest.fixture
def pair(tmp_path: Path) -> Row:
    """An image of three colours with a pose beside it, and a driving video each of whose frames has another grey."""
    image = np.zeros((*IMAGE_SIZE, 3), np.uint8)
    image[:, :] = (200, 100, 20)
    image[:40, :56] = (10, 220, 90)
    cv2.imwrite(str(tmp_path / "me.png"), image[..., ::-1])
    save_supplied_pose(tmp_path / "me.png", [reference_pose()], FPS)
    greys = np.arange(NUM_FRAMES, dtype=np.uint8)[:, None, None, None] * 15
    encode(np.broadcast_to(greys, (NUM_FRAMES, HEIGHT, WIDTH, 3)).copy(), tmp_path / "dance.mp4", FPS)
    supply(tmp_path, dance())
    return job.pair(tmp_path / "me.png", tmp_path / "dance.mp4", "A dancer.", "one")


def dance(seed: int = 7) -> PoseSequence:
    return toy_pose(seed, NUM_FRAMES, FPS, aspect=WIDTH / HEIGHT)


def supply(folder: Path, *people: PoseSequence) -> None:
    save_supplied_pose(folder / "dance.mp4", list(people), FPS)


@pytest.fixture
def render(without_networks: Any) -> Any:
    """Function (pair, config, estimator) → (row, what reaches the pipeline and the writer)."""

    def run(pair: Row, config: RenderConfig = CONFIG, estimator: Any = None) -> Any:
        return without_networks(pair, config, estimator)

    return run


def as_stored(*people: PoseSequence) -> list[PoseSequence]:
    """In float32."""
    return [PoseSequence.from_bytes(person.to_bytes()) for person in people]


def assert_same(people: list[PoseSequence], expected: list[PoseSequence]) -> None:
    for one, other in zip(people, expected, strict=True):
        for name in ("body", "body_visible", "hands"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def aligned(people: list[PoseSequence]) -> list[PoseSequence]:
    (reference,) = as_stored(reference_pose())
    return align_people_to_reference(people, reference, WIDTH / HEIGHT, released_aspect(*IMAGE_SIZE))


def test_all_that_a_pair_and_its_configuration_say_reaches_the_pipeline(pair: Row, render: Any) -> None:
    row, reported = render(pair)
    assert reported.video.name == "one.mp4" and reported.video.parent.name == "out"
    assert reported.prompt == "A dancer."
    assert reported.image[0, 0].tolist() == [10, 220, 90] and reported.image[77, 111].tolist() == [200, 100, 20]
    assert reported.image.shape == (*IMAGE_SIZE, 3)
    assert_same(reported.people, aligned([as_stored(dance())[0][:9]]))
    assert {name: reported.settings[name] for name in ("fps", "crf", "chroma", "sound", "seed", "model")} == {
        "fps": 12, "crf": 23, "chroma": "4:4:4", "sound": None, "seed": 11, "model": {"checkpoint": "c0", "vae": "f1"},
    }  # fmt: skip
    assert reported.settings["inputs"] == {
        "pose_video": input_digest(reported.people),
        "image": content_digest(pair["image"]),
        "driving": content_digest(pair["driving"]),
    }
    assert reported.settings["settings"] == {
        "prompt": "A dancer.", "height": None, "width": None, "pose_estimator": None,
        "num_frames": 9, "window_frames": 17, "window_overlap": 8, "window_opening": "none",
        "max_area_px": 64 * 48, "drawing_area_px": 96 * 64,
        "num_inference_steps": 3, "guidance_scale": 4.5, "pose_guidance_scale": 0.5,
        "pose_guidance_interval": [0.2, 0.7], "pose_guidance_unit": "timestep", "negative_pose_shift": True,
        "solver": "dpm++", "flow_shift": 3.0, "negative_prompt": "stills", "fps": 12, "dtype": "bfloat16",
        "pose_model": "supplied", "main_person_only": False, "on_missing_reference": "keep",
        "num_people": 1, "aligned": True, "pose_start_frame": 0, "supposed_lengths": [],
        "sound": None, "image_changes": [], "mode": get_mode("exact").to_record(),
        "config": CONFIG.model_dump(mode="json", exclude={"motion_workers", "encode_workers", "write_workers"}),
    }  # fmt: skip
    finished = pair | {
        "video": "one.mp4", "pose_model": "supplied", "aligned": True, "pose_start_frame": 0, "sound": None,
        "height": 48, "width": 64, "num_frames": 9, "verdict": "ok", "detail": None, "seed": 11, "seed_index": None,
    }  # fmt: skip
    assert {name: row[name] for name in SCHEMA.names if name in row} == finished


def test_a_row_says_seed_licence_and_consent_and_so_does_the_record(pair: Row, render: Any) -> None:
    row, reported = render(pair | {"seed": 5, "licence": "CC-BY", "consent": "yes"})
    assert (row["seed"], row["licence"], row["consent"], reported.settings["seed"]) == (5, "CC-BY", "yes", 5)
    assert {name: reported.settings["settings"][name] for name in ("licence", "consent")} == {
        "licence": "CC-BY", "consent": "yes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("driving_fps", "num_frames", "shown"),
    [
        (None, 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (None, None, [*range(13)]),
        (12.0, 5, [0, 2, 4, 6, 8]),
        (12.0, None, [0, 2, 4, 6, 8]),  # seven are there, five make 4k + 1
        (22.0, None, [0, 1, 2, 3, 4, 5, 6, 7, 8]),  # of twelve, nine make 4k + 1
        (16.0, 9, [0, 1, 3, 4, 6, 7, 9, 10, 12]),
        (48.0, 13, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]),
    ],
)
def test_the_driving_video_is_taken_frame_by_frame_or_at_a_rate(
    pair: Row, render: Any, driving_fps: float | None, num_frames: int | None, shown: list[int]
) -> None:
    config = CONFIG.model_copy(update={"driving_fps": driving_fps, "num_frames": num_frames})
    row, reported = render(pair, config)
    assert row["num_frames"] == len(shown)
    assert_same(reported.people, aligned([as_stored(dance())[0][np.array(shown)]]))
    greys: list[int] = []

    class Looker(SlowDancer):
        def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
            greys.extend(np.rint(frames.mean(axis=(1, 2, 3)) / 15).astype(int).tolist())
            return super().estimate(frames)

    _, reported = render(pair, config.model_copy(update={"pose_model": "auto"}), Looker())
    assert greys == []  # the supplied keypoints were enough
    Path(pair["driving"]).with_name("dance.pose.safetensors").unlink()
    Path(pair["image"]).with_name("me.pose.safetensors").unlink()
    render(pair, config.model_copy(update={"pose_model": "auto"}), Looker())
    assert greys[: len(shown)] == shown


def test_a_rate_that_gives_too_few_frames_says_so(pair: Row, render: Any) -> None:
    with pytest.raises(BadClip, match=r"too_short: .*dance.mp4 has 7 frames, but 9 are needed"):
        render(pair, CONFIG.model_copy(update={"driving_fps": 12.0}))
    with pytest.raises(BadClip, match=r"too_short: .*dance.mp4 has 3 frames, but 5 are needed"):
        render(pair, CONFIG.model_copy(update={"driving_fps": 4.0, "num_frames": None}))


def test_people_who_come_late_are_aligned_where_they_are_whole_and_that_is_recorded(
    pair: Row, render: Any, tmp_path: Path
) -> None:
    supply(tmp_path, late(dance(), 4), dance(8))
    row, reported = render(pair)
    main, other = as_stored(dance(), dance(8))
    expected = aligned([main[np.array([4, 4, 4, 4, 4, 5, 6, 7, 8])]])
    assert_same(reported.people[:1], expected)
    assert len(reported.people) == 2
    # The other one, who is there from the beginning, moves as in the driving video, beside the main one.
    unit = np.array([released_aspect(*IMAGE_SIZE), 1])
    apart = (other.body[2, 1] - main.body[4, 1]) * [WIDTH / HEIGHT, 1]
    np.testing.assert_allclose((reported.people[1].body[2, 1] - expected[0].body[0, 1]) * unit, apart, atol=1e-6)
    assert reported.settings["settings"]["pose_start_frame"] == row["pose_start_frame"] == 4
    assert reported.settings["settings"]["num_people"] == 2
    assert (row["verdict"], row["aligned"]) == ("ok", True)
    assert "before frame 4: earlier frames copy the pose of that frame" in row["detail"]

    _, reported = render(pair, CONFIG.model_copy(update={"main_person_only": True}))
    assert_same(reported.people, expected)


def test_frame_0_can_have_the_pose_of_the_image_and_all_others_stay(pair: Row, render: Any, tmp_path: Path) -> None:
    """The motion is aligned as always: the driving video's own frame 0 is what the alignment measures."""
    first = CONFIG.model_copy(update={"first_pose": "reference"})
    _, reported = render(pair, first)
    expected = aligned([as_stored(dance())[0][:9]])
    assert_same([reported.people[0][1:]], [expected[0][1:]])
    np.testing.assert_allclose(reported.people[0].body[:1], as_stored(reference_pose())[0].body, atol=1e-6)
    np.testing.assert_allclose(reported.people[0].hands[:1], as_stored(reference_pose())[0].hands, atol=1e-6)
    assert np.abs(expected[0].body[0] - reported.people[0].body[0]).max() > 0.01
    (tmp_path / "me.pose.safetensors").unlink()
    with pytest.raises(BadClip, match="no_pose: .*me.png shows no person whose pose can be that of frame 0"):
        render(pair, first)


def test_who_is_not_seen_in_the_rendered_frames_is_refused(pair: Row, render: Any, tmp_path: Path) -> None:
    supply(tmp_path, late(dance(), 9))
    with pytest.raises(BadClip, match="no_pose: .*dance.mp4: no person found"):
        render(pair)
    row, _ = render(pair, CONFIG.model_copy(update={"num_frames": 13}))
    assert row["pose_start_frame"] == 9
    hands = np.zeros((NUM_FRAMES, 18), bool)
    hands[:, [4, 7]] = True
    supply(tmp_path, PoseSequence(dance().body, hands, dance().hands))
    with pytest.raises(BadClip, match="no_pose: .*none of its 9 frames shows a neck and a limb"):
        render(pair)


@pytest.mark.parametrize("seen", [[], [0, 14, 15]])
def test_an_image_without_a_usable_person_is_told(
    pair: Row, render: Any, tmp_path: Path, seen: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    visible = np.zeros((1, 18), bool)
    visible[:, seen] = True
    save_supplied_pose(tmp_path / "me.png", [PoseSequence(reference_pose().body, visible, reference_pose().hands)], FPS)
    row, reported = render(pair)
    assert_same(reported.people, [as_stored(dance())[0][:9]])
    assert reported.settings["settings"]["aligned"] is row["aligned"] is False
    assert row["detail"] == "no pose found in the image: the driving pose is used without alignment"
    with pytest.raises(BadClip, match=r"no_pose: .*supplied found no person .*in the reference image"):
        render(pair, CONFIG.model_copy(update={"on_missing_reference": "raise"}))
    job._warn_of_details([row, row | {"verdict": "quarantined"}, row | {"detail": None}])
    assert [record.message for record in caplog.records] == [
        f"one (image me.png, driving dance.mp4): {row['detail']}",
    ]  # fmt: skip


@pytest.mark.parametrize("first", [0, 3])
def test_the_python_pipeline_chooses_what_the_command_chooses(
    pair: Row, render: Any, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    Path(pair["driving"]).with_name("dance.pose.safetensors").unlink()
    Path(pair["image"]).with_name("me.pose.safetensors").unlink()
    _, reported = render(pair, CONFIG.model_copy(update={"pose_model": "auto"}), SlowDancer(first))
    frames = np.zeros((9, HEIGHT, WIDTH, 3), np.uint8)
    _, driven = pipeline_inputs.prepare_motion(reported.image, None, frames, SlowDancer(first), 9)
    assert driven is not None
    assert_same(driven.people, reported.people)
    assert driven.start_frame == reported.settings["settings"]["pose_start_frame"] == first
    assert [record.message.split(":")[0] for record in caplog.records] == (
        ["the driving video does not fully show the person before frame 3"] if first else []
    )
    with pytest.raises(pipeline_inputs.DrivingError, match="slow-dancer found no person in the driving video"):
        pipeline_inputs.prepare_motion(reported.image, None, frames, SlowDancer(9), 9)


def loud(seconds: float) -> Sound:
    """440 Hz in both channels after half of the time."""
    times = np.arange(round(seconds * 48000)) / 48000
    wave = np.where(times >= seconds / 2, np.sin(2 * np.pi * 440 * times) * 12000, 0).astype(np.int16)
    return Sound(np.stack([wave, wave], axis=1))


@pytest.mark.parametrize(
    ("driving_fps", "fps", "words", "begins_s"),
    [
        (None, 24, "kept", 0.3),
        (12.0, 12, "kept", 0.3),
        (None, 12, "kept, at 0.5 times its speed, like the picture", 0.6),
        (12.0, 24, "kept, at 2 times its speed, like the picture", 0.15),
    ],
)
def test_the_sound_of_the_rendered_span_goes_with_the_picture(
    pair: Row, render: Any, driving_fps: float | None, fps: int, words: str, begins_s: float
) -> None:
    frames = np.zeros((NUM_FRAMES + 2, HEIGHT, WIDTH, 3), np.uint8)
    encode(frames, pair["driving"], FPS, sound=loud(0.6))
    config = CONFIG.model_copy(update={"sound": "keep", "driving_fps": driving_fps, "fps": fps, "num_frames": 5})
    for num_frames in (5, 9) if driving_fps is None else (5,):
        row, reported = render(pair, config.model_copy(update={"num_frames": num_frames}))
        samples = reported.settings["sound"].samples
        assert len(samples) == round(num_frames / fps * 48000)  # as long as the picture
        heard = np.flatnonzero(np.abs(samples[:, 0].astype(int)) > 3000)
        if begins_s < num_frames / fps:
            assert heard[0] / 48000 == pytest.approx(begins_s, abs=0.06)  # a window of the stretching
        else:
            assert len(heard) == 0 or heard[0] / 48000 > begins_s - 0.06
        assert row["sound"] == reported.settings["settings"]["sound"] == words
        assert row["detail"] is None


def test_sound_is_left_out_unless_asked_for_and_a_video_without_any_says_so(
    pair: Row, render: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8), pair["driving"], FPS, sound=loud(0.6))
    _, reported = render(pair)
    assert RenderConfig().sound == "none" and reported.settings["sound"] is None
    keep = CONFIG.model_copy(update={"sound": "keep"})
    encode(np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8), pair["driving"], FPS)
    row, reported = render(pair, keep)
    assert (row["verdict"], reported.settings["sound"]) == ("ok", None)
    assert row["sound"] == "not kept: the driving video has no sound in the rendered span"
    assert row["detail"] == f"sound {row['sound']}"

    def broken(path: Path, duration_s: float) -> None:
        raise VideoError("timeout", "its sound cannot be decoded: no end")

    monkeypatch.setattr(sound, "read_sound", broken)
    row, reported = render(pair, keep)
    assert (row["verdict"], reported.settings["sound"]) == ("ok", None)
    assert row["detail"] == "sound not kept: its sound cannot be decoded: no end"


def test_an_estimator_is_shown_the_driving_video_no_larger_than_it_needs_and_the_image_as_it_is(
    pair: Row, render: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dance", "me"):
        (tmp_path / f"{name}.pose.safetensors").unlink()
    monkeypatch.setattr(driving_poses, "POSE_SIDE_PX", 48)
    estimator = SlowDancer()
    row, _ = render(pair, CONFIG.model_copy(update={"pose_model": "auto"}), estimator)
    assert estimator.shown[1:] == [(9, 48, 32), (1, *IMAGE_SIZE)]
    assert row["pose_model"] == "slow-dancer"


def test_keypoints_beside_the_files_that_may_be_anothers_are_told(tmp_path: Path) -> None:
    for name in ("a.png", "a.mp4", "a.mov", "a.pose.safetensors", "b.png", "b.pose.safetensors", "b.txt"):
        (tmp_path / name).write_text("")
    row = {"image": str(tmp_path / "a.png"), "driving": str(tmp_path / "a.mp4")}
    of_image, of_video = sidecar_notes(row, RenderConfig())
    assert of_image == (
        "a.pose.safetensors was ignored: it belongs to the video of that name; "
        "to assign it to this file, name it a.png.pose.safetensors"
    )
    assert of_video == (
        "a.pose.safetensors was ignored: several files in the folder are named a; to assign it to this file, name it "
        "a.mp4.pose.safetensors"
    )
    assert sidecar_notes(row, RenderConfig(pose_model="dwpose")) == []  # which looks at no sidecar
    assert sidecar_notes(row | {"image": str(tmp_path / "b.png")}, RenderConfig()) == [of_video]
