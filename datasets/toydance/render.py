"""Turn a scene into frames, silhouettes and keypoints."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from ..skeleton import PoseSequence
from .bodies import add_dancer
from .figure import Dance, Figure, with_visibility
from .film import OVERSCAN, camera_path, develop, moved
from .occluders import draw_occluder
from .scenes import Dancer, Scene
from .shapes import Layers, Painter
from .walls import draw_wall

_DIMMED = (np.arange(256) * 0.74).astype(np.uint8)
_SUB_FRAMES = 3  # averaged where the film blurs
_OTHERS_BEHIND = 3.0  # picture heights, by which each further dancer is behind the one before


class Rendered(NamedTuple):
    """Frames of a scene with the exact silhouettes and keypoints of its dancers."""

    frames: np.ndarray
    """uint8 [F, height, width, 3] RGB"""
    masks: np.ndarray
    """bool [F, height, width]: pixels of which the dancers cover at least half"""
    poses: list[PoseSequence]
    """of each dancer, as seen in the picture"""


def render(scene: Scene, height: int, width: int) -> Rendered:
    """Render a scene: the same scene gives the same bytes."""
    large = _Picture(height, width, scene)
    num_frames = len(scene.main.figure)
    frames, covered = np.empty((num_frames, height, width, 3), np.uint8), np.empty((num_frames, height, width), bool)
    times = _shutter_times(scene, num_frames)
    views = [_View(large, scene, offset) for offset in times]
    for k in range(num_frames):
        if len(views) == 1:
            shown = views[0].shoot(k)
        else:
            shown = np.mean([view.shoot(k) for view in views], axis=0).round().astype(np.uint8)
        frames[k], covered[k] = shown[..., :3], shown[..., 3] > 127
    sharp = views[len(views) // 2]
    return Rendered(develop(frames, scene.film, scene.seed), covered, sharp.poses(height, width))


def _shutter_times(scene: Scene, num_frames: int) -> list[float]:
    """Return the moments within a frame that its picture averages."""
    if not scene.film.blur or num_frames == 1:
        return [0.0]
    return (scene.film.blur * (np.arange(_SUB_FRAMES) / (_SUB_FRAMES - 1) - 0.5)).tolist()


class _Picture:
    """Background and foreground of a scene, larger than a frame if the camera moves."""

    def __init__(self, height: int, width: int, scene: Scene) -> None:
        self.size = (height, width)
        self.factor = 2 if height < 400 else 1
        self.margin = OVERSCAN if scene.film.moves else 0.0
        tall, wide = height * self.factor, width * self.factor
        self.border = (round(self.margin * tall), round(self.margin * tall))  # y, x
        self.inner = (tall, wide)
        full = (tall + 2 * self.border[0], wide + 2 * self.border[1])
        floor = (scene.floor * tall + self.border[0]) / full[0]
        wall = draw_wall(scene.wall, scene.main.look.wall, scene.seed, *full, floor)
        self.background = np.dstack([wall, np.zeros(full, np.uint8)])
        self.occluder: np.ndarray | None = None
        if scene.occluder != "none":
            self.occluder = self._occluder(scene, tall, full)

    def _occluder(self, scene: Scene, tall: int, full: tuple[int, int]) -> np.ndarray:
        """Place a thing at the side of the main dancer, so that it hides a part and not all."""
        rng = np.random.default_rng([scene.seed, 10])
        x = scene.main.figure.pose.body[:, 1, 0].mean() * scene.aspect + rng.choice((-1, 1)) * rng.uniform(0.08, 0.16)
        feet = float(np.median(scene.main.figure.pose.body[:, [10, 13], 1])) + scene.main.look.body.ankle
        thing = np.zeros((*full, 4), np.uint8)
        top, left = self.border
        inner = draw_occluder(
            scene.occluder, scene.seed, tall + top, full[1] - left, float(x), min(feet, 0.97) * tall / (tall + top)
        )
        thing[top:, left:] = inner
        return thing


class _View:
    """Draws every frame at one moment of its exposure."""

    def __init__(self, picture: _Picture, scene: Scene, offset: float) -> None:
        self._picture, self._scene = picture, scene
        self._figures = [_later(dancer.figure, offset) for dancer in scene.dancers]
        zoom, shift = camera_path(scene.film, scene.seed, len(self._figures[0]))
        self._zoom, self._shift = _between(zoom, offset), _between(shift, offset)
        self._painter = self._paint(picture, scene)
        self._shadows = [
            _shadow(figure, dancer, *picture.inner, picture.border)
            for figure, dancer in zip(self._figures, scene.dancers, strict=True)
            if scene.shadow and scene.framing == "whole body"
        ]

    def _paint(self, picture: _Picture, scene: Scene) -> Painter:
        tall = picture.inner[0]
        layers = Layers(len(self._figures[0]), corners=12 if tall < 200 else 16)
        for k, (figure, dancer) in enumerate(zip(self._figures, scene.dancers, strict=True)):
            layers.outline = 0.011 * tall if dancer.look.outlined else 0.0
            layers.behind = _OTHERS_BEHIND * k
            add_dancer(layers, figure, dancer.look, tall)
        return layers.finish((picture.border[1], picture.border[0]))

    def shoot(self, k: int) -> np.ndarray:
        """Return frame k, uint8 [height, width, 4]."""
        picture = self._picture
        canvas = picture.background.copy()
        for shadows in self._shadows:
            _cast(canvas, *shadows[k])
        self._painter.paint(canvas, k)
        if picture.occluder is not None:
            thing = picture.occluder
            cv2.copyTo(thing, thing[..., 3], canvas)
            canvas[..., 3][thing[..., 3] > 0] = 0
        return cv2.resize(self._seen(canvas, k), picture.size[::-1], interpolation=cv2.INTER_AREA)

    def _seen(self, canvas: np.ndarray, k: int) -> np.ndarray:
        """Cut out what the camera sees."""
        picture = self._picture
        if not self._scene.film.moves:
            return canvas
        tall, wide = picture.inner
        zoom = float(self._zoom[k])
        centre = np.array([wide, tall]) / 2
        # From a point of the canvas to a point of the picture; OpenCV counts from the centres of pixels.
        start = centre - zoom * (centre + picture.border[::-1] - 0.5) + self._shift[k] * tall - 0.5
        matrix = np.array([[zoom, 0, start[0]], [0, zoom, start[1]]])
        return np.asarray(cv2.warpAffine(canvas, matrix, (wide, tall), borderMode=cv2.BORDER_REPLICATE))

    def poses(self, height: int, width: int) -> list[PoseSequence]:
        """Return the keypoints of each dancer in the picture, with what cannot be seen marked."""
        hidden = None
        if self._picture.occluder is not None:
            thing = np.ascontiguousarray(self._picture.occluder[..., 3])
            small = [
                cv2.resize(self._seen(thing, k), (width, height), interpolation=cv2.INTER_AREA)
                for k in range(len(self._zoom))
            ]
            hidden = np.stack(small) > 127
        poses = []
        for figure in self._figures:
            if self._scene.film.moves:
                pose = figure.pose
                body, hands = (
                    moved(points, self._zoom, self._shift, figure.aspect) for points in (pose.body, pose.hands)
                )
                faces = None if pose.faces is None else moved(pose.faces, self._zoom, self._shift, figure.aspect)
                figure = replace(figure, pose=replace(pose, body=body, hands=hands, faces=faces))
            poses.append(with_visibility(figure, hidden))
        return poses


def _between(values: np.ndarray, offset: float) -> np.ndarray:
    """Interpolate values [F, ...] at `offset` frames after each frame."""
    if not offset:
        return values
    following = np.concatenate([values[1:], values[-1:]]) if offset > 0 else np.concatenate([values[:1], values[:-1]])
    return np.asarray((1 - abs(offset)) * values + abs(offset) * following)


def _later(figure: Figure, offset: float) -> Figure:
    """Interpolate a figure at `offset` frames after each frame."""
    if not offset:
        return figure
    pose = figure.pose
    dance = Dance(**{name: _between(array, offset) for name, array in vars(figure.dance).items()})
    faces = None if pose.faces is None else _between(pose.faces, offset)
    pose = replace(pose, body=_between(pose.body, offset), hands=_between(pose.hands, offset), faces=faces)
    return replace(figure, pose=pose, depth=_between(figure.depth, offset), dance=dance)


_Ellipse = tuple[tuple[int, int], tuple[int, int]]


def _shadow(figure: Figure, dancer: Dancer, height: int, width: int, border: tuple[int, int]) -> list[_Ellipse]:
    """Compute the ellipse (centre, half axes) of a dancer's shadow on the floor in each frame."""
    body = figure.pose.body
    ankles = body[:, [10, 13]] * [width, height]
    ground = float(ankles[0, :, 1].max()) + dancer.look.body.ankle * height + border[0]
    x = 0.6 * ankles[..., 0].mean(axis=1) + 0.4 * body[:, [8, 11], 0].mean(axis=1) * width + border[1]
    half = 0.5 * np.abs(ankles[:, 0, 0] - ankles[:, 1, 0]) + 0.45 * dancer.look.body.torso * height
    flat = 0.13 * dancer.look.body.torso * height
    return [((round(a), round(ground)), (round(b), round(flat))) for a, b in zip(x, half, strict=True)]


def _cast(canvas: np.ndarray, centre: tuple[int, int], axes: tuple[int, int]) -> None:
    """Draw an ellipse of shadow on the floor."""
    top, bottom = max(centre[1] - axes[1], 0), min(centre[1] + axes[1] + 1, canvas.shape[0])
    left, right = max(centre[0] - axes[0], 0), min(centre[0] + axes[0] + 1, canvas.shape[1])
    if top >= bottom or left >= right:
        return
    part = canvas[top:bottom, left:right]
    dark = np.zeros(part.shape[:2], np.uint8)
    cv2.ellipse(dark, (centre[0] - left, centre[1] - top), axes, 0, 0, 360, 1, -1)
    cv2.copyTo(cv2.LUT(part, _DIMMED), dark, part)
