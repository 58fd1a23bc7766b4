"""How a scene is filmed: light, exposure, a camera that moves or shakes, motion blur and grain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OVERSCAN = 0.1  # of the picture on each side, which a moving camera may come to see


@dataclass(frozen=True)
class Film:
    """The camera and the light of a clip; the defaults change nothing."""

    exposure: float = 1.0
    warmth: float = 0.0
    """−1 cold, 1 warm"""
    side_light: float = 0.0
    """−1 from the left, 1 from the right"""
    top_light: float = 0.0
    """0 even, 1 from above"""
    grain: float = 0.0
    """standard deviation in grey levels"""
    shake: float = 0.0
    """of the camera, in picture heights"""
    pan: tuple[float, float] = (0.0, 0.0)
    """way of the camera from the first to the last frame, in picture heights"""
    zoom: float = 0.0
    """growth of the picture from the first to the last frame"""
    blur: float = 0.0
    """share of a frame's time during which the shutter is open"""

    @property
    def moves(self) -> bool:
        """Return whether the camera shakes, pans or zooms."""
        return bool(self.shake or self.zoom or any(self.pan))

    @property
    def light(self) -> str:
        """Name the light."""
        names = {
            "dim": self.exposure < 0.75,
            "glaring": self.exposure > 1.18,
            "warm": self.warmth > 0.35,
            "cold": self.warmth < -0.35,
        }
        return next((name for name, holds in names.items() if holds), "plain")

    @property
    def camera(self) -> str:
        """Name what the camera does."""
        if self.shake:
            return "shakes"
        return "zooms in" if self.zoom else "pans slowly" if any(self.pan) else "stands still"


@dataclass(frozen=True)
class FilmOdds:
    """How often a difficulty films otherwise than plainly, and how strongly."""

    light: float = 0.0
    camera: float = 0.0
    blur: float = 0.0
    strength: float = 1.0


def make_film(rng: np.random.Generator, odds: FilmOdds) -> Film:
    """Choose camera and light."""
    s = odds.strength
    has = {name: rng.random() < odds.light for name in ("exposure", "warmth", "side", "top")}
    camera = str(rng.choice(("shake", "pan", "zoom"))) if rng.random() < odds.camera else "still"
    direction = rng.choice((-1.0, 1.0))
    exposure = float(np.exp(rng.choice((-0.42, 0.22)) * s * rng.uniform(0.7, 1.0)))
    warmth, side, top = (float(value) for value in rng.uniform((0.4, 0.5, 0.4), 1.0))
    return Film(
        exposure=exposure if has["exposure"] else 1.0,
        warmth=warmth * direction if has["warmth"] else 0.0,
        side_light=side * float(rng.choice((-1.0, 1.0))) if has["side"] else 0.0,
        top_light=top if has["top"] else 0.0,
        grain=float(2.5 * s) if rng.random() < odds.light * 0.6 else 0.0,
        shake=0.0025 * s if camera == "shake" else 0.0,
        pan=(float(direction * 0.05 * s), float(rng.uniform(-0.015, 0.015))) if camera == "pan" else (0.0, 0.0),
        zoom=0.08 * s if camera == "zoom" else 0.0,
        blur=0.5 if rng.random() < odds.blur else 0.0,
    )


def camera_path(film: Film, seed: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the zoom [F] and the shift [F, 2] in picture heights.

    A point p is seen at centre + zoom · (p − centre) + shift. A pan or zoom begins with the scene as it is.
    """
    rng = np.random.default_rng([seed, 6])
    t = np.linspace(0, 1, num_frames) if num_frames > 1 else np.zeros(num_frames)
    ease = t * t * (3 - 2 * t)
    shift = ease[:, None] * np.array(film.pan)
    if film.shake:
        steps = rng.normal(0, film.shake, (num_frames, 2))
        shift = shift + 0.6 * steps + 0.4 * np.concatenate([steps[:1], steps[:-1]])
        shift = np.clip(shift, -0.8 * OVERSCAN, 0.8 * OVERSCAN)
    return 1 + film.zoom * ease, shift


def moved(points: np.ndarray, zoom: np.ndarray, shift: np.ndarray, aspect: float) -> np.ndarray:
    """Move points [F, ..., 2] in shares of the picture as the camera does."""
    shape = (len(points), *[1] * (points.ndim - 2), -1)
    return np.asarray(0.5 + (points - 0.5) * zoom.reshape(shape) + (shift / [aspect, 1.0]).reshape(shape))


def develop(frames: np.ndarray, film: Film, seed: int) -> np.ndarray:
    """Apply light and exposure to frames uint8 [F, H, W, 3]."""
    height, width = frames.shape[1:3]
    if film == Film(shake=film.shake, pan=film.pan, zoom=film.zoom, blur=film.blur):
        return frames
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(1, -1, height, dtype=np.float32)
    light = 1 + 0.28 * film.side_light * x[None, :, None] + 0.26 * film.top_light * y[:, None, None]
    gain = np.array([1 + 0.16 * film.warmth, 1.0, 1 - 0.2 * film.warmth], np.float32)
    gain /= gain @ np.array([0.299, 0.587, 0.114], np.float32)
    light = (film.exposure * light * gain).astype(np.float32)
    noise = np.random.default_rng([seed, 7]) if film.grain else None
    result = np.empty_like(frames)
    for k, frame in enumerate(frames):
        lit = frame * light
        if noise is not None:
            lit += film.grain * noise.standard_normal((height, width, 1), np.float32)
        result[k] = np.clip(lit, 0, 255)
    return result
