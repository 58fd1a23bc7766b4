"""Tiny networks: golden values of the released code, random transformers, and ONNX models for pose estimators.

The ONNX models are written as protobuf bytes, without an exporter.
"""

import json
import lzma
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load as load_safetensors
from torch import Tensor

Graph = Callable[..., Path]
Golden = tuple[dict[str, Any], dict[str, Tensor]]


def _field(number: int, value: int | bytes | str | float) -> bytes:
    """Encode one field of a protobuf message: an integer, a string or message, or a 32-bit float."""
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _value_info(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def _tensor(name: str, array: np.ndarray) -> bytes:
    kind = {"float32": 1, "int64": 7}[array.dtype.name]
    return (
        b"".join(_field(1, size) for size in array.shape)
        + _field(2, kind)
        + _field(8, name)
        + _field(9, array.tobytes())
    )


def _node(operation: str, inputs: Sequence[str], output: str, attributes: dict[str, int | float | list[int]]) -> bytes:
    out = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operation)
    for name, value in attributes.items():
        if isinstance(value, list):
            body = b"".join(_field(8, item) for item in value) + _field(20, 7)
        else:
            body = _field(2 if isinstance(value, float) else 3, value) + _field(
                20, 1 if isinstance(value, float) else 2
            )
        out += _field(5, _field(1, name) + body)
    return out


class OnnxGraph:
    """Build an ONNX graph: `graph.add("Mul", "a", array, attribute=1)` returns the name of the output."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []

    def add(self, operation: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        names = [name if isinstance(name, str) else self._constant(name) for name in inputs]
        output = f"{operation.lower()}_{len(self._nodes)}"
        self._nodes.append(_node(operation, names, output, attributes))
        return output

    def save(self, path: Path, shape: Sequence[int | str], outputs: dict[str, Sequence[int | str]]) -> Path:
        graph = b"".join(_field(1, node) for node in self._nodes) + _field(2, "toy")
        graph += b"".join(_field(5, constant) for constant in self._constants) + _field(11, _value_info("input", shape))
        graph += b"".join(_field(12, _value_info(name, size)) for name, size in outputs.items())
        model = _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model)
        return path

    def _constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(_tensor(name, array if array.dtype == np.int64 else array.astype(np.float32)))
        return name


GOLDEN = Path(__file__).parents[1] / "golden"
TINY_TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "image_dim": 8,
}


def read_golden(name: str) -> Golden:
    """Read (configuration in the released names, tensors) of a fixture, described in golden/README.md."""
    data = lzma.decompress((GOLDEN / f"{name}.safetensors.xz").read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["config"]), load_safetensors(data)


@pytest.fixture(scope="session")
def golden_network() -> Golden:
    """A whole network: weights (`sd.`), inputs (`in.`) and outputs of the released code (`mid.`, `out`)."""
    return read_golden("model_1")


@pytest.fixture(scope="session", params=["model_1", "model_2_pose"])
def golden_modules(request: pytest.FixtureRequest, golden_network: Golden) -> Golden:
    """Pose modules and patch embeddings of two networks of different sizes, with outputs of the released code."""
    return golden_network if request.param == "model_1" else read_golden(request.param)


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    """`tiny_model(seed=0, std=None, **changes)`: our network with random weights.

    With `std`, all of them are drawn anew: the pose's embedding, an adapter and the projections begin small or at zero.
    """
    # Imported in the fixture, so that `test_diffusers_internals.py` runs where the network cannot be imported.
    from steadydancer.models.transformer import SteadyDancerTransformer3DModel

    def make(seed: int = 0, std: float | None = None, **changes: Any) -> SteadyDancerTransformer3DModel:
        torch.manual_seed(seed)
        model = SteadyDancerTransformer3DModel(**{**TINY_TRANSFORMER, **changes}).eval()
        if std is not None:
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=std)
        return model

    return make


@pytest.fixture
def tiny_branches() -> Callable[..., dict[Any, Any]]:
    """`tiny_branches(grid, seed=1)`: random conditions of the three guidance branches for `tiny_model`."""
    from steadydancer.models.preflight.inputs import branch_inputs

    def make(grid: tuple[int, int, int], seed: int = 1) -> dict[Any, Any]:
        normal = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
        sizes = (TINY_TRANSFORMER[name] for name in ("image_dim", "text_dim"))
        return {**branch_inputs(normal, grid, *sizes, num_tokens=(5, 9))}

    return make


@pytest.fixture
def plain_wan() -> Callable[..., WanTransformer3DModel]:
    """`plain_wan(seed=3, **changes)`: diffusers' image-to-video network of the same sizes, with random weights."""

    def make(seed: int = 3, **changes: Any) -> WanTransformer3DModel:
        torch.manual_seed(seed)
        sizes = {"in_channels": 36, "out_channels": 16, "added_kv_proj_dim": 24, **TINY_TRANSFORMER, **changes}
        return WanTransformer3DModel(**sizes).eval()

    return make


@pytest.fixture
def onnx_graph() -> type[OnnxGraph]:
    """The class of ONNX graphs with operator set 13 and input "input"."""
    return OnnxGraph


@pytest.fixture
def write_toy_yolox() -> Callable[[Path, int | str], Path]:
    """A detector with YOLOX's output that finds square marks: red 200; second channel 200 for a person, 100 for a dog.

    Each mark is inside one cell of 32 × 32 pixels, and the box is centred on the cell. The third channel is half the
    box's width in detector pixels; the height is 4/3 of the width. The score falls with the squared difference of red
    from 200: 0.75 at 205. Channels are in the order of the detector's input.
    """

    def write(path: Path, batch: int | str) -> Path:
        graph = OnnxGraph()
        to_codes = np.eye(3).reshape(3, 3, 1, 1)
        red, green, width = (graph.add("Conv", "input", to_codes[i : i + 1]) for i in range(3))
        rows = []
        for kind in (200, 100):
            off_red = graph.add("Sub", red, np.array(200.0))
            off_green = graph.add("Sub", green, np.array(float(kind)))
            off = graph.add("Add", graph.add("Mul", off_red, off_red), graph.add("Mul", off_green, off_green))
            mark = graph.add("Relu", graph.add("Sub", np.array(1.0), graph.add("Mul", off, np.array(0.01))))
            solid = graph.add("AveragePool", mark, kernel_shape=[5, 5], pads=[2, 2, 2, 2])  # no rim of a dot
            is_mark = graph.add("And", *(graph.add("Greater", each, np.array(0.1)) for each in (mark, solid)))
            rows.append((solid, graph.add("Mul", width, graph.add("Cast", is_mark, to=1))))

        def per_cell(picture: str) -> str:
            """Map [N, 1, 640, 640] to [N, 8400, 1]: the maximum of each coarse cell, 0 in the finer cells."""
            grids = []
            for stride in (8, 16, 32):
                pooled = graph.add("MaxPool", picture, kernel_shape=[stride, stride], strides=[stride, stride])
                kept = graph.add("Mul", pooled, np.array(float(stride == 32)))
                grids.append(graph.add("Reshape", kept, np.array([0, -1, 1])))
            return graph.add("Concat", *grids, axis=1)

        person, dog = per_cell(rows[0][0]), per_cell(rows[1][0])
        pixels = graph.add("Max", per_cell(rows[0][1]), per_cell(rows[1][1]))
        objectness = graph.add("Max", person, dog)
        middle = graph.add("Add", graph.add("Mul", pixels, np.array(0.0)), np.array(0.5))
        sides = [
            graph.add("Log", graph.add("Add", graph.add("Mul", pixels, np.array(share * 2 / 32)), np.array(1e-6)))
            for share in (1, 4 / 3)
        ]
        is_person = graph.add("Greater", person, np.array(0.3))
        is_dog = graph.add("Greater", dog, np.array(0.3))
        classes = [
            graph.add("MatMul", graph.add("Cast", which, to=1), np.eye(80)[[number]])
            for which, number in ((is_person, 0), (is_dog, 16))
        ]
        graph.add("Concat", middle, middle, *sides, objectness, graph.add("Add", *classes), axis=2)
        name = f"concat_{len(graph._nodes) - 1}"
        return graph.save(path, [batch, 3, 640, 640], {name: [batch, 8400, 85]})

    return write
