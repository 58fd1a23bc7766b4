"""Which truth belongs to which render, and which of its frames are compared: by name and by time, said where not."""

from pathlib import Path

import numpy as np
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.file_names import file_stem
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.datasets.video import encode
from steadydancer.pipelines.common.outcomes import format_truths
from steadydancer.pipelines.evaluate.comparison import (
    Clock,
    NotComparable,
    same_aspect,
    same_times,
    times_in_truth,
    truth_frames,
)
from steadydancer.pipelines.evaluate.ground_truth import find_ground_truth

CAFE_COMPOSED, CAFE_TWO_SIGNS = "caf\u00e9", "cafe\u0301"


def folder_of(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pair_0", "pair_0.mp4"),
        ("pair_0", "pair_0.MP4"),
        ("pair_0", "pair_0.mov"),
        ("pair_0", "pair_0.MKV"),
        ("pair_0", "PAIR_0.MP4"),
        ("my_first_pair", "my first pair.mp4"),
        ("a_b", "a#b.webm"),
        ("take.2", "take.2.mp4"),
        ("take.2.mp4", "take.2.mp4"),
        (CAFE_COMPOSED, f"{CAFE_TWO_SIGNS}.mp4"),
        ("cafe_", f"{CAFE_TWO_SIGNS}.mp4"),
        (file_stem("k" * 240), f"{'k' * 240}.mp4"),
        (file_stem(" spaced "), " spaced .mp4"),
        ("_spaced_", " spaced .mp4"),  # as ids were spelled before
    ],
)
def test_a_truth_is_found_by_its_renders_id_however_it_is_spelled(tmp_path: Path, name: str, file: str) -> None:
    folder = folder_of(tmp_path / "truth", file, "other.mp4", "pair_0.txt", ".hidden.mp4", "pair")
    found = find_ground_truth([name, "zzz"], folder)
    assert found.found == {name: str(folder / file)} and found.unused == ["other.mp4"]
    assert found.missing == {"zzz": ("no_truth", f"{folder} has no video named zzz")}


def test_the_closest_name_decides_and_a_file_is_one_renders_truth(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "truth", "a b.mp4", "a_b.mp4", "a_b.mov", "c.mp4", "C.mp4", "x.mp4")
    found = find_ground_truth(["a_b", "c", "X", "x"], folder)
    assert found.found == {"a_b": f"{folder}/a_b.mp4", "c": f"{folder}/c.mp4", "x": f"{folder}/x.mp4"}
    assert set(found.missing) == {"X"} and found.unused == ["C.mp4", "a b.mp4", "a_b.mov"]
    both = find_ground_truth(["y", "y.mov"], folder_of(tmp_path / "one", "y.mov"))
    assert both.found == {"y": f"{tmp_path}/one/y.mov"} and set(both.missing) == {"y.mov"}


def test_two_that_fit_equally_well_are_named_and_not_taken(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "truth", "a.mov", "a.mkv", "b.mp4", "c d.mp4", "c#d.mp4")
    found = find_ground_truth(["a", "b", "c_d"], folder)
    assert found.found == {"b": f"{folder}/b.mp4"}
    reason, detail = found.missing["a"]
    assert reason == "ambiguous_truth" and "a.mkv and a.mov" in detail and str(folder) in detail
    assert "c d.mp4" in found.missing["c_d"][1] and "c#d.mp4" in found.missing["c_d"][1]
    assert found.to_record()["not_found"] == {"ambiguous_truth": ["a", "c_d"]}
    with pytest.raises(
        SteadyDancerError, match=r"every match in .* is ambiguous: a\.mkv and a\.mov match the render a equally"
    ):
        find_ground_truth(["a"], folder)


def test_a_folder_in_which_nothing_fits_is_refused_with_names_of_both_sides(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "truth", *(f"clip_{n}.mp4" for n in range(5)))
    with pytest.raises(SteadyDancerError) as refused:
        find_ground_truth([f"pair_{n}" for n in range(7)], folder)
    said = str(refused.value)
    assert "expected pair_0.mp4, pair_1.mp4, pair_2.mp4 and 4 more in" in said and str(folder) in said
    assert "which has clip_0.mp4, clip_1.mp4, clip_2.mp4 and 2 more" in said and "\n" not in said
    with pytest.raises(SteadyDancerError, match="which has no videos"):
        find_ground_truth(["a"], folder_of(tmp_path / "empty", "a.txt"))
    folder_of(folder_of(tmp_path / "outer") / "set 1", "a.mp4")
    with pytest.raises(SteadyDancerError, match=r"no videos \(subfolders are not searched: set 1\)"):
        find_ground_truth(["a"], tmp_path / "outer")


def test_a_letter_with_an_accent_is_the_same_in_one_sign_and_in_two(tmp_path: Path) -> None:
    """An id is made of the image's name, in which a Mac keeps accents apart; then they are no letters."""
    from steadydancer.datasets.file_names import file_stem

    apart, whole = "cafe\u0301 1", "caf\u00e9 1"
    folder = folder_of(tmp_path / "truth", f"{whole}.mp4")
    assert find_ground_truth([file_stem(apart)], folder).found == {"cafe_1": f"{folder}/{whole}.mp4"}
    other = folder_of(tmp_path / "other", f"{apart}.mp4")
    assert find_ground_truth([file_stem(whole)], other).found == {"caf\u00e9_1": f"{other}/{apart}.mp4"}


def test_without_a_folder_none_is_missed_by_name(tmp_path: Path) -> None:
    found = find_ground_truth(["b", "a"], None)
    assert found.missing == dict.fromkeys(("a", "b"), ("no_truth", "no ground truth was given"))
    assert format_truths(found.to_record()) == "No ground truth was given." and format_truths(None) == ""


def test_what_was_found_is_said_in_a_sentence(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "truth", "a.mp4", "b.mp4", "y.mp4", "z.mp4")
    reported = find_ground_truth(["a", "b", *"cdefg"], folder).to_record() | {"compared": 1, "frames_compared": 13}
    assert format_truths(reported) == (
        f"2 of 7 ids have ground truth in {folder}; 1 renders were compared, 13 frames. no_truth: 5 (c, d, e, …). "
        "2 videos in it match no render (y.mp4, z.mp4)."
    )
    folder = folder_of(tmp_path / "one", "a.mp4", "z.mp4")
    assert format_truths(find_ground_truth(["a"], folder).to_record()) == (
        f"1 of 1 ids have ground truth in {folder}. 1 video in it matches no render (z.mp4)."
    )


def test_a_store_is_searched_as_a_folder_is(bucket: str, tmp_path: Path) -> None:
    root = ObjectPath.parse(bucket) / "truth"
    for name in ("my pair.MP4", "below/b.mp4", "other.mov"):
        file = tmp_path / "file"
        file.write_bytes(b"x")
        upload_file(file, root / name)
    found = find_ground_truth(["my_pair", "b"], root)
    assert found.found == {"my_pair": f"{bucket}/truth/my pair.MP4"} and found.unused == ["other.mov"]


def times(count: int, fps: float) -> np.ndarray:
    return np.arange(count) / fps


@pytest.mark.parametrize(
    ("render", "truth", "picked"),
    [
        ((5, 16), (5, 16), [0, 1, 2, 3, 4]),
        ((5, 16), (9, 16), [0, 1, 2, 3, 4]),
        ((9, 16), (5, 16), [0, 1, 2, 3, 4]),
        ((5, 16), (10, 32), [0, 2, 4, 6, 8]),
        ((5, 16), (5, 32), [0, 2, 4]),  # the last picture ends at 5/32 s, before the render's frame 3
        ((6, 16), (3, 8), [0, 0, 1, 1, 2, 2]),
        ((9, 16), (2, 4), [0, 0, 0, 0, 1, 1, 1, 1]),  # each of its pictures stays for a quarter of a second
        ((5, 16), (9, 24), [0, 1, 3, 4, 6]),
        ((5, 16), (9, 30), [0, 1, 3, 5, 7]),
        ((5, 16), (1, 25), [0]),
        ((1, 16), (7, 30), [0]),
    ],
)
def test_the_truth_is_taken_at_the_renders_times(
    render: tuple[int, float], truth: tuple[int, float], picked: list[int]
) -> None:
    """Position of the frame shown at each time: the last one that is not later."""
    truth_s = times(*truth)
    at, notes = times_in_truth(Clock(times(*render)), truth_s)
    assert (np.searchsorted(truth_s, at + 1e-6, side="right") - 1).tolist() == picked
    assert bool(notes) == (render[1] != truth[1] and min(render[0], truth[0]) > 1)


def test_times_that_a_container_rounded_are_the_same_times() -> None:
    exact = times(40, 16)
    for rounded in (np.round(exact, 3), np.floor(exact * 600) / 600, np.round(exact, 2)):
        assert same_times(exact, rounded)
        at, notes = times_in_truth(Clock(exact), rounded)
        assert at.tolist() == rounded.tolist() and not notes
    assert not same_times(exact, times(40, 15)) and not same_times(exact, times(40, 17))
    assert not same_times(times(200, 100), times(200, 100) + 0.0055)  # more than half a frame
    assert same_times(exact, exact + 0.0055) and not same_times(exact, exact + 0.008)
    at, _ = times_in_truth(Clock(exact), np.round(times(80, 32), 3))
    assert (np.searchsorted(np.round(times(80, 32), 3), at + 1e-6, side="right") - 1).tolist() == list(range(0, 80, 2))


def test_a_truth_on_the_driving_videos_clock_is_compared_with_what_drove_each_frame(tmp_path: Path) -> None:
    """The driving at 24 a second, every frame of it rendered and played at 16: frame k was driven by frame k."""
    driving = tmp_path / "driving.mp4"
    encode(np.zeros((30, 32, 32, 3), np.uint8), driving, 24)
    truth_s, render_s = times(30, 24), times(13, 16)
    at, notes = times_in_truth(Clock(render_s, str(driving)), truth_s)
    assert (np.searchsorted(truth_s, at, side="right") - 1).tolist() == list(range(13)) and "driving" in notes[0]
    at, _ = times_in_truth(Clock(render_s, str(driving), driving_fps=12), truth_s)
    assert (np.searchsorted(truth_s, at, side="right") - 1).tolist() == list(range(0, 26, 2))
    at, notes = times_in_truth(Clock(render_s, str(driving)), times(30, 32))  # neither clock: the render's own
    assert (np.searchsorted(times(30, 32), at, side="right") - 1).tolist() == list(range(0, 26, 2))
    at, notes = times_in_truth(Clock(render_s, str(tmp_path / "gone.mp4")), truth_s)
    assert (np.searchsorted(truth_s, at, side="right") - 1).tolist() == [k * 3 // 2 for k in range(13)]
    assert any("driving video can no longer be read" in note for note in notes)


def test_shapes_are_the_same_but_for_rounded_sides() -> None:
    for one, other in [((64, 48), (128, 96)), ((1024, 576), (1920, 1080)), ((270, 480), (272, 480)), ((32, 32),) * 2]:
        assert same_aspect(one, other) and same_aspect(other, one)
    for one, other in [((64, 48), (48, 64)), ((256, 192), (208, 192)), ((480, 640), (480, 854)), ((64, 48), (64, 64))]:
        assert not same_aspect(one, other) and not same_aspect(other, one)


def test_a_truth_is_scaled_but_not_stretched(tmp_path: Path) -> None:
    """Each half of the picture has its own colour: a stretched or cut truth would have them elsewhere."""
    frames = np.zeros((3, 64, 96, 3), np.uint8)
    frames[:, :, :48], frames[:, :, 48:] = (200, 30, 60), (20, 90, 180)
    encode(frames, tmp_path / "t.mp4", 16, lossless=True)
    clock = Clock(times(3, 16))
    half = truth_frames(tmp_path / "t.mp4", clock, (32, 48), None)
    assert half.frames.shape == (3, 32, 48, 3) and half.detail == "the ground truth was scaled from 96×64 to 48×32"
    assert np.abs(half.frames[:, 4:-4, 4:20].astype(int) - (200, 30, 60)).max() <= 2
    assert np.abs(half.frames[:, 4:-4, 28:-4].astype(int) - (20, 90, 180)).max() <= 2
    with pytest.raises(NotComparable, match="the ground truth is 96×64, the render 64×64") as other:
        truth_frames(tmp_path / "t.mp4", clock, (64, 64), (80, 80))
    assert other.value.reason == "other_aspect"
    # The render has the shape of its image, but for its sides' rounding to 16; so has this truth.
    assert truth_frames(tmp_path / "t.mp4", clock, (64, 64), (640, 960)).frames.shape == (3, 64, 64, 3)
    # A truth of the render's own shape is held against it whatever the image's is.
    assert truth_frames(tmp_path / "t.mp4", clock, (64, 96), (640, 640)).detail is None
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(NotComparable, match="unreadable") as broken:
        truth_frames(tmp_path / "broken.mp4", clock, (32, 48), None)
    assert broken.value.reason == "unreadable_truth"
