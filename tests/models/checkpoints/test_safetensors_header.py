"""Headers of safetensors files: places that the library agrees with, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save

from steadydancer.models.cached_conditions import tensors_of
from steadydancer.models.checkpoints.safetensors_header import (
    FLOATS,
    LENGTH_BYTES,
    header_length,
    item_bytes,
    parse_header,
)

TYPES = {**FLOATS, "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


def test_every_tensor_is_where_its_entry_says():
    tensors = {stored: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for stored, name in TYPES.items()}
    data = save({**tensors, "empty": torch.empty(0, 4), "scalar": torch.tensor(2.5)}, {"told": "text"})
    entries, metadata = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + header_length(data)])
    assert metadata == {"told": "text"} and entries.keys() == {*tensors, "empty", "scalar"}
    for stored, tensor in tensors.items():
        entry = entries[stored]
        assert (entry.dtype, entry.shape) == (stored, (2, 3)) and item_bytes(stored) == tensor.itemsize
        assert data[entry.start : entry.stop] == tensor.view(torch.uint8).numpy().tobytes()
    assert max(entry.stop for entry in entries.values()) == len(data)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"x",
        json.dumps({"a": {"dtype": "F32", "shape": [2]}}).encode(),
        json.dumps({"a": {"dtype": "F1", "shape": [2], "data_offsets": [0, 8]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 12]}}).encode(),
    ],
)
def test_what_is_no_header_is_a_value_error(header):
    with pytest.raises(ValueError):
        parse_header(header)


def test_cached_tensors_whose_last_bytes_are_missing_are_refused():
    data = save({"a": torch.zeros(100), "b": torch.ones(100)})
    assert tensors_of(data)["b"].sum() == 100
    with pytest.raises(ValueError, match="is truncated"):
        tensors_of(data[:-1])
    with pytest.raises(ValueError, match="a is F64; supported types are BF16, F16, F32"):
        tensors_of(save({"a": torch.zeros(3, dtype=torch.float64)}))
