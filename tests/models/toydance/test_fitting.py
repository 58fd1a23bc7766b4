"""A fit that stops and resumes has the bits of one that does not; its optimizer and average have known answers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadydancer.models.newton_schulz import orthogonalise
from steadydancer.models.toydance import fitting
from steadydancer.models.toydance.autoencoder import batch
from steadydancer.models.toydance.clips import MIXTURE, clip_pool, difficulty_of, pool_digest
from steadydancer.models.toydance.fitting import MatrixOptimizer, fit, schedule

SETTINGS: dict[str, Any] = {"steps": 7, "learning_rate": 1e-2, "evaluate_every": 3, "save_every": 2}
pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Module:
    """A kernel and matrices for Muon, biases, a scale and a first layer for AdamW."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Conv2d(4, 6, 2), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(24, 3)
        )


def loss_of(model: nn.Module) -> fitting.Loss:
    """Use both sources of random numbers: the step's generator, and torch's seeded by the step."""

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        torch.manual_seed(step)
        x = torch.from_numpy(rng.standard_normal((4, 2, 5, 5), dtype=np.float32)) + 0.1 * torch.randn(4, 2, 5, 5)
        y = model(x)
        return {"loss": (y - x.mean(dim=(1, 2, 3))[:, None]).square().mean(), "size": y.detach().square().mean()}

    return loss


def run(folder: Path, **changes: Any) -> tuple[bool, nn.Module]:
    model = network()
    return fit(model, loss_of(model), folder, elementwise=[model[0].weight], **(SETTINGS | changes)), model


def curve(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / fitting.CURVE).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "minutes"} for row in rows]


def test_an_interrupted_fit_has_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """Stopped after every single step, by the time limit."""
    finished, whole = run(tmp_path / "whole")
    assert finished and not whole.training
    for step in range(1, 7):
        finished, _ = run(tmp_path / "parts", minutes=0.0)
        assert not finished and torch.load(tmp_path / "parts/state.pt", weights_only=True)["step"] == step
    finished, parts = run(tmp_path / "parts", minutes=0.0)
    assert finished
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    assert not any(torch.equal(*pair) for pair in zip(whole.parameters(), network().parameters(), strict=True))
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    for name in ("network", "average"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=0, atol=0)
    moments = [(state["optimizer"]["momenta"], state["optimizer"]["adamw"]["state"]) for state in states]
    torch.testing.assert_close(moments[0], moments[1], rtol=0, atol=0)
    # Called again, a finished fit takes no step.
    assert torch.equal(run(tmp_path / "whole")[1][0].weight, whole[0].weight)


def test_a_killed_fit_repeats_the_steps_since_its_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = run(tmp_path / "whole", save_every=100)
    monkeypatch.setattr(fitting, "schedule", lambda step, *rest: 1 / 0 if step == 5 else schedule(step, *rest))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "killed")  # the last state is that of 4 steps
    monkeypatch.undo()
    assert torch.load(tmp_path / "killed/state.pt", weights_only=True)["step"] == 4
    assert [path.name for path in tmp_path.glob("killed/*")] and not list(tmp_path.glob("killed/*.tmp"))
    _, resumed = run(tmp_path / "killed")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_step_is_muons_on_the_flattened_kernels_and_adamws_on_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", lambda matrix, *_: orthogonalise(matrix))
    model, twin = network(), network()
    optimizer = MatrixOptimizer(model.parameters(), [model[0].weight])
    names = ["2.weight", "5.weight"]
    weights = dict(twin.named_parameters())
    matrices = {name: nn.Parameter(weights[name].detach().clone().flatten(1)) for name in names}
    others = [weight for name, weight in weights.items() if name not in names]
    twins = [
        torch.optim.Muon(matrices.values(), lr=0.05, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for step in range(3):
        for each in (model, twin):
            loss_of(each)(step, np.random.default_rng(step))["loss"].backward()
        for name, matrix in matrices.items():
            matrix.grad = weights[name].grad.flatten(1)
        optimizer.step(0.01)
        assert all(weight.grad is None for weight in model.parameters())
        for each in twins:
            each.step()
            each.zero_grad()
        with torch.no_grad():
            for name, matrix in matrices.items():
                weights[name].copy_(matrix.view_as(weights[name]))
                weights[name].grad = None
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-6)
        assert not torch.equal(weight, before[name]), name


def test_the_average_of_two_steps_has_a_known_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decay grows to `ema_decay`: after steps 0, 1, 2 it is 1/10, 2/11, and 0.2."""
    model = nn.Linear(1, 1)  # Muon updates the matrix, AdamW the bias
    nn.init.constant_(model.weight, 8.0)
    values = iter((4.0, 2.0, 1.0))
    monkeypatch.setattr(MatrixOptimizer, "step", lambda *_: model.weight.data.fill_(next(values)))
    fit(model, lambda *_: {"loss": model.weight.sum()}, tmp_path, steps=3, learning_rate=1.0, ema_decay=0.2)
    average = 8.0
    for value, decay in ((4.0, 0.1), (2.0, 2 / 11), (1.0, 0.2)):
        average = decay * average + (1 - decay) * value
    assert model.weight.item() == pytest.approx(average, rel=1e-6)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["network"]["weight"].item() == 1.0  # the trained weights are kept beside the average


def test_an_evaluation_sees_the_average_and_leaves_the_trained_weights(tmp_path: Path) -> None:
    seen: list[float] = []

    def evaluate(model: Any) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        seen.append(model[5].weight[0, 0].item())
        return {"score": 2.0}

    _, whole = run(tmp_path / "whole")
    _, measured = run(tmp_path / "measured", evaluate=evaluate)
    assert torch.equal(whole[5].weight, measured[5].weight)
    rows = curve(tmp_path / "measured")
    assert [row["step"] for row in rows] == [3, 6, 7] and all(row["score"] == 2.0 for row in rows)
    assert seen[-1] == measured[5].weight[0, 0].item() and len(set(seen)) == 3
    assert [{**row, "score": 2.0} for row in curve(tmp_path / "whole")] == rows


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_fit_and_stores_nothing_of_it(tmp_path: Path, bad: float) -> None:
    model = network()
    sound = loss_of(model)

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        terms = sound(step, rng)
        return {**terms, "loss": terms["loss"] * (bad if step == 5 else 1)}

    with pytest.raises(FloatingPointError, match="loss of step 5 is (nan|inf): lower the learning rate"):
        fit(model, loss, tmp_path, **SETTINGS)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 4 and all(weight.isfinite().all() for weight in state["network"].values())


def test_the_rate_warms_up_and_falls_to_two_percent() -> None:
    assert schedule(0, 1000, 1.0) == pytest.approx(1 / 50)
    assert schedule(49, 10**9, 1.0) == pytest.approx(1.0)
    assert schedule(500, 1001, 1.0) == pytest.approx(0.51)
    assert schedule(999, 1000, 3.0) == pytest.approx(0.06)
    assert schedule(0, 1, 1.0) == pytest.approx(1 / 50)


def test_a_pool_is_drawn_once_and_the_same_from_the_same_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = clip_pool(tmp_path / "a.npy", 500, 2)
    assert first.shape == (2, 33, 96, 96, 3) and first.dtype == np.uint8
    assert pool_digest(first) == pool_digest(clip_pool(tmp_path / "b.npy", 500, 2))
    assert pool_digest(first) != pool_digest(clip_pool(tmp_path / "c.npy", 501, 2))
    drawn = clip_pool(tmp_path / "d.npy", 500, 2, skeletons=True)
    assert drawn.shape == first.shape and (drawn == 0).mean() > 0.5
    monkeypatch.setattr("steadydancer.models.toydance.clips.toy_clip", None)
    np.testing.assert_array_equal(clip_pool(tmp_path / "a.npy", 500, 2), first)


def test_a_pool_has_the_shares_of_the_mixture() -> None:
    names = [difficulty_of(index) for index in range(4000)]
    for name, share in MIXTURE.items():
        assert names.count(name) / 4000 == pytest.approx(share, abs=0.025)


def test_batches_are_crops_first_and_whole_clips_later() -> None:
    dancers, skeletons = (np.full((3, 33, 96, 96, 3), value, np.uint8) for value in (255, 0))
    for progress, shares in ((0.1, (0.8, 0.2, 0.0)), (0.6, (0.45, 0.45, 0.1)), (0.9, (0.15, 0.55, 0.3))):
        batches = [batch(dancers, skeletons, np.random.default_rng([7, k]), progress) for k in range(80)]
        for side, share in zip((32, 64, 96), shares, strict=True):
            assert np.mean([pixels.shape[3] == side for pixels in batches]) == pytest.approx(share, abs=0.1)
        assert {pixels.shape[2] % 4 for pixels in batches} == {1}
        assert np.mean([pixels.min().item() for pixels in batches]) == pytest.approx(0.5, abs=0.2)  # a quarter is −1
    again = [batch(dancers, skeletons, np.random.default_rng([7, 0]), 0.1) for _ in range(2)]
    assert torch.equal(*again)


def test_most_crops_show_what_has_detail() -> None:
    clips = np.zeros((2, 33, 96, 96, 3), np.uint8)
    clips[:, :, 40:56:2, 40:56] = 255  # stripes in a thirty-sixth of the picture
    batches = [batch(clips, None, np.random.default_rng([8, k]), 0.1) for k in range(60)]
    small = [crop for pixels in batches if pixels.shape[3] == 32 for crop in pixels]
    seen = np.mean([crop.max().item() > 0 for crop in small])
    alone = np.mean([(_overlaps(y) and _overlaps(x)) for y in range(0, 65, 4) for x in range(0, 65, 4)])
    assert seen > 1.5 * alone


def _overlaps(begin: int) -> bool:
    return begin < 56 and begin + 32 > 40
