"""Layouts are recognised by names alone, and what does not fit is refused with what was found."""

import pytest

from steadydancer.datasets.benchmarks import BenchmarkError
from steadydancer.datasets.benchmarks.file_lists import describe
from steadydancer.datasets.benchmarks.layouts import Draft, clips, find_tables, frames, realisdance, stems


def test_realisdance_at_the_top_and_one_folder_below() -> None:
    names = ["ref/0001.png", "ref/0002.jpg", "gt/0001.mp4", "smpl/0001.mp4", "smpl/0002.mp4", "prompt/0001.txt"]
    expected = (
        Draft("0001", "ref/0001.png", "gt/0001.mp4", "prompt/0001.txt", "gt/0001.mp4"),
        Draft("0002", "ref/0002.jpg", "smpl/0002.mp4", None, None, False, (
            "gt/ has no file of this name", "driven by the rendered body in smpl/, as the copy has no driving video",
        )),
    )  # fmt: skip
    found = realisdance(names)
    assert found is not None and found.drafts == expected
    below = realisdance([f"RealisDance-Val/{name}" for name in names])
    assert below is not None and [draft.name for draft in below.drafts] == ["0001", "0002"]
    assert below.drafts[0].prompt == "RealisDance-Val/prompt/0001.txt"


def test_a_truth_without_its_reference_stays_a_pair_and_says_so() -> None:
    found = realisdance(["ref/1.png", "gt/1.mp4", "gt/2.mp4"])
    assert found is not None
    assert found.drafts[1] == Draft("2", None, "gt/2.mp4", None, "gt/2.mp4", False, ("ref/ has no file of this name",))


def test_two_files_of_one_name_are_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"several files are called 1: ref/1\.jpg, ref/1\.png"):
        realisdance(["ref/1.png", "ref/1.jpg", "gt/1.mp4"])
    with pytest.raises(BenchmarkError, match=r"a/1\.png, b/1\.png"):
        stems(["a/1.png", "b/1.png", "v/1.mp4"])
    with pytest.raises(BenchmarkError, match=r"v/1\.mov, v/1\.mp4"):
        stems(["a/1.png", "v/1.mov", "v/1.mp4"])
    with pytest.raises(BenchmarkError, match="several files are called 007"):
        clips(["a/007.mp4", "b/007.mp4", "007_reference.png"], is_named=False)


def test_frame_folders_in_number_order_without_masks() -> None:
    kinds = ("images", "masks", "densepose")
    names = [f"00001/{kind}/{k}.png" for kind in kinds for k in (10, 9, 1, 2, 3)]
    names += [f"00002/images/{k:04d}.png" for k in range(1, 6)]
    found = frames(names)
    assert found is not None
    assert found.sequences["00001/images"] == tuple(f"00001/images/{k}.png" for k in (1, 2, 3, 9, 10))
    assert found.drafts == (
        Draft("00001", None, "00001/images", None, "00001/images", True),
        Draft("00002", None, "00002/images", None, "00002/images", True),
    )


def test_a_reference_beside_its_frames_or_clip_is_the_image() -> None:
    found = frames([*(f"000/{k}.jpg" for k in range(5)), "000_reference.png"])
    assert found is not None and found.drafts == (Draft("000", "000_reference.png", "000", None, "000"),)
    found = clips(["000.mp4", "000_reference.png", "001.mp4"], is_named=False)
    assert found is not None and found.drafts == (
        Draft("000", "000_reference.png", "000.mp4", None, "000.mp4"),
        Draft("001", None, "001.mp4", None, "001.mp4", True),
    )


@pytest.mark.parametrize(
    "names",
    [
        ["images/1.png", "images/2.png", "images/3.png", "images/4.png", "images/5.png"],  # pictures, not a video
        [f"photos/portrait{k}x.png" for k in range(9)],  # not numbered
        [f"00001/{k}.png" for k in range(4)],  # too few for a video
        ["a.mp4", "b.mp4"],
        ["notes.txt"],
        [],
    ],
)
def test_what_fits_no_layout_is_not_guessed(names: list[str]) -> None:
    assert realisdance(names) is frames(names) is clips(names, is_named=False) is stems(names) is None


def test_clips_alone_are_tiktok_only_if_it_was_named() -> None:
    found = clips(["a.mp4"], is_named=True)
    assert found is not None and found.drafts == (Draft("a", None, "a.mp4", None, "a.mp4", True),)


def test_stems_pair_equal_names_and_name_what_is_left() -> None:
    names = ["images/1.png", "images/2.webp", "images/3.png", "videos/1.mp4", "videos/2.mp4", "prompts/1.txt",
             "videos/4.mp4", "truth/1.mp4"]  # fmt: skip
    found = stems(names)
    assert found is not None and found.drafts == (
        Draft("1", "images/1.png", "videos/1.mp4", "prompts/1.txt", "truth/1.mp4"),
        Draft("2", "images/2.webp", "videos/2.mp4"),
    )
    assert found.remarks == ("2 files belong to no pair: images/3.png, videos/4.mp4",)


def test_one_driver_has_several_references() -> None:
    found = stems(["d1.mp4", "d1_a.png", "d1-b.png", "d10.mp4", "d10_a.png", "d10.txt"])
    assert found is not None
    assert {draft.name: draft.driving for draft in found.drafts} == {
        "d1_a": "d1.mp4", "d1-b": "d1.mp4", "d10_a": "d10.mp4",
    }  # fmt: skip
    assert {draft.name: draft.prompt for draft in found.drafts}["d10_a"] == "d10.txt"
    found = stems(["dance/video.mp4", "dance/anime.png", "dance/half.png", "walk/video.mp4", "walk/anime.png"])
    assert found is not None
    assert {draft.name: (draft.image, draft.driving) for draft in found.drafts} == {
        "dance-anime": ("dance/anime.png", "dance/video.mp4"),
        "dance-half": ("dance/half.png", "dance/video.mp4"),
        "walk-anime": ("walk/anime.png", "walk/video.mp4"),
    }


def test_tables_are_found_by_name() -> None:
    assert find_tables(["a/metadata.csv", "pairs.jsonl", "x.csv"]) == ["pairs.jsonl"]
    assert find_tables(["train/metadata.csv", "test/metadata.jsonl", "pairs.txt"]) == [
        "test/metadata.jsonl", "train/metadata.csv",
    ]  # fmt: skip


def test_a_refusal_lists_the_first_names_and_the_counts() -> None:
    names = [*(f"clips/{k}.mp4" for k in range(9)), "README.md"]
    assert describe(names) == (
        "  at the top: 1 file: README.md\n  clips/: 9 files: 0.mp4, 1.mp4, 2.mp4, 3.mp4, … (9 in all)"
    )
    assert describe([]) == "  no files"
    assert describe([f"{k:02d}/a" for k in range(14)]).endswith("and 2 more folders")
