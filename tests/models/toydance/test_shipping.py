"""The folder that the package ships: complete, in half precision, and read as the files it was made from."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from steadydancer.datasets.storage.atomic import write_json
from steadydancer.models.checkpoints.folders import part_folders, resolve_folder
from steadydancer.models.components import load_components, save_components, tiny_components
from steadydancer.models.toydance import CHECKPOINTS, components_folder, require_shipped, shipping
from steadydancer.models.toydance.pose import DETECTOR_FILE, KEYPOINT_FILE, export
from steadydancer.models.transformer import SteadyDancerTransformer3DModel


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`components`, `pose` and `stages`, as the commands leave them."""
    folder = tmp_path_factory.mktemp("fitted")
    parts = tiny_components(0)
    save_components({name: parts[name] for name in shipping.FITTED}, folder / "components")
    # As `decoder` leaves it: loaded from a place, trained on, and saved there again.
    load_components(folder / "components", ("vae",))["vae"].save_pretrained(folder / "components" / "vae")
    (folder / "pose/onnx").mkdir(parents=True)
    for name in (DETECTOR_FILE, KEYPOINT_FILE):
        torch.manual_seed(len(name))
        export(nn.Conv2d(3, 8, 3), torch.zeros(2, 3, 8, 8), folder / "pose/onnx" / name, ["output"])
    (folder / "autoencoder").mkdir()
    (folder / "autoencoder/curve.jsonl").write_text('{"step": 500, "loss": 0.5}\n')
    base = load_components(folder / "components", ("transformer",), torch.float32)["transformer"]
    for name in CHECKPOINTS:
        checkpoint = folder / "stages" / name / "checkpoint"
        SteadyDancerTransformer3DModel.from_wan(base).save_pretrained(checkpoint / "transformer")
        path = {"path": "/home/someone", "source": "/home/someone", "digest": "d"}
        record = {"kind": "checkpoint", "stage": int(name[5]), "steps": 3, "base": path, "parent": path, "seed": 0}
        write_json(checkpoint / "run.json", record)
        lines = [{"step": step, "loss": float(step)} for step in range(60)]
        lines[59]["validation_loss"] = 0.25
        (checkpoint.parent / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def ship(fitted: Path, out: Path) -> int:
    return shipping.ship(fitted, fitted / "stages", out)


def test_the_shipped_folder_is_complete_in_half_precision_and_names_no_place(fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "package"
    size = ship(fitted, out)
    assert size == sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    require_shipped(out)
    assert "_name_or_path" in (fitted / "components/vae/config.json").read_text()
    for config in out.rglob("config.json"):
        assert "_name_or_path" not in config.read_text(), config
    assert load_components(out, ("scheduler",))["scheduler"].config.flow_shift == 3.0
    made = load_components(fitted / "stages/stage3/checkpoint", ("transformer",), kind="steadydancer")["transformer"]
    read = load_components(out / "stage3", ("transformer",), kind="steadydancer")["transformer"]
    assert read.dtype == torch.float16
    for name, weight in read.state_dict().items():
        assert torch.equal(weight, made.state_dict()[name].half()), name
    for name in CHECKPOINTS:
        assert "/home" not in (out / name / "run.json").read_text()
        assert json.loads((out / name / "run.json").read_text())["parent"] == {"digest": "d"}


def test_curves_of_fits_and_stages_are_shipped(fitted: Path, tmp_path: Path) -> None:
    ship(fitted, tmp_path / "package")
    curves = tmp_path / "package" / "curves"
    assert {file.stem for file in curves.iterdir()} == {"autoencoder", *CHECKPOINTS}
    assert (curves / "autoencoder.jsonl").read_bytes() == (fitted / "autoencoder/curve.jsonl").read_bytes()
    lines = [json.loads(line) for line in (curves / "stage2.jsonl").read_text().splitlines()]
    assert lines == [{"step": 50, "loss": 24.5}, {"step": 60, "loss": 54.5, "validation_loss": 0.25}]


def test_pose_networks_keep_their_outputs_in_half_precision(fitted: Path, tmp_path: Path) -> None:
    ship(fitted, tmp_path / "package")
    picture = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    for name in (DETECTOR_FILE, KEYPOINT_FILE):
        (before,), (after,) = (
            onnxruntime.InferenceSession(folder / name).run(None, {"input": picture})
            for folder in (fitted / "pose/onnx", tmp_path / "package" / "pose")
        )
        assert after.dtype == np.float32 and 0 < np.abs(after - before).max() < 2e-3


def test_a_folder_that_is_too_large_is_not_written(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"has .* MB, but the package ships at most"):
        ship(fitted, tmp_path / "package")
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_packages_checkpoints_name_its_components_wherever_it_is_installed(name: str) -> None:
    """Their records have no paths; the digests of what is found are those of the training."""
    shipped = components_folder()
    folders = part_folders(shipped / name, ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder"))
    assert folders.pop("transformer") == shipped / name
    assert set(folders.values()) == {shipped}
    assert resolve_folder("toydance") == shipped
