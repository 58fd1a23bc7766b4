"""A scene: who dances what, where in the picture, in front of which wall; all from a seed and a difficulty."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .choreography import FREE_DANCE, Choreography, choreograph, dance_of
from .difficulties import difficulty_of
from .figure import Dance, Figure, joints_of, make_figure
from .film import Film, make_film
from .look import Look, make_look

FPS = 16.0
_MARGIN = 0.035  # of the picture, which the dancers keep free
_REACH = 0.45  # of the length of a leg: how much wider than the body is a place that a dance may need
_SECOND = 3_000_000_019  # between the seeds of the first and of the second of two dancers
_WAIST_UP = 1.75  # how much larger a dancer is who is seen from the waist up


@dataclass(frozen=True)
class Dancer:
    """A dancer in the picture."""

    figure: Figure
    look: Look
    steps: Choreography


@dataclass(frozen=True)
class Scene:
    """All that a clip shows; the first dancer is the main one."""

    seed: int
    dancers: tuple[Dancer, ...]
    seconds: float
    wall: str
    floor: float
    """where the floor begins, as a share of the picture's height; 1 or more: below the picture"""
    framing: str
    """whole body or waist up"""
    occluder: str
    film: Film
    shadow: bool = True

    @property
    def main(self) -> Dancer:
        """The main dancer."""
        return self.dancers[0]

    @property
    def aspect(self) -> float:
        """Width / height of the picture."""
        return self.main.figure.aspect

    def with_main(self, **changes: object) -> Scene:
        """Replace fields of the main dancer."""
        return replace(self, dancers=(replace(self.main, **changes), *self.dancers[1:]))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Place:
    """Where a dancer stands and how large the dancer is."""

    stature: float
    x: float
    """of the neck in frame 0, as a share of the picture's width"""
    ground: float
    """of the feet, as a share of the picture's height"""
    left: float = 0.0
    """part of the width that the dancer may use"""
    right: float = 1.0


def make_scene(
    seed: int,
    difficulty: str = "easy",
    num_frames: int = 33,
    *,
    aspect: float = 1.0,
    fps: float = FPS,
    dance_seed: int | None = None,
    still: bool = False,
    whole_body: bool = False,
    dance: Dance | None = None,
) -> Scene:
    """Make the scene `seed` with one dancer.

    Args:
        seed: of all that is random.
        difficulty: `easy`, `standard` or `hard`.
        num_frames: F.
        aspect: width / height of the picture.
        fps: frames per second.
        dance_seed: of the dance; None: `seed`.
        still: film with a still camera and nothing in front, as a truth needs that must be exact.
        whole_body: do not show the dancer from the waist up.
        dance: replaces the procedural one.
    """
    odds = difficulty_of(difficulty)
    rng = np.random.default_rng([seed, 4])
    look = make_look(seed, odds.look)
    stature = float(rng.uniform(*odds.stature)) * min(1.0, aspect**0.5)
    ground = float(rng.uniform(0.9, 0.95))
    place = Place(stature, float(rng.uniform(*odds.x)), ground)
    wall, edge = str(rng.choice(odds.walls)), float(ground - rng.uniform(0.08, 0.14))
    # Later draws have a generator of their own, so that what is added there changes nothing above.
    rng = np.random.default_rng([seed, 5])
    framing = "waist up" if rng.random() < odds.waist_up and not whole_body else "whole body"
    occluder = str(rng.choice(odds.occluders)) if rng.random() < odds.occlusion else "none"
    film = make_film(rng, odds.film)
    if still:
        occluder, film = "none", replace(film, shake=0.0, pan=(0.0, 0.0), zoom=0.0, blur=0.0)
    dance_seed = seed if dance_seed is None else dance_seed
    options: dict[str, Any] = {"aspect": aspect, "fps": fps, "fastest": odds.fastest, "framing": framing}
    dancer = make_dancer(look, place, dance_seed, num_frames, dance=dance, **options)
    floor = edge if framing == "whole body" else 1.2
    return Scene(seed, (dancer,), num_frames / fps, wall, floor, framing, occluder, film)


def make_duo(
    seed: int, difficulty: str = "easy", num_frames: int = 33, *, aspect: float = 1.0, fps: float = FPS
) -> Scene:
    """Make the scene `seed` with two dancers side by side, each with a dance of its own."""
    scene = make_scene(seed, difficulty, num_frames, aspect=aspect, fps=fps)
    odds = difficulty_of(difficulty)
    rng = np.random.default_rng([seed, 9])
    stature = float(rng.uniform(0.46, 0.54)) * min(1.0, aspect**0.5)
    first = replace(make_look(seed, odds.look), prop="none")
    # The second one is seen in front of the wall of the first, so both look for the same wall.
    looks = [make_look(seed + _SECOND + k, odds.look) for k in range(40)]
    second = next((look for look in looks if look.wall == first.wall), looks[0])
    dancers = tuple(
        make_dancer(
            replace(look, prop="none"), place, dance_seed, num_frames, aspect=aspect, fps=fps, fastest=odds.fastest
        )
        for look, place, dance_seed in (
            (first, Place(stature, 0.27, 0.93, 0.0, 0.52), seed),
            (second, Place(stature * float(rng.uniform(0.88, 0.98)), 0.74, 0.92, 0.48, 1.0), seed + _SECOND),
        )
    )
    return replace(scene, dancers=dancers, framing="whole body", occluder="none", floor=0.82)


def make_dancer(
    look: Look,
    place: Place,
    dance_seed: int,
    num_frames: int,
    *,
    aspect: float,
    fps: float,
    fastest: float,
    framing: str = "whole body",
    dance: Dance | None = None,
) -> Dancer:
    """Let a dancer dance at a place, without leaving it; a `dance` that is given replaces the procedural one."""
    whole = framing == "whole body"
    look = replace(look, body=look.body.scaled(place.stature * (1.0 if whole else _WAIST_UP)))
    room = 0.5 * aspect * (place.right - place.left) / look.body.leg - _REACH
    steps = FREE_DANCE
    if dance is None:
        steps = choreograph(dance_seed, num_frames / fps, room=(-room, room), gentle=not whole)
        steps, dance = _slow_enough(steps, look, num_frames, fps, fastest)
    y = place.ground - look.body.ankle - 0.02 + _neck_over_floor(look, dance) if whole else 0.44
    start = (place.x * aspect, y)
    dance = replace(dance, path=_inside(look, dance, start, (place.left * aspect, place.right * aspect)))
    return Dancer(make_figure(look.body, dance, start, aspect), look, steps)


def _slow_enough(
    steps: Choreography, look: Look, num_frames: int, fps: float, fastest: float
) -> tuple[Choreography, Dance]:
    """Compute the dance, with longer beats if a joint is so fast that a frame shows only its blur."""
    dance = dance_of(steps, look.body, num_frames, fps)
    joints = joints_of(look.body, dance)[..., :2] + dance.path[:, None]
    speed = float(np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(initial=0)) * fps
    if speed <= fastest:
        return steps, dance
    slower = replace(steps, beat_s=steps.beat_s * speed / fastest)
    return slower, dance_of(slower, look.body, num_frames, fps)


def _neck_over_floor(look: Look, dance: Dance) -> float:
    """Compute how far the neck is below (negative: above) the lower ankle at frame 0."""
    return -float(joints_of(look.body, dance[:1])[0, [10, 13], 1].max())


def _inside(look: Look, dance: Dance, start: tuple[float, float], limits: tuple[float, float]) -> np.ndarray:
    """Keep a path so far from the sides that hands and feet stay between the limits."""
    joints = joints_of(look.body, dance)[..., 0]
    hands = 0.3 * look.body.arm
    margin = _MARGIN * (limits[1] - limits[0])
    low = limits[0] + margin - joints.min(axis=1) + hands
    high = limits[1] - margin - joints.max(axis=1) - hands
    path = dance.path.copy()
    path[:, 0] = np.where(low < high, np.clip(start[0] + path[:, 0], low, np.maximum(low, high)), (low + high) / 2)
    path[:, 0] -= start[0]
    return path
