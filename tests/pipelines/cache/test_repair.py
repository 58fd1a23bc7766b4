"""A cache whose captions a model gave is repaired by the same model, to the same bytes, or not at all."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.artifact import Artifact, ArtifactError, Packet
from steadydancer.datasets.clips import COLUMNS
from steadydancer.datasets.rules import versions
from steadydancer.datasets.schema import Row, to_table
from steadydancer.datasets.shards import ShardDataset
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.flows.presets import tiny
from steadydancer.models.curation import captioner
from steadydancer.pipelines.cache import job, reused_shards, steps
from steadydancer.pipelines.cache.config import CacheConfig
from steadydancer.pipelines.cache.repair import repair
from steadydancer.pipelines.cache.verify import verify
from steadydancer.pipelines.runtime.runner import Engine

NUM_FRAMES = 5


class Speaker:
    """Says what it was shown: another clip gets another caption."""

    def __init__(self, folder: str, *others: Any) -> None:
        self.folder = folder

    def __call__(self, frames: np.ndarray) -> str:
        return f"{Path(self.folder).name} sees {int(frames.astype(int).sum()) % 9973}"


@pytest.fixture(scope="module")
def speakers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(steps, "Captioner", Speaker)
        patched.setattr(captioner, "captioner_digest", lambda folder: Path(folder).name)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, components: Path, speakers: None) -> Path:
    """Two clips of their own sizes, of which one came with a caption, cached."""
    tmp_path = tmp_path_factory.mktemp("captioned")
    rows: list[Row] = []
    for seed, (height, width) in enumerate(((96, 64), (64, 96))):
        source, pose = tmp_path / f"{seed}.mp4", toy_pose(seed, NUM_FRAMES, 16, aspect=width / height)
        encode(draw_dancer(pose, seed, height, width), source, 16)
        data = pose.to_bytes()
        rows.append(
            {"source_path": str(source), "source_id": content_digest(source), "clip_id": f"{seed:016d}", "width": width,
             "height": height, "start_s": 0.0, "end_s": 0.25, "num_frames": NUM_FRAMES, "pose_model": "m",
             "prompt": "somebody's words" if seed == 1 else None, "measured_part": "part-x.parquet", "pose": data,
             "pose_digest": hashlib.sha256(data).hexdigest()[:16], "verdict": "ok"}
        )  # fmt: skip
    Artifact(tmp_path / "measured").write_part(Packet("x", ()), to_table(rows))
    Artifact(tmp_path / "clips").write_part(Packet("x", ()), to_table(rows).select(COLUMNS))
    config = tiny().curate.model_copy(update={"num_frames": NUM_FRAMES}).model_dump(mode="json")
    counts = {"inputs": 2, "ok": 2, "rejected": 0, "quarantined": 0}
    write_json(tmp_path / "clips" / "run.json", {"kind": "clips", "config": config, "measured": "measured",
               "counts": counts, "rules": versions("pictures")})  # fmt: skip
    cache = CacheConfig(**(tiny().cache.model_dump() | {"components": str(components), "captioner": "/here/parrot",
                        "shard_bytes": 1}))  # fmt: skip
    job.run(cache, clips=tmp_path, out=tmp_path, engine=engine(tmp_path))
    return tmp_path / "latents"


@pytest.fixture
def captioned(whole: Path, tmp_path: Path) -> Path:
    """One that may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "old"))


def engine(folder: Path) -> Engine:
    return Engine(folder / ".engine", in_process=True)


def captions_in(latents: Path) -> dict[str, str | None]:
    data = ShardDataset(latents)
    return {key: data.read(key)["meta"]["prompt"] for key in data.keys}


def test_a_repaired_shard_has_the_caption_that_was_lost(captioned: Path, tmp_path: Path) -> None:
    before = captions_in(captioned)
    assert before[f"{1:016d}"] == "somebody's words"
    assert before[f"{0:016d}"].startswith("parrot sees ")
    shards = {file.name: file.read_bytes() for file in (captioned / "shards").iterdir()}
    assert len(shards) == 4  # each with its offsets for Energon
    lost = next(name for name, content in shards.items() if b"parrot sees" in content)
    (captioned / "shards" / lost).unlink()
    record = repair(captioned, tmp_path / "new", engine(tmp_path))
    assert record is not None and record["parent"]["packets_made_anew"] == 1
    assert record["components"]["captioner"] == "/here/parrot"
    assert record["prompts"] == {"supplied": 1, "captioner": 1, "none": 0}
    assert {file.name: file.read_bytes() for file in (tmp_path / "new/latents/shards").iterdir()} == shards
    assert captions_in(tmp_path / "new" / "latents") == before
    index = Artifact(tmp_path / "new" / "latents").read(["clip_id", "prompt_from"]).to_pylist()
    assert {row["clip_id"][-1]: row["prompt_from"] for row in index} == {
        "0": "captioner", "1": "supplied"
    }  # fmt: skip


def test_another_captioner_does_not_repair_it_and_the_same_one_may_lie_elsewhere(
    captioned: Path, tmp_path: Path
) -> None:
    next((captioned / "shards").glob("*.tar")).unlink()
    with pytest.raises(ArtifactError, match='components.captioner: "parrot" → "crow"'):
        repair(captioned, tmp_path / "new", engine(tmp_path), captioner="/there/crow")
    assert not (tmp_path / "new" / "latents").exists()
    record = repair(captioned, tmp_path / "new", engine(tmp_path), captioner="/there/parrot")
    assert record is not None and record["components"]["digests"]["captioner"] == "parrot"
    assert record["fingerprint"] == json.loads((captioned / "run.json").read_text())["fingerprint"]


def test_a_cache_of_an_older_rule_is_repaired_as_it_was_from_sources_that_are_read_as_they_were(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record names no rules, as the version that made it did not; of the others nothing is made anew."""
    for name in ("run.json", "plan.json"):
        told_now = json.loads((captioned / name).read_text())
        del told_now["rules"]
        write_json(captioned / name, told_now)
    shards = {file.name: file.read_bytes() for file in (captioned / "shards").iterdir()}
    (captioned / "shards" / min(shards)).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(reused_shards, "has_same_pictures", lambda path: False)
        with pytest.raises(
            ArtifactError, match=r"decoded differently by today's `pictures` rule: cache the clips again"
        ):
            repair(captioned, tmp_path / "other", engine(tmp_path))
    record = repair(captioned, tmp_path / "new", engine(tmp_path))
    assert record is not None and "rules" not in record
    assert {file.name: file.read_bytes() for file in (tmp_path / "new/latents/shards").iterdir()} == shards
    assert not verify(tmp_path / "new" / "latents").findings
