"""Identity over time and background drift, from stand-ins whose answers are known, and why either has no value."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.datasets.video import encode
from steadydancer.models.metrics import identity_over_time
from steadydancer.models.metrics.identity import cosine_similarity, distance_similarity
from steadydancer.pipelines.evaluate.catalogue import METRICS
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.groups import perceptual
from steadydancer.pipelines.evaluate.judges import Judges
from steadydancer.pipelines.evaluate.protocols import PROTOCOLS
from steadydancer.pipelines.evaluate.scores import Features, NotMeasured, Score
from steadydancer.pipelines.evaluate.steps import measure_group
from steadydancer.pipelines.evaluate.video import Rendered, Video

HEIGHT, WIDTH = 64, 48
HIDDEN = 255  # the red of a frame in which nobody is found
OVER_TIME = ("identity", "identity_min", "identity_p5", "identity_slope", "identity_last_quarter", "identity_found")


class Red:
    """Embeds a picture as its red level in hundreds; finds nobody where it is `HIDDEN`."""

    def __init__(self, name: str, missing: str, similarity: Any) -> None:
        self.name, self.missing, self.similarity = name, missing, similarity
        self.calls = 0

    def embed(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        red = frames[..., 0].mean((1, 2))
        return np.stack([np.where(red > 250, np.nan, red / 100), np.ones(len(red))], axis=1).astype(np.float32)


class StandIns(Judges):
    def __init__(self, person: slice = slice(16, 32), filled: int = 0) -> None:
        super().__init__()
        self.face = Red("dlib-face", "no_face", distance_similarity)
        self.crop = Red("efficientnet-lite0,person-crop", "no_person", cosine_similarity)
        self.person, self.filled = person, filled

    def __getitem__(self, name: str) -> Any:
        return self.face if name == "face" else self

    def person_crops(self) -> Any:
        return self.crop

    def masks(self, frames: np.ndarray) -> np.ndarray:
        """The person is a column of the picture, or all of a picture that is `filled` wide."""
        found = np.full(frames.shape[:3], frames.shape[2] == self.filled)
        scale = frames.shape[2] / WIDTH
        found[:, :, round(self.person.start * scale) : round(self.person.stop * scale)] = True
        return found


def reds(*levels: int) -> np.ndarray:
    frames = np.zeros((len(levels), HEIGHT, WIDTH, 3), np.uint8)
    frames[..., 0] = np.array(levels)[:, None, None]
    frames[..., 1] = 60
    return frames


def read(folder: Path, frames: np.ndarray, driving: np.ndarray | str | None = None, **more: Any) -> Video:
    encode(frames, folder / "r.mp4", 16, lossless=True)
    if isinstance(driving, np.ndarray):
        encode(driving, folder / "d.mp4", more.pop("driving_fps", 16), lossless=True)
    image = more.pop("image", None)
    if image is not None:
        cv2.imwrite(str(folder / "i.png"), image[..., ::-1])
    row = {"video": str(folder / "r.mp4"), "driving": str(folder / "d.mp4") if driving is not None else None,
           "image": str(folder / "i.png") if image is not None else None, "truth": None, "reason": None,
           "detail": None}  # fmt: skip
    return Video.read(row, PROTOCOLS["all"], Rendered(**more))


def measured(video: Video, group: str, judges: Judges) -> dict[str, Any]:
    return measure_group(group, video, EvaluateConfig(), judges)


def test_identity_is_the_likeness_to_the_reference_between_ceiling_and_floor(tmp_path: Path) -> None:
    levels = [100, 110, HIDDEN, 130, 140, 150, 160, 180]
    driving = reds(20, 60, HIDDEN)  # 0.4 apart
    found = measured(read(tmp_path, reds(*levels), driving, image=reds(100)[0]), "face", StandIns())
    similarity = [1 - (level - 100) / 100 if level != HIDDEN else np.nan for level in levels]
    expected = identity_over_time(np.array(similarity), 16)
    for name, value in zip(OVER_TIME, expected, strict=True):
        assert found[f"{name}[dlib-face]"].value == pytest.approx(value, abs=1e-2), name
    assert found["identity[dlib-face]"].value == pytest.approx(np.nanmean(similarity), abs=1e-2)
    assert found["identity[dlib-face,ceiling]"].value == pytest.approx(0.6, abs=1e-2)
    (reference,) = found["features[dlib-face]:reference"].rows
    np.testing.assert_allclose(reference, [1, 1], atol=1e-2)
    names = {name for name, metric in METRICS.items() if metric.group == "face" and metric.level == "video"}
    assert names == found.keys() - {"features[dlib-face]:reference"}


def test_a_driving_video_of_several_pairs_is_embedded_once(tmp_path: Path) -> None:
    judges, video = StandIns(), read(tmp_path, reds(100, 120), reds(20, 60), image=reds(100)[0])
    for _ in range(2):
        measured(video, "face", judges)
    assert judges.face.calls == 2 * 2 + 1


def test_the_whole_person_is_another_judge(tmp_path: Path) -> None:
    found = measured(read(tmp_path, reds(100, 200), image=reds(100)[0]), "person-crop", StandIns())
    expected = (1 + 3 / (2 * 5) ** 0.5) / 2  # (1, 1) beside (2, 1)
    assert found["identity[efficientnet-lite0,person-crop]"].value == pytest.approx(expected, abs=1e-2)
    assert found["identity[efficientnet-lite0,person-crop,ceiling]"][:2] == (None, "no_driving")


def test_a_reference_without_a_face_is_no_fault_of_the_render(tmp_path: Path) -> None:
    """How often the render shows a face stays a measurement; no similarity is 0."""
    video = read(tmp_path, reds(100, HIDDEN, 120, 130), reds(20, 60), image=reds(HIDDEN)[0])
    found = measured(video, "face", StandIns())
    for name in OVER_TIME[:-1]:
        assert found[f"{name}[dlib-face]"][:2] == (None, "no_face_in_reference"), name
    assert found["identity_found[dlib-face]"].value == 0.75
    assert found["identity[dlib-face,ceiling]"].value == pytest.approx(0.6, abs=1e-2)
    assert found["features[dlib-face]:reference"].rows.shape == (0, 2)


def test_nobody_in_the_render_is_found_in_no_frame_and_not_unlike(tmp_path: Path) -> None:
    found = measured(read(tmp_path, reds(*[HIDDEN] * 5), image=reds(100)[0]), "face", StandIns())
    assert found["identity_found[dlib-face]"].value == 0
    assert {found[f"{name}[dlib-face]"][:2] for name in OVER_TIME[:-1]} == {(None, "no_face")}
    assert len(found["features[dlib-face]:reference"].rows) == 1


def test_without_reference_or_driving_video_each_has_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "d.mp4").write_bytes(b"nothing")
    found = measured(read(tmp_path, reds(100, 120), "damaged"), "face", StandIns())
    ceiling = found.pop("identity[dlib-face,ceiling]")
    assert (ceiling.value, ceiling.reason) == (None, "unreadable_driving")
    assert {one[:2] for one in found.values()} == {(None, "no_image")}
    assert found.keys() == {*(f"{name}[dlib-face]" for name in OVER_TIME), "features"}
    dark = reds(HIDDEN, 40)
    one_face = measured(read(tmp_path, reds(100), dark, image=reds(100)[0]), "face", StandIns())
    assert one_face["identity[dlib-face,ceiling]"][:2] == (None, "no_face")
    # A single frame is as like as it is, and has no slope.
    assert one_face["identity[dlib-face]"].value == pytest.approx(1, abs=1e-2)
    assert one_face["identity_slope[dlib-face]"][:2] == (None, "too_few")


def wall(count: int, camera: float = 0, starts_at: int = 0, darker: int = 0) -> np.ndarray:
    """A textured wall; the camera goes some pixels a frame from a frame on, and later frames are darker."""
    rng = np.random.default_rng(0)
    layers = [cv2.GaussianBlur(rng.normal(0, 40 * s, (HEIGHT, WIDTH + 400)), (0, 0), s) for s in (1.5, 4)]
    behind = np.clip(110 + sum(layers), 20, 230).astype(np.uint8)
    lefts = [round(camera * max(0, t - starts_at)) for t in range(count)]
    frames = np.stack([behind[:, left : left + WIDTH] for left in lefts])[..., None].repeat(3, axis=3)
    frames[1:] -= np.uint8(darker)
    return frames


def test_drift_before_a_still_camera(tmp_path: Path) -> None:
    render = wall(9, darker=10)
    render[:, :, 16:32] = np.random.default_rng(1).integers(0, 255, (9, HEIGHT, 16, 3))
    found = measured(read(tmp_path, render, wall(9, darker=2)), "background", StandIns())
    assert found["background_drift"].value == pytest.approx(10 / 255, abs=2e-3)
    assert found["background_drift[driving]"].value == pytest.approx(2 / 255, abs=2e-3)
    assert found["camera_travel"].value == pytest.approx(0, abs=0.02)


def test_drift_before_a_moving_camera_is_null_and_says_how_far_it_goes(tmp_path: Path) -> None:
    found = measured(read(tmp_path, wall(12), wall(12, camera=2)), "background", StandIns())
    assert found["background_drift"][:2] == (None, "moving_camera")
    assert found["background_drift[driving]"].value > 0.02
    assert found["camera_travel"].value == pytest.approx(24 / 80, rel=0.1)


def test_only_the_driven_part_of_the_driving_video_must_stand_still(tmp_path: Path) -> None:
    """Every frame of a video of 32 per second is driven, and written at 16: the render is twice as long as its part."""
    driving = wall(32, camera=3, starts_at=17)
    video = read(tmp_path, wall(16), driving, driving_fps=32)
    assert measured(video, "background", StandIns())["background_drift"].reason == "moving_camera"
    recorded = read(tmp_path, wall(16), driving, driving_fps=32)
    recorded.rendered = Rendered(has_record=True)
    found = measured(recorded, "background", StandIns())
    assert found["background_drift"].value == pytest.approx(0, abs=2e-3)
    assert found["camera_travel"].value == pytest.approx(0, abs=0.02)


def test_why_a_drift_has_no_value(tmp_path: Path) -> None:
    names = {name for name, metric in METRICS.items() if metric.group == "background"}
    alone = measured(read(tmp_path, wall(9)), "background", StandIns())
    assert alone == dict.fromkeys(names, Score(None, "no_driving", "no driving video was given"))
    (tmp_path / "d.mp4").write_bytes(b"nothing")
    damaged = measured(read(tmp_path, wall(9), "damaged"), "background", StandIns())
    assert {one.reason for one in damaged.values()} == {"unreadable_driving"} and damaged.keys() == names
    hidden = measured(read(tmp_path, wall(9), wall(9)), "background", StandIns(slice(0, 46)))
    assert hidden["background_drift"][:2] == hidden["camera_travel"][:2] == (None, "unknown_camera")
    assert hidden["background_drift[driving]"][:2] == (None, "little_background")
    filled = read(tmp_path, wall(9), wall(9).repeat(2, axis=1).repeat(2, axis=2))
    full = measured(filled, "background", StandIns(slice(16, 32), filled=WIDTH))
    assert full["background_drift"][:2] == (None, "little_background")
    assert full["background_drift[driving]"].value == 0 and full["camera_travel"].value < 0.02
    one = measured(read(tmp_path, wall(1), wall(1)), "background", StandIns())
    assert one["background_drift"][:2] == (None, "one_frame")
    for score in one.values():
        assert score.value is None and score.reason and score.detail


def test_networks_that_need_larger_pictures_say_so(tmp_path: Path) -> None:
    class Small(StandIns):
        min_side = 50

    video = read(tmp_path, reds(1, 2))
    video._kept["pair"] = NotMeasured("no_truth", "why")
    with pytest.raises(NotMeasured, match="no_truth"):
        perceptual.measure_lpips(video, Small(), "vgg")
    with pytest.raises(NotMeasured, match="48×64 px, but sides of 50"):
        video.require_side(50)
    assert isinstance(measured(video, "lpips-vgg", Small())["lpips[vgg]"], Score)
    assert not any(isinstance(one, Features) for one in measured(video, "lpips-vgg", Small()).values())
