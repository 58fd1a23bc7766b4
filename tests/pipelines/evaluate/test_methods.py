"""Several methods, stand-in judges, later runs with more metrics, kills, seeds, and two results compared."""

import importlib.machinery
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.schema import Row
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.video import encode
from steadydancer.models.metrics import consistency, frechet_distance, image_to_video, kernel_distance
from steadydancer.models.weights import lookup
from steadydancer.models.weights.catalogue import Weight
from steadydancer.pipelines.evaluate import inputs as evaluate_inputs
from steadydancer.pipelines.evaluate import job
from steadydancer.pipelines.evaluate.benchmark_pairs import BenchmarkPairs
from steadydancer.pipelines.evaluate.catalogue import METRICS
from steadydancer.pipelines.evaluate.compare import compare, to_text
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.measured import Measured
from steadydancer.pipelines.evaluate.protocols import Protocol
from steadydancer.pipelines.evaluate.report.page import rebuild_report
from steadydancer.pipelines.evaluate.sources import Source
from steadydancer.pipelines.runtime.runner import Engine

IDS = ("a", "b", "c", "d")
BASIC = ("psnr", "temporal_flickering")


def clip(name: str, count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(IDS.index(name))
    start = cv2.resize(rng.integers(0, 255, (4, 6, 3), np.uint8), (48, 32), interpolation=cv2.INTER_CUBIC)
    return np.stack([np.roll(start, 2 * k, axis=1) for k in range(count)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`truth/`, `exact/` (the same), `near/` and `far/` with more and more noise, `images/`; no two lengths alike."""
    root = tmp_path_factory.mktemp("methods")
    for method, noise in {"truth": 0, "exact": 0, "near": 6, "far": 40}.items():
        (root / method).mkdir()
        for k, name in enumerate(IDS):
            frames = clip(name, 12 + k).astype(float)
            frames += noise * np.random.default_rng(k).normal(size=frames.shape)
            encode(np.clip(frames, 0, 255).astype(np.uint8), root / method / f"{name}.mp4", 16, lossless=True)
    (root / "images").mkdir()
    for name in IDS:
        cv2.imwrite(str(root / "images" / f"{name}.png"), clip(name, 1)[0][..., ::-1])
    return root


def evaluate(folders: Path, out: Path, methods: tuple[str, ...] = ("near",), **more: Any) -> dict[str, Any]:
    names = {"truth": folders / "truth", "benchmark": None, "sources": None, "metrics": BASIC}
    truth, benchmark, sources, metrics = ({**names, **more}[name] for name in names)
    sources = sources or [Source(None, folders / method) for method in methods]
    config = EvaluateConfig(metrics=metrics, **{name: value for name, value in more.items() if name not in names})
    engine = Engine(out / ".engine", in_process=True)
    return job.run(config, videos=sources, truth=truth, benchmark=benchmark, out=out, engine=engine)


def table(out: Path) -> dict[tuple[str, str | None, str | None], Row]:
    return {(row["method"], row["id"], row["metric"]): row for row in Artifact(out / "metrics").read().to_pylist()}


CALLS: list[str] = []


def features(frames: np.ndarray) -> np.ndarray:
    """Twelve numbers of each picture."""
    return np.stack([cv2.resize(f, (2, 2), interpolation=cv2.INTER_AREA).ravel() for f in frames]).astype(np.float32)


class StandIn:
    """Dino, Inception and Lpips on a few pixels."""

    def __init__(self, weights: Path | None, device: str = "cpu", network: str = "") -> None:
        assert weights is not None and weights.is_dir() and device == "cpu"
        CALLS.append("made")
        self.min_side = 63 if network == "alex" else 16

    def frames(self, frames: np.ndarray) -> np.ndarray:
        CALLS.append("frames")
        return features(frames)

    i2v_frames = frames

    def i2v_image(self, image: np.ndarray) -> np.ndarray:
        return features(image[None])[0]

    def features(self, frames: np.ndarray, preprocessing: str) -> np.ndarray:
        assert preprocessing.endswith("_299")
        return features(frames) + len(preprocessing)

    def distances(self, frames: np.ndarray, truth: np.ndarray, zero_to_one: bool = False) -> np.ndarray:
        return np.abs(frames.astype(float) - truth).mean((1, 2, 3)) * (1 if zero_to_one else 2)


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand-ins for three judges, in the places of the real ones; returns the folder of weights, which is empty."""
    CALLS.clear()
    package = "standins"
    for module, name in {"": "", "dino": "Dino", "inception": "Inception", "lpips": "Lpips"}.items():
        full = f"{package}.{module}" if module else package
        made = types.ModuleType(full)
        made.__spec__ = importlib.machinery.ModuleSpec(full, None)
        made.__path__ = []
        setattr(made, name, StandIn) if name else None
        monkeypatch.setitem(sys.modules, full, made)
    monkeypatch.setattr("steadydancer.pipelines.evaluate.judges.PACKAGE", package)
    known = {row.name for row in lookup.CATALOGUE}
    rows = [Weight(name, "stand-in", ("evaluate",), None, 1, "", licence="CC-BY-NC-4.0", files=("w.bin",))
            for name in ("dino", "inception-fid", "lpips-vgg", "lpips-alex")]  # fmt: skip
    catalogue = [row for row in lookup.CATALOGUE if row.name not in {one.name for one in rows}] + rows
    assert known
    monkeypatch.setattr(lookup, "CATALOGUE", tuple(catalogue))
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def put(weights: Path, name: str) -> Path:
    file = weights / name / "w.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(name.encode())
    return file


def test_methods_stand_side_by_side_with_intervals_and_p(folders: Path, tmp_path: Path) -> None:
    record = evaluate(folders, tmp_path, ("near", "far", "exact"))
    rows = table(tmp_path)
    assert len(rows) == 3 * 4 * 2 and record["counts"] == {"inputs": 12, "ok": 12, "rejected": 0, "quarantined": 0}
    assert {row["method"] for row in rows.values()} == {"near", "far", "exact"}
    assert all(rows["exact", name, "psnr"]["value"] == 100 for name in IDS)  # a video against itself is perfect
    assert all(rows["near", name, "psnr"]["value"] > rows["far", name, "psnr"]["value"] for name in IDS)
    near = record["methods"]["near"]["psnr"]
    values = [rows["near", name, "psnr"]["value"] for name in IDS]
    assert near["mean"] == pytest.approx(np.mean(values)) and near["n"] == near["clusters"] == 4
    assert min(values) <= near["low"] < near["mean"] < near["high"] <= max(values)
    assert record["means"]["psnr"] == {"mean": pytest.approx(np.mean(values)), "videos": 4}
    against = {one["b"]: one["metrics"]["psnr"] for one in record["comparisons"]}
    far = np.mean([rows["far", name, "psnr"]["value"] for name in IDS])
    assert against["far"]["difference"] == pytest.approx(far - np.mean(values)) and against["far"]["n"] == 4
    assert against["far"]["p_holm"] == pytest.approx(min(1, 2 * against["far"]["p"]))
    page = (tmp_path / "report.html").read_text()
    assert "far against near" in page and page.count("<video") == 4 * (3 + 1) and "N 4" in page


def test_missing_weights_are_a_reason_and_the_rest_stands(folders: Path, judges: Path, tmp_path: Path) -> None:
    record = evaluate(folders, tmp_path / "out", metrics=("psnr", "dino", "lpips[vgg,0-1]"))
    for name in ("subject_consistency", "lpips[vgg,0-1]"):
        row = table(tmp_path / "out")["near", "a", name]
        assert (row["value"], row["reason"]) == (None, "weights_missing") and str(judges) in row["detail"]
    assert "`dino`" in table(tmp_path / "out")["near", "a", "i2v_subject"]["detail"]
    assert record["missing"]["subject_consistency"] == {"weights_missing": 4} and record["means"]["psnr"]["videos"] == 4
    assert record["weights_missing"]["dino"] == ["subject_consistency", "i2v_subject"] and not CALLS
    assert "Weights missing" in (tmp_path / "out" / "report.html").read_text()


def test_a_later_run_measures_only_what_is_missing(folders: Path, judges: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", ("psnr", "dino")
    first = evaluate(folders, out, metrics=asked)
    before, digest = table(out), content_digest(out / "metrics")
    kept = {file: file.stat().st_mtime_ns for file in (out / "measurements").rglob("*.parquet")}
    assert evaluate(folders, out, metrics=asked) == first  # nothing new: the same version
    assert evaluate(folders, out, metrics=("psnr",)) == first and not (out / "earlier").exists()
    file = put(judges, "dino")
    second = evaluate(folders, out, metrics=asked)
    assert CALLS.count("made") == 1 and CALLS.count("frames") == 4  # loaded once; the image is given by no pair
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert content_digest(out / "earlier" / "metrics-1") == digest
    assert second["parent"] == Artifact(out / "earlier" / "metrics-1").reference_from(out)
    assert second["weights"]["dino"] == {
        "sha256": content_digest(file),
        "licence": "CC-BY-NC-4.0",
        "non_commercial": True,
    }
    after = table(out)
    assert all(after["near", name, "psnr"] == before["near", name, "psnr"] for name in IDS)
    value = after["near", "b", "subject_consistency"]["value"]
    frames = np.clip(clip("b", 13) + 6 * np.random.default_rng(1).normal(size=(13, 32, 48, 3)), 0, 255).astype(np.uint8)
    assert value == pytest.approx(consistency(features(frames)))
    # A third version has all metrics of the second, and names it.
    third = evaluate(folders, out, metrics=("temporal_flickering",))
    assert third["metrics"] == ["psnr", "temporal_flickering", "subject_consistency", "i2v_subject"]
    assert third["parent"]["path"] == "earlier/metrics-2" and CALLS.count("frames") == 4
    # Measurements with two versions of the weights are not mixed.
    file.write_bytes(b"other")
    shutil.rmtree(out / "metrics")
    next((out / "measurements" / "dino").glob("*.parquet")).unlink()
    with pytest.raises(ArtifactError, match=r"weights\.dino\.sha256"):
        evaluate(folders, out, metrics=asked)


def test_a_job_killed_three_times_gives_the_same_table(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked: dict[str, Any] = {"metrics": ("psnr", "temporal_flickering", "ssim"), "packet_size": 1}
    evaluate(folders, whole, ("near", "far"), **asked)
    write, parts = Measured.write_packet, Artifact.write_part
    for moment in (3, 2):  # while measuring
        written: list[int] = []

        def stopped(self: Measured, *arguments: Any, written: list[int] = written, moment: int = moment) -> None:
            if len(written) == moment:
                raise KeyboardInterrupt
            written.append(1)
            write(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(Measured, "write_packet", stopped)
            with pytest.raises(KeyboardInterrupt):
                evaluate(folders, killed, ("near", "far"), **asked)
    tables: list[int] = []

    def half(self: Artifact, *arguments: Any) -> None:
        if self.path.name == "metrics" and len(tables) == 2:
            raise KeyboardInterrupt
        tables.append(self.path.name == "metrics") if self.path.name == "metrics" else None
        parts(self, *arguments)

    with monkeypatch.context() as patched:  # while the table is written
        patched.setattr(Artifact, "write_part", half)
        with pytest.raises(KeyboardInterrupt):
            evaluate(folders, killed, ("near", "far"), **asked)
    evaluate(folders, killed, ("near", "far"), **asked)
    assert table(killed) == table(whole)
    one, other = (Artifact(out / "metrics").record() for out in (whole, killed))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_distances_of_sets_come_from_all_videos_of_a_method(folders: Path, judges: Path, tmp_path: Path) -> None:
    put(judges, "inception-fid"), put(judges, "lpips-vgg")
    names = (
        "fid[pytorch-fid]",
        "kid[pytorch-fid]",
        "fid_infinity[pytorch-fid]",
        "fid[efficientnet-lite0]",
        "lpips[vgg,0-1]",
    )
    record = evaluate(folders, tmp_path / "out", ("near", "exact"), metrics=names, packet_size=2)
    rows = table(tmp_path / "out")
    sides = [
        np.concatenate([shifted(frames_of(folders / side / f"{name}.mp4")) for name in IDS])
        for side in ("near", "truth")
    ]
    row = rows["near", None, "fid[pytorch-fid]"]
    assert row["value"] == pytest.approx(frechet_distance(*sides), rel=1e-5) and row["video"] is None
    assert rows["near", None, "kid[pytorch-fid]"]["value"] == pytest.approx(kernel_distance(*sides), rel=1e-4)
    assert rows["exact", None, "fid[pytorch-fid]"]["value"] == pytest.approx(0, abs=1e-6)
    assert row["detail"] == f"4 videos; {len(sides[0])} features"
    assert rows["near", None, "fid[efficientnet-lite0]"]["reason"] == "weights_missing"
    assert record["methods"]["near"]["fid[pytorch-fid]"]["mean"] == row["value"]
    assert record["means"]["fid[pytorch-fid]"] == {"mean": row["value"], "videos": 4}
    assert record["missing"]["fid[efficientnet-lite0]"] == {"weights_missing": 4}
    # Pictures that are too small for a network, and videos without a truth, have a reason, not a number.
    put(judges, "lpips-alex")
    evaluate(folders, tmp_path / "small", metrics=("lpips[alex]",))
    assert table(tmp_path / "small")["near", "a", "lpips[alex]"]["reason"] == "too_small"
    evaluate(folders, tmp_path / "alone", metrics=names, truth=None)
    assert table(tmp_path / "alone")["near", None, "fid[pytorch-fid]"]["reason"] == "no_truth"
    assert table(tmp_path / "alone")["near", "a", "lpips[vgg,0-1]"]["reason"] == "no_truth"


def shifted(frames: np.ndarray) -> np.ndarray:
    return features(frames) + len("pytorchfid_299")


def frames_of(file: Path) -> np.ndarray:
    from steadydancer.datasets.video import decode, frame_times_s

    return decode(file, frame_times_s(file))


def pairs_of(folders: Path) -> dict[str, Row]:
    """Four pairs of two driving videos, and one that nobody rendered."""
    pairs = {
        name: {"image": str(folders / "images" / f"{name}.png"),
               "driving": str(folders / "truth" / f"{'ab'[k % 2]}.mp4"),
               "truth": str(folders / "truth" / f"{name}.mp4") if name != "d" else None,
               "kinds": ("style", "style,start_gap", "framing", None)[k], "problems": None}
        for k, name in enumerate(IDS)
    }  # fmt: skip
    return {**pairs, "e": {**pairs["a"], "truth": None}}


def test_a_benchmark_gives_reference_truth_clusters_and_kinds(
    folders: Path, judges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(judges, "dino")
    read = BenchmarkPairs({"name": "toy", "digest": "d"}, pairs_of(folders))
    monkeypatch.setattr(evaluate_inputs, "read_pairs", lambda name: read)
    shutil.copytree(folders / "near", tmp_path / "near")
    shutil.copy(tmp_path / "near" / "a.mp4", tmp_path / "near" / "other.mp4")
    record = evaluate(tmp_path, tmp_path / "out", truth=None, benchmark="toy", metrics=("psnr", "dino", "first_frame"))
    rows = table(tmp_path / "out")
    assert record["benchmark"] == {"name": "toy", "digest": "d"}
    assert rows["near", "e", None]["reason"] == "not_rendered" and record["counts"]["quarantined"] == 1
    assert (
        rows["near", "d", "psnr"]["reason"] == "no_truth"
        and "the benchmark has no" in rows["near", "d", "psnr"]["detail"]
    )
    assert [Path(name).name for name in record["ignored"]] == ["other.mp4"]
    image = features(clip("c", 1))[0]
    frames = features(frames_of(folders / "near" / "c.mp4"))
    assert rows["near", "c", "i2v_subject"]["value"] == pytest.approx(image_to_video(frames, image))
    assert rows["near", "c", "first_frame_psnr"]["value"] > 25
    assert rows["near", "c", "first_frame_psnr[ceiling]"]["reason"] == "no_autoencoder"
    summary = record["methods"]["near"]["first_frame_psnr"]
    assert (summary["n"], summary["clusters"]) == (4, 2)
    kinds = {kind: each["near"]["first_frame_psnr"]["n"] for kind, each in record["kinds"].items()}
    assert kinds == {"style": 2, "start_gap": 1, "framing": 1}
    assert rows["near", "b", "psnr"]["kinds"] == "style,start_gap"
    assert "Pairs of kind start_gap" in (tmp_path / "out" / "report.html").read_text()


def test_a_name_that_comes_again_is_another_seed(folders: Path, tmp_path: Path) -> None:
    sources = [Source("ours", folders / "near"), Source("ours", folders / "far"), Source("theirs", folders / "exact")]
    record = evaluate(folders, tmp_path, sources=sources)
    rows = Artifact(tmp_path / "metrics").read().to_pylist()
    ours = [row for row in rows if row["method"] == "ours" and row["metric"] == "psnr"]
    assert sorted((row["id"], row["seed"]) for row in ours) == sorted((name, seed) for name in IDS for seed in (0, 1))
    summary = record["methods"]["ours"]["psnr"]
    by_id = [[row["value"] for row in ours if row["id"] == name] for name in IDS]
    assert summary["n"] == 4 and summary["mean"] == pytest.approx(np.mean(by_id))
    assert summary["variance_between_seeds"] == pytest.approx(np.mean([np.var(each, ddof=1) for each in by_id]))
    assert summary["variance_between_clips"] == pytest.approx(np.var(np.mean(by_id, 1), ddof=1))
    assert "variance_between_seeds" not in record["methods"]["theirs"]["psnr"]


def test_folders_that_are_called_alike_are_no_seeds_by_mistake(folders: Path, tmp_path: Path) -> None:
    """`--videos mine/videos --videos theirs/videos` are two methods, whose values must not be averaged."""
    for name in ("mine", "theirs"):
        shutil.copytree(folders / "near", tmp_path / name / "videos")
    places = [tmp_path / name / "videos" for name in ("mine", "theirs")]
    for first in (None, "videos"):
        with pytest.raises(SteadyDancerError, match=r"both called videos: pass --videos NAME=.*theirs/videos"):
            evaluate(folders, tmp_path / "o", sources=[Source(first, places[0]), Source(None, places[1])])
    with pytest.raises(SteadyDancerError, match="is given twice for the method x"):
        evaluate(folders, tmp_path / "o", sources=[Source("x", places[0]), Source("x", places[0])])


def test_two_results_are_compared_pair_by_pair(folders: Path, tmp_path: Path) -> None:
    for method in ("near", "far"):
        evaluate(folders, tmp_path / method, (method,), metrics=("psnr", "ssim", "temporal_flickering"))
    found = compare(tmp_path / "near", tmp_path / "far")
    one, other = table(tmp_path / "near"), table(tmp_path / "far")
    differences = [other["far", n, "ssim"]["value"] - one["near", n, "ssim"]["value"] for n in IDS]
    assert found["metrics"]["ssim"]["difference"] == pytest.approx(np.mean(differences))
    assert found["metrics"]["ssim"]["n"] == 4 and found["metrics"]["ssim"]["high"] < 0
    # Four pairs: by their signs alone p is .125, and none is called better.
    assert found["metrics"]["ssim"]["p"] == 0.125 and found["metrics"]["ssim"]["p_holm"] >= 0.125
    text = to_text(found)
    assert "protocol all" in text and "is better" not in text and "too short" in text
    assert found["remarks"] == []
    json.dumps(found, allow_nan=False)
    alone = evaluate(folders, tmp_path / "ssim", metrics=("ssim", "temporal_flickering"))["truths"]
    assert (alone["compared"], alone["frames_compared"]) == (4, 12 + 13 + 14 + 15)
    shutil.copytree(folders / "truth", tmp_path / "truths")
    shutil.copy(folders / "far" / "b.mp4", tmp_path / "truths" / "b.mp4")
    evaluate(folders, tmp_path / "other", ("near",), truth=tmp_path / "truths", metrics=("psnr",))
    (remark,) = compare(tmp_path / "near", tmp_path / "other")["remarks"]
    assert remark.startswith("1 ground truths differ (b)")
    with pytest.raises(ArtifactError, match="has no method 'nix': choose near"):
        compare(tmp_path / "near", tmp_path / "far", ["nix"])
    with pytest.raises(ArtifactError, match=r"different protocols[^\0]*num_frames: null → 5[^\0]*score the videos"):
        evaluate(folders, tmp_path / "five", protocol=Protocol(name="five", num_frames=5))
        compare(tmp_path / "near", tmp_path / "five")


def test_a_protocol_names_the_clips(folders: Path, tmp_path: Path) -> None:
    own = Protocol(name="two", clips=("b", "d"), num_frames=13, short_clip="refuse")
    record = evaluate(folders, tmp_path, protocol=own)
    assert record["counts"]["inputs"] == 2 and {key[1] for key in table(tmp_path)} == {"b", "d"}
    assert record["protocol"] == own.model_dump(mode="json") | {"digest": own.digest}
    more = Protocol(name="more", clips=("b", "z"))
    record = evaluate(folders, tmp_path / "more", protocol=more)
    row = table(tmp_path / "more")["near", "z", None]
    assert (row["verdict"], row["reason"]) == ("quarantined", "not_rendered") and "names z" in row["detail"]
    assert record["means"]["psnr"]["videos"] == 1 and record["missing"]["psnr"] == {"not_rendered": 1}
    one = Protocol(name="long", num_frames=14, short_clip="refuse")
    evaluate(folders, tmp_path / "long", protocol=one)
    row = table(tmp_path / "long")["near", "b", None]
    assert (row["verdict"], row["reason"], row["protocol"]) == ("quarantined", "too_short", "long")
    with pytest.raises(SteadyDancerError, match="no video has an id of the protocol"):
        evaluate(folders, tmp_path / "none", protocol=Protocol(name="none", clips=("z",)))


def test_a_folder_in_which_nothing_fits_is_refused(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SteadyDancerError, match=r"nix does not exist: pass a folder with the videos ID\.mp4"):
        evaluate(folders, tmp_path / "o", sources=[Source("x", tmp_path / "nix")])
    with pytest.raises(SteadyDancerError, match=r"a\.mp4 is a file: pass a folder with the videos"):
        evaluate(folders, tmp_path / "o", sources=[Source("x", folders / "near" / "a.mp4")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SteadyDancerError, match=r"empty has no video \(it is empty\): pass a folder"):
        evaluate(folders, tmp_path / "o", sources=[Source("x", tmp_path / "empty")])
    with pytest.raises(SteadyDancerError, match=r"images has no video \(found a\.png, b\.png, c\.png, …\)"):
        evaluate(folders, tmp_path / "o", sources=[Source("x", folders / "images")])
    read = BenchmarkPairs({"name": "toy"}, {"z": {"image": None, "driving": None, "truth": None, "kinds": None}})
    monkeypatch.setattr(evaluate_inputs, "read_pairs", lambda name: read)
    with pytest.raises(SteadyDancerError, match=r"no video of a pair of the benchmark: expected z\.mp4"):
        evaluate(folders, tmp_path / "o", benchmark="toy", truth=None)
    with pytest.raises(SteadyDancerError, match="'nix' is no metric"):
        evaluate(folders, tmp_path / "o", metrics=("nix",))
    assert not (tmp_path / "o").exists()


def test_every_metric_has_a_row_and_every_null_a_reason(folders: Path, judges: Path, tmp_path: Path) -> None:
    """By default all metrics stand in the table; those that cannot be measured say why."""
    record = evaluate(folders, tmp_path / "out", ("near",), metrics=None)
    rows = table(tmp_path / "out")
    assert record["metrics"] == list(METRICS)
    for name, metric in METRICS.items():
        for one in IDS if metric.level == "video" else (None,):
            row = rows["near", one, name]
            assert (row["value"] is None) == bool(row["reason"]) and row["reason"] != "not_computed", row
    assert rows["near", "a", "pck_10"]["reason"] == "weights_missing"
    assert rebuild_report(tmp_path / "out") == tmp_path / "out" / "report.html"


def test_seeds_of_a_rendering_job_are_seeds_of_its_method(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "renders")
    rows: list[dict[str, Any]] = [
        {"id": "a", "image": "i", "driving": "d", "verdict": "ok", "video": f"a-{k}.mp4", "seed_index": k}
        for k in (0, 1, None)
    ]  # fmt: skip
    keys = [evaluate_inputs._key(evaluate_inputs._rendered_video(row, artifact, "ours"), True) for row in rows]
    assert keys == ["ours/a#0", "ours/a#1", "ours/a"]
