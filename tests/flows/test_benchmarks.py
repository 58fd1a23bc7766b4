"""`xdance build`, `render --benchmark` and `stitch`, as a user calls them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.benchmarks import read_benchmark
from steadydancer.datasets.video import encode
from steadydancer.flows.presets import change, load, tiny


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = change(tiny(), "render", num_frames=5, num_inference_steps=1, pose_model="supplied")
    run = change(run, "xdance", pose_model="supplied", high_drivers=2, low_drivers=0, min_framing_gap=0.01)
    file = tmp_path_factory.mktemp("preset") / "preset.json"
    file.write_text(run.model_dump_json())
    return file


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from steadydancer.datasets.toydance import make_toy_pairs

    folder = tmp_path_factory.mktemp("folders")
    make_toy_pairs(folder, seed=2, num_pairs=2, num_frames=9, size=(64, 64), driving_sizes=[(64, 64)])
    return folder


def test_a_benchmark_is_built_and_rendered(
    call: Any, preset: Path, folders: Path, checkpoint: Path, tmp_path: Path
) -> None:
    words = ("xdance", "build", "--images", folders / "images", "--driving", folders / "driving", "--out",
             tmp_path / "x", "--preset", preset, "--in-process", "--pairs", 2)  # fmt: skip
    planned = call(*words, "--dry-run")
    assert planned.code == 0 and not (tmp_path / "x").exists()
    plan = json.loads(planned.out)
    assert (plan["images"], plan["driving"], plan["candidates"], plan["pairs"], plan["finished"]) == (2, 2, 4, 2, False)
    made = call(*words)
    assert made.code == 0, made.err
    assert "4 inputs, 4 ok, 0 rejected" in made.out and "2 pairs of " in made.out and "selected for style" in made.out
    again = call(*words)
    assert again.code == 0 and "(already finished; nothing to do)" in again.out and "2 pairs of " in again.out

    render = ("render", "--checkpoint", checkpoint, "--benchmark", tmp_path / "x", "--out", tmp_path / "r", "--preset",
              preset, "--in-process")  # fmt: skip
    planned = call(*render, "--dry-run")
    assert json.loads(planned.out)["pairs"] == 2 and not (tmp_path / "r").exists()
    rendered = call(*render)
    assert rendered.code == 0, rendered.err
    benchmark = read_benchmark(tmp_path / "x")
    record = Artifact(tmp_path / "r" / "renders").record()
    assert record["benchmark"] == benchmark.to_record() and record["counts"]["ok"] == 2
    rows = Artifact(tmp_path / "r" / "renders").read(["id", "image", "driving"]).to_pylist()
    expected = [{"id": one.id, "image": one.image, "driving": one.driving} for one in benchmark.pairs]
    assert sorted(rows, key=lambda row: row["id"]) == expected


def test_a_missing_file_costs_its_own_render_only(
    call: Any, preset: Path, folders: Path, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders, tmp_path / "copy")
    read_benchmark(tmp_path / "copy")
    (tmp_path / "copy" / "images" / "pair_0.png").unlink()
    rendered = call("render", "--checkpoint", checkpoint, "--benchmark", tmp_path / "copy", "--out", tmp_path / "r",
                    "--preset", preset, "--in-process")  # fmt: skip
    assert rendered.code == 0 and "pair_0: image is missing: images/pair_0.png" in rendered.err
    rows = Artifact(tmp_path / "r" / "renders").read(["id", "verdict", "reason"]).to_pylist()
    assert {row["id"]: (row["verdict"], row["reason"]) for row in rows} == {
        "pair_0": ("quarantined", "unreadable_image"), "pair_1": ("ok", None),
    }  # fmt: skip


def test_what_is_no_benchmark_is_refused_with_what_was_found(call: Any, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "notes.txt").touch()
    words = ("render", "--checkpoint", checkpoint, "--out", tmp_path / "r", "--preset", "tiny", "--in-process")
    answer = call(*words, "--benchmark", tmp_path / "odd")
    assert answer.code == 1 and "at the top: 1 file: notes.txt" in answer.err and "expected one of" in answer.err
    answer = call(*words, "--benchmark", "x-dance")
    assert answer.code == 1 and "set STEADYDANCER_BENCHMARKS" in answer.err
    answer = call(*words, "--benchmark", tmp_path / "odd", "--pairs", checkpoint / "run.json")
    assert answer.code == 2 and "--pairs, or --benchmark" in answer.err


def test_the_configuration_of_a_build_is_part_of_a_preset(call: Any) -> None:
    printed = json.loads(call("xdance", "build", "--pairs", 7, "--preset", "tiny", "--print-config").out)
    wanted = load("tiny").model_dump(mode="json")
    wanted["xdance"]["num_pairs"] = 7
    assert printed == wanted
    del printed["xdance"]  # a preset of an earlier version
    assert load(json.dumps(printed)) == load("tiny")


def test_clips_are_stitched_and_named(call: Any, tmp_path: Path) -> None:
    for folder, names in (("t", "a"), ("c", "ab")):
        (tmp_path / folder).mkdir()
        for name in names:
            encode(np.zeros((3, 32, 32, 3), np.uint8), tmp_path / folder / f"{name}.mp4", 16)
    words = ("stitch", "--transitions", tmp_path / "t", "--clips", tmp_path / "c", "--out", tmp_path / "o")
    assert json.loads(call(*words, "--dry-run").out)["without_transition"] == ["b"] and not (tmp_path / "o").exists()
    answer = call(*words)
    assert answer.code == 0 and answer.out.splitlines() == [
        f"{tmp_path / 'o'}: 1 of 2 stitched", "  b: no_transition: no transition is called b",
    ]  # fmt: skip
    (tmp_path / "t" / "a.mp4").rename(tmp_path / "t" / "z.mp4")
    answer = call(*words[:-1], tmp_path / "p")
    assert answer.code == 1 and "no clip could be stitched" in answer.err


@pytest.mark.parametrize("words", [("xdance", "--help"), ("xdance", "build", "--help"), ("stitch", "--help")])
def test_help(call: Any, words: tuple[str, ...]) -> None:
    answer = call(*words)
    assert answer.code == 0 and f"steadydancer {' '.join(words[:-1])} [OPTIONS]" in answer.out
