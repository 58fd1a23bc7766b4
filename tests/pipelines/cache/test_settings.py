"""What a cache's numbers depend on stands in its plan and fingerprint, and nothing else does."""

from typing import Any

import pyarrow as pa
import pytest

from steadydancer.datasets.schema import CROP_COLUMNS
from steadydancer.datasets.shards.encodings import fingerprint
from steadydancer.pipelines.cache.accepted_clips import COLUMNS, AcceptedClips
from steadydancer.pipelines.cache.config import CacheConfig

# Each field with another value than the default.
OTHER = {
    "components": "/elsewhere", "captioner": "/captioner", "max_area_px": 4096, "drawing_area_px": 8192,
    "dtype": "float32", "encoder_dtype": "float16", "shard_bytes": 5, "packet_size": 7, "num_gpus": 0.5,
}  # fmt: skip
COUNTED = {"max_area_px", "drawing_area_px", "dtype", "encoder_dtype"}


def test_the_settings_are_those_on_which_numbers_depend() -> None:
    assert CacheConfig().settings == {
        "max_area_px": 640 * 640,
        "drawing_area_px": 1024 * 576,
        "dtype": "bfloat16",
        "encoder_dtype": "bfloat16",
    }
    # A field that comes later is counted unless it is said here that no number depends on it.
    assert CacheConfig.model_fields.keys() == OTHER.keys()


@pytest.mark.parametrize("field", OTHER)
def test_a_setting_changes_the_fingerprint_if_a_number_depends_on_it(field: str) -> None:
    plain, other = CacheConfig(), CacheConfig(**{field: OTHER[field]})
    assert getattr(plain, field) != getattr(other, field)
    marks = {fingerprint(config.settings, {"vae": "x"}) for config in (plain, other)}
    assert (len(marks) == 2) == (field in COUNTED)


def accepted(fps: float = 16.0, **changes: Any) -> AcceptedClips:
    """Two accepted clips; `changes` of the second one's columns."""
    words = dict.fromkeys(COLUMNS, "x")
    row = {**words, "start_s": 0.0, "end_s": 1.0, "num_frames": 17, "width": 64, "height": 96}
    row |= dict.fromkeys(CROP_COLUMNS, 2)
    clips = AcceptedClips.__new__(AcceptedClips)
    clips.fps = fps
    clips.table = pa.Table.from_pylist([{**row, "clip_id": "a"}, {**row, "clip_id": "b", **changes}])
    return clips


def test_clips_are_others_where_a_cached_number_would_be() -> None:
    """The video and its span are named by the clip's id; where it lies and how it is kept decide nothing."""
    changes: list[dict[str, Any]] = [
        {"clip_id": "c"}, {"prompt": "another"}, {"prompt": None}, {"pose_digest": "another"}, {"fps": 24.0},
        *({name: 4} for name in CROP_COLUMNS), {"crop_left_px": None},
    ]  # fmt: skip
    digests = {accepted().digest(), *(accepted(**one).digest() for one in changes)}
    assert len(digests) == 1 + len(changes)
    moved = accepted(source_path="/elsewhere.mp4", measured_part="part-2.parquet")
    assert moved.digest() == accepted().digest()
