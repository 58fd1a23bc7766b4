"""Files written tensor by tensor are the library's own; shards are cut where the next tensor has no room."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steadydancer.models.checkpoints import streaming
from steadydancer.models.checkpoints.files import CheckpointError, StoredTensor, open_checkpoint
from steadydancer.models.checkpoints.streaming import (
    OutputTensor,
    plan_shards,
    read_tensor_bytes,
    total_bytes,
    unchanged,
    write_safetensors,
)


def stored(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, StoredTensor]:
    save_file(tensors, file)
    return dict(open_checkpoint(file).tensors)


def of_size(num_bytes: int) -> OutputTensor:
    return OutputTensor(bytes(num_bytes), (num_bytes,), "U8")


def test_shards_are_full_and_keep_the_order() -> None:
    sizes = {"a": 4, "b": 6, "c": 1, "d": 25, "e": 3, "f": 7, "g": 1}
    shards = plan_shards({name: of_size(size) for name, size in sizes.items()}, 10)
    assert [list(shard) for shard in shards] == [["a", "b"], ["c"], ["d"], ["e", "f"], ["g"]]
    assert total_bytes(shards) == sum(sizes.values())
    assert [list(shard) for shard in plan_shards({"d": of_size(25)}, 10)] == [["d"]]
    assert plan_shards({}, 10) == [{}]


def test_bytes_are_counted_in_the_type_that_is_written(tmp_path: Path) -> None:
    (source,) = stored(tmp_path / "in.safetensors", {"x": torch.zeros(3, 5)}).values()
    assert OutputTensor(source, (15,), "F64").num_bytes == 120
    assert OutputTensor(source, (3, 5), "BF16").num_bytes == 30


def test_a_file_is_what_the_library_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide types first, cast as torch casts, pieces that end within no element, and told as it goes on."""
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 1 << 6)
    torch.manual_seed(0)
    tensors = {
        "half": torch.randn(5, 7).half(),
        "whole": torch.randn(33),
        "to_double": torch.randn(3, 9),
        "to_brain": torch.randn(101),
        "numbers": torch.arange(11),
    }
    places = stored(tmp_path / "in.safetensors", tensors)
    targets = {"to_double": "F64", "to_brain": "BF16"}
    out = {name: OutputTensor(place, place.shape, targets.get(name, place.dtype)) for name, place in places.items()} | {
        "given": OutputTensor(b"\x01\x02\x03", (3, 1), "U8")
    }
    reported: list[int] = []
    file = tmp_path / "out.safetensors"
    digest = write_safetensors(file, out, {"from": "a test"}, reported.append)
    content = file.read_bytes()
    assert digest == hashlib.sha256(content).hexdigest()

    written = load_file(file)
    expected = tensors | {
        "to_double": tensors["to_double"].double(),
        "to_brain": tensors["to_brain"].bfloat16(),
        "given": torch.tensor([[1], [2], [3]], dtype=torch.uint8),
    }
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert written[name].dtype == tensor.dtype and torch.equal(written[name], tensor), name
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "from": "a test"}

    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    assert length % 8 == 0 and content[8 + length - 1 : 8 + length] in (b" ", b"}")
    items = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1}
    widths = [items[row["dtype"]] for row in header.values()]
    assert widths == sorted(widths, reverse=True)
    assert all(row["data_offsets"][0] % items[row["dtype"]] == 0 for row in header.values())
    assert sum(reported) == sum(row["data_offsets"][1] - row["data_offsets"][0] for row in header.values())
    assert max(reported) <= 2 * 64 and len(reported) > 10


def test_what_is_not_changed_keeps_its_type_and_shape(tmp_path: Path) -> None:
    places = stored(tmp_path / "in.safetensors", {"x": torch.randn(2, 3).bfloat16(), "y": torch.zeros(4)})
    assert unchanged(places) == {
        "x": OutputTensor(places["x"], (2, 3), "BF16"), "y": OutputTensor(places["y"], (4,), "F32")
    }  # fmt: skip
    assert b"".join(read_tensor_bytes(places["y"])) == bytes(16)


def test_a_file_that_becomes_shorter_under_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "in.safetensors"
    places = stored(file, {"x": torch.randn(64)})
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"in\.safetensors was truncated during reading"):
        write_safetensors(tmp_path / "out.safetensors", unchanged(places), {})
