"""The definitions of the pose metrics once more, joint by joint in plain loops, on 200 random clips."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from steadydancer.models import metrics

NAN = math.nan
Dance = Callable[..., tuple[np.ndarray, np.ndarray]]
Same = Callable[..., None]
SIGMAS = [0.026, NAN, *[0.079, 0.072, 0.062] * 2, *[0.107, 0.087, 0.089] * 2, 0.025, 0.025, 0.035, 0.035]
OTHER_SIDE = {2: 5, 3: 6, 4: 7, 8: 11, 9: 12, 10: 13, 14: 15, 16: 17}
OTHER_SIDE = OTHER_SIDE | {b: a for a, b in OTHER_SIDE.items()} | {0: 0, 1: 1}


def average(values: list[float]) -> float:
    return sum(values) / len(values) if values else NAN


def middle(values: list[float]) -> float:
    values = sorted(values)
    n = len(values)
    return (values[(n - 1) // 2] + values[n // 2]) / 2 if n else NAN


def share(above: float, below: float) -> float:
    return above / below if below > 0 else NAN


def distance(a: Any, b: Any) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])


def torso(points: Any, seen: Any) -> tuple[float, int]:
    rules: list[list[float]] = [[], [], []]
    for p, v in zip(points, seen, strict=True):
        if v[1] and v[8] and v[11]:
            rules[0].append(distance(p[1], ((p[8][0] + p[11][0]) / 2, (p[8][1] + p[11][1]) / 2)))
        if v[1] and (v[8] or v[11]):
            rules[1].append(distance(p[1], p[8] if v[8] else p[11]))
        if v[2] and v[5]:
            rules[2].append(1.3 * distance(p[2], p[5]))
    for number, lengths in enumerate(rules, start=1):
        if lengths and middle(lengths) > 0:
            return middle(lengths), number
    return NAN, 0


def oks(d: Any, dv: Any, r: Any, rv: Any) -> list[float]:
    out = []
    for t in range(len(d)):
        box = [d[t][j] for j in range(18) if dv[t][j]]
        area = 0.53 * math.prod(max(p[k] for p in box) - min(p[k] for p in box) for k in (0, 1)) if box else 0
        scored = [j for j in range(18) if j != 1 and dv[t][j]]
        if len(box) < 3 or area <= 0 or not scored:
            out.append(NAN)
            continue
        terms = [
            math.exp(-(distance(d[t][j], r[t][j]) ** 2) / (2 * area * (2 * SIGMAS[j]) ** 2)) if rv[t][j] else 0.0
            for j in scored
        ]
        out.append(average(terms))
    return out


def moves(p: Any, v: Any) -> dict[tuple[int, int], tuple[float, float]]:
    return {
        (t, j): (p[t + 1][j][0] - p[t][j][0], p[t + 1][j][1] - p[t][j][1])
        for t in range(len(p) - 1)
        for j in range(18)
        if v[t][j] and v[t + 1][j]
    }


def curve(u_d: Any, u_r: Any) -> dict[int, float]:
    if not u_d:
        return dict.fromkeys(range(-8, 9), NAN)
    limit = 3 * np.percentile([math.hypot(*u) for u in u_d.values()], 95)
    u_d = {key: u for key, u in u_d.items() if math.hypot(*u) <= limit}
    u_r = {key: u for key, u in u_r.items() if math.hypot(*u) <= limit}
    full = len(u_d.keys() & u_r.keys())
    out = {}
    for lag in range(-8, 9):
        pairs = [(u, u_r[t + lag, j]) for (t, j), u in u_d.items() if (t + lag, j) in u_r]
        dot = sum(a[0] * b[0] + a[1] * b[1] for a, b in pairs)
        lengths = [sum(math.hypot(*pair[k]) ** 2 for pair in pairs) for k in (0, 1)]
        known = full > 0 and len(pairs) >= full / 2
        out[lag] = share(dot, math.sqrt(lengths[0] * lengths[1])) if known else NAN
    return out


def jump(speeds: list[float]) -> float:
    first, later = ([s for s in part if not math.isnan(s)] for part in (speeds[:8], speeds[8:]))
    return share(max(first), middle(later)) if first and later else NAN


def speeds(u: Any, count: int) -> list[float]:
    return [average([math.hypot(*step) for (when, _), step in u.items() if when == t]) for t in range(count)]


def slow_pose_metrics(d: Any, dv: Any, r: Any, rv: Any, width: float) -> dict[str, Any]:
    length, rule = torso(d, dv)
    cells = [(t, j) for t in range(len(d)) for j in range(18)]
    driven, both = [c for c in cells if dv[c]], [c for c in cells if dv[c] and rv[c]]
    error = {c: distance(d[c], r[c]) for c in both}
    out: dict[str, Any] = {"torso_px": length, "torso_rule": rule}
    for name, alpha in (("10", 0.1), ("20", 0.2), ("50", 0.5)):
        right = sum(error[c] <= alpha * length for c in both)
        out[f"pck_{name}"] = share(right, len(driven)) if rule else NAN
        out[f"pck_detected_{name}"] = share(right, len(both)) if rule else NAN
    out["akd_px"] = average(list(error.values()))
    out["akd_torso"] = out["akd_px"] / length
    frames = [[c for c in both if c[0] == t] for t in range(len(d))]
    manhattan = [average([(abs(d[c] - r[c]).sum()) / 2 for c in frame]) for frame in frames if frame]
    out["akd_l1_px"] = average(manhattan)
    lost = [[c for c in driven if c[0] == t] for t in range(len(d))]
    out["mkr"] = average([average([float(not rv[c]) for c in frame]) for frame in lost if frame])
    out["missing_rate"] = share(len(driven) - len(both), len(driven))
    hidden = [c for c in cells if not dv[c]]
    out["extra_rate"] = share(sum(bool(rv[c]) for c in hidden), len(hidden))
    out["oks_frames"] = oks(d, dv, r, rv)
    scored = [value for value in out["oks_frames"] if not math.isnan(value)]
    out["oks"] = average(scored)
    levels = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    out["oks_ap"] = average([average([float(value >= level) for value in scored]) for level in levels])

    u_d, u_r = moves(d, dv), moves(r, rv)
    shared = u_d.keys() & u_r.keys()
    amount = share(sum(math.hypot(*u_r[k]) ** 2 for k in shared), sum(math.hypot(*u_d[k]) ** 2 for k in shared))
    out["motion_ratio"] = math.sqrt(amount)
    out |= dict.fromkeys(("lag", "lag_correlation"), NAN) | {"curve": [NAN] * 17}
    still = 0.0 if out["motion_ratio"] <= 0.05 else NAN
    out |= {"velocity_correlation": still, "mirror_correlation": still}
    if out["motion_ratio"] > 0.05:
        values = curve(u_d, u_r)
        out |= {"curve": [values[lag] for lag in range(-8, 9)], "velocity_correlation": values[0]}
        known = {lag: value for lag, value in values.items() if not math.isnan(value)}
        if known:
            best = out["lag_correlation"] = max(known.values())
            ties = [lag for lag, value in known.items() if value >= best - 1e-9]
            out["lag"] = sorted(ties, key=lambda lag: (abs(lag), lag < 0))[0] if best >= 0.5 else NAN
        mirrored = {(t, OTHER_SIDE[j]): (-u[0], u[1]) for (t, j), u in u_r.items()}
        out["mirror_correlation"] = curve(u_d, mirrored)[0]

    jerks = [0.0, 0.0]
    for t, j in cells:
        if t + 3 < len(d) and all(dv[t + k, j] and rv[t + k, j] for k in range(4)):
            for number, p in enumerate((r, d)):
                x = p[t + 3, j] - 3 * p[t + 2, j] + 3 * p[t + 1, j] - p[t, j]
                jerks[number] += math.hypot(*x)
    out["jerk_ratio"] = share(*jerks)
    ours, theirs = speeds(u_r, len(d) - 1), speeds(u_d, len(d) - 1)
    out["speed"] = [value / length for value in ours]
    out["jump"], out["jump_driven"] = jump(ours), jump(theirs)
    out["jump_excess"] = share(out["jump"], out["jump_driven"])
    return out


def random_case(seed: int, dance: Dance) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Clips of 1 to 30 frames in which anything may be invisible, late, early, mirrored, frozen or noisy."""
    rng = np.random.default_rng(seed)
    num_frames, size = int(rng.integers(1, 31)), (int(rng.integers(50, 900)), int(rng.integers(50, 900)))
    lag = int(rng.integers(-4, 5)) if rng.random() < 0.5 else 0
    track, _ = dance(seed, num_frames + 8, size)
    driven, render = track[4 : 4 + num_frames], track[4 - lag : 4 - lag + num_frames]
    kind = rng.integers(5)
    if kind == 0:
        render = np.repeat(render[:1], num_frames, axis=0)
    elif kind == 1:
        render = render[:, [OTHER_SIDE[j] for j in range(18)]] * (-1, 1) + (size[0], 0)
    render = render + rng.normal(0, rng.choice([0.0, 0.3, 3.0]), render.shape)
    driven_visible = rng.random((num_frames, 18)) < rng.choice([0.3, 0.9, 1.0])
    render_visible = rng.random((num_frames, 18)) < rng.choice([0.0, 0.3, 0.9, 1.0])
    if rng.random() < 0.5:  # another torso rule, or none
        driven_visible[:, rng.choice([[11, 11], [8, 8], [8, 11], [1, 2]])] = False
    driven_visible[rng.random(num_frames) < 0.1] = False
    # Nothing may depend on the coordinates of invisible joints.
    driven = np.where(driven_visible[..., None], driven, rng.choice([-1.0, 0.0, np.nan]))
    render = np.where(render_visible[..., None], render, rng.choice([-1.0, 0.0, np.nan]))
    return driven, driven_visible, render, render_visible, size


def test_two_hundred_clips_by_loops_over_joints(dance: Dance, same: Same) -> None:
    rules, lags, measured = set(), set(), set()
    for seed in range(200):
        *clip, (width, height) = random_case(seed, dance)
        ours = metrics.pose_metrics(*clip, width, height)
        expected = slow_pose_metrics(*clip, width)
        assert set(ours) == set(expected)
        same(ours, expected)
        rules.add(ours["torso_rule"])
        lags.add(ours["lag"])
        measured |= {key for key, value in ours.items() if not np.isnan(value).all()}
    assert rules == {0, 1, 2, 3} and {-2.0, -1.0, 1.0, 2.0} <= lags and measured == set(ours)


@pytest.mark.parametrize("shift", [-3, -1, 2])
def test_early_and_late_renders_on_an_upright_picture(shift: int, dance: Dance) -> None:
    """A render that is early has a negative lag."""
    points, visible = dance(3, 60, (240, 420))
    driven, render = points[10:40], points[10 - shift : 40 - shift]
    ours = metrics.pose_metrics(driven, visible[:30], render, visible[:30], 240, 420)
    assert ours["lag"] == shift and ours["lag_correlation"] == pytest.approx(1)
    expected = slow_pose_metrics(driven, visible[:30], render, visible[:30], 240)
    for name, value in ours.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_several_people_by_trying_every_assignment(dance: Dance) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        size, count = (int(rng.integers(90, 500)), int(rng.integers(90, 500))), int(rng.integers(1, 9))
        people = [dance(seed * 9 + k, count, size)[0] + rng.normal(0, 40, 2) for k in range(4)]
        driven, render = np.stack(people[: rng.integers(1, 4)]), np.stack(people[int(rng.integers(0, 3)) :])
        render = render[rng.permutation(len(render))] + rng.normal(0, 2, render.shape)
        dv, rv = rng.random(driven.shape[:3]) < 0.9, rng.random(render.shape[:3]) < 0.8
        table = [
            [average([v for v in oks(d, a, r, b) if not math.isnan(v)]) for r, b in zip(render, rv, strict=True)]
            for d, a in zip(driven, dv, strict=True)
        ]
        ours = metrics.people_metrics(driven, dv, render, rv, *size)
        np.testing.assert_allclose(ours["oks_matrix"], table, rtol=1e-9)
        gains = np.nan_to_num(np.array(table))
        picks = [index for index in itertools.product(range(-1, len(render)), repeat=len(driven))
                 if len({k for k in index if k >= 0}) == sum(k >= 0 for k in index) == min(gains.shape)]  # fmt: skip
        best = max(sum(gains[i, k] for i, k in enumerate(index) if k >= 0) for index in picks)
        assert sum(gains[i, k] for i, k in enumerate(ours["assignment"]) if k >= 0) == pytest.approx(best)
        assert ours["num_extra"] == max(0, len(render) - len(driven))
        for person, index in enumerate(ours["assignment"]):
            shown = (render[index], rv[index]) if index >= 0 else (driven[person] * 0, dv[person] & False)
            slow = slow_pose_metrics(driven[person], dv[person], *shown, size[0])
            np.testing.assert_allclose(ours["people"][person]["pck_20"], slow["pck_20"], rtol=1e-9)


def slow_box_pck(d: Any, dv: Any, r: Any, rv: Any, joints: Any, threshold: float) -> float:
    right = total = 0
    for t in range(1, len(d)):
        seen = [d[t, j] for j in range(14) if dv[t, j]]
        side = max(max(p[k] for p in seen) - min(p[k] for p in seen) for k in (0, 1)) if seen else 0
        for j in joints:
            if dv[t, j]:
                total += 1
                right += bool(rv[t, j] and math.dist(d[t, j], r[t, j]) <= threshold * side)
    return right / total if total else math.nan


@pytest.mark.parametrize("joints", [metrics.BODY_14, metrics.LIMBS])
def test_box_pck_of_two_hundred_clips(joints: tuple[int, ...], dance: Dance) -> None:
    values = []
    for seed in range(200):
        *clip, _ = random_case(seed, dance)
        values.append(metrics.box_pck(*clip, joints=joints))
        np.testing.assert_allclose(values[-1], slow_box_pck(*clip, joints, 0.1))
    assert np.isnan(values).any() and 0 in values and 1 in values and len({*values}) > 50
