"""AMT-S is the published network: the golden file holds what its authors' code makes of the same numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from steadydancer.models.curation.motion_smoothness import MotionSmoothness
from steadydancer.models.metrics import motion_smoothness
from steadydancer.models.metrics.judges.amt import correlation_pyramid, lookup_correlations, warp
from steadydancer.models.metrics.judges.interpolation import FrameInterpolator, Interpolator
from steadydancer.models.weights import WeightsError

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "amt_s.npz"


def formula_weights(network: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters from a formula: sines of the index, as large as keeps a layer's output near its input's size."""
    state = {}
    for number, (name, value) in enumerate(sorted(network.state_dict().items())):
        waves = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * (0.37 + 0.011 * number) + number)
        scale = 1.6 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.15
        state[name] = (waves * scale).float().reshape(value.shape)
    return state


def two_pictures() -> tuple[Tensor, Tensor]:
    """[1, 3, 128, 144]: waves, and the same a little further."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(144.0), indexing="ij")
    both = [
        torch.stack([torch.sin((x + step) / (5 + c)) * torch.cos((y - step) / (7 + 2 * c)) for c in range(3)])
        for step in (0.0, 3.0)
    ]
    before, after = (0.5 + 0.4 * picture[None] for picture in both)
    return before, after


@pytest.fixture(scope="module")
def network() -> FrameInterpolator:
    out = FrameInterpolator().eval()
    out.load_state_dict(formula_weights(out))
    return out


def test_the_picture_is_the_one_that_the_authors_code_gives(network: FrameInterpolator) -> None:
    before, after = two_pictures()
    golden = np.load(GOLDEN)
    assert sorted(network.state_dict()) == golden["names"].tolist()
    for time, expected in zip(golden["times"], golden["pictures"], strict=True):
        with torch.inference_mode():
            out = network(before, after, float(time))[0, :, ::2, ::3]
        np.testing.assert_allclose(out.numpy(), expected, atol=1e-4)
    assert golden["pictures"].std() > 0.05 and ((golden["pictures"] > 0) & (golden["pictures"] < 1)).mean() > 0.5


def test_a_flow_leads_to_where_a_picture_is_read() -> None:
    picture = torch.rand(1, 2, 9, 12)
    flow = torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1).expand(1, 2, 9, 12)
    torch.testing.assert_close(warp(picture, flow)[..., 1:, :-2], picture[..., :-1, 2:])
    torch.testing.assert_close(warp(picture, flow)[..., 1:, -2:], picture[..., :-1, -1:].expand(-1, -1, -1, 2))


def test_correlations_are_highest_where_the_flow_is_right() -> None:
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(1, 32, 16, 20), dim=1)
    moved = torch.roll(features, (1, 2), (2, 3))  # down by 1, right by 2
    flow = torch.tensor([2.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 16, 20)
    read = lookup_correlations(correlation_pyramid(features, moved), flow)
    assert read.shape == (1, 4 * 49, 16, 20)
    inner = read[0, :49, 2:-3, 2:-3]
    assert (inner.argmax(dim=0) == 24).all()  # the middle of 7 × 7
    # One place too far to the left: the best one lies one step of x further, and x changes slowest.
    short = lookup_correlations(
        correlation_pyramid(features, moved), flow - torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    )
    assert (short[0, :49, 2:-3, 2:-3].argmax(dim=0) == 24 + 7).all()


def test_smoothness_is_how_near_the_guesses_come(tmp_path: Path) -> None:
    state = formula_weights(FrameInterpolator())
    torch.save({"state_dict": state}, tmp_path / "amt-s.pth")
    save_file(state, tmp_path / "amt-s.safetensors")
    frames = np.random.default_rng(0).integers(0, 255, (5, 50, 70, 3), dtype=np.uint8)
    judge = Interpolator(tmp_path)  # the folder
    middles = judge.middles(frames)
    assert middles.shape == (2, 3, 50, 70) and middles.dtype == np.float32
    np.testing.assert_array_equal(judge.middles(frames[2:5])[0], middles[1])
    assert judge.middles(frames[:2]).shape == (0, 3, 50, 70)
    guesses = (middles * 255).astype(np.uint8).transpose(0, 2, 3, 1)  # rounded down
    expected = 1 - np.abs(guesses.astype(float) - frames[1::2]).mean() / 255
    assert motion_smoothness(frames, middles) == pytest.approx(expected)
    score = MotionSmoothness(tmp_path / "amt-s.safetensors", "cpu")
    assert score(frames) == pytest.approx(expected)
    assert score(frames[:2]) is None


def test_a_guess_that_hits_every_level_counts_as_no_error() -> None:
    """Cutting off loses no level of k / 255."""
    frames = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (3, 1, 1, 3))
    middle = torch.from_numpy(frames[:1]).permute(0, 3, 1, 2) / 255
    assert motion_smoothness(frames, middle.numpy()) == 1


def test_other_parameters_are_refused_with_the_files_name(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors does not contain AMT-S.*1 unexpected \(conv\.weight\)"):
        MotionSmoothness(tmp_path / "other.safetensors", "cpu")
