"""The look of a dancer: proportions, clothes, hair, face, hat, glasses, held prop and style of drawing, from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colours import COLOURS, HAIRS, SKINS, Colour, contrast, mix

TOPS = ("t-shirt", "long-sleeved shirt", "tank top", "hoodie")
BOTTOMS = ("trousers", "shorts", "skirt", "dress")
PATTERNS = ("plain", "band", "stripes", "dots")
HAIR_STYLES = ("short", "long", "bob", "ponytail", "bun", "curly", "mohawk", "bald")
HATS = ("none", "cap", "beanie", "top hat")
PROPS = ("none", "ball", "fan", "stick", "flag", "balloon")
WALLS = ("white", "grey", "black", "yellow", "turquoise", "blue", "pink", "green", "orange", "violet")
_MIN_CONTRAST = 62


@dataclass(frozen=True)
class Body:
    """Lengths of bones and thickness of a body in picture heights.

    Alignment scales ten limb lengths. Lengths that it does not measure are fixed multiples of one that it does: hips of
    the torso, forearms and hands of the upper arm, eyes and ears of the face.
    """

    neck: float
    """from the neck to the nose"""
    face: float
    """height of the head"""
    shoulder: float
    torso: float
    arm: float
    thigh: float
    shin: float
    girth: float
    """unit of the thickness of limbs"""

    def scaled(self, factor: float) -> Body:
        """Return the same body at another distance from the camera."""
        return Body(**{name: value * factor for name, value in vars(self).items()})

    @property
    def leg(self) -> float:
        """Length of a straight leg."""
        return self.thigh + self.shin

    @property
    def ankle(self) -> float:
        """Height of an ankle above the floor."""
        return 0.2 * self.shin


@dataclass(frozen=True)
class Look:
    """A dancer's body, clothes and head. Colours of clothes are names in `COLOURS`."""

    body: Body
    style: str
    """natural or cartoon"""
    skin: Colour
    top: str
    top_colour: str
    pattern: str
    pattern_colour: str
    bottom: str
    bottom_colour: str
    shoes: str
    hair: str
    hair_colour: str
    hat: str
    hat_colour: str
    glasses: bool
    beard: bool
    smile: float
    prop: str
    prop_colour: str
    prop_hand: int
    """0 left, 1 right"""
    wall: str
    """name of the colour of the wall, which the clothes stand out from"""
    outlined: bool = False

    @property
    def cartoon(self) -> bool:
        """Return whether the dancer has flat colours and a large head, and outlines where the difficulty has them."""
        return self.style == "cartoon"


@dataclass(frozen=True)
class LookOdds:
    """How often a difficulty uses what is not plain."""

    cartoon: float = 0.2
    patterns: tuple[str, ...] = ("plain", "plain", "band")
    hat: float = 0.0
    glasses: float = 0.0
    beard: float = 0.0
    prop: float = 0.0
    min_contrast: float = _MIN_CONTRAST
    girth: float = 1.0
    """factor of the thickness of bodies"""
    outlines: bool = True
    """whether cartoons have dark outlines"""


def wall_colour(name: str) -> Colour:
    """Return the muted colour of a wall."""
    return mix(COLOURS[name], (205, 200, 195), 0.4)


def make_look(seed: int, odds: LookOdds) -> Look:
    """Choose the look of dancer `seed`."""
    rng = np.random.default_rng([seed, 1])

    def pick(names: tuple[str, ...] | list[str]) -> str:
        return str(names[int(rng.integers(len(names)))])

    skin = SKINS[rng.integers(len(SKINS))]
    by_contrast = sorted(WALLS, key=lambda name: contrast(wall_colour(name), skin))
    wall = pick(by_contrast[3:])
    clothes = sorted(COLOURS, key=lambda name: contrast(COLOURS[name], wall_colour(wall)))
    clothes = [name for name in clothes if contrast(COLOURS[name], wall_colour(wall)) > odds.min_contrast] or clothes
    clothes = [name for name in clothes[-7:] if contrast(COLOURS[name], skin) > 30] or clothes
    clothes = [name for name in clothes if name != "brown" or skin in SKINS[:2]]  # brown on brown looks bare
    top_colour = pick(clothes)
    bottom_colour = pick([name for name in clothes if contrast(COLOURS[name], COLOURS[top_colour]) > 20] or clothes)
    others = [name for name in COLOURS if contrast(COLOURS[name], COLOURS[top_colour]) > 50]
    hairs = [name for name in HAIRS if min(contrast(HAIRS[name], other) for other in (skin, wall_colour(wall))) > 34]
    cartoon = bool(rng.random() < odds.cartoon)
    bottom = pick(("trousers", "trousers", "shorts", "skirt", "dress"))
    hair = pick(HAIR_STYLES[:6] * 3 + HAIR_STYLES[6:])
    has_hat, has_prop = rng.random() < odds.hat, rng.random() < odds.prop
    return Look(
        body=_body(rng, cartoon, odds.girth),
        style="cartoon" if cartoon else "natural",
        skin=skin,
        top=pick(TOPS),
        top_colour=top_colour,
        pattern=pick(odds.patterns),
        pattern_colour=pick(others),
        bottom=bottom,
        bottom_colour=top_colour if bottom == "dress" else bottom_colour,
        shoes=pick(("white", "black", "red", "brown", "blue", "yellow")),
        hair=hair,
        hair_colour=pick(hairs or list(HAIRS)),
        hat=pick(HATS[1:]) if has_hat else "none",
        hat_colour=pick(clothes),
        glasses=bool(rng.random() < odds.glasses),
        beard=bool(rng.random() < odds.beard and hair in ("short", "bald", "curly", "mohawk")),
        smile=float(rng.uniform(0.2, 1.0)),
        prop=pick(PROPS[1:]) if has_prop else "none",
        prop_colour=pick(clothes),
        prop_hand=int(rng.integers(2)),
        wall=wall,
        outlined=cartoon and odds.outlines,
    )


def _body(rng: np.random.Generator, cartoon: bool, girth: float) -> Body:
    """Draw proportions; a figure is about one picture height tall before `scaled`."""

    def length(share: float, spread: float = 0.07) -> float:
        return float(share * rng.uniform(1 - spread, 1 + spread))

    build = float(rng.uniform(0.95, 1.3))
    leg = 0.86 if cartoon else 1.0
    return Body(
        neck=length(0.15 if cartoon else 0.112),
        face=length(0.29 if cartoon else 0.2, 0.06),
        shoulder=length(0.112) * build**0.4,
        torso=length(0.265 if cartoon else 0.285),
        arm=length(0.165) * (0.95 if cartoon else 1.0),
        thigh=length(0.235) * leg,
        shin=length(0.235) * leg,
        girth=girth * build * (1.12 if cartoon else 1.0),
    )
