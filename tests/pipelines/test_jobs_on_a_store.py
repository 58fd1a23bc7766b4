"""All jobs with every path on an object store: the same rows, latents and weights as in local folders."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.schema import Row, to_table
from steadydancer.datasets.shards import ShardDataset
from steadydancer.datasets.storage import Location, location, state_folder
from steadydancer.datasets.storage import requests as store_requests
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.s3 import ObjectPath, listing, upload_file
from steadydancer.flows.presets import tiny
from steadydancer.pipelines.cache import job as cache_job
from steadydancer.pipelines.curate import ingest
from steadydancer.pipelines.curate import job as curate_job
from steadydancer.pipelines.evaluate import job as evaluate_job
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.render.steps import SCHEMA as RENDERS_SCHEMA
from steadydancer.pipelines.runtime.runner import Engine
from steadydancer.pipelines.train import job as train_job
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.run_folder import TrainingRefused

CURATE = tiny().curate.model_copy(update={"pose_model": "supplied", "packet_size": 3})
SECRETS = ("AKIATESTKEY", "test-secret")


def upload(folder: Path, target: ObjectPath) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            upload_file(file, target / file.relative_to(folder).as_posix())


@pytest.fixture
def store(bucket: str, dancers: Path) -> ObjectPath:
    """The bucket, with the procedural dancers in `clips`."""
    root = ObjectPath.parse(bucket)
    upload(dancers / "clips", root / "clips")
    return root


def engine(out: Location) -> Engine:
    return Engine(state_folder(out), in_process=True)


def curate(clips: str, out: Location) -> dict[str, Any]:
    return curate_job.run(CURATE, clips=clips, out=out, engine=engine(out))


def rows_of(out: Location) -> list[Row]:
    """Rows, by the file's name, without what names the place (an unreadable source has no other id than its path)."""
    rows = [
        {**row, "source_path": location(row["source_path"]).name, "measured_part": None}
        | ({} if row["source_id"] else {"clip_id": None})
        for row in Artifact(out / "clips").read().to_pylist()
    ]
    return sorted(rows, key=lambda row: (row["source_path"], row["start_s"] or 0.0))


def test_curating_from_a_store_to_a_store_gives_the_rows_of_the_folder(store: ObjectPath, curated: Path) -> None:
    record = curate(f"{store}/clips/", store / "out")
    twin = Artifact(curated / "clips").record()
    assert rows_of(store / "out") == rows_of(curated)
    assert (record["counts"], record["config"]) == (twin["counts"], twin["config"])
    assert record["inputs"]["clips"] == f"{store}/clips/"
    paths = {row["source_path"] for row in Artifact(store / "out" / "clips").read(["source_path"]).to_pylist()}
    assert all(path.startswith(f"{store}/clips/") for path in paths)
    # Nothing is left but the two artifacts, and a second run has nothing to do.
    names = {one.path.key.split("/")[1] for one in listing(store / "out")}
    assert names == {"measured", "clips"}
    assert curate(f"{store}/clips/", store / "out") == record
    text = "".join((store / "out" / name).read_text() for name in ("clips/run.json", "measured/plan.json"))
    assert not any(secret in text for secret in SECRETS)


def test_a_prefix_a_glob_a_table_and_one_object_name_sources(store: ObjectPath, dancers: Path, tmp_path: Path) -> None:
    all_of_them = sorted(f"{store}/clips/{file.name}" for file in (dancers / "clips").glob("*.mp4"))
    assert ingest.list_sources(f"{store}/clips") == all_of_them
    assert ingest.list_sources(f"{store}/cli*/d*.mp4") == [name for name in all_of_them if "/d" in name]
    assert ingest.list_sources(f"{store}/clips/dark.mp4") == [f"{store}/clips/dark.mp4"]
    (tmp_path / "a.csv").write_text("path,licence\n../clips/dark.mp4,CC0\n/local/x.mp4,\n")
    upload_file(tmp_path / "a.csv", store / "lists" / "a.csv")
    assert ingest.list_sources(f"{store}/lists/a.csv") == ["/local/x.mp4", f"{store}/clips/dark.mp4"]
    for clips, words in (
        (f"{store}/none", "does not exist"),
        (f"{store}/lists", "contains no video"),
        (f"{store}/clips/*.mov", "contains no video"),
        ("s3://no-such-bucket/clips", "bucket no-such-bucket does not exist"),
    ):
        with pytest.raises(SteadyDancerError, match=words):
            ingest.list_sources(clips)


def test_a_run_killed_between_two_parts_goes_on_to_the_same_rows(
    store: ObjectPath, curated: Path, killed_at_second_part: Callable[[str], None]
) -> None:
    code = f"""
        from steadydancer.datasets.storage import location, state_folder
        from steadydancer.pipelines.curate import job
        from steadydancer.pipelines.curate.config import CurateConfig
        from steadydancer.pipelines.runtime.runner import Engine
        out = location("{store}/out")
        config = CurateConfig.model_validate_json({CURATE.model_dump_json()!r})
        job.run(config, clips="{store}/clips", out=out, engine=Engine(state_folder(out), in_process=True))
    """
    killed_at_second_part(code)
    names = [one.path.key for one in listing(store / "out")]
    parts = [name for name in names if "part-" in name]
    assert len(parts) == 1 and len(names) == 3  # the plan and the claim of the dead beside it
    before = listing(store / parts[0].rpartition("/")[0])
    curate(f"{store}/clips", store / "out")
    assert rows_of(store / "out") == rows_of(curated)
    after = {one.path: one.modified_ns for one in listing(store / "out")}
    assert all(after[one.path] == one.modified_ns for one in before if one.path.name.startswith("part-"))


@pytest.fixture
def latents(bucket: str, curated: Path, components: Path) -> ObjectPath:
    """`cache` from a store to it, with the components there as well; the clips' own videos lie in their folder."""
    root = ObjectPath.parse(bucket)
    for name in ("clips", "measured"):
        upload(curated / name, root / "curated" / name)
    upload(components, root / "wan")
    config = tiny().cache.model_copy(update={"components": f"{root}/wan", "packet_size": 2})
    cache_job.run(config, clips=root / "curated", out=root / "cached", engine=engine(root / "cached"))
    return root / "cached" / "latents"


def test_a_cache_on_a_store_holds_the_bytes_of_the_one_in_a_folder(latents: ObjectPath, cached: Path) -> None:
    there, here = Artifact(latents).record(), Artifact(cached).record()
    same = ("counts", "buckets", "bytes", "config", "num_frames", "fps")
    assert [there[name] for name in same] == [here[name] for name in same]
    assert there["components"] == {**here["components"], "path": f"{latents.parent.parent}/wan"}
    for file in sorted(cached.rglob("*.tar")) + sorted(cached.rglob("null/*")):
        assert (latents / file.relative_to(cached).as_posix()).read_bytes() == file.read_bytes()
    theirs, ours = ShardDataset(latents), ShardDataset(cached)
    assert [theirs.read(key) for key in theirs.keys] == [ours.read(key) for key in ours.keys]
    assert [theirs.null(bucket) for bucket in theirs.bucket.values()] == list(map(ours.null, ours.bucket.values()))


def train(latents: Location, base: str | None, out: Location, **changes: Any) -> dict[str, Any]:
    values = {
        "stage": 1, "num_frames": 33, "steps": 2, "seed": 3, "global_batch_size": 1, "num_workers": 0, "use_gpu": False,
        "dtype": "float32", "lora_rank": 2, "lora_alpha": 2.0, "checkpoint_every_steps": 1, "evaluation_samples": 0,
        "warmup_steps": 0,
    }  # fmt: skip
    origin = changes.pop("from_checkpoint", None)
    config = TrainConfig(**{**values, **changes})
    return train_job.run(config, latents=latents, base=base, out=out, from_checkpoint=origin)


@pytest.mark.acceptance
def test_training_from_a_store_to_a_store(latents: ObjectPath, cached: Path, components: Path, tmp_path: Path) -> None:
    root = latents.parent.parent
    out = root / "stage1"
    train(latents, f"{root}/wan", out, steps=1)
    first = (out / "checkpoint" / "run.json").read_text()
    record = train(latents, f"{root}/wan", out)
    assert (out / "checkpoint-000001" / "run.json").read_text() == first
    twin = train(cached, str(components), tmp_path / "stage1")
    assert record["digest"] == twin["digest"] and record["base"]["digest"] == twin["base"]["digest"]
    assert record["base"]["path"] == f"{root}/wan"
    names = {one.path.key.removeprefix(f"{out.key}/").split("/")[0] for one in listing(out)}
    assert names == {"checkpoint", "checkpoint-000001", "metrics.jsonl", "report.html", "start.json"}
    weights = "checkpoint/transformer/diffusion_pytorch_model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "stage1" / weights).read_bytes()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2

    # The next stage begins from there; a machine that knows nothing of the run finds it finished, and no more.
    second = train(latents, None, tmp_path / "stage2", stage=2, from_checkpoint=out, steps=1)
    assert second["parent"]["path"] == str(out / "checkpoint") and second["base"] == record["base"]
    shutil.rmtree(state_folder(out))
    assert train(latents, f"{root}/wan", out)["already_finished"]
    shutil.rmtree(state_folder(out))
    with pytest.raises(TrainingRefused, match=r"steps: s3://.* contains a checkpoint of 2 steps"):
        train(latents, f"{root}/wan", out, steps=3)
    with pytest.raises(TrainingRefused, match="learning_rate"):
        train(latents, f"{root}/wan", out, learning_rate=1e-3)


def test_evaluating_renders_on_a_store(bucket: str, dancers: Path, components: Path) -> None:
    root = ObjectPath.parse(bucket)
    upload_file(dancers / "images" / "pair_0.png", root / "images" / "pair_0.png")
    for place in (root / "out" / "renders" / "equal.mp4", root / "truth" / "equal.mp4"):
        upload_file(dancers / "truth" / "pair_0.mp4", place)
    renders = Artifact(root / "out" / "renders")
    (packet,) = plan_packets(["equal"], 1)
    row = {"id": "equal", "image": f"{root}/images/pair_0.png", "video": "equal.mp4", "verdict": "ok"}
    renders.write_part(packet, to_table([row], RENDERS_SCHEMA))
    write_json(
        renders.path / "run.json",
        {"kind": "renders", "config": {"seed": 0}, "inputs": {"digest": "d"}, "components": {"path": str(components)}},
    )
    few = evaluate_job.run(
        EvaluateConfig(metrics=("psnr",)),
        renders=root / "out",
        truth=root / "truth",
        out=root / "scores",
        engine=engine(root / "scores"),
    )
    record = evaluate_job.run(
        EvaluateConfig(),
        renders=root / "out",
        truth=root / "truth",
        out=root / "scores",
        engine=engine(root / "scores"),
    )
    assert record["means"]["psnr"] == {"mean": 100.0, "videos": 1}
    rows = Artifact(root / "scores" / "metrics").read().to_pylist()
    (video,) = {row["video"] for row in rows if row["id"] is not None}  # metrics of the set have no video
    assert video == f"{root}/out/renders/equal.mp4"
    assert record["parent"]["path"].endswith("scores/earlier/metrics-1")
    assert Artifact(root / "scores" / "earlier" / "metrics-1").record() == few
    again = evaluate_job.run(
        EvaluateConfig(metrics=("psnr",), packet_size=8),
        renders=root / "out",
        truth=root / "truth",
        out=root / "scores",
        engine=engine(root / "scores"),
    )
    assert again == record
    page = (root / "scores" / "report.html").read_text()
    assert 'src="../out/renders/equal.mp4"' in page and 'src="../images/pair_0.png"' in page


def test_a_store_that_goes_away_ends_a_run_with_one_sentence(
    store: ObjectPath, curated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Artifact.write_part

    def away(self: Artifact, *arguments: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            store_requests.filesystem.cache_clear()
            store_requests.upload_filesystem.cache_clear()
            try:
                write(self, *arguments)
            finally:
                store_requests.filesystem.cache_clear()
                store_requests.upload_filesystem.cache_clear()

    with monkeypatch.context() as patched:
        patched.setattr(Artifact, "write_part", away)
        with pytest.raises(SteadyDancerError, match="cannot be reached: check AWS_ENDPOINT_URL") as reported:
            curate(f"{store}/clips", store / "out")
    assert not any(secret in str(reported.value) for secret in SECRETS)
    curate(f"{store}/clips", store / "out")
    assert rows_of(store / "out") == rows_of(curated)
