"""Procedural dances: seeded moves on a beat, turned into directions of limbs with feet that stay where they step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .figure import HIP_WIDTH, Dance
from .look import Body
from .moves import ARMS, CHANNEL, CHANNELS, MOVES, SEEN_FROM_THE_WAIST, STANCE, START_ARMS

_STANDS = ("foot_left", "foot_right")
_TRAVELS = ("x", "foot_left", "foot_right")
_ARM_BEATS = 4
_FLOW = 0.35  # how much a beat is passed through rather than stopped at


@dataclass(frozen=True)
class Choreography:
    """Key poses [K, channels] on the beat, and the names of what is danced."""

    keys: np.ndarray
    beat_s: float
    moves: tuple[tuple[int, str], ...]
    """beat at which it begins, name"""
    arms: tuple[tuple[int, str], ...]

    def named(self, which: str, seconds: float) -> list[str]:
        """List the `moves` or `arms` of the first seconds, each once, without those that have hardly begun."""
        begun = [name for beat, name in getattr(self, which) if (beat + 0.6) * self.beat_s < seconds]
        return list(dict.fromkeys(begun)) or [getattr(self, which)[0][1]]


FREE_DANCE = Choreography(np.zeros((0, len(CHANNELS))), 1.0, ((0, "dances"),), ((0, "moves both arms"),))
"""what can be said of a dance that is not from here"""


def choreograph(
    seed: int, seconds: float, *, room: tuple[float, float] = (-1.0, 1.0), gentle: bool = False
) -> Choreography:
    """Choose the moves of dance `seed`.

    Args:
        seed: of the dance.
        seconds: at least this long.
        room: how far the dancer may go to the right and left of the start, in legs.
        gentle: keep the feet on the spot, as for a dancer who is seen from the waist up.
    """
    rng = np.random.default_rng([seed, 2])
    beat_s = float(rng.uniform(0.46, 0.56))
    num_keys = int(np.ceil(seconds / beat_s)) + 3
    left_arm, right_arm = START_ARMS[rng.integers(len(START_ARMS))]
    start = dict.fromkeys(CHANNELS, 0.0) | {"foot_left": STANCE, "foot_right": -STANCE}
    keys = [start | _arm_key(left_arm, right_arm)]
    moves: list[tuple[int, str]] = []
    names = list(MOVES)
    sign = 1 if rng.random() < 0.5 else -1
    while len(keys) < num_keys:
        last = keys[-1]
        if last["x"] > 0.55 * room[1] or last["x"] < 0.55 * room[0]:
            sign = -1 if last["x"] > 0 else 1
        elif rng.random() < 0.35:
            sign = -sign
        name = names[rng.integers(len(names))] if len(moves) else names[int(rng.choice([0, 0, 1, 4, 5, 7]))]
        moves.append((len(keys) - 1, name if name in SEEN_FROM_THE_WAIST or not gentle else "sways"))
        for change in MOVES[name](rng, sign):
            keys.append(_next_key(last, keys[-1], change, gentle))
        # A move ends on both feet, so that the next one starts from a stance.
        _close_stance(keys[-1])
    arms = [(beat, list(ARMS)[rng.integers(len(ARMS))]) for beat in range(0, len(keys), _ARM_BEATS)]
    _dance_arms(keys, [name for _, name in arms], rng)
    _turn_head(keys, rng)
    table = np.array([[key[name] for name in CHANNELS] for key in keys])
    return Choreography(table, beat_s, tuple(moves), tuple(arms))


def _arm_key(left: tuple[float, float, float], right: tuple[float, float, float]) -> dict[str, float]:
    parts = ("raise", "elbow", "front")
    return {
        f"{part}_{side}": arm[k] for side, arm in (("left", left), ("right", right)) for k, part in enumerate(parts)
    }


def _next_key(
    before: dict[str, float], last: dict[str, float], change: dict[str, float], gentle: bool
) -> dict[str, float]:
    """Apply a change of a move. Positions and the turn are relative to the start of the move, others are absolute."""
    key = dict.fromkeys(CHANNELS, 0.0) | {name: last[name] for name in (*_TRAVELS, "yaw")}
    key |= {"knee_left": 0.5, "knee_right": 0.5}
    for name, value in change.items():
        relative = name in _TRAVELS or name == "yaw"
        key[name] = before[name] + value if relative else value
    if gentle:
        for name in (*_TRAVELS, "hop"):
            key[name] = 0.35 * key[name] if name == "x" else last[name]
        key |= {"crouch": 0.5 * key["crouch"], "lift_left": 0.0, "lift_right": 0.0}
    return key


def _close_stance(key: dict[str, float]) -> None:
    """Bring the feet under the body where the move has left them apart."""
    key["foot_left"] = float(np.clip(key["foot_left"], key["x"] + 0.1, key["x"] + 0.36))
    key["foot_right"] = float(np.clip(key["foot_right"], key["x"] - 0.36, key["x"] - 0.1))


def _dance_arms(keys: list[dict[str, float]], arms: list[str], rng: np.random.Generator) -> None:
    scale = rng.uniform(0.85, 1.1, len(arms))
    for k in range(1, len(keys)):
        figure = ARMS[arms[(k - 1) // _ARM_BEATS]]
        wanted = _arm_key(*figure[(k - 1) % len(figure)])
        for name, value in wanted.items():
            # An arm that turns faster than 1.5 radians a beat is a blur at 16 frames per second.
            step = value * scale[(k - 1) // _ARM_BEATS] - keys[k - 1][name]
            keys[k][name] = keys[k - 1][name] + float(np.clip(step, -1.5, 1.5))


def _turn_head(keys: list[dict[str, float]], rng: np.random.Generator) -> None:
    for key in keys[1:]:
        key["head_turn"] += float(rng.normal(0, 0.25))
        key["head_tilt"] += float(rng.normal(0, 0.12)) + 0.4 * key["lean"]
        key["nod"] += float(rng.normal(0, 0.08))


def channels_at(steps: Choreography, times_s: np.ndarray) -> dict[str, np.ndarray]:
    """Interpolate the key poses: feet ease from beat to beat, all else flows through the beats."""
    keys = steps.keys
    position = np.clip(times_s / steps.beat_s, 0, len(keys) - 1.001)
    index = position.astype(int)
    u = (position - index)[:, None]
    start, end = keys[index], keys[index + 1]
    slope = np.zeros_like(keys)
    slope[1:-1] = _FLOW * (keys[2:] - keys[:-2])
    slope[:, [CHANNEL[name] for name in _STANDS]] = 0
    rise = u * u * (3 - 2 * u)
    bent = u * (1 - u) ** 2 * slope[index] - u * u * (1 - u) * slope[index + 1]
    values = start + rise * (end - start) + bent
    values[:, CHANNEL["hop"]] = (4 * u * (1 - u))[:, 0] * end[:, CHANNEL["hop"]]
    result = dict(zip(CHANNELS, values.T, strict=True))
    for side in ("left", "right"):
        moved = np.abs(end - start)[:, CHANNEL[f"foot_{side}"]]
        step = np.minimum(0.35 * moved, 0.1) * np.sin(np.pi * u[:, 0])
        result[f"lift_{side}"] = np.maximum(result[f"lift_{side}"], 0) + step
    # The groove: the body sinks a little between beats, but not at the very start.
    result["crouch"] = np.maximum(result["crouch"], 0) + 0.03 * np.sin(np.pi * u[:, 0]) * np.minimum(position, 1)
    return result


def dance_of(steps: Choreography, body: Body, num_frames: int, fps: float) -> Dance:
    """Compute the dance of a body whose feet stay on the floor; other bodies copy its directions."""
    c = channels_at(steps, np.arange(num_frames) / fps)
    leg = body.leg
    hips = rotation(c["yaw"], 0 * c["yaw"], 0 * c["yaw"])
    chest = rotation(c["yaw"] + c["twist"], c["lean"], c["bend"])
    head = rotation(
        c["yaw"] + c["twist"] + c["head_turn"], c["head_tilt"] + 0.5 * c["lean"], c["nod"] + 0.4 * c["bend"]
    )
    feet = _foot_targets(c, body)
    # The hips are as low as the crouch says, and low enough that standing feet reach the floor.
    middle = np.zeros((num_frames, 3))
    middle[:, 0] = (c["x"] + c["hip_x"]) * leg
    middle[:, 1] = -(1 - c["crouch"]) * leg * 0.985
    sides = np.array([1.0, -1.0])[:, None] * hips[:, None, :, 0] * HIP_WIDTH * body.torso
    middle[:, 1] += _sink(middle, sides, feet, leg)
    middle[:, 1] -= c["hop"] * leg
    feet = feet - np.stack([0 * c["hop"], c["hop"] * leg, 0 * c["hop"]], axis=-1)[:, None]
    thighs, shins = _legs(middle[:, None] + sides, feet, hips, np.stack([c["knee_left"], c["knee_right"]], -1), body)
    spine = chest[..., 1]
    neck = middle - body.torso * spine
    upper, fore = _arms(c, chest)
    toes = hips[:, None, :, 2] * 0.9 + np.array([1.0, -1.0])[:, None] * 0.45 * hips[:, None, :, 0]
    return Dance((neck - neck[:1])[:, :2], chest, hips, head, spine, upper, fore, thighs, shins, toes)


def rotation(yaw: np.ndarray, roll: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Build rotations [F, 3, 3]: lean forward by `pitch`, to the dancer's left by `roll`, then turn by `yaw`."""
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    (cy, sy), (cr, sr), (cp, sp) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, roll, pitch))
    turn = np.array([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
    tilt = np.array([[cr, -sr, zero], [sr, cr, zero], [zero, zero, one]])
    nod = np.array([[one, zero, zero], [zero, cp, sp], [zero, -sp, cp]])
    turn, tilt, nod = (matrix.transpose(2, 0, 1) for matrix in (turn, tilt, nod))
    return np.asarray(turn @ tilt @ nod)


def _foot_targets(c: dict[str, np.ndarray], body: Body) -> np.ndarray:
    """Place the ankles [F, 2, 3]; 0 is the height of an ankle on the floor."""
    targets = np.zeros((len(c["x"]), 2, 3))
    for k, side in enumerate(("left", "right")):
        beside, ahead = c[f"foot_{side}"] - c["x"], c[f"ahead_{side}"]
        targets[:, k, 0] = c["x"] + beside * np.cos(c["yaw"]) + ahead * np.sin(c["yaw"])
        targets[:, k, 1] = -c[f"lift_{side}"]
        targets[:, k, 2] = ahead * np.cos(c["yaw"]) - beside * np.sin(c["yaw"])
    return targets * body.leg


def _sink(middle: np.ndarray, sides: np.ndarray, feet: np.ndarray, leg: float) -> np.ndarray:
    """Compute how far the hips must sink [F] so that each standing foot is within reach."""
    apart = middle[:, None] + sides - feet
    across = apart[..., 0] ** 2 + apart[..., 2] ** 2
    height = np.sqrt(np.maximum((0.99 * leg) ** 2 - across, (0.3 * leg) ** 2))
    standing = feet[..., 1] > -0.12 * leg
    needed = np.where(standing, feet[..., 1] - height - (middle[:, None] + sides)[..., 1], 0.0)
    return np.maximum(needed.max(axis=1), 0)


def _legs(
    hips: np.ndarray, feet: np.ndarray, frame: np.ndarray, knee_front: np.ndarray, body: Body
) -> tuple[np.ndarray, np.ndarray]:
    """Compute thighs and shins between hips and ankles [F, 2, 3].

    Knees point outwards, or forward by `knee_front` [F, 2].
    """
    reach = feet - hips
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    along = reach / np.maximum(distance, 1e-6)
    distance = np.clip(distance, abs(body.thigh - body.shin) + 1e-3, 0.999 * body.leg)
    outwards = np.array([1.0, -1.0])[:, None] * frame[:, None, :, 0]
    angle = knee_front[..., None] * (np.pi / 2)
    pole = np.cos(angle) * outwards + np.sin(angle) * frame[:, None, :, 2]
    pole = pole - (pole * along).sum(-1, keepdims=True) * along
    pole /= np.maximum(np.linalg.norm(pole, axis=-1, keepdims=True), 1e-6)
    cosine = (body.thigh**2 + distance**2 - body.shin**2) / (2 * body.thigh * distance)
    cosine = np.clip(cosine, -1, 1)
    thighs = cosine * along + np.sqrt(1 - cosine**2) * pole
    knees = body.thigh * thighs
    shins = (distance * along - knees) / body.shin
    return thighs, shins / np.linalg.norm(shins, axis=-1, keepdims=True)


def _arms(c: dict[str, np.ndarray], chest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the directions of upper arms and forearms [F, 2, 3]."""
    upper, fore = np.zeros((2, len(chest), 2, 3))
    for k, (side, sign) in enumerate((("left", 1.0), ("right", -1.0))):
        front = c[f"front_{side}"]
        for result, angle, ahead in (
            (upper, c[f"raise_{side}"], front),
            (fore, c[f"raise_{side}"] + c[f"elbow_{side}"], 1.2 * front),
        ):
            local = np.stack(
                [sign * np.sin(angle) * np.cos(ahead), np.cos(angle), np.abs(np.sin(angle)) * np.sin(ahead)], axis=-1
            )
            result[:, k] = (chest @ local[..., None])[..., 0]
    return upper, fore
