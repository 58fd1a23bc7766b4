"""Judges and formulas against VBench, its backbones' packages and FastVideo, from uint8 frames, with random weights.

`originals/make_environment.py` makes an environment with those packages; `originals/vbench_i2v.py` runs them there.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from steadydancer.models import metrics
from steadydancer.models.metrics.judges.clip import ClipImage, aesthetic_head
from steadydancer.models.metrics.judges.dino import Dino
from steadydancer.models.metrics.judges.dreamsim import DreamSim
from steadydancer.models.metrics.judges.interpolation import Interpolator
from steadydancer.models.metrics.judges.musiq import Musiq
from steadydancer.models.metrics.judges.torchscript import read_torchscript

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

ORIGINALS = Path(__file__).parent / "originals"
Values = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Values, Values]]:
    """Run one part of the originals: folder of its weights, clips by size, expected values."""
    script = ORIGINALS / "make_environment.py"
    python = subprocess.run([sys.executable, script, "vbench-i2v"], capture_output=True, text=True, check=True).stdout
    folder = tmp_path_factory.mktemp("originals")

    def run(part: str) -> tuple[Path, Values, Values]:
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        command = [python.strip(), "-W", "ignore", ORIGINALS / "vbench_i2v.py", folder, part]
        subprocess.run(command, env=environment, check=True)
        return folder / "weights", dict(np.load(folder / "clips.npz")), dict(np.load(folder / f"{part}.npz"))

    return run


def reference(frames: np.ndarray) -> np.ndarray:
    """The image that the script stores for a clip."""
    return np.ascontiguousarray(frames[2][:, ::-1])


def same(name: str, ours: np.ndarray | list[float], theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    ours = np.asarray(ours)
    difference = np.abs(ours - theirs)
    print(f"{name}: largest difference {difference.max():.1e} of values up to {np.abs(theirs).max():.3g}")
    assert ours.shape == theirs.shape and difference.max() <= tolerance


def tell_apart(features: np.ndarray) -> None:
    """Features that are the same for every picture would agree whatever the network does."""
    assert np.ptp(features, axis=0).mean() > 0.05


def test_dino(original: Callable[[str], tuple[Path, Values, Values]]) -> None:
    check_dino(*original("dino"))


def check_dino(weights: Path, clips: Values, expected: Values) -> None:
    judge = Dino(weights / "dino_vitbase16_pretrain.pth")
    features = [judge.frames(frames) for frames in clips.values()]
    same("DINO, frames", np.concatenate(features), expected["dino.frames"])
    tell_apart(expected["dino.frames"])
    consistencies = [metrics.consistency(values) for values in features]
    same("subject_consistency", consistencies, expected["subject_consistency"], 1e-6)
    same("subject_consistency, FastVideo", consistencies, expected["fastvideo.subject_consistency"], 1e-6)
    pairs = [(judge.i2v_image(reference(frames)), judge.i2v_frames(frames)) for frames in clips.values()]
    # VBench asks for the image, then for each frame.
    seen = np.concatenate([np.concatenate([image[None], values]) for image, values in pairs])
    same("DINO, image and frames", seen, expected["dino.i2v"])
    same(
        "i2v_subject", [metrics.image_to_video(values, image) for image, values in pairs], expected["i2v_subject"], 1e-5
    )


def test_clip(original: Callable[[str], tuple[Path, Values, Values]]) -> None:
    check_clip(*original("clip"))


def check_clip(weights: Path, clips: Values, expected: Values) -> None:
    archive = weights / "ViT-B-32.pt"
    read = read_torchscript(archive)
    state = torch.jit.load(archive, map_location="cpu").state_dict()
    assert all(torch.equal(read[name], value) for name, value in state.items())
    judge = ClipImage(archive)
    features = [judge.embed(frames) for frames in clips.values()]
    theirs = expected["clip.ViT-B-32"]
    same("CLIP ViT-B/32", np.concatenate(features), theirs)
    tell_apart(theirs)
    consistencies = [metrics.consistency(values) for values in features]
    same("background_consistency", consistencies, expected["background_consistency"], 1e-6)
    same("background_consistency, FastVideo", consistencies, expected["fastvideo.background_consistency"], 1e-6)
    judge, head = ClipImage(weights / "ViT-L-14.pt", "ViT-L-14"), aesthetic_head(weights / "sa_0_4_vit_l_14_linear.pth")
    features = [judge.embed(frames) for frames in list(clips.values())[:2]]
    theirs = expected["clip.ViT-L-14"]
    same("CLIP ViT-L/14", np.concatenate(features), theirs)
    tell_apart(theirs)
    qualities = [metrics.aesthetic_quality(values, *head) for values in features]
    same("aesthetic_quality", qualities, expected["aesthetic_quality"], 1e-7)
    same("aesthetic_quality, FastVideo", qualities, expected["fastvideo.aesthetic_quality"], 1e-7)


def test_dreamsim(original: Callable[[str], tuple[Path, Values, Values]]) -> None:
    check_dreamsim(*original("dreamsim"))


def check_dreamsim(weights: Path, clips: Values, expected: Values) -> None:
    judge = DreamSim(weights / "dreamsim")
    pairs = [(judge.image(reference(frames)), judge.frames(frames)) for frames in clips.values()]
    seen = np.concatenate([np.concatenate([image[None], values]) for image, values in pairs])
    same("DreamSim, image and frames", seen, expected["dreamsim.i2v"])
    for part in (slice(768), slice(768, 1280), slice(1280, None)):
        tell_apart(expected["dreamsim.i2v"][:, part])
    scores = [metrics.image_to_video(values, image, centred=True) for image, values in pairs]
    same("i2v_background", scores, expected["i2v_background"], 1e-6)


def test_musiq(original: Callable[[str], tuple[Path, Values, Values]]) -> None:
    check_musiq(*original("musiq"))


def check_musiq(weights: Path, clips: Values, expected: Values) -> None:
    judge = Musiq(weights)
    scores = [judge.scores(frames) for frames in clips.values()]
    same("MUSIQ", np.concatenate(scores), expected["musiq"][:, 0])
    tell_apart(expected["musiq"])
    qualities = [metrics.imaging_quality(values) for values in scores]
    same("imaging_quality", qualities, expected["imaging_quality"])
    same("imaging_quality, FastVideo (of 0…1)", np.array(qualities) / 100, expected["fastvideo.imaging_quality"], 1e-6)


def test_pixels(original: Callable[[str], tuple[Path, Values, Values]]) -> None:
    check_pixels(*original("pixels"))


def check_pixels(weights: Path, clips: Values, expected: Values) -> None:
    judge = Interpolator(weights / "amt-s.pth")
    smoothness = []
    for name, frames in clips.items():
        middles, theirs = judge.middles(frames), expected[f"amt.{name}"]
        same(f"AMT-S, {name}", middles, theirs)
        assert ((theirs > 0) & (theirs < 1)).mean() > 0.5 and theirs.std() > 0.05
        smoothness.append(metrics.motion_smoothness(frames, middles))
    same("motion_smoothness", smoothness, expected["motion_smoothness"], 1e-6)
    same("motion_smoothness, FastVideo", smoothness, expected["fastvideo.motion_smoothness"], 1e-6)
    flickering = [metrics.temporal_flickering(frames) for frames in clips.values()]
    same("temporal_flickering", flickering, expected["temporal_flickering"], 1e-6)
    same("temporal_flickering, FastVideo", flickering, expected["fastvideo.temporal_flickering"], 1e-6)
