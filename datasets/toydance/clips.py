"""Sets of procedural dancers: ordinary mp4s with keypoints and captions, some flawed on purpose.

Next to `NAME.mp4` (or .png) are `NAME.txt`, the caption, and `NAME.pose.safetensors`, the keypoints of the drawing.
Keypoints can be supplied for any clip in this way, see `supplied_poses`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..skeleton import PoseSequence
from ..supplied_poses import load_supplied_pose
from ..video import decode, frame_times_s
from .captions import caption_of
from .colours import contrast
from .difficulties import difficulty_of
from .files import write_bytes, write_clip
from .film import Film
from .look import make_look, wall_colour
from .render import render
from .scenes import Scene, make_duo, make_scene

FPS = 24
SECONDS = 3.0
SIZES = [(256, 192), (256, 192), (256, 192), (192, 256), (256, 192), (224, 224), (256, 192)]  # height, width
_FLAW_SEEDS = 500_000  # disjoint from the seeds of the good clips
FLAWS = ("static", "cut_short", "cut_long", "dark", "two_people", "truncated", "shaky", "duplicate")


@dataclass(frozen=True)
class _Maker:
    """Draws and writes clips of a set."""

    directory: Path
    seed: int
    difficulty: str
    fps: float

    def scene(self, seed: int, seconds: float, height: int = 256, width: int = 192) -> Scene:
        return make_scene(seed, self.difficulty, round(seconds * self.fps), aspect=width / height, fps=self.fps)

    def write(
        self, name: str, scenes: list[Scene], height: int = 256, width: int = 192, brightness: float = 1.0
    ) -> Path:
        """Write consecutive scenes as one clip."""
        rendered = [render(scene, height, width) for scene in scenes]
        persons = [_joined([one.poses[k] for one in rendered]) for k in range(len(rendered[0].poses))]
        frames = np.concatenate([one.frames for one in rendered])
        if brightness != 1:
            frames = (frames * brightness).astype(np.uint8)
        caption = " ".join(caption_of(scene) for scene in scenes)
        return write_clip(self.directory / f"{name}.mp4", frames, persons, caption, self.fps)


def make_toy_clips(
    directory: Path,
    seed: int = 0,
    num_good: int = 7,
    difficulty: str = "easy",
    *,
    flaws: Sequence[str] = FLAWS[:6],
    num_frames: int | None = None,
    fps: float = FPS,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[Path]:
    """Write `num_good` good clips and some flawed ones, with keypoints and captions.

    The same seed gives the same bytes. The flaws: `static` (no motion), `cut_short` (two scenes, each shorter than
    2.06 s = 33 frames at 16 fps), `cut_long` (the second scene is long enough for a clip), `dark`, `two_people`,
    `truncated` (half of a file), `shaky` (the camera jumps), `duplicate` (the first good clip, encoded again).

    Args:
        directory: of the clips.
        seed: of the set; sets of different seeds have no dancer in common.
        num_good: good clips, `dancer_0.mp4` and so on.
        difficulty: `easy`, `standard` or `hard`.
        flaws: names of flawed clips, out of `FLAWS`.
        num_frames: of a good clip; None: 3 s.
        fps: frames per second.
        sizes: height and width of the good clips, in turn.
    """
    unknown = set(flaws) - set(FLAWS)
    if unknown:
        raise ValueError(f"flaws has {', '.join(sorted(unknown))}, expected some of {', '.join(FLAWS)}")
    directory.mkdir(parents=True, exist_ok=True)
    maker = _Maker(directory, seed, difficulty, fps)
    seconds = SECONDS if num_frames is None else num_frames / fps
    paths = []
    for k in range(num_good):
        height, width = sizes[k % len(sizes)]
        paths.append(
            maker.write(f"dancer_{k}", [maker.scene(good_seed(seed, k), seconds, height, width)], height, width)
        )
    return [*paths, *(_MAKE[name](maker) for name in flaws)]


def good_seed(seed: int, k: int) -> int:
    """Return the seed of the scene of `dancer_k.mp4` in set `seed`."""
    return seed * 1000 + 22 + k


def _seed(maker: _Maker, offset: int) -> int:
    return _FLAW_SEEDS + maker.seed * 1000 + offset


def _static(maker: _Maker) -> Path:
    scene = replace(maker.scene(_seed(maker, 0), SECONDS), film=Film())
    still = scene.main.figure[np.zeros(len(scene.main.figure), int)]
    return maker.write("static", [scene.with_main(figure=still)])


def _cut(name: str, offset: int, seconds: tuple[float, float]) -> Callable[[_Maker], Path]:
    def make(maker: _Maker) -> Path:
        seed = _seed(maker, offset)
        first = maker.scene(seed, seconds[0])
        return maker.write(name, [first, _with_other_wall(maker, first, seconds[1])])

    return make


def _with_other_wall(maker: _Maker, first: Scene, seconds: float) -> Scene:
    """Find a dancer with a wall of a clearly different colour, so that a cut between the two is visible."""
    wall, odds = wall_colour(first.main.look.wall), difficulty_of(maker.difficulty).look
    seeds = range(first.seed + 1, first.seed + 20)

    def difference(seed: int) -> float:
        return min(contrast(wall_colour(make_look(seed, odds).wall), wall), 70.0)

    return maker.scene(max(seeds, key=difference), seconds)


def _dark(maker: _Maker) -> Path:
    return maker.write("dark", [maker.scene(_seed(maker, 44), SECONDS)], brightness=0.06)


def _two_people(maker: _Maker) -> Path:
    frames = round(SECONDS * maker.fps)
    duo = make_duo(_seed(maker, 60), maker.difficulty, frames, aspect=256 / 192, fps=maker.fps)
    return maker.write("two_people", [duo], 192, 256)


def _truncated(maker: _Maker) -> Path:
    path = maker.write("truncated", [maker.scene(_seed(maker, 80), SECONDS)])
    whole = path.read_bytes()
    write_bytes(path, whole[: len(whole) // 2])
    return path


def _shaky(maker: _Maker) -> Path:
    scene = maker.scene(_seed(maker, 81), SECONDS)
    return maker.write("shaky", [replace(scene, film=replace(scene.film, shake=0.022, pan=(0.0, 0.0), zoom=0.0))])


def _duplicate(maker: _Maker) -> Path:
    """Decode the first good clip and encode it again, as a download of a download is."""
    original = maker.directory / "dancer_0.mp4"
    if not original.exists():
        raise ValueError("the flaw 'duplicate' needs a good clip, but num_good is 0")
    frames = decode(original, frame_times_s(original))
    persons, fps = load_supplied_pose(original) or ([], maker.fps)
    caption = original.with_suffix(".txt").read_text().rstrip("\n")
    return write_clip(maker.directory / "duplicate.mp4", frames, persons, caption, fps)


_MAKE: dict[str, Callable[[_Maker], Path]] = {
    "static": _static,
    "cut_short": _cut("cut_short", 1, (1.5, 1.5)),
    "cut_long": _cut("cut_long", 120, (1.25, 2.75)),
    "dark": _dark,
    "two_people": _two_people,
    "truncated": _truncated,
    "shaky": _shaky,
    "duplicate": _duplicate,
}


def _joined(poses: list[PoseSequence]) -> PoseSequence:
    faces = [pose.faces for pose in poses if pose.faces is not None]
    return PoseSequence(
        body=np.concatenate([pose.body for pose in poses]),
        body_visible=np.concatenate([pose.body_visible for pose in poses]),
        hands=np.concatenate([pose.hands for pose in poses]),
        faces=np.concatenate(faces) if len(faces) == len(poses) else None,
    )
