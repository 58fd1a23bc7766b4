"""Filled, anti-aliased shapes of all frames at once, sorted into layers by depth.

Polygons of all shapes and frames are computed in a few array operations, so that painting a frame costs little more
than OpenCV's filling. The canvas has four channels: RGB and how much of a pixel the dancers cover.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from .colours import Colour

_BITS = 4  # of sub-pixel positions
_Number = float | np.ndarray
_OUTLINE = (34, 30, 38, 255)


@dataclass
class _Shape:
    colour: tuple[int, ...]
    shown: list[bool] | None
    polygons: np.ndarray
    """int32 [F, n, 2]"""
    outlines: np.ndarray | None


@dataclass
class Layers:
    """Shapes of F frames in layers.

    Args:
        num_frames: F.
        outline: width of outlines in pixels, 0 for none.
    """

    num_frames: int
    outline: float = 0.0
    corners: int = 18
    behind: float = 0.0
    """how far the following layers are behind what their depths say"""
    keys: list[np.ndarray] = field(default_factory=list)
    _growths: list[float] = field(default_factory=list)
    _discs: list[list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[int, ...], list[bool] | None]]] = (
        field(default_factory=list)
    )
    _hulls: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def layer(self, depth: np.ndarray | float) -> int:
        """Open a layer at a depth [F]; nearer layers are painted later."""
        self.keys.append(np.broadcast_to(np.asarray(depth, np.float64) - self.behind, (self.num_frames,)))
        self._growths.append(self.outline)
        self._discs.append([])
        return len(self.keys) - 1

    def capsule(
        self,
        start: np.ndarray,
        end: np.ndarray,
        start_radius: _Number,
        end_radius: _Number,
        colour: Colour,
        shown: np.ndarray | None = None,
        layer: int = -1,
    ) -> None:
        """Add the convex hull of two discs, with centres [F, 2], to a layer."""
        first, second = self._radii(start_radius), self._radii(end_radius)
        when = None if shown is None else shown.tolist()
        self._discs[layer].append((start, end, first, second, (*colour, 255), when))

    def _radii(self, radius: _Number) -> np.ndarray:
        """Return a radius in each frame [F]."""
        return np.broadcast_to(np.asarray(radius, np.float32), (self.num_frames,))

    def disc(
        self, centre: np.ndarray, radius: _Number, colour: Colour, shown: np.ndarray | None = None, layer: int = -1
    ) -> None:
        """Add a disc."""
        self.capsule(centre, centre, radius, radius, colour, shown, layer)

    def hull(
        self,
        discs: list[tuple[np.ndarray, _Number]],
        colour: Colour,
        shown: np.ndarray | None = None,
        layer: int = -1,
    ) -> None:
        """Add the convex hull of several discs (centre [F, 2], radius)."""
        layer %= len(self.keys)
        self._hulls[layer, len(self._discs[layer])] = [(centre, self._radii(radius)) for centre, radius in discs]
        centre, radius = discs[0]
        self.disc(centre, radius, colour, shown, layer)

    def finish(self, origin: tuple[int, int] = (0, 0)) -> Painter:
        """Compute all polygons, moved so that (0, 0) is at `origin` (x, y) of the canvas."""
        flat = [shape for layer in self._discs for shape in layer]
        starts = np.stack([shape[0] for shape in flat]) + np.asarray(origin)
        ends = np.stack([shape[1] for shape in flat]) + np.asarray(origin)
        start_radii, end_radii = np.stack([shape[2] for shape in flat]), np.stack([shape[3] for shape in flat])
        growth = np.concatenate([np.full(len(layer), g) for layer, g in zip(self._discs, self._growths, strict=True)])
        polygons = _capsules(starts, ends, start_radii, end_radii, self.corners)
        grown = None
        if growth.any():
            wider = growth[:, None].astype(np.float32)
            grown = _capsules(starts, ends, start_radii + wider, end_radii + wider, self.corners)
        shapes, position = [], 0
        for index, layer in enumerate(self._discs):
            row = []
            for k, (*_, colour, shown) in enumerate(layer):
                outlined = grown is not None and growth[position] > 0
                polygon, outline = polygons[position], grown[position] if grown is not None and outlined else None
                if (index, k) in self._hulls:
                    discs = [(centre + np.asarray(origin), radius) for centre, radius in self._hulls[index, k]]
                    polygon = _hulls(discs, 0.0)
                    outline = _hulls(discs, growth[position]) if outlined else None
                row.append(_Shape(colour, shown, polygon, outline))
                position += 1
            shapes.append(row)
        order = np.argsort(np.stack(self.keys), axis=0, kind="stable").T
        return Painter(shapes, order.tolist())


@dataclass
class Painter:
    """Finished shapes, which can be painted frame by frame."""

    shapes: list[list[_Shape]]
    order: list[list[int]]

    def paint(self, canvas: np.ndarray, frame: int) -> None:
        """Paint the layers of a frame onto a uint8 [H, W, 4] canvas, far ones first."""
        for index in self.order[frame]:
            layer = [shape for shape in self.shapes[index] if shape.shown is None or shape.shown[frame]]
            for shape in layer:
                if shape.outlines is not None:
                    cv2.fillConvexPoly(canvas, shape.outlines[frame], _OUTLINE, cv2.LINE_AA, _BITS)
            for shape in layer:
                cv2.fillConvexPoly(canvas, shape.polygons[frame], shape.colour, cv2.LINE_AA, _BITS)


def _capsules(
    starts: np.ndarray, ends: np.ndarray, start_radii: np.ndarray, end_radii: np.ndarray, corners: int
) -> np.ndarray:
    """Compute the polygons int32 [S, F, corners, 2] of S capsules."""
    axis = ends - starts
    distance = np.linalg.norm(axis, axis=-1)
    # A disc inside the other: the larger one alone.
    inside = distance <= np.abs(start_radii - end_radii) + 1e-9
    first_is_larger = (start_radii >= end_radii)[..., None]
    starts = np.where(inside[..., None] & ~first_is_larger, ends, starts)
    ends = np.where(inside[..., None] & first_is_larger, starts, ends)
    larger = np.maximum(start_radii, end_radii)
    start_radii, end_radii = np.where(inside, larger, start_radii), np.where(inside, larger, end_radii)
    half = np.arccos(np.clip((start_radii - end_radii) / np.maximum(distance, 1e-9), -1, 1))
    half = np.where(inside, np.pi / 2, half)
    heading = np.arctan2(axis[..., 1], axis[..., 0])
    share = np.linspace(0, 1, corners // 2)
    at_end = heading[..., None] + half[..., None] * (2 * share - 1)
    at_start = heading[..., None] + half[..., None] + (2 * np.pi - 2 * half[..., None]) * share
    turn = np.concatenate([at_end, at_start], axis=-1)
    radius = np.repeat(np.stack([end_radii, start_radii], axis=-1), corners // 2, axis=-1)
    centre = np.repeat(np.stack([ends, starts], axis=-2), corners // 2, axis=-2)
    points = centre + radius[..., None] * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    return _fixed(points)


def _hulls(discs: list[tuple[np.ndarray, np.ndarray]], growth: float) -> np.ndarray:
    """Compute convex hulls of discs, int32 [F, n, 2]; short ones repeat their last corner."""
    turn = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    points = np.concatenate(
        [centre[:, None] + (radius + growth)[:, None, None] * circle for centre, radius in discs], axis=1
    )
    hulls = [cv2.convexHull(frame)[:, 0] for frame in _fixed(points)]
    longest = max(map(len, hulls))
    return np.stack([np.concatenate([hull, np.repeat(hull[-1:], longest - len(hull), 0)]) for hull in hulls])


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.asarray(np.round(np.clip(points, -9999, 9999) * (1 << _BITS)).astype(np.int32))
