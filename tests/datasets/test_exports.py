"""Manifests of an export, to the letter: what other programs read is not ours to change."""

import json
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.exports import LAYOUTS, LINE_FIELDS, clip_files, write_manifests

ROWS: list[dict[str, Any]] = [
    {"clip_id": "b", "source_id": "s1", "origin": "https://host/b", "licence": "CC0", "prompt": 'Sie sagt "tanz", 舞',
     "pose_model": "dwpose", "scores": '{"blur": 0.5}', "start_s": 1.5, "end_s": 3.5, "fps": 16.0, "num_frames": 33,
     "height": 64, "width": 48, "verdict": "ok"},
    {"clip_id": "x", "verdict": "quarantined", "prompt": "no"},
    {"clip_id": "a", "source_id": "s0", "origin": None, "licence": None, "prompt": None, "pose_model": "supplied",
     "scores": None, "start_s": 0.0, "end_s": 1.0, "fps": 24.0, "num_frames": 17, "height": 96, "width": 128,
     "verdict": "ok"},
    {"clip_id": "c", "source_id": "s1", "origin": "o", "licence": "CC0", "prompt": "c", "pose_model": "dwpose",
     "scores": "{}", "start_s": 0.0, "end_s": 2.0, "fps": 16.0, "num_frames": 33, "height": 160, "width": 100,
     "verdict": "ok"},
]  # fmt: skip

A = {"id": "a", "path": "videos/a.mp4", "video": "videos/a.mp4", "pose_video": "pose_videos/a.mp4",
     "keypoints": "videos/a.pose.safetensors", "caption": "videos/a.txt", "prompt": None, "source_id": "s0",
     "licence": None, "start_s": 0.0, "end_s": 1.0, "fps": 24.0, "num_frames": 17, "height": 96, "width": 128,
     "pose_model": "supplied", "origin": None, "source": None, "scores": {}}  # fmt: skip


def written(folder: Path, layout: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    write_manifests(folder, layout, rows)
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_tells_all_of_the_clips_that_are_ok_in_the_order_of_their_ids(tmp_path: Path, layout: str) -> None:
    text = written(tmp_path, layout, ROWS)["clips.jsonl"]
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert lines[0] == A and list(lines[0]) == list(A)
    assert lines[1]["scores"] == {"blur": 0.5} and lines[1]["source"] == lines[1]["origin"] == "https://host/b"
    assert 'tanz\\", 舞' in text and text.endswith("}\n")
    assert written(tmp_path / "again", layout, ROWS[::-1]) == written(tmp_path, layout, ROWS)
    # What is beside the columns that `curate` reads.
    assert LINE_FIELDS | {"path", "video", "origin", "source"} == set(A)


def test_the_plain_layout_has_no_other_file(tmp_path: Path) -> None:
    assert set(written(tmp_path, "mp4+jsonl", ROWS)) == {"clips.jsonl"}


def test_the_table_of_diffsynth(tmp_path: Path) -> None:
    assert written(tmp_path, "diffsynth", ROWS)["metadata.csv"] == (
        "video,prompt,control_video,animate_pose_video\n"
        "videos/a.mp4, ,pose_videos/a.mp4,pose_videos/a.mp4\n"
        'videos/b.mp4,"Sie sagt ""tanz"", 舞",pose_videos/b.mp4,pose_videos/b.mp4\n'
        "videos/c.mp4,c,pose_videos/c.mp4,pose_videos/c.mp4\n"
    )
    head = "video,prompt,control_video,animate_pose_video\n"
    assert written(tmp_path / "none", "diffsynth", ROWS[1:2]) == {"clips.jsonl": "", "metadata.csv": head}


def test_the_settings_of_musubi(tmp_path: Path) -> None:
    texts = written(tmp_path, "musubi", ROWS)
    assert set(texts) == {"clips.jsonl", "dataset.jsonl", "dataset.toml"}
    assert [json.loads(line) for line in texts["dataset.jsonl"].splitlines()] == [
        {"video_path": f"videos/{name}.mp4", "control_path": f"pose_videos/{name}.mp4", "caption": caption}
        for name, caption in (("a", ""), ("b", 'Sie sagt "tanz", 舞'), ("c", "c"))
    ]
    block = '[[datasets]]\nvideo_jsonl_file = "dataset.jsonl"\ncache_directory = "musubi_cache"\n'
    assert texts["dataset.toml"] == (
        "# Start the tuner in this folder: the paths are relative to it.\n"
        "[general]\nresolution = [100, 160]  # width, height of the largest clip\nbatch_size = 1\n"
        "enable_bucket = true\nbucket_no_upscale = true\n"
        f'\n{block}target_frames = [17]\nframe_extraction = "head"\n'
        f'\n{block}target_frames = [33]\nframe_extraction = "head"\n'
    )
    assert set(written(tmp_path / "none", "musubi", ROWS[1:2])) == {"clips.jsonl"}


def test_numbers_that_json_does_not_have_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_manifests(tmp_path, "mp4+jsonl", [{**ROWS[0], "fps": float("nan")}])
    assert not list(tmp_path.iterdir())


def test_where_the_files_of_a_clip_lie() -> None:
    assert clip_files("k") == {
        "video": "videos/k.mp4",
        "pose_video": "pose_videos/k.mp4",
        "keypoints": "videos/k.pose.safetensors",
        "caption": "videos/k.txt",
    }
