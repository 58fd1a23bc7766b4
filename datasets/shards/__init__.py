"""WebDataset shards of cached latents: write, index, plan, read at random, check."""

from .dataset import (
    CONDITIONS,
    INDEX_SCHEMA,
    MEMBER,
    MEMBERS,
    OPEN_FILES,
    POSE,
    Bucket,
    OnDamage,
    Sample,
    ShardDataset,
    index_shard,
    null_path,
    sample_members,
    shard_path,
    write_shard,
)
from .encodings import ENCODINGS
from .energon import write_energon_index
from .index import require_settings

__all__ = [
    "CONDITIONS",
    "ENCODINGS",
    "INDEX_SCHEMA",
    "MEMBER",
    "MEMBERS",
    "OPEN_FILES",
    "POSE",
    "Bucket",
    "OnDamage",
    "Sample",
    "ShardDataset",
    "index_shard",
    "null_path",
    "require_settings",
    "sample_members",
    "shard_path",
    "write_energon_index",
    "write_shard",
]
