"""Benchmarks are read from small real copies, listed once, and checked from then on."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.benchmarks import BenchmarkError, read_benchmark
from steadydancer.datasets.benchmarks.reader import list_pairs
from steadydancer.datasets.images import read_image
from steadydancer.datasets.local_copies import local_copy
from steadydancer.datasets.pairs import read_pairs
from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.atomic import atomic_write
from steadydancer.datasets.video import decode, encode, frame_times_s

SIZE = (16, 24)  # height, width


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture(seed, size)[..., ::-1])[1].tobytes())


def write_video(path: Path, seed: int = 0, num_frames: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(np.stack([picture(seed + k) for k in range(num_frames)]), path, 10)


@pytest.fixture
def realisdance(tmp_path: Path) -> Path:
    root = tmp_path / "val"
    for k, name in enumerate(("0001", "0002", "0003")):
        write_image(root / "ref" / f"{name}.png", k)
        write_video(root / "gt" / f"{name}.mp4", 10 * k)
        (root / "prompt").mkdir(exist_ok=True)
        (root / "prompt" / f"{name}.txt").write_bytes(f" a dancer №{k}\n".encode("utf-16"))
    return root


def test_realisdance_val_with_prompts_and_truths(realisdance: Path) -> None:
    benchmark = read_benchmark("realisdance-val", realisdance)
    assert benchmark == read_benchmark(realisdance) == read_benchmark(f"RealisDance={realisdance}")
    assert (benchmark.name, benchmark.layout, benchmark.remarks) == ("realisdance-val", "realisdance", ())
    assert [pair.to_row() for pair in benchmark.pairs] == [
        {
            "id": name,
            "image": str(realisdance / "ref" / f"{name}.png"),
            "driving": str(realisdance / "gt" / f"{name}.mp4"),
            "prompt": f"a dancer №{k}",
        }
        for k, name in enumerate(("0001", "0002", "0003"))
    ]
    assert benchmark.truths == {pair.id: pair.driving for pair in benchmark.pairs}
    assert benchmark.problems == {} and benchmark.to_record()["with_truth"] == 3


def test_the_list_has_the_size_and_digest_of_every_file(realisdance: Path) -> None:
    read_benchmark(realisdance)
    listing = json.loads((realisdance / "benchmark.json").read_text())
    assert (listing["name"], listing["version"]) == ("realisdance-val", 1)
    assert set(listing["files"]) == {f"{kind}/000{k}.{end}" for kind, end in (("ref", "png"), ("gt", "mp4"))
                                     for k in (1, 2, 3)}  # fmt: skip
    for name, facts in listing["files"].items():
        assert facts["bytes"] == (realisdance / name).stat().st_size and len(facts["sha256"]) == 64


def test_a_copy_elsewhere_is_the_same_benchmark(realisdance: Path, tmp_path: Path) -> None:
    first = read_benchmark(realisdance)
    shutil.copytree(realisdance, tmp_path / "other")
    moved = read_benchmark(tmp_path / "other")
    assert moved.digest == first.digest and moved.pairs[0].image == str(tmp_path / "other" / "ref" / "0001.png")


def test_a_missing_file_is_a_problem_of_its_pair_and_the_rest_stands(realisdance: Path) -> None:
    whole = read_benchmark(realisdance)
    (realisdance / "gt" / "0002.mp4").unlink()
    (realisdance / "ref" / "0003.png").unlink()
    benchmark = read_benchmark(realisdance)
    assert [pair.id for pair in benchmark.pairs] == [pair.id for pair in whole.pairs]
    assert benchmark.pairs[0] == whole.pairs[0]
    assert benchmark.problems == {
        "0002": ("driving is missing: gt/0002.mp4", "truth is missing: gt/0002.mp4"),
        "0003": ("image is missing: ref/0003.png",),
    }
    assert set(benchmark.truths) == {"0001", "0003"}
    assert benchmark.remarks == ("2 files are missing: gt/0002.mp4, ref/0003.png",)


def test_missing_on_the_first_reading_is_told_as_well(realisdance: Path) -> None:
    (realisdance / "gt" / "0002.mp4").unlink()
    benchmark = read_benchmark(realisdance)
    assert benchmark.problems == {"0002": ("gt/ has no file of this name",)}
    assert benchmark.pairs[1].truth is None and benchmark.pairs[1].driving.endswith("missing/0002.mp4")


@pytest.mark.parametrize("change", ["same size", "other size"])
def test_a_changed_file_is_another_benchmark(realisdance: Path, change: str) -> None:
    read_benchmark(realisdance)
    file = realisdance / "gt" / "0002.mp4"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data + (b"" if change == "same size" else b"x"))
    (realisdance / "ref" / "0003.png").unlink()
    with pytest.raises(BenchmarkError, match=r"changed: gt/0002\.mp4; missing: ref/0003\.png"):
        read_benchmark(realisdance)


def test_added_files_are_remarked_and_a_new_list_has_them(realisdance: Path) -> None:
    before = read_benchmark(realisdance)
    write_image(realisdance / "ref" / "0004.png", 9)
    write_video(realisdance / "gt" / "0004.mp4", 9)
    again = read_benchmark(realisdance)
    assert again.pairs == before.pairs and "added or removed" in again.remarks[0]
    (realisdance / "benchmark.json").unlink()
    assert len(read_benchmark(realisdance).pairs) == 4


def test_an_edited_or_damaged_list_is_refused(realisdance: Path) -> None:
    read_benchmark(realisdance)
    file = realisdance / "benchmark.json"
    text = file.read_text()
    file.write_text(text.replace("0001.png", "0002.png", 1))
    with pytest.raises(BenchmarkError, match="was edited by hand: delete it"):
        read_benchmark(realisdance)
    for damaged in (text[:100], "[]", '{"version": 1}'):
        file.write_text(damaged)
        with pytest.raises(BenchmarkError, match="is damaged"):
            read_benchmark(realisdance)
    file.write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(BenchmarkError, match="has version 2, expected 1"):
        read_benchmark(realisdance)


def test_all_references_missing_is_an_error(realisdance: Path) -> None:
    read_benchmark(realisdance)
    shutil.rmtree(realisdance / "ref")
    with pytest.raises(BenchmarkError, match="the image of every one of 3 pairs is missing"):
        read_benchmark(realisdance)


def test_a_prompt_in_an_unknown_encoding_is_named(realisdance: Path) -> None:
    (realisdance / "prompt" / "0002.txt").write_bytes("größe".encode("cp1252"))
    with pytest.raises(BenchmarkError, match=r"prompt/0002\.txt cannot be read: byte 2"):
        read_benchmark(realisdance)


def test_frames_become_lossless_videos(tmp_path: Path) -> None:
    root = tmp_path / "TikTok_dataset"
    for name, count in (("00001", 7), ("00002", 5)):
        for k in range(count):
            write_image(root / name / "images" / f"{k + 1:04d}.png", int(name) * 100 + k)
            write_image(root / name / "masks" / f"{k + 1:04d}.png", k)
    benchmark = read_benchmark(root)
    assert (benchmark.name, benchmark.layout) == ("tiktok", "frames")
    first = benchmark.pairs[0]
    assert first.driving == first.truth == str(root / "prepared" / "tiktok" / "00001.mp4")
    assert np.array_equal(read_image(Path(first.image)).pixels, picture(100))
    times_s = frame_times_s(first.driving)
    assert times_s == pytest.approx(np.arange(7) / 30, abs=1e-4)
    assert np.array_equal(decode(first.driving, times_s), np.stack([picture(100 + k) for k in range(7)]))
    written = Path(first.driving).stat().st_mtime_ns
    shutil.rmtree(root / "00002" / "images")  # not needed any more
    again = read_benchmark(root)
    assert again.pairs == benchmark.pairs and Path(first.driving).stat().st_mtime_ns == written
    (root / "00001" / "images" / "0003.png").unlink()
    with pytest.raises(BenchmarkError, match=r"changed: 00001/images/ \(frames\)"):
        read_benchmark(root)


def test_a_bad_frame_costs_its_own_pair_only(tmp_path: Path) -> None:
    root = tmp_path / "tiktok"
    for name in ("1", "2", "3"):
        for k in range(5):
            write_image(root / name / f"{k}.png", k, (15, 24) if name == "3" else SIZE)
    (root / "1" / "3.png").write_bytes(b"not an image")
    write_image(root / "2" / "4.png", 4, (18, 24))
    benchmark = read_benchmark(root)
    problems = benchmark.problems
    assert "a frame is not readable" in problems["1"][0]
    assert problems["2"] == (
        "2/4.png is 24×18, the first frame 24×16",
        *(f"{role} is missing: prepared/tiktok/2.mp4" for role in ("driving", "truth")),
    )
    assert problems["3"] == ("frames of 24×15 lost their last row or column, as videos have even sides",)
    assert set(benchmark.truths) == {"3"} and decode(benchmark.truths["3"], np.zeros(1)).shape == (1, 14, 24, 3)


def test_clips_take_their_first_frame_and_humanvid_its_own(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    for k in range(40):
        frames = np.broadcast_to(np.arange(72, dtype=np.uint8)[:, None, None, None] * 3, (72, 16, 16, 3))
        (root / f"{k:05d}.mp4").parent.mkdir(exist_ok=True)
        if k < 2:
            encode(frames[: 72 if k == 0 else 48], root / f"{k:05d}.mp4", 30)
        else:
            shutil.copy(root / "00000.mp4", root / f"{k:05d}.mp4")
    with pytest.raises(BenchmarkError, match=r"at the top: 40 files: 00000\.mp4"):
        read_benchmark(root)
    ours, humanvid = read_benchmark("tiktok", root), read_benchmark("tiktok-humanvid", root)
    assert len(ours.pairs) == len(humanvid.pairs) == 40 and ours.digest != humanvid.digest
    level = [
        [int(read_image(Path(one.pairs[k].image)).pixels.mean().round()) for k in (0, 1)] for one in (ours, humanvid)
    ]
    assert level == [[0, 0], [36 * 3, 24 * 3]]  # the 13th of 24 frames; of 48 frames, with a stride of 2
    assert read_benchmark("tiktok-humanvid", root) == humanvid
    (root / "00039.mp4").unlink()
    (root / "benchmark-tiktok-humanvid.json").unlink()
    with pytest.raises(BenchmarkError, match="39 clips .* the last 40 of the 340"):
        read_benchmark("tiktok-humanvid", root)


def table(root: Path, *rows: dict[str, object], name: str = "pairs.jsonl") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_table_with_kinds_measurements_and_truth_by_id(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    write_image(root / "a.png")
    write_video(root / "d.mp4")
    write_video(root / "truth" / "take_1.mp4")
    measured = {"start_gap": 0.7, "style_gap": None}
    table(
        root,
        {"id": "take 1", "image": "a.png", "driving": "d.mp4", "prompt": "x", "kinds": ["style", "start_gap"],
         "selected_for": "style", "measured": measured},
        {"image": "a.png", "driving": "d.mp4", "kinds": "framing; skeleton", "measured": {}},
    )  # fmt: skip
    benchmark = read_benchmark(root)
    assert (benchmark.name, benchmark.layout) == ("mine", "table")
    assert benchmark.truths == {"take_1": str(root / "truth" / "take_1.mp4")}
    first, second = benchmark.pairs[1], benchmark.pairs[0]
    assert (first.id, first.kinds, first.measured) == ("take_1", ("style", "start_gap"), measured)
    assert (second.id, second.kinds) == ("a-d", ("framing", "skeleton"))
    assert benchmark.ids_of("style") == ["take_1"]
    assert read_pairs(root / "pairs.jsonl") == [pair.to_row() for pair in (first, second)]


def test_an_image_folder_with_a_table_of_texts(tmp_path: Path) -> None:
    root = tmp_path / "X-Dance"
    for k in (1, 2):
        write_image(root / "train" / f"{k}.png", k)
        write_video(root / "train" / f"{k}.mp4", k)
    table(root / "train", {"file_name": "1.png", "text": "anime"}, {"file_name": "2.png", "text": "half body"},
          name="metadata.jsonl")  # fmt: skip
    benchmark = read_benchmark(root)
    assert (benchmark.name, benchmark.layout) == ("x-dance", "stems")
    assert [(pair.id, pair.prompt) for pair in benchmark.pairs] == [("1", "anime"), ("2", "half body")]
    assert benchmark.truths == {}


@pytest.mark.parametrize(("folder", "name"), [("my-xdance", "my-xdance"), ("X-Dance", "X-Dance-built")])
def test_a_built_benchmark_is_no_published_one(tmp_path: Path, folder: str, name: str) -> None:
    """The numbers that are published for X-Dance must not stand beside those of other pairs."""
    root = tmp_path / folder
    write_image(root / "images" / "a.png")
    write_video(root / "driving" / "d.mp4")
    table(root, {"id": "a-d", "image": "images/a.png", "driving": "driving/d.mp4"})
    (root / "measured").mkdir()  # as `xdance build` leaves it
    assert read_benchmark(root).name == name


def test_an_image_folder_with_a_table_of_pairs(tmp_path: Path) -> None:
    for k in (1, 2):
        write_image(tmp_path / "test" / "images" / f"{k}.png", k)
    write_video(tmp_path / "test" / "v.mp4")
    rows = [{"file_name": f"images/{k}.png", "video": "v.mp4", "text": str(k)} for k in (1, 2)]
    table(tmp_path / "test", *rows, name="metadata.jsonl")
    pairs = read_benchmark("x-dance", tmp_path).pairs
    assert [(pair.id, pair.prompt, pair.driving) for pair in pairs] == [
        ("1-v", "1", str(tmp_path / "test" / "v.mp4")), ("2-v", "2", str(tmp_path / "test" / "v.mp4")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "a.png", "driving": "d.mp4", "id": "x"}] * 2, r"x: a\.png with d\.mp4 and a\.png with d\.mp4"),
        ([{"image": "a.png", "driving": "d.mp4", "kinds": ["stile"]}], "unknown kind 'stile'; choose some of style"),
        ([{"image": "a.png", "driving": "d.mp4"}, {"image": "b.png"}], r"1 of 2 rows lack .* first b\.png"),
        ([{"picture": "a.png"}], "row 1: no image and no driving .columns: picture"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    table(tmp_path, *rows)
    with pytest.raises(SteadyDancerError, match=message):
        read_benchmark(tmp_path)


def test_a_row_whose_file_is_missing_is_a_problem_of_its_pair(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_video(tmp_path / "d.mp4")
    table(tmp_path, {"image": "a.png", "driving": "d.mp4"}, {"image": "b.png", "driving": "d.mp4", "truth": "t.mp4"})
    benchmark = read_benchmark(tmp_path)
    assert benchmark.problems == {"b-d": ("image is missing: b.png", "truth is missing: t.mp4")}


def test_names_are_found_in_the_folder_of_benchmarks(
    realisdance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BenchmarkError, match="set STEADYDANCER_BENCHMARKS to the folder that contains realisdance-val/"
    ):
        read_benchmark("realisdance-val")
    monkeypatch.setenv("STEADYDANCER_BENCHMARKS", str(tmp_path / "all"))
    with pytest.raises(BenchmarkError, match="all/realisdance-val does not exist"):
        read_benchmark("realisdance-val")
    shutil.copytree(realisdance, tmp_path / "all" / "realisdance-val")
    assert len(read_benchmark("realisdance-val").pairs) == 3


def test_the_wrong_name_or_no_folder_is_refused(realisdance: Path, tmp_path: Path) -> None:
    shutil.copytree(realisdance, tmp_path / "half", ignore=shutil.ignore_patterns("ref"))
    with pytest.raises(BenchmarkError, match=r"the layouts of x-dance \(table, stems\). Found:\n  gt/: 3 files"):
        read_benchmark("x-dance", tmp_path / "half")
    with pytest.raises(BenchmarkError, match=r"any known layout .*\n  gt/: 3 files: 0001.mp4.*\n.*\nexpected one of"):
        read_benchmark(tmp_path / "half")
    with pytest.raises(BenchmarkError, match="unknown benchmark wyd"):
        read_benchmark("wyd", realisdance)
    with pytest.raises(BenchmarkError, match="nowhere does not exist"):
        read_benchmark(tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match="is a file"):
        read_benchmark(realisdance / "ref" / "0001.png")


def test_keypoints_beside_the_files_are_part_of_the_benchmark(realisdance: Path) -> None:
    keypoints = realisdance / "gt" / "0001.pose.safetensors"
    keypoints.write_bytes(b"one")
    read_benchmark(realisdance)
    assert "gt/0001.pose.safetensors" in json.loads((realisdance / "benchmark.json").read_text())["files"]
    keypoints.write_bytes(b"two")
    with pytest.raises(BenchmarkError, match=r"changed: gt/0001\.pose\.safetensors"):
        read_benchmark(realisdance)
    keypoints.unlink()
    benchmark = read_benchmark(realisdance)
    assert benchmark.problems == {} and "1 files are missing: gt/0001.pose.safetensors" in benchmark.remarks


def test_a_plan_writes_nothing(tmp_path: Path, realisdance: Path) -> None:
    for k in range(5):
        write_image(tmp_path / "tiktok" / "00001" / f"{k}.png", k)
    before = sorted(tmp_path.rglob("*"))
    assert list_pairs(tmp_path / "tiktok") == [{"id": "00001", "image": "", "driving": "00001", "prompt": ""}]
    assert [row["id"] for row in list_pairs(f"realisdance-val={realisdance}")] == ["0001", "0002", "0003"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_benchmark_on_a_store(realisdance: Path, bucket: str, tmp_path: Path) -> None:
    here = read_benchmark(realisdance)
    (realisdance / "benchmark.json").unlink()
    frames = tmp_path / "tiktok"
    for k in range(5):
        write_image(frames / "00001" / "images" / f"{k}.png", k)
    for folder in (realisdance, frames):
        for file in folder.rglob("*"):
            if file.is_file():
                place = location(f"{bucket}/{folder.name}/{file.relative_to(folder).as_posix()}")
                with atomic_write(place) as aside:
                    shutil.copyfile(file, aside)
    for _ in range(2):  # listed, then checked
        there = read_benchmark(f"{bucket}/val")
        assert (there.digest, there.problems) == (here.digest, {})
        assert there.pairs[0].truth == f"{bucket}/val/gt/0001.mp4"
        clip = read_benchmark(f"{bucket}/tiktok").pairs[0]
        assert clip.problems == () and clip.driving == f"{bucket}/tiktok/prepared/tiktok/00001.mp4"
    with local_copy(clip.driving) as file:
        assert np.array_equal(decode(file, frame_times_s(file)), np.stack([picture(k) for k in range(5)]))
