"""Training and validation share no source: several clips a source, one clip without one, and what is not usable."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from steadydancer.datasets.artifact import Artifact, Packet
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data.split import Split, split
from steadydancer.pipelines.train.run_folder import TrainingRefused

SOURCES = [f"source{i}" for i in range(12)]
# Three or four clips of each source, one clip without a source, and a source whose one clip could not be encoded.
CLIPS = {f"clip{i:02d}": SOURCES[i % 12] for i in range(40)} | {"loose": None, "lost": "source of nothing"}


class Shards:
    """What `split` asks of a cache: its place and its usable keys."""

    def __init__(self, path: Path, keys: list[str]) -> None:
        self.path, self.keys = path, keys


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three clips of the cache could not be encoded: they are rows of its index and no samples."""
    folder = tmp_path_factory.mktemp("latents")
    rows = [{"clip_id": key, "source_id": source} for key, source in CLIPS.items()]
    Artifact(folder).write_part(Packet("part-0", tuple(CLIPS)), pa.Table.from_pylist(rows))
    return Shards(folder, [key for key in CLIPS if key not in ("clip03", "clip11", "lost")])


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"stage": 1, "validation_share": 0.3, "seed": 5, **changes})


def held(source: str, share: float, seed: int) -> bool:
    """By hand: 63 bits of the source's hash below its share."""
    digest = hashlib.sha256(f"{seed}/0/0/held out/{source}".encode()).digest()
    return int.from_bytes(digest[:8], "little") // 2 < share * 2**63


@pytest.mark.parametrize("seed", [0, 5, 9])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_whole_sources_are_held_out_by_their_hash(shards: Any, share: float, seed: int) -> None:
    found = split(shards, config(validation_share=share, seed=seed))
    source_of = {key: CLIPS[key] or key for key in shards.keys}
    validation = [key for key in shards.keys if held(source_of[key], share, seed)]
    assert found.validation == tuple(validation)
    assert found.training == tuple(key for key in shards.keys if key not in validation)
    assert found.sources == tuple(sorted({source_of[key] for key in validation}))


def test_no_source_is_on_both_sides_and_some_have_several_clips_on_theirs(shards: Any) -> None:
    found = split(shards, config())
    sides = [{CLIPS[key] for key in keys} for keys in (found.training, found.validation)]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == {*SOURCES, None}
    assert len(found.validation) > len(found.sources) > 1
    assert {"clip03", "clip11"}.isdisjoint({*found.training, *found.validation})


def test_a_clip_without_a_source_is_one_by_itself(shards: Any) -> None:
    seed = next(seed for seed in range(100) if held("loose", 0.3, seed))
    found = split(shards, config(seed=seed))
    assert "loose" in found.validation and "loose" in found.sources


def test_a_source_without_a_usable_clip_is_on_no_side(shards: Any) -> None:
    seed = next(seed for seed in range(100) if held("source of nothing", 0.3, seed))
    assert "source of nothing" not in split(shards, config(seed=seed)).sources


def test_no_share_holds_nothing_out_and_all_of_it_is_refused(shards: Any) -> None:
    assert split(shards, config(validation_share=0.0)) == Split(tuple(shards.keys), (), ())
    with pytest.raises(TrainingRefused, match=r"^validation_share: at 0.9999 all 13 sources of .* held out: lower it"):
        split(shards, config(validation_share=0.9999))


def test_the_record_names_sources_and_clips_of_the_validation() -> None:
    reported = Split(("a", "b"), ("c", "d", "e"), ("s1", "s2")).record()
    text = json.dumps([["s1", "s2"], ["c", "d", "e"]], separators=(",", ":"))
    assert reported == {"sources": 2, "clips": 3, "digest": hashlib.sha256(text.encode()).hexdigest()}
