"""I3D: clips of any length and batch, the three published layouts, and files that are refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadydancer.models.metrics.judges import i3d
from steadydancer.models.metrics.judges.i3d import I3D, I3DNetwork, max_pool, same_padding
from steadydancer.models.metrics.judges.i3d_files import read_i3d
from steadydancer.models.weights import WeightsError

RNG = np.random.default_rng(0)
CLIP = RNG.integers(0, 256, (10, 40, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def parameters() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = I3DNetwork()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm3d):
            nn.init.uniform_(norm.running_var, 0.8, 1.2)
            nn.init.normal_(norm.bias, std=0.1)
    return network.state_dict()


@pytest.fixture(scope="module")
def judge(parameters: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> I3D:
    file = tmp_path_factory.mktemp("weights") / "i3d_torchscript.pt"
    torch.save(parameters, file)
    return I3D(file.parent)


def test_a_clip_has_the_same_logits_in_any_batch(judge: I3D, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [CLIP[:9], CLIP, CLIP[1:]]
    logits = judge.logits(clips)
    assert logits.shape == (3, 400) and logits.dtype == np.float32
    np.testing.assert_allclose(judge.prefix_logits(CLIP, [10, 9]), logits[[1, 0]], atol=1e-4)
    monkeypatch.setattr(i3d, "_BATCH", 1)
    np.testing.assert_allclose(judge.logits(clips), logits, atol=1e-4)
    assert np.abs(logits[0] - logits[2]).max() > 1e-3
    assert np.abs(judge.logits(clips[:1], "fvd_cdfvd_224") - logits[0]).max() > 1e-3
    assert judge.logits([]).shape == (0, 400)


def test_short_clips_are_refused(judge: I3D) -> None:
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        judge.logits([CLIP, CLIP[:8]])
    with pytest.raises(ValueError, match="no prefix of 11"):
        judge.prefix_logits(CLIP, [10, 11])


def test_padding_is_tensorflows() -> None:
    """⌈n / stride⌉ windows; one more zero at the end. 7 and stride 2: 2 before and 3 after 16, 3 and 3 of 15."""
    ones = torch.ones(1, 1, 16, 15, 5)
    padded = same_padding(ones, (7, 7, 3), (2, 2, 1))
    assert padded.shape == (1, 1, 21, 21, 7)
    assert padded[0, 0, :3, 10, 3].tolist() == [0, 0, 1] and padded[0, 0, -4:, 10, 3].tolist() == [1, 0, 0, 0]
    assert padded[0, 0, 10, :4, 3].tolist() == [0, 0, 0, 1]
    line = torch.arange(1.0, 6).reshape(1, 1, 5, 1, 1)
    assert max_pool(line, (3, 1, 1), (2, 1, 1)).flatten().tolist() == [2, 4, 5]
    assert max_pool(line[:, :, :4], (3, 1, 1), (2, 1, 1)).flatten().tolist() == [3, 4]


def videogpt_name(name: str) -> str:
    for ours, theirs in (("branch_0", "b0"), ("branch_1.0", "b1a"), ("branch_1.1", "b1b")):
        name = name.replace(f".{ours}.", f".{theirs}.")
    for ours, theirs in (("branch_2.0", "b2a"), ("branch_2.1", "b2b"), ("branch_3.1", "b3b")):
        name = name.replace(f".{ours}.", f".{theirs}.")
    name = name.replace("conv3d_0c_1x1.", "logits.").replace(".batch3d.", ".bn.")
    return name if name.startswith("logits") else name[0].upper() + name[1:]


def test_all_layouts_are_the_same_network(parameters: dict[str, Tensor], judge: I3D, tmp_path: Path) -> None:
    archive = tmp_path / "i3d_torchscript.pt"
    network = I3DNetwork().eval()
    network.load_state_dict(parameters)
    torch.jit.save(torch.jit.trace(network, torch.rand(1, 3, 9, 224, 224), check_trace=False), str(archive))
    other = tmp_path / "i3d_pretrained_400.pt"
    torch.save({videogpt_name(name): value for name, value in parameters.items()}, other)
    expected = judge.logits([CLIP])
    for file, name, epsilon in ((archive, "i3d-torchscript", 1e-3), (other, "i3d-videogpt", 1e-5)):
        state, given, _ = read_i3d(file)
        assert given == epsilon and all(torch.equal(state[key], value) for key, value in parameters.items())
        one = I3D(file)
        assert one.name == name
        one._network.set_epsilon(1e-3)
        np.testing.assert_allclose(one.logits([CLIP]), expected, atol=1e-5)
    assert np.abs(I3D(other).logits([CLIP]) - expected).max() > 1e-3


def packaged(parameters: dict[str, Tensor]) -> dict[str, dict]:
    """The nested arrays of the package: TensorFlow's names, the channels last, no weight of a normalisation."""
    arrays: dict[str, dict] = {"params": {}, "batch_stats": {}}
    for name, value in parameters.items():
        unit, layer, leaf = name.rsplit(".", 2)
        if unit.startswith("mixed"):
            block, branch, *_ = unit.split(".")
            convolution = "0a_1x1" if unit.endswith(("branch_0", ".0")) else "0b_3x3"
            convolution = "0b_1x1" if branch == "branch_3" else convolution
            path = [block.capitalize(), f"{branch.capitalize()}/Conv3d_{convolution}"]
        else:
            path = ["Logits/Conv3d_0c_1x1" if unit == "conv3d_0c_1x1" else unit.capitalize()]
        kind = "batch_stats" if leaf.startswith("running") else "params"
        place = arrays[kind]
        for part in (*path, "Conv_0" if layer == "conv3d" else "BatchNorm_0"):
            place = place.setdefault(part, {})
        if layer == "conv3d":
            number = value.permute(2, 3, 4, 1, 0) if leaf == "weight" else value
            place["kernel" if leaf == "weight" else "bias"] = number.numpy()
        elif leaf in ("bias", "running_mean", "running_var"):
            shape = (-1,) if leaf == "bias" else (1, 1, 1, 1, -1)
            place[{"running_mean": "mean", "running_var": "var"}.get(leaf, leaf)] = value.numpy().reshape(shape)
    return arrays


def test_the_package_is_read_as_arrays(parameters: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "i3d-kinetics-400.ckpt"
    unweighted = {
        name: torch.ones_like(value) if name.endswith("batch3d.weight") else value for name, value in parameters.items()
    }
    file.write_bytes(pickle.dumps(packaged(unweighted)))
    judge = I3D(tmp_path)
    assert judge.name == "i3d-kinetics-400"
    state = judge._network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in unweighted.items())


class Trap:
    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.sprung),)


def test_other_files_are_refused_and_nothing_in_them_runs(parameters: dict[str, Tensor], tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for name in ("i3d-kinetics-400.ckpt", "i3d_torchscript.pt"):
        (tmp_path / name).write_bytes(pickle.dumps({"params": Trap(sprung)}))
        with pytest.raises(WeightsError, match="cannot be read"):
            I3D(tmp_path / name)
    assert not sprung.exists()
    (tmp_path / "i3d-kinetics-400.ckpt").write_bytes(pickle.dumps({"params": 3}))
    with pytest.raises(WeightsError, match="something else than arrays"):
        I3D(tmp_path / "i3d-kinetics-400.ckpt")
    torch.save({name: value for name, value in parameters.items() if "mixed_5c" not in name}, tmp_path / "i3d.pt")
    with pytest.raises(WeightsError, match=r"I3D's parameters: 36 missing \(mixed_5c"):
        I3D(tmp_path / "i3d.pt")
    with pytest.raises(WeightsError, match=r"none of i3d_torchscript\.pt, i3d-kinetics-400\.ckpt"):
        I3D(tmp_path / "nowhere")
