"""`xdance build` as a job: every file gets a verdict, a kill changes nothing, and the result is a benchmark."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.benchmarks import KINDS, read_benchmark
from steadydancer.datasets.pairs import read_pairs
from steadydancer.datasets.supplied_poses import load_supplied_pose
from steadydancer.datasets.video import encode
from steadydancer.pipelines.benchmarks import job
from steadydancer.pipelines.benchmarks.config import XDanceConfig
from steadydancer.pipelines.benchmarks.inputs import read_inputs
from steadydancer.pipelines.runtime.runner import Engine

CONFIG = XDanceConfig(pose_model="supplied", num_pairs=6, high_drivers=3, low_drivers=1, packet_size=2)


def engine(out: Path) -> Engine:
    return Engine(out / ".engine", in_process=True)


@pytest.fixture(scope="module")
def inputs(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The procedural files, and for each way of being bad one more."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("images", "driving"):
        shutil.copytree(toy / name, folder / name)
    images, driving = folder / "images", folder / "driving"
    (images / "broken.png").write_bytes(b"not an image")
    shutil.copy(images / "pair_0.png", images / "nobody.png")  # without keypoints
    (driving / "broken.mp4").write_bytes(b"not a video")
    encode(np.zeros((3, 32, 32, 3), np.uint8), driving / "short.mp4", 16)
    shutil.copy(driving / "pair_0.mp4", driving / "damaged.mp4")
    (driving / "damaged.pose.safetensors").write_bytes(b"\x00" * 20)
    (driving / "README.md").write_text("not a video")
    (folder / "notes.csv").write_text(
        "file,style,dynamics\npair_0.png,Anime,\npair_1.png,real,\npair_1.mp4,real,low\npair_2.mp4,real,\n"
    )
    return folder


@pytest.fixture(scope="module")
def built(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "mine"
    job.run(CONFIG, images=inputs / "images", driving=inputs / "driving", out=out, engine=engine(out),
            notes=inputs / "notes.csv")  # fmt: skip
    return out


def test_every_file_has_a_verdict(built: Path) -> None:
    rows = {row["id"]: row for row in Artifact(built / "measured").read().to_pylist()}
    assert {name: row["reason"] for name, row in rows.items()} == {
        **{f"image-pair_{k}": None for k in range(4)},
        **{f"driving-pair_{k}": None for k in range(4)},
        "image-broken": "unreadable_image",
        "image-nobody": "no_pose",
        "driving-broken": "unreadable",
        "driving-short": "too_short",
        "driving-damaged": "unreadable_pose",
    }
    record = Artifact(built / "measured").record()
    assert record["counts"] == {"inputs": 13, "ok": 8, "rejected": 0, "quarantined": 5}
    one = rows["driving-pair_0"]
    assert one["num_frames"] == 17 and one["fps"] == pytest.approx(16) and one["pose_model"] == "supplied"
    assert all(0 < one[name] < 10 for name in ("motion", "pose_change", "blur", "flatness"))
    assert rows["image-pair_0"]["caption"] == "a dancer in a hall" and rows["image-pair_0"]["style"] == "anime"


def test_the_result_is_a_benchmark_with_measured_pairs(built: Path, inputs: Path) -> None:
    benchmark = read_benchmark(built)
    assert (benchmark.name, benchmark.layout, benchmark.remarks, benchmark.problems) == ("mine", "table", (), {})
    assert len(benchmark.pairs) == 6 and benchmark.truths == {}
    for pair in benchmark.pairs:
        image, driving = Path(pair.image), Path(pair.driving)
        assert pair.id == f"{image.stem}-{driving.stem}" and pair.kinds
        assert image.read_bytes() == (inputs / "images" / image.name).read_bytes()
        assert driving.read_bytes() == (inputs / "driving" / driving.name).read_bytes()
        assert load_supplied_pose(image) is not None and load_supplied_pose(driving) is not None
        gaps = {kind: pair.measured[kind if kind == "start_gap" else f"{kind}_gap"] for kind in KINDS}
        assert all(value is None or value >= 0 for value in gaps.values())
        assert (pair.measured["start_gap"] >= CONFIG.min_start_gap) == ("start_gap" in pair.kinds)
        assert pair.measured["strength"] in ("mild", "medium", "strong")
    assert {pair.prompt for pair in benchmark.pairs if "pair_0-" in pair.id} <= {"a dancer in a hall"}
    assert [row["id"] for row in read_pairs(built / "pairs.jsonl")] == [pair.id for pair in benchmark.pairs]


def test_a_given_style_decides_and_is_marked(built: Path) -> None:
    rows = {row["id"]: row for row in map(json.loads, (built / "pairs.jsonl").read_text().splitlines())}
    every = pq.read_table(built / "candidates.parquet").to_pylist()
    kinds = {row["id"]: row["kinds"] for row in every}
    assert "style" in kinds["pair_0-pair_1"] and "style" in kinds["pair_0-pair_2"]
    assert "style" not in kinds["pair_1-pair_1"] and "style" not in kinds["pair_1-pair_2"]
    for name, row in rows.items():
        given = name.split("-")[0] in ("pair_0", "pair_1") and name.split("-")[1] in ("pair_1", "pair_2")
        assert row["measured"]["style_source"] == ("given" if given else "measured")


def test_the_record_counts_the_selection(built: Path) -> None:
    record = Artifact(built / "measured").record()
    counts = record["balance"]["selected_for"]
    assert sum(sum(by.values()) for by in counts.values()) == 6 == record["benchmark"]["pairs"]
    assert record["drivers"]["driving-pair_1"]["dynamics"] == "low"
    assert record["benchmark"]["digest"] == read_benchmark(built).digest
    candidates = pq.read_table(built / "candidates.parquet").to_pylist()
    assert len(candidates) == 4 * len(record["drivers"]) == 16
    assert sum(row["selected_for"] is not None for row in candidates) == 6
    assert job.summary(record)[0].startswith("6 pairs of ")


def test_a_finished_benchmark_is_left_alone_and_other_settings_are_refused(built: Path, inputs: Path) -> None:
    folders = {"images": inputs / "images", "driving": inputs / "driving", "notes": inputs / "notes.csv"}

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in built.rglob("*") if not path.name.startswith(".")}

    before = written()
    record = job.run(CONFIG, **folders, out=built, engine=engine(built))
    assert record == Artifact(built / "measured").record()
    assert written() == before
    with pytest.raises(ArtifactError, match=r"config\.num_pairs: 6 → 7"):
        job.run(CONFIG.model_copy(update={"num_pairs": 7}), **folders, out=built, engine=engine(built))
    folders.pop("notes")
    with pytest.raises(ArtifactError, match="inputs: "):
        job.run(CONFIG, **folders, out=built, engine=engine(built))


def test_a_kill_changes_nothing(
    built: Path, inputs: Path, tmp_path: Path, killed_at_second_part: Callable[[str], None]
) -> None:
    out = tmp_path / "mine"
    call = f"""
    from pathlib import Path
    from steadydancer.pipelines.benchmarks import job
    from steadydancer.pipelines.benchmarks.config import XDanceConfig
    from steadydancer.pipelines.runtime.runner import Engine
    inputs, out = Path({str(inputs)!r}), Path({str(out)!r})
    config = XDanceConfig.model_validate({CONFIG.model_dump()!r})
    job.run(config, images=inputs / "images", driving=inputs / "driving", out=out, notes=inputs / "notes.csv",
            engine=Engine(out / ".engine", in_process=True))
    """
    killed_at_second_part(call)
    assert len(Artifact(out / "measured").parts()) == 1 and not (out / "pairs.jsonl").exists()
    # Also if it was killed after the list was written, and a file was damaged by then.
    (out / "benchmark.json").write_text("{}")
    folders = {"images": inputs / "images", "driving": inputs / "driving", "notes": inputs / "notes.csv"}
    job.run(CONFIG, **folders, out=out, engine=engine(out))
    for name in ("pairs.jsonl", "benchmark.json"):
        assert (out / name).read_text() == (built / name).read_text()
    assert read_benchmark(out).digest == read_benchmark(built).digest


def test_nobody_to_pair_is_an_error_with_all_reasons(inputs: Path, tmp_path: Path) -> None:
    for name in ("images", "driving"):
        (tmp_path / name).mkdir()
    shutil.copy(inputs / "images" / "nobody.png", tmp_path / "images")
    shutil.copy(inputs / "driving" / "broken.mp4", tmp_path / "driving")
    out = tmp_path / "out"
    with pytest.raises(SteadyDancerError, match=r"(?s)no pair can be selected .*1 no_pose, 1 unreadable.*nobody\.png"):
        job.run(CONFIG, images=tmp_path / "images", driving=tmp_path / "driving", out=out, engine=engine(out))
    assert not Artifact(out / "measured").committed


def test_two_pairs_never_have_one_id() -> None:
    def one(image: str, driving: str) -> SimpleNamespace:
        return SimpleNamespace(
            image=SimpleNamespace(id=f"image-{image}"), driving=SimpleNamespace(id=f"driving-{driving}")
        )

    candidates = [one("a-b", "c"), one("a", "b-c"), one("a", "c")]
    first, second, third = job.pair_ids(candidates).values()
    assert third == "a-c" and first != second and {first[:6], second[:6]} == {"a-b-c-"}


def test_files_of_one_name_keep_apart(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "y.jpg", "y.webp", ".hidden/z.png"):
        (tmp_path / "i" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "i" / name).touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.mp4").touch()
    rows = read_inputs(tmp_path / "i", tmp_path / "d")
    assert [row["id"] for row in rows] == [
        "image-a_x_png", "image-b_x_png", "image-y_jpg", "image-y_webp", "driving-x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ("file,dynamics\nx.png,quick\n", "row 1 has dynamics 'quick'; choose high or low"),
        ("file,style\nx.png,a\nx.png,b\n", r"row 2 names x\.png again"),
        ("file,style\nz.png,a\n", r"names 1 files that are in neither folder: z\.png"),
        ("style\na\n", r"row 1 names no file \(column `file`\)"),
    ],
)
def test_wrong_notes_are_refused(tmp_path: Path, notes: str, message: str) -> None:
    (tmp_path / "x.png").touch()
    (tmp_path / "x.mp4").touch()
    (tmp_path / "notes.csv").write_text(notes)
    with pytest.raises(SteadyDancerError, match=message):
        read_inputs(tmp_path, tmp_path, tmp_path / "notes.csv")


def test_folders_without_files_of_their_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    with pytest.raises(SteadyDancerError, match=r"contains no videos \(found: x\.png\)"):
        read_inputs(tmp_path, tmp_path)
    with pytest.raises(SteadyDancerError, match="nowhere is not a folder: pass a folder of images"):
        read_inputs(tmp_path / "nowhere", tmp_path)
