"""Named colours of clothes, walls and props, and the colours of skin and hair."""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (205, 45, 50),
    "orange": (232, 135, 40),
    "yellow": (240, 208, 75),
    "green": (55, 145, 75),
    "turquoise": (55, 175, 175),
    "blue": (50, 90, 190),
    "violet": (120, 70, 165),
    "pink": (232, 130, 170),
    "white": (238, 236, 231),
    "grey": (125, 128, 135),
    "black": (38, 37, 44),
    "brown": (120, 78, 48),
}
SKINS: list[Colour] = [(246, 208, 180), (228, 175, 135), (186, 130, 92), (122, 80, 56)]
HAIRS: dict[str, Colour] = {
    "black": (32, 27, 28),
    "brown": (98, 60, 36),
    "red": (168, 74, 40),
    "blond": (218, 178, 96),
    "grey": (165, 165, 172),
    "blue": (62, 92, 172),
}


def shade(colour: Colour, factor: float) -> Colour:
    """Multiply a colour, clipped to white."""
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Compute a blend of two colours; `share` is that of `other`."""
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(one, other, strict=True))
    return red, green, blue


def brightness(colour: Colour) -> float:
    """Compute the luma of a colour."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def contrast(one: Colour, other: Colour) -> float:
    """Compute how well two colours can be told apart: their distance, with luma counted twice."""
    difference = float(np.linalg.norm(np.subtract(one, other)))
    return 0.5 * difference / 3**0.5 + 0.75 * abs(brightness(one) - brightness(other))
