"""What a cache's numbers depend on stands in its plan and fingerprint, and nothing else does."""

import pytest

from steadydancer.datasets.encodings import fingerprint
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
