"""Copies are found whatever was done to them; another dance in the same place is none."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_table
from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.pipelines.curate import job
from steadydancer.pipelines.curate.config import CurateConfig, Duplicates
from steadydancer.pipelines.curate.gates import Gates
from steadydancer.pipelines.curate.networks import load_excluded
from steadydancer.pipelines.curate.scores.duplicates import (
    MIN_PLACE,
    Excluded,
    align,
    fingerprint,
    mirrored,
    pictures,
    unit,
)
from steadydancer.pipelines.curate.selection import near_duplicates as groups
from steadydancer.pipelines.curate.selection.fingerprints import Fingerprints
from steadydancer.pipelines.curate.selection.near_duplicates import find_groups
from steadydancer.pipelines.curate.selection.select import select_table

FPS = 16.0


def dance(motion: int, num_frames: int = 96, look: int = 0) -> np.ndarray:
    """A dancer's look before the same wall, and a dance of its own."""
    return draw_dancer(toy_pose(look, num_frames, FPS, motion_seed=motion), look, 96, 96)


def marks(frames: np.ndarray) -> np.ndarray:
    return pictures(fingerprint(frames, FPS))


def recompressed(frames: np.ndarray, quality: int) -> np.ndarray:
    coded = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for frame in frames]
    return np.stack([cv2.imdecode(one, cv2.IMREAD_COLOR) for one in coded])


@pytest.fixture(scope="module")
def original() -> np.ndarray:
    return dance(1)


COPIES = {
    "recompressed": lambda frames: recompressed(frames, 20),
    "half the size": lambda frames: np.stack([cv2.resize(frame, (48, 48)) for frame in frames]),
    "cropped by 4 % a side": lambda frames: frames[:, 4:-4, 4:-4],
    "brighter": lambda frames: np.clip(frames * 1.15 + 8.0, 0, 255).astype(np.uint8),
    "mirrored": lambda frames: frames[:, :, ::-1],
    "begun a second later": lambda frames: frames[16:],
    "begun an eighth of a second later, mirrored": lambda frames: frames[2:, :, ::-1],
}


@pytest.mark.parametrize("change", COPIES)
def test_copies_agree(original: np.ndarray, change: str) -> None:
    copy = marks(np.ascontiguousarray(COPIES[change](original)))
    match = align(marks(original), copy, round(0.8 * len(marks(original))))
    assert match.similarity > 0.75 and match.overlap >= len(copy) - 1
    assert find_groups([marks(original), copy], 0.8) == [0, 0]


def test_another_dance_in_the_same_place_and_another_dancer_are_no_copies(original: np.ndarray) -> None:
    others = [dance(motion) for motion in (2, 3, 4)] + [dance(1, look=7)]
    assert find_groups([marks(original), *map(marks, others[:3])], 0.8) == [0, 1, 2, 3]
    assert align(marks(original), marks(others[3]), 19).similarity < 0.65


def test_a_part_is_no_copy_of_the_whole_unless_asked_for(original: np.ndarray) -> None:
    half = marks(original[40:])
    assert find_groups([marks(original), half], 0.8) == [0, 1]
    assert find_groups([marks(original), half], 0.5) == [0, 0]


def test_fingerprints_are_small_and_mirroring_twice_changes_nothing(original: np.ndarray) -> None:
    data = fingerprint(original, FPS)
    assert len(data) == 24 * 64  # four a second
    np.testing.assert_array_equal(mirrored(mirrored(pictures(data))), pictures(data))
    still = np.repeat(original[:1], 40, axis=0)
    assert align(marks(still), marks(still), 5).overlap == 0  # nothing happens that could be compared


def all_pairs(sequences: list[np.ndarray], min_ratio: float) -> list[int]:
    """The rule without a search: every pair of like length whose mean pictures are alike is aligned."""
    root = list(range(len(sequences)))
    for second in range(len(sequences)):
        for first in range(second):
            one, other = sequences[first], sequences[second]
            shorter, longer = sorted((len(one), len(other)))
            means = [unit(sequence.mean(axis=0)[None])[0] for sequence in (one, other)]
            alike = max(float(means[0] @ means[1]), float(means[0] @ mirrored(means[1])[0]))
            if shorter < min_ratio * longer or alike < MIN_PLACE or root[first] == root[second]:
                continue
            if align(one, other, max(2, int(np.ceil(min_ratio * longer)))).overlap:
                older, newer = sorted((root[first], root[second]))
                root = [older if index == newer else index for index in root]
    return root


def scenes(number: int, seed: int) -> list[np.ndarray]:
    """Sequences in a few places, some of them copies: noisy, begun later, mirrored, cut."""
    chance = np.random.default_rng(seed)
    places = chance.random((4, 64)) * 200
    out: list[np.ndarray] = []
    for _ in range(number):
        if out and chance.random() < 0.4:
            copy = out[chance.integers(len(out))][chance.integers(0, 3) :]
            copy = copy[: len(copy) - int(chance.integers(0, 3))] + chance.normal(0, 2, (1, 64))
            out.append(mirrored(copy) if chance.random() < 0.3 else copy)
        else:
            events = np.cumsum(chance.normal(0, 12, (int(chance.integers(16, 40)), 64)), axis=0)
            out.append(places[chance.integers(4)] + events - events.mean(axis=0))
    return [sequence.clip(0, 255).astype(np.float32) for sequence in out]


@pytest.mark.parametrize("block", [7, 2048])
def test_the_search_finds_what_looking_at_all_pairs_finds(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(groups, "BLOCK", block)
    sequences = scenes(60, seed=3)
    expected = all_pairs(sequences, 0.8)
    assert find_groups(sequences, 0.8) == expected
    assert 10 < len(set(expected)) < 55
    assert find_groups(sequences, 0.5) == all_pairs(sequences, 0.5)


def test_a_copy_may_be_shorter_by_just_the_share_that_is_allowed() -> None:
    chance = np.random.default_rng(5)
    one = (60 + 100 * chance.random(64) + chance.normal(0, 12, (25, 64))).clip(0, 255).astype(np.float32)
    assert find_groups([one, one[:20]], 0.8) == [0, 0] and find_groups([one[:20], one], 0.8) == [0, 0]
    assert find_groups([one, one[:19]], 0.8) == [0, 1]
    # The share is of the longer one: 20 of 25 pictures must be in common, though 18 were enough of the 22.
    for common, found in ((18, [0, 1]), (20, [0, 0])):
        other = (one[0] + chance.normal(0, 12, (22 - common, 64))).clip(0, 255).astype(np.float32)
        assert find_groups([one, np.concatenate([one[25 - common :], other])], 0.8) == found


def test_a_copy_is_found_behind_what_looks_more_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pictures in another order have the same mean and the same changes; a noisy copy has not quite."""
    chance = np.random.default_rng(4)
    one = (60 + 100 * chance.random(64) + chance.normal(0, 12, (20, 64))).clip(0, 255).astype(np.float32)
    copy = (one + chance.normal(0, 3, one.shape)).clip(0, 255).astype(np.float32)
    sequences = [one, one[chance.permutation(20)], copy]
    assert find_groups(sequences, 0.8) == all_pairs(sequences, 0.8) == [0, 1, 0]
    monkeypatch.setattr(groups, "MAX_CANDIDATES", 2)
    assert find_groups(sequences, 0.8) == [0, 1, 0]


def test_a_thousand_dances_in_one_studio_are_not_all_compared(
    original: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is aligned grows with the number of sequences, not with that of pairs; the copies are among it."""
    chance = np.random.default_rng(0)
    place = chance.random(64) * 200
    studio = []
    for _ in range(150):
        where = chance.random(64) * 20  # each dances in another corner of it
        studio.append((place + chance.normal(0, 1, (24, 64)) * where).clip(0, 255).astype(np.float32))
    studio += [sequence + chance.normal(0, 1, sequence.shape).astype(np.float32) for sequence in studio[:3]]
    monkeypatch.setattr(groups, "MAX_CANDIDATES", 3)
    pairs: list[int] = []
    monkeypatch.setattr(groups, "align", lambda *words: pairs.append(1) or align(*words))
    found = find_groups(studio, 0.8)
    assert found == [*range(150), 0, 1, 2]
    assert len(pairs) <= 3 * len(studio) < 153 * 152 / 2


def test_fingerprints_lie_in_a_file_and_are_grouped_by_source(original: np.ndarray) -> None:
    whole, other = fingerprint(original, FPS), fingerprint(dance(2), FPS)
    table = to_table(
        rows(
            {"source_path": "a", "source_id": "2", "clip_id": "21", "fingerprint": whole[: 12 * 64]},
            {"source_path": "a", "source_id": "2", "clip_id": "22", "fingerprint": whole[12 * 64 :], "start_s": 3.0},
            {"source_path": "b", "source_id": None, "clip_id": "b"},
            {"source_path": "c", "source_id": "1", "clip_id": "11", "fingerprint": whole},
            {"source_path": "d", "source_id": "3", "clip_id": "31", "fingerprint": other},
            {"source_path": "e", "source_id": "1", "clip_id": "11", "fingerprint": whole},
            {"source_path": "f", "source_id": None, "clip_id": "f", "fingerprint": whole},  # nobody knows which file
            {"source_path": "g", "source_id": "4", "clip_id": "42", "fingerprint": whole[9 * 64 :], "start_s": 2.25},
            {"source_path": "g", "source_id": "4", "clip_id": "41", "fingerprint": whole[: 9 * 64]},
        )
    )
    found = Fingerprints("source")
    found.add(table.slice(0, 3))
    found.add(table.slice(3))
    assert found.groups(0.8).to_pylist() == ["1", "1", None, "1", "3", "1", None, "1", "1"]
    assert found.groups(0.8, pa.chunked_array([["3", "x", None, "2"]])).to_pylist() == ["3", None, None, "1"]
    nothing = Fingerprints("clip")
    nothing.add(table.slice(2, 1))
    assert nothing.groups(0.8).to_pylist() == [None]


def test_clips_of_a_source_are_joined_in_the_order_of_their_times() -> None:
    pictures_of = np.random.default_rng(6).integers(0, 255, (24, 64)).astype(np.uint8)  # nothing in it repeats itself
    whole, first, second = pictures_of.tobytes(), pictures_of[:9].tobytes(), pictures_of[9:].tobytes()
    found = Fingerprints("source")
    late, early = {"start_s": 2.25, "fingerprint": second}, {"start_s": 0.0, "fingerprint": first}
    sources = [{"source_id": "1", "clip_id": "1", "fingerprint": whole}]
    sources += [{"source_id": "2", "clip_id": f"2{k}", **one} for k, one in enumerate((late, early))]
    found.add(to_table(rows(*({"source_path": one["clip_id"], **one} for one in sources))))
    assert found.groups(0.8).to_pylist() == ["1", "1", "1"]


def rows(*sources: dict[str, Any]) -> list[Row]:
    """One accepted clip a source."""
    common = dict.fromkeys(CLIP_SCHEMA.names) | {"start_s": 0.0, "duration_s": 6.0, "pose_digest": "x",
        "pose_model": "m"}  # fmt: skip
    return [{**common, "source_id": one["source_path"], "clip_id": one["source_path"], **one} for one in sources]


def select(found: list[Row], gates: Gates, duplicates: Duplicates | None = None) -> list[Row]:
    """Rows with verdicts; copies are grouped by their fingerprints if they have some."""
    duplicates = duplicates or Duplicates()
    table = to_table(found)
    if table["fingerprint"].null_count < len(table):
        fingerprints = Fingerprints(duplicates.scope)
        fingerprints.add(table)
        place = table.schema.get_field_index("duplicate_group")
        table = table.set_column(place, table.field(place), fingerprints.groups(duplicates.min_common_ratio))
    return list(select_table(table, CurateConfig(gates=gates, duplicates=duplicates)).to_pylist())


def test_the_copy_with_the_most_pixels_and_bits_stays_and_the_others_name_it(original: np.ndarray) -> None:
    small, whole, other = (fingerprint(f, FPS) for f in (COPIES["half the size"](original), original, dance(2)))
    found = select(
        rows(
            {"source_path": "a", "width": 240, "height": 240, "source_bytes": 90, "fingerprint": small},
            {"source_path": "b", "width": 480, "height": 480, "source_bytes": 80, "fingerprint": whole},
            {
                "source_path": "c",
                "width": 960,
                "height": 960,
                "source_bytes": 90,
                "fingerprint": whole,
                "contrast": 0,
            },
            {"source_path": "d", "width": 240, "height": 240, "source_bytes": 90, "fingerprint": other},
        ),
        Gates(),
    )
    assert [row["reason"] for row in found] == ["near_duplicate", None, "min_contrast", None]
    assert "copy of b" in found[0]["detail"]
    assert len({row["duplicate_group"] for row in found[:3]}) == 1 and found[3]["duplicate_group"] == "d"
    # Another selection needs no fingerprints: who belongs together is known.
    found = [{**row, "fingerprint": None} for row in found]
    again = select(found, Gates(min_contrast=None))
    assert [row["reason"] for row in again] == ["near_duplicate", "near_duplicate", None, None]
    kept = select(found, Gates(), Duplicates(scope="off"))
    assert [row["reason"] for row in kept] == [None, None, "min_contrast", None]


def test_clips_are_compared_with_each_other_where_asked_for(original: np.ndarray) -> None:
    common, other = {"width": 240, "height": 240, "source_bytes": 90, "source_path": "whole"}, dance(2, 48)
    sources = rows(
        {**common, "clip_id": "1", "fingerprint": fingerprint(original[:48], FPS)},
        {**common, "clip_id": "2", "fingerprint": fingerprint(other, FPS), "start_s": 3.0},
        {**common, "clip_id": "3", "fingerprint": fingerprint(other[2:], FPS), "source_path": "part"},
    )
    found = {row["clip_id"]: row for row in select(sources, Gates(), Duplicates(scope="clip"))}
    assert found["2"]["duplicate_group"] == found["3"]["duplicate_group"] != found["1"]["duplicate_group"]
    assert found["1"]["reason"] is None
    assert {found["2"]["reason"], found["3"]["reason"]} == {None, "near_duplicate"}
    assert [row["reason"] for row in select(sources, Gates())] == [None, None, None]


def test_a_clip_that_shares_its_half_with_an_excluded_video_leaks(original: np.ndarray, tmp_path: Path) -> None:
    encode(original, tmp_path / "test_clip.mp4", FPS)
    (tmp_path / "labels.csv").write_text("test_clip.mp4,1\n")
    excluded = load_excluded(tmp_path, FPS)
    assert [Path(name).name for name in excluded.names] == ["test_clip.mp4"]
    leaked, name = excluded.closest(fingerprint(np.concatenate([original[60:], dance(2, 24)]), FPS))
    assert leaked > 0.7 and Path(name or "").name == "test_clip.mp4"
    assert excluded.closest(fingerprint(dance(3), FPS)) == (0.0, None)
    excluded.save(tmp_path / "excluded.npz")
    assert load_excluded(tmp_path / "excluded.npz", FPS).closest(fingerprint(original, FPS))[0] > 0.9


def test_an_excluded_video_that_cannot_be_read_is_named_and_not_dropped(original: np.ndarray, tmp_path: Path) -> None:
    """Labels and pictures beside the videos are no videos; a file named like one is."""
    folder = tmp_path / "set"
    folder.mkdir()
    encode(original, folder / "good.mp4", FPS)
    encode(original[:3], folder / "short.mp4", FPS)
    encode(np.repeat(original[:1], 24, axis=0), folder / "still.mp4", FPS)
    (folder / "cut.mp4").write_bytes((folder / "good.mp4").read_bytes()[:3000])
    (folder / "gone.mp4").symlink_to("nowhere")
    (folder / "labels.csv").write_text("good.mp4,1\n")
    excluded = load_excluded(folder, FPS)
    assert [Path(name).name for name in excluded.names] == ["good.mp4"]
    assert sorted(Path(name).name for name in excluded.unreadable) == ["cut.mp4", "gone.mp4", "short.mp4", "still.mp4"]
    assert "nothing moves in its 3 frames" in excluded.unreadable[str(folder / "short.mp4")]
    excluded.save(tmp_path / "set.npz")
    assert load_excluded(tmp_path / "set.npz", FPS).unreadable == excluded.unreadable
    assert load_excluded(folder / "good.mp4", FPS).names == [str(folder / "good.mp4")]
    (folder / "good.mp4").unlink()
    with pytest.raises(SteadyDancerError, match=r"no readable video found; pass .*\n  .*cut\.mp4: "):
        load_excluded(folder, FPS)


@pytest.mark.parametrize("kind", ["no npz", "another npz", "cut off", "empty"])
def test_an_npz_that_holds_no_fingerprints_is_refused(tmp_path: Path, kind: str) -> None:
    npz = tmp_path / "set.NPZ"
    with npz.open("wb") as file:
        np.savez(
            file, **({"names": np.array(["a"]), "0": np.zeros((9, 64))} if kind == "cut off" else {"x": np.eye(3)})
        )
    if kind != "another npz":
        npz.write_bytes({"no npz": b"path,verdict\n", "cut off": npz.read_bytes()[:300], "empty": b""}[kind])
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(SteadyDancerError, match=r"exclude .*set\.NPZ: not an \.npz of fingerprints, or damaged"):
        job.plan(CurateConfig(exclude=str(npz)), str(tmp_path), tmp_path / "out")


def test_nothing_to_exclude_is_said(tmp_path: Path) -> None:
    with pytest.raises(SteadyDancerError, match="a folder of videos or an .npz"):
        load_excluded(tmp_path, FPS)
    assert Excluded([], []).closest(bytes(64 * 4)) == (0.0, None)
