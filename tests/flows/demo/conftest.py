"""Stand-ins for the shipped ToyDance weights: the same folders and classes, with random weights."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.storage.atomic import write_json

POSE_FILES = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")
NUM_KEYPOINTS, CROP, SIDE = 133, (96, 128), 64


def onnx_graph() -> Any:
    """The writer of ONNX files that the tests of `models` use."""
    path = Path(__file__).parents[2] / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("models_conftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OnnxGraph()


def write_pose_networks(folder: Path) -> None:
    """A detector that finds one person in the middle of any picture, and a keypoint network with one pose for all."""
    from steadydancer.datasets.toydance import toy_clip
    from steadydancer.models.toydance.pose_data import whole_body

    cells = np.zeros((1, 84, 85), np.float32)
    cells[0, 27, :6] = (0.5, 0.5, np.log(6.5), np.log(7.5), 0.95, 1.0)
    graph = onnx_graph()
    graph.add("Add", graph.add("Mul", graph.add("ReduceMean", "input", keepdims=0), np.zeros(1)), cells)
    graph.save(folder / POSE_FILES[0], (1, 3, SIDE, SIDE), {"add_2": (1, 84, 85)})
    points, _ = whole_body(toy_clip(5).pose[:1])
    graph = onnx_graph()
    nothing = graph.add("Mul", graph.add("ReduceMean", "input", keepdims=0), np.zeros(1))
    outputs = {}
    for axis, size in enumerate(CROP):
        response = np.zeros((1, NUM_KEYPOINTS, 2 * size), np.float32)
        at = np.clip(np.where(points[0, :, axis] < 0, 0.5, points[0, :, axis]) * 2 * size, 0, 2 * size - 1).astype(int)
        response[0, np.arange(NUM_KEYPOINTS), at] = 0.9
        outputs[graph.add("Add", nothing, response)] = response.shape
    graph.save(folder / POSE_FILES[1], (1, 3, CROP[1], CROP[0]), outputs)


def make_stand_ins(folder: Path) -> Path:
    """Write components, pose networks and the four checkpoints below `folder`, in half precision."""
    import torch

    from steadydancer.models.checkpoints.folders import part_digest
    from steadydancer.models.components import load_components, save_components, tiny_components
    from steadydancer.models.toydance import CHECKPOINTS, autoencoder, base, encoders
    from steadydancer.models.toydance.shipping import ship_checkpoint
    from steadydancer.models.transformer import SteadyDancerTransformer3DModel
    from steadydancer.pipelines.train.config import TrainConfig

    sizes = {"vae": autoencoder.SIZES, "image_encoder": encoders.IMAGE_SIZES, "text_encoder": encoders.TEXT_SIZES,
             "transformer": base.SIZES | {"num_layers": 1}}  # fmt: skip
    parts = tiny_components(0, **sizes)
    save_components({name: part.half() if hasattr(part, "half") else part for name, part in parts.items()}, folder)
    network = load_components(folder, ("transformer",), torch.float32)["transformer"]
    for name in CHECKPOINTS:
        made = folder.parent / "made" / name
        SteadyDancerTransformer3DModel.from_wan(network).save_pretrained(made / "transformer")
        stage = int(name[len("stage")])
        record = {"kind": "checkpoint", "stage": stage, "steps": 1, "config": TrainConfig(stage=stage).model_dump()}
        base_record = {"source": "x", "path": str(folder), "digest": part_digest(folder, "transformer")}
        write_json(made / "run.json", {**record, "base": base_record})
        ship_checkpoint(made, folder / name)
    write_pose_networks(folder / "pose")
    return folder


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `models/toydance/components`."""
    return make_stand_ins(tmp_path_factory.mktemp("toydance") / "components")


@pytest.fixture
def shipped(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, found as the shipped weights are."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "toydance").symlink_to(stand_ins)
    (weights / "toydance-pose").symlink_to(stand_ins / "pose")
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(weights))
    return stand_ins
