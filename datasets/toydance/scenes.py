"""A scene: who dances what, where in the picture, in front of which wall; all from a seed and a difficulty."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from .bodies import add_dancer
from .choreography import Choreography, choreograph, dance_of
from .figure import Dance, Figure, joints_of, make_figure
from .look import Look, LookOdds, make_look
from .shapes import Layers
from .walls import draw_wall

FPS = 16.0
_DIMMED = (np.arange(256) * 0.74).astype(np.uint8)
_FASTEST = 1.22  # picture heights per second: 8 % of the picture in a frame, with room for the way of the whole body
_MARGIN = 0.035  # of the picture, which the dancers keep free
_REACH = 0.45  # of the length of a leg: how much wider than the body is a place that a dance may need


@dataclass(frozen=True)
class Difficulty:
    """What occurs in the scenes of a difficulty, and how often."""

    look: LookOdds = field(default_factory=LookOdds)
    stature: tuple[float, float] = (0.58, 0.7)
    walls: tuple[str, ...] = ("plain",)


DIFFICULTIES: dict[str, Difficulty] = {"easy": Difficulty()}


@dataclass(frozen=True)
class Scene:
    """All that a clip shows."""

    seed: int
    figure: Figure
    look: Look
    steps: Choreography
    seconds: float
    wall: str
    floor: float
    shadow: bool = True


def difficulty_of(name: str) -> Difficulty:
    """Look up a difficulty; raises `ValueError` for an unknown name."""
    if name not in DIFFICULTIES:
        raise ValueError(f"difficulty is {name!r}, expected one of {', '.join(DIFFICULTIES)}")
    return DIFFICULTIES[name]


def make_scene(
    seed: int,
    difficulty: str = "easy",
    num_frames: int = 33,
    *,
    aspect: float = 1.0,
    fps: float = FPS,
    dance_seed: int | None = None,
) -> Scene:
    """Make the scene `seed`.

    Args:
        seed: of all that is random.
        difficulty: `easy`, `standard` or `hard`.
        num_frames: F.
        aspect: width / height of the picture.
        fps: frames per second.
        dance_seed: of the dance; None: `seed`.
    """
    odds = difficulty_of(difficulty)
    rng = np.random.default_rng([seed, 4])
    look = make_look(seed, odds.look)
    stature = float(rng.uniform(*odds.stature)) * min(1.0, aspect**0.5)
    look = replace(look, body=look.body.scaled(stature))
    room = 0.5 * aspect / look.body.leg - _REACH
    steps = choreograph(seed if dance_seed is None else dance_seed, num_frames / fps, room=(-room, room))
    steps, dance = _slow_enough(steps, look, num_frames, fps)
    floor = float(rng.uniform(0.9, 0.95))
    start = (float(rng.uniform(0.42, 0.58)) * aspect, floor - look.body.ankle - 0.02 + _neck_over_floor(look, dance))
    dance = replace(dance, path=_inside(look, dance, start, aspect))
    figure = make_figure(look.body, dance, start, aspect)
    return Scene(
        seed, figure, look, steps, num_frames / fps, str(rng.choice(odds.walls)), float(floor - rng.uniform(0.08, 0.14))
    )


def _slow_enough(steps: Choreography, look: Look, num_frames: int, fps: float) -> tuple[Choreography, Dance]:
    """Dance, with longer beats if a joint is so fast that a frame shows only its blur."""
    dance = dance_of(steps, look.body, num_frames, fps)
    joints = joints_of(look.body, dance)[..., :2] + dance.path[:, None]
    speed = float(np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(initial=0)) * fps
    if speed <= _FASTEST:
        return steps, dance
    slower = replace(steps, beat_s=steps.beat_s * speed / _FASTEST)
    return slower, dance_of(slower, look.body, num_frames, fps)


def _neck_over_floor(look: Look, dance: Dance) -> float:
    """Compute how far the neck is below (negative: above) the lower ankle at frame 0."""
    return -float(joints_of(look.body, dance[:1])[0, [10, 13], 1].max())


def _inside(look: Look, dance: Dance, start: tuple[float, float], aspect: float) -> np.ndarray:
    """Keep a path so far from the sides that hands and feet stay in the picture."""
    joints = joints_of(look.body, dance)[..., 0]
    hands = 0.3 * look.body.arm
    low = _MARGIN * aspect - joints.min(axis=1) + hands
    high = (1 - _MARGIN) * aspect - joints.max(axis=1) - hands
    path = dance.path.copy()
    path[:, 0] = np.where(low < high, np.clip(start[0] + path[:, 0], low, np.maximum(low, high)), (low + high) / 2)
    path[:, 0] -= start[0]
    return path


def render(scene: Scene, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene: frames uint8 [F, height, width, 3] RGB, and the dancer's silhouettes bool [F, height, width]."""
    factor = 2 if height < 400 else 1
    large = (height * factor, width * factor)
    layers = Layers(
        len(scene.figure), outline=0.011 * large[0] if scene.look.cartoon else 0.0, corners=12 if large[0] < 200 else 16
    )
    add_dancer(layers, scene.figure, scene.look, large[0])
    painter = layers.finish()
    wall = draw_wall(scene.wall, scene.look.wall, scene.seed, *large, scene.floor)
    background = np.dstack([wall, np.zeros(large, np.uint8)])
    shadows = _shadows(scene, *large) if scene.shadow else None
    frames = np.empty((len(scene.figure), height, width, 4), np.uint8)
    for k in range(len(frames)):
        canvas = background.copy()
        if shadows is not None:
            _cast(canvas, *shadows[k])
        painter.paint(canvas, k)
        cv2.resize(canvas, (width, height), dst=frames[k], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(frames[..., :3]), frames[..., 3] > 127


def _shadows(scene: Scene, height: int, width: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Compute the ellipses (centre, half axes) of the shadow on the floor."""
    body = scene.figure.pose.body
    ankles = body[:, [10, 13]] * [width, height]
    ground = float(ankles[0, :, 1].max()) + scene.look.body.ankle * height
    x = 0.6 * ankles[..., 0].mean(axis=1) + 0.4 * body[:, [8, 11], 0].mean(axis=1) * width
    half = 0.5 * np.abs(ankles[:, 0, 0] - ankles[:, 1, 0]) + 0.45 * scene.look.body.torso * height
    flat = 0.13 * scene.look.body.torso * height
    return [((round(a), round(ground)), (round(b), round(flat))) for a, b in zip(x, half, strict=True)]


def _cast(canvas: np.ndarray, centre: tuple[int, int], axes: tuple[int, int]) -> None:
    top, bottom = max(centre[1] - axes[1], 0), min(centre[1] + axes[1] + 1, canvas.shape[0])
    left, right = max(centre[0] - axes[0], 0), min(centre[0] + axes[0] + 1, canvas.shape[1])
    if top >= bottom or left >= right:
        return
    part = canvas[top:bottom, left:right]
    dark = np.zeros(part.shape[:2], np.uint8)
    cv2.ellipse(dark, (centre[0] - left, centre[1] - top), axes, 0, 0, 360, 1, -1)
    cv2.copyTo(cv2.LUT(part, _DIMMED), dark, part)
