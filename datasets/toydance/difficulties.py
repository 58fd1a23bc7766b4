"""The three difficulties: what occurs in their scenes, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field

from .film import FilmOdds
from .look import PATTERNS, LookOdds
from .occluders import OCCLUDERS
from .walls import WALL_KINDS


@dataclass(frozen=True)
class Difficulty:
    """Options of the scenes of a difficulty, and how often each occurs."""

    look: LookOdds = field(default_factory=LookOdds)
    film: FilmOdds = field(default_factory=FilmOdds)
    stature: tuple[float, float] = (0.58, 0.7)
    x: tuple[float, float] = (0.42, 0.58)
    fastest: float = 1.22
    """picture heights per second that a joint may move: 8 % of the picture in a frame"""
    walls: tuple[str, ...] = ("plain",)
    waist_up: float = 0.0
    occlusion: float = 0.0
    occluders: tuple[str, ...] = OCCLUDERS


DIFFICULTIES: dict[str, Difficulty] = {
    # Sturdy bodies without outlines, in slow dances: what a small autoencoder can draw sharply.
    "easy": Difficulty(look=LookOdds(girth=1.4, outlines=False), fastest=0.8),
    "standard": Difficulty(
        look=LookOdds(0.25, PATTERNS, hat=0.3, glasses=0.2, beard=0.25, prop=0.4, min_contrast=48),
        film=FilmOdds(light=0.3, camera=0.4, blur=0.25),
        stature=(0.5, 0.74),
        x=(0.34, 0.66),
        walls=WALL_KINDS,
        waist_up=0.15,
        occlusion=0.2,
    ),
    "hard": Difficulty(
        look=LookOdds(0.3, PATTERNS, hat=0.45, glasses=0.3, beard=0.35, prop=0.6, min_contrast=25),
        film=FilmOdds(light=0.6, camera=0.75, blur=0.5, strength=1.6),
        stature=(0.4, 0.78),
        x=(0.28, 0.72),
        walls=WALL_KINDS[1:],
        waist_up=0.25,
        occlusion=0.45,
    ),
}


def difficulty_of(name: str) -> Difficulty:
    """Look up a difficulty; raises `ValueError` for an unknown name."""
    if name not in DIFFICULTIES:
        raise ValueError(f"difficulty is {name!r}, expected one of {', '.join(DIFFICULTIES)}")
    return DIFFICULTIES[name]
