"""The steps of a curation on rows and frames whose answers are known: spans, times, who looks at what and where."""

import functools
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from steadydancer.datasets.schema import Row
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.toydance import draw_dancer, save_supplied_pose, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.models.pose.track import PoseTrack
from steadydancer.pipelines.common.crop import content_shares, to_content
from steadydancer.pipelines.common.device_frames import DeviceReader
from steadydancer.pipelines.curate import clip_frames, steps
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.gates import Gates
from steadydancer.pipelines.curate.networks import PoseTools, ScoreTools, ShotTools
from steadydancer.pipelines.curate.scores.borders import Box
from steadydancer.pipelines.curate.scores.shots import ShotPass, transition_shots
from steadydancer.pipelines.curate.steps import estimate_pose, find_shots, score_frames

FPS = 10.0  # not the default, and not one second's frames either
EVERYTHING: dict[str, Any] = dict.fromkeys(Gates.model_fields)  # all gates off


def config(**fields: Any) -> CurateConfig:
    gates = Gates(**{**EVERYTHING, **fields.pop("gates", {})})
    return CurateConfig(**{"num_frames": 9, "fps": FPS, "gates": gates, "shot_detector": "threshold", **fields})


def coloured(*lengths: int) -> np.ndarray:
    """Small frames, one colour a shot, in which a bright square goes on by a pixel a frame."""
    colours = [(20, 160, 20), (20, 20, 160), (160, 20, 20), (150, 150, 20)]
    frames = np.concatenate([np.full((n, 24, 32, 3), colours[k % 4], np.uint8) for k, n in enumerate(lengths)])
    for index, frame in enumerate(frames):
        frame[8:16, index % 24 : index % 24 + 6] = 250
    return frames


@pytest.fixture
def filmed(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], None]:
    """Lets the low-resolution pass see these frames, whatever the file."""

    def show(frames: np.ndarray) -> None:
        def pieces(path: str, every_s: float, side: int, num_frames: int) -> Any:
            assert (every_s, side) == (1 / FPS, 128)
            for start in range(0, len(frames) + 1, num_frames):
                yield None, frames[start : start + num_frames]

        monkeypatch.setattr(steps, "low_resolution_pieces", pieces)
        monkeypatch.setattr(steps, "screen_key_frames", lambda row, config: None)

    return show


SIZE: Row = {"width": 320, "height": 240, "duration_s": 9.9}


def written(file: Path, content: bytes = b"a") -> Row:
    """The row of a source whose file is there, and is what it was when it was probed."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return {**SIZE, "source_path": str(file), "source_id": sha256(content).hexdigest()}


@pytest.fixture
def source(tmp_path: Path) -> Row:
    return written(tmp_path / "a.mp4")


def test_a_source_is_cut_into_spans_at_its_own_times(
    filmed: Callable[[np.ndarray], None], source: Row, tmp_path: Path
) -> None:
    filmed(coloured(20, 6, 30))
    rows = cast("list[Row]", find_shots(source, config()))
    reported = [(row["shot_index"], row["start_s"], row["end_s"], row["num_frames"], row.get("reason")) for row in rows]
    # Shots of 20, 6 and 30 frames: two windows of nine, none, three; what is left over at a shot's end is nobody's.
    assert reported == [
        (0, 0.0, pytest.approx(0.8), 9, None),
        (0, pytest.approx(0.9), pytest.approx(1.7), 9, None),
        (1, pytest.approx(2.0), pytest.approx(2.5), 6, "too_short"),
        (2, pytest.approx(2.6), pytest.approx(3.4), 9, None),
        (2, pytest.approx(3.5), pytest.approx(4.3), 9, None),
        (2, pytest.approx(4.4), pytest.approx(5.2), 9, None),
    ]
    assert rows[2]["detail"] == "0.50 s long, expected at least 0.80 s" and rows[2]["verdict"] == "rejected"
    assert len({row["clip_id"] for row in rows}) == 6 and all(len(row["clip_id"]) == 16 for row in rows)
    # A clip that ends where a shot ends has no cut in it; each is measured, the short one is not looked at further.
    assert max(row["cut_score"] for row in rows) < 0.2
    assert all(row["transition_score"] is None and row["leak_score"] is None for row in rows)
    assert ["frozen_ratio" in row for row in rows] == [True, True, False, True, True, True]
    # An id is made of content, span and rate.
    again = cast("list[Row]", find_shots(written(tmp_path / "elsewhere" / "b.mp4"), config()))
    assert [row["clip_id"] for row in again] == [row["clip_id"] for row in rows]
    other = cast("list[Row]", find_shots(written(tmp_path / "a.mp4", b"another"), config()))
    assert not {row["clip_id"] for row in other} & {row["clip_id"] for row in rows}


def test_numbers_of_a_span_are_those_of_the_changes_inside_it() -> None:
    seen = SimpleNamespace(
        change=np.array([0.9, 0.1, 0.3, 0.2, 0.8, 0.7]),
        motion=np.array([9.0, 1.0, 2.0, 6.0, 9.0, 9.0]),
        transition=np.array([0.9, 0.1, 0.4, 0.3, 0.8, 0.9, 0.9], np.float32),
        frames=lambda start, stop: np.full((stop - start, 8, 8, 3), 50, np.uint8),
    )
    # Frames 1 to 4 of seven: three changes lie between them; the one into frame 1 and the one out of 4 do not.
    row = steps._clip({**SIZE, "source_id": "a" * 64}, cast("ShotPass", seen), 3, 1, 5, config(num_frames=5))
    assert (row["cut_score"], row["motion_magnitude"], row["shot_index"]) == (0.3, 3.0, 3)
    assert row["transition_score"] == pytest.approx(0.4)
    assert (row["start_s"], row["end_s"], row["num_frames"]) == (0.1, pytest.approx(0.4), 4)
    assert (row["verdict"], row["reason"], row["detail"]) == (
        "rejected",
        "too_short",
        "0.30 s long, expected at least 0.40 s",
    )
    assert len(row["fingerprint"]) == 2 * 64  # ten frames a second, four pictures a second: two frames each
    one = steps._clip({**SIZE, "source_id": "a" * 64}, cast("ShotPass", seen), 0, 2, 3, config(num_frames=5))
    assert (one["cut_score"], one["motion_magnitude"], one["transition_score"]) == (0, None, 0)
    trusted = steps._clip(
        {**SIZE, "source_id": "a" * 64}, cast("ShotPass", seen), 0, 1, 5, config(num_frames=5, trust=True)
    )
    assert trusted["motion_magnitude"] is None and trusted["cut_score"] == 0.3


def test_windows_beyond_the_limit_are_named_and_not_measured(filmed: Callable[[np.ndarray], None], source: Row) -> None:
    filmed(coloured(20, 6, 30))
    asked: list[bytes] = []
    excluded = SimpleNamespace(closest=lambda data: asked.append(data) or (0.25, "known.mp4"))
    rows = cast("list[Row]", find_shots(source, config(max_clips_per_source=3), ShotTools(None, cast("Any", excluded))))
    assert [row.get("reason") for row in rows] == [None, None, "too_short", None, *["max_clips_per_source"] * 2]
    assert rows[4]["detail"] == "clip 4 of its source, expected at most 3" and rows[4]["verdict"] == "rejected"
    # What is left out is not measured, and nothing stands in for what was not.
    assert [row["leak_of"] for row in rows] == ["known.mp4", "known.mp4", None, "known.mp4", None, None]
    assert [row["leak_score"] for row in rows] == [0.25, 0.25, None, 0.25, None, None]
    assert asked == [row["fingerprint"] for row in rows if row["leak_score"] is not None]
    assert ["frozen_ratio" in row for row in rows] == [True, True, False, True, False, False]
    trusted = cast("list[Row]", find_shots(source, config(trust=True), ShotTools(None, cast("Any", excluded))))
    assert all("frozen_ratio" not in row for row in trusted) and trusted[0]["leak_score"] == 0.25


def test_a_source_of_many_pieces_is_one_source(
    filmed: Callable[[np.ndarray], None], monkeypatch: pytest.MonkeyPatch, source: Row
) -> None:
    filmed(coloured(20, 6, 30))
    whole = find_shots(source, config())
    for piece in (7, 56, 28):  # 56 frames: the last piece is empty where they divide
        monkeypatch.setattr(steps, "PIECE_FRAMES", piece)
        assert find_shots(source, config()) == whole
    filmed(coloured(5))
    (short,) = cast("list[Row]", find_shots(source, config()))
    assert (short["reason"], short["num_frames"]) == ("too_short", 5)


def test_frames_of_a_transition_belong_to_no_shot_and_a_hard_cut_to_the_shot_before() -> None:
    def shots(*words: str) -> list[tuple[int, int]]:
        return transition_shots(np.array([0.5 if sign == "x" else 0.499 for sign in "".join(words)], np.float32), 0.5)

    assert shots("....", "xxx", ".....") == [(0, 4), (7, 12)]
    assert shots("....", "x", ".....") == [(0, 5), (5, 10)]  # one frame: the last one before the cut
    assert shots("....", "x") == [(0, 5)] and shots("....", "xx") == [(0, 4)]
    assert shots("x", "....") == [(1, 5)] and shots("xx", "..", "x", ".") == [(2, 5), (5, 6)]
    assert shots("xxx") == [(0, 3)] and shots("...") == [(0, 3)]


@pytest.fixture
def row_of(source: Row) -> Callable[..., Row]:
    """A clip of that source, with changes."""
    return functools.partial(clip_row, source)


def clip_row(source: Row, **changes: Any) -> Row:
    return {**source, "clip_id": "c", "start_s": 1.5, "end_s": 3.5, "num_frames": 9, "camera_motion": None, **changes}


@pytest.fixture
def requested_frames(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `score_frames` asks to see; eight frames with bars of 20 pixels at the left and 40 at the right of 320."""
    asked: list[Any] = []
    rng = np.random.default_rng(0)
    frames = np.zeros((8, 120, 160, 3), np.uint8)
    frames[:, :, 10:140] = rng.integers(60, 200, (8, 30, 26, 3)).repeat(4, axis=1).repeat(5, axis=2)
    frames[:, 0, 60, 0] = np.arange(8)  # which frame it is

    def decode_sparse(path: str, start_s: float, end_s: float, count: int) -> Any:
        asked.append((path, start_s, end_s, count))
        return None, frames

    monkeypatch.setattr(steps, "decode_sparse", decode_sparse)
    return asked


class Looks:
    """Networks that remember which frames they were shown."""

    def __init__(self, text: float = 0.0, persons: int = 1) -> None:
        self.seen: dict[str, list[int]] = {}
        self.shapes: set[tuple[int, ...]] = set()
        self.text_share, self.num_persons = text, persons

    def _look(self, name: str, frames: np.ndarray) -> None:
        self.seen[name] = frames[:, 0, 49, 0].tolist()  # 60 less the bar of 11
        self.shapes.add(frames.shape[1:])

    def text(self, frames: np.ndarray) -> np.ndarray:
        self._look("text", frames)
        mask = np.zeros((len(frames), 10, 10), bool)
        mask[:, : round(10 * self.text_share)] = True
        return mask

    def count(self, frames: np.ndarray) -> tuple[int, float]:
        self._look("persons", frames)
        return self.num_persons, 0.5

    def summary(self, frames: np.ndarray) -> Row:
        self._look("aesthetics", frames)
        return {"aesthetic_score": 6.0, "action_type": "dance", "extreme_action": 0.1}

    @property
    def tools(self) -> ScoreTools:
        return ScoreTools(cast("Any", self.text), cast("Any", self), cast("Any", self))


def test_networks_see_four_of_eight_frames_inside_the_borders(
    requested_frames: list[Any], row_of: Callable[..., Row]
) -> None:
    looks = Looks()
    row = cast("Row", score_frames(row_of(), config(), looks.tools))
    assert requested_frames == [(row["source_path"], 1.5, 3.5, 8)]
    assert looks.seen == {name: [0, 2, 5, 7] for name in ("text", "persons", "aesthetics")}
    # Of 160 columns 11 and 21 are bars: 22 and 42 of 320, and that is where the picture lies in the source.
    assert [row[f"crop_{side}_px"] for side in ("left", "top", "width", "height")] == [22, 0, 256, 240]
    assert row["border_ratio"] == pytest.approx(32 / 160) and looks.shapes == {(120, 128, 3)}
    assert row["brightness"] > 0.4  # without the bars; with them it were a fifth less
    assert (row["num_detected_persons"], row["detected_person_ratio"], row["aesthetic_score"]) == (1, 0.5, 6.0)
    assert row["text_ratio"] == 0 and row["static_edge_ratio"] is None


def test_what_a_cheaper_score_refuses_is_not_looked_at_further(
    requested_frames: list[Any], row_of: Callable[..., Row]
) -> None:
    def looked(looks: Looks, **gates: Any) -> tuple[set[str], Row]:
        row = cast("Row", score_frames(row_of(), config(gates=gates), looks.tools))
        return set(looks.seen), row

    names, row = looked(Looks(), min_contrast=0.9)
    assert names == set() and row["text_ratio"] is None and row["num_detected_persons"] is None
    names, row = looked(Looks(text=0.3), max_text_ratio=0.2)
    assert names == {"text"} and row["text_ratio"] == 0.3 and row["aesthetic_score"] is None
    assert looked(Looks(persons=2), max_persons=1)[0] == {"text", "persons"}
    assert looked(Looks(persons=2), max_persons=2)[0] == {"text", "persons", "aesthetics"}
    # Sources that are trusted are not looked at at all, and say nothing.
    trusted = cast("Row", score_frames(row_of(), config(trust=True), Looks().tools))
    assert len(requested_frames) == 4 and trusted["brightness"] is None and trusted["border_ratio"] is None


def test_the_content_is_even_and_inside_the_frame() -> None:
    def content(box: Box, width: int, height: int) -> list[int]:
        row = steps._content({"width": width, "height": height}, box)
        return [row[f"crop_{side}_px"] for side in ("left", "top", "width", "height")]

    assert content(Box(0.1, 0.2, 0.9, 1.0), 200, 100) == [20, 20, 160, 80]
    assert content(Box(0.103, 0.0, 1.0, 0.87), 201, 101) == [20, 0, 180, 88]
    assert steps._content({"width": 201, "height": 101}, Box()) == {"border_ratio": 0.0}
    assert steps._content({"width": 200, "height": 100}, Box(0.25, 0, 0.75, 1))["border_ratio"] == 0.5


BARRED = {"crop_left_px": 40, "crop_top_px": 0, "crop_width_px": 240, "crop_height_px": 180}


class Estimator:
    """Finds one person, always in the same place of what it is shown."""

    name, counts_people = "there", True

    def __init__(self, *people: PoseSequence) -> None:
        self.people, self.requested_frames = people, list[tuple[int, ...]]()

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        self.requested_frames.append(frames.shape)
        return [PoseTrack(one, np.full((len(one), 18), 0.75, np.float32)) for one in self.people]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []

    def decode(path: str, times_s: np.ndarray, height: int, width: int) -> np.ndarray:
        asked.append((times_s.tolist(), height, width))
        return np.zeros((len(times_s), height, width, 3), np.uint8)

    monkeypatch.setattr(clip_frames, "decode", decode)
    return asked


def test_a_pose_is_looked_for_inside_the_borders_and_kept_in_the_sources_frame(
    decoded: list[Any], row_of: Callable[..., Row]
) -> None:
    one, other = toy_pose(3, 9, FPS, aspect=240 / 180), toy_pose(4, 9, FPS, aspect=240 / 180)
    estimator = Estimator(one, PoseSequence(other.body * np.float32(0.5), other.body_visible, other.hands))
    row = row_of(**BARRED, width=1280, height=960)
    row |= {name: 4 * size for name, size in BARRED.items()}
    out = cast("Row", estimate_pose(row, config(), PoseTools(cast("Any", estimator))))
    # Nine frames from its own beginning on, with a shorter side of 512; of them the picture inside the borders.
    ((times, height, width),) = decoded
    assert times == pytest.approx([1.5 + k / FPS for k in range(9)]) and (height, width) == (512, 682)
    assert estimator.requested_frames == [(9, 384, 510, 3)]
    kept = PoseSequence.from_bytes(out["pose"])
    np.testing.assert_allclose(kept.body, one.body * [0.75, 0.75] + [0.125, 0], atol=1e-6)
    assert (out["pose_model"], out["num_persons"], out["pose_confidence"]) == ("there", 2, 0.75)
    assert out["other_person_ratio"] == pytest.approx(0.5, abs=0.2)
    # What is judged is what was looked at: a dancer in the middle of the picture.
    straight = cast("Row", estimate_pose(row_of(width=960, height=720), config(), PoseTools(cast("Any", estimator))))
    for name in ("subject_height", "subject_offset", "pose_motion", "pose_jerk", "torso_tilt_deg", "in_frame_ratio"):
        assert out[name] == pytest.approx(straight[name], rel=1e-6), name
    assert decoded[1][1:] == (512, 682)


def test_frames_on_a_device_are_read_once_and_stay_there_for_the_network(tmp_path: Path) -> None:
    pytest.importorskip("torchcodec")
    person = toy_pose(3, 30, FPS, aspect=320 / 240)
    encode(draw_dancer(person, 3, 240, 320), tmp_path / "a.mp4", FPS)
    row = clip_row({**SIZE, "source_path": str(tmp_path / "a.mp4")}, **BARRED)
    row["source_id"] = sha256((tmp_path / "a.mp4").read_bytes()).hexdigest()
    shown: list[tuple[Any, ...]] = []

    def smoothness(*frames: Any) -> float:
        shown.append(frames)
        return 0.5

    reader = DeviceReader("cpu")
    tools = PoseTools(cast("Any", Estimator(person[15:24])), cast("Any", smoothness))
    outs = [cast("Row", estimate_pose(row, config(), replace(tools, reader=one))) for one in (None, reader)]
    assert outs[0] == outs[1]  # on the CPU, to the bit
    (array, nothing), (same, tensor) = shown
    assert nothing is None
    np.testing.assert_array_equal(array, same)
    np.testing.assert_array_equal(array, tensor.numpy())
    assert sum(reader.counts[name] for name in ("device", "host")) == 1
    reader.close()


def test_supplied_keypoints_are_of_the_whole_frame_and_need_no_decoding(
    decoded: list[Any], row_of: Callable[..., Row]
) -> None:
    person = toy_pose(3, 40, FPS, aspect=320 / 240)
    row = row_of(**BARRED)
    save_supplied_pose(Path(row["source_path"]), [person], FPS)
    out = cast("Row", estimate_pose(row, config()))
    assert decoded == [] and out["pose_model"] == "supplied" and out["num_persons"] == 1
    assert out["pose_confidence"] is None and out["visible_joint_ratio"] == 1  # nobody measured how sure they are
    span = person[15:24]  # from 1.5 s on
    np.testing.assert_allclose(PoseSequence.from_bytes(out["pose"]).body, span.body, atol=1e-6)
    inside = to_content(span, content_shares(row))
    assert out["subject_height"] == pytest.approx(
        np.median(np.ptp(np.clip(inside.body[..., 1], 0, 1), axis=1)), rel=1e-3
    )
    assert out["appearance_change"] is None and out["subject_clipped_ratio"] is None
    assert out["motion_smoothness"] is None


def test_a_clip_that_a_cheap_gate_refuses_or_that_shows_nobody_has_no_pose(
    decoded: list[Any], row_of: Callable[..., Row]
) -> None:
    dark = row_of(brightness=0.05)
    assert estimate_pose(dark, config(gates={"min_brightness": 0.1})) == dark
    nobody = cast("Row", estimate_pose(row_of(num_detected_persons=3), config(), PoseTools(cast("Any", Estimator()))))
    assert (nobody["missing_pose_ratio"], nobody["pose_model"], nobody.get("pose")) == (1.0, "there", None)
    assert nobody["num_persons"] == 3
    no_model = cast("Row", estimate_pose(row_of(), config()))
    assert no_model["pose_model"] is None and "missing_pose_ratio" not in no_model and "pose" not in no_model
    # A gate of what the pose itself says does not keep it from being looked for.
    strict = config(gates={"min_pose_motion": 99.0, "max_pose_jerk": 0.0})
    seen = cast(
        "Row", estimate_pose(row_of(pose_motion=0.0), strict, PoseTools(cast("Any", Estimator(toy_pose(1, 9, FPS)))))
    )
    assert seen["pose"] is not None


def test_frames_are_never_larger_than_their_source_and_have_even_sides(decoded: list[Any]) -> None:
    for width, height, expected in (
        (320, 240, (240, 320)), (2000, 1000, (512, 1024)), (1001, 2003, (1024, 512)), (101, 77, (76, 100)),
    ):  # fmt: skip
        frames = clip_frames.ClipFrames({**SIZE, "source_path": "a", "width": width, "height": height}, np.zeros(1))
        assert not frames.were_read and frames.in_memory.shape == (1, *expected, 3)
        assert frames.were_read and decoded[-1][1:] == expected and frames.on_device is None
        assert frames.tensor("cpu").shape == (1, *expected, 3) and len(decoded) == 1
        decoded.clear()
