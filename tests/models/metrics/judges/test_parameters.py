"""Files are read as tensors or refused: nothing in them is run, and nothing is half loaded."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from steadydancer.models.metrics.judges.parameters import file_of, in_batches, load_parameters, read_parameters
from steadydancer.models.metrics.judges.torchscript import is_torchscript
from steadydancer.models.weights import WeightsError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.last = nn.Linear(4, 2).half()
        self.sizes = [1, 2]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(pictures).mean((2, 3)).half())


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Small, Path]:
    torch.manual_seed(0)
    network = Small().eval()
    torch.jit.script(network).save(tmp_path / "scripted.pt")
    return network, tmp_path / "scripted.pt"


def rewritten(source: Path, out: Path, changes: dict[str, bytes]) -> Path:
    """A copy of a zip archive with other contents of the members that end so."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, next((data for end, data in changes.items() if name.endswith(end)), old.read(name)))
    return out


def test_an_archive_gives_the_tensors_of_its_state_and_its_code_is_not_read(
    archive: tuple[Small, Path], tmp_path: Path
) -> None:
    network, file = archive
    traced = tmp_path / "traced.pt"
    torch.jit.trace(network, torch.zeros(1, 3, 8, 8)).save(traced)
    broken_code = rewritten(file, tmp_path / "broken.pt", {".py": b"this is no code", "constants.pkl": b""})
    for path in (file, traced, broken_code):
        assert is_torchscript(path)
        read = read_parameters(path)
        assert read.keys() == network.state_dict().keys()
        for name, value in network.state_dict().items():
            assert read[name].dtype == value.dtype
            torch.testing.assert_close(read[name], value, rtol=0, atol=0)
    with pytest.raises(RuntimeError):
        torch.jit.load(broken_code)


class Harm:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.file}",)


def test_code_in_a_pickle_is_refused_and_not_run(archive: tuple[Small, Path], tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    harm = pickle.dumps(Harm(mark), protocol=2)
    rewritten(archive[1], tmp_path / "harm.pt", {"data.pkl": harm})
    torch.save({"weight": Harm(mark)}, tmp_path / "harm.pth")
    (tmp_path / "legacy.pth").write_bytes(harm)
    for name in ("harm.pt", "harm.pth", "legacy.pth"):
        with pytest.raises(WeightsError, match=f"{name} cannot be read as parameters"):
            read_parameters(tmp_path / name)
    assert not mark.exists()


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(archive: tuple[Small, Path], tmp_path: Path) -> None:
    cut = rewritten(archive[1], tmp_path / "cut.pt", {"/data/0": bytes(8)})
    with pytest.raises(WeightsError, match=r"cut\.pt cannot be read.*does not fit into 2 numbers"):
        read_parameters(cut)


def test_all_forms_of_a_state_dictionary_read_the_same(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "parallel.pth")
    save_file(state, tmp_path / "other.safetensors")
    for path in sorted(tmp_path.iterdir()):
        read = read_parameters(path)
        assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state), path
    torch.save({"state_dict": state, "epoch": 3}["epoch"], tmp_path / "number.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:40])
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("number.pth", "epoch.pth", "cut.safetensors", "empty.pth"):
        with pytest.raises(WeightsError, match=f"{name} cannot be read as parameters"):
            read_parameters(tmp_path / name)


def test_a_network_is_filled_completely_or_not_at_all() -> None:
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    good = {"weight": torch.ones(2, 3).half(), "bias": torch.zeros(2)}
    wrong = {
        r"1 missing \(bias\)": {"weight": good["weight"]},
        r"2 unexpected \(gain, scale\)": {**good, "scale": good["bias"], "gain": good["bias"]},
        r"1 of another shape \(weight \(3, 2\), not \(2, 3\)\)": {**good, "weight": torch.ones(3, 2)},
    }
    for message, parameters in wrong.items():
        with pytest.raises(WeightsError, match=rf"f\.pth does not contain Line's parameters: {message}"):
            load_parameters(network, parameters, Path("f.pth"), "Line")
    torch.testing.assert_close(network.weight, before)
    load_parameters(network, good, Path("f.pth"), "Line")
    assert network.weight.dtype == torch.float32 and (network.weight == 1).all()


def test_a_folder_stands_for_the_first_of_its_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none of a\.pth, b\.pth \(it is empty\)"):
        file_of(tmp_path, ("a.pth", "b.pth"))
    (tmp_path / "b.pth").touch()
    assert file_of(tmp_path, ("a.pth", "b.pth")) == file_of(tmp_path / "b.pth", ("a.pth",)) == tmp_path / "b.pth"
    with pytest.raises(WeightsError, match=r"none of c\.pth \(b\.pth\)"):
        file_of(tmp_path, ("c.pth",))
    with pytest.raises(WeightsError, match="no such folder"):
        file_of(tmp_path / "absent", ("c.pth",))


def test_batches_are_bounded_and_joined_in_order() -> None:
    frames = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    sizes = []

    def double(batch: np.ndarray) -> torch.Tensor:
        sizes.append(len(batch))
        return 2 * torch.from_numpy(batch.reshape(-1, 1))

    np.testing.assert_array_equal(in_batches(frames, 3, double, 1)[:, 0], 2 * np.arange(7))
    assert sizes == [3, 3, 1] and in_batches(frames[:0], 3, double, 1).shape == (0, 1)
