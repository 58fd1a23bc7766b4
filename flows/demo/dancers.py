"""The procedural inputs of the demo: dancers to train on, some of them flawed, and pairs to render, with truths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...datasets.toydance import make_toy_clips, make_toy_pairs
from ...datasets.toydance.clips import FLAWS

TINY_PAIRS = 3
NUM_PAIRS = 24
NUM_DANCERS = 16
# Sets of dancers that the training of the shipped weights never saw.
SEED = 400
PAIR_SEEDS = {"easy": 400, "standard": 401, "hard": 402}
CLIP_SIZES = ((144, 144), (192, 192), (160, 160))
DRIVING_SIZES = ((192, 144), (160, 160))
PAIRS, WRONG_PAIRS = "pairs.jsonl", "pairs_wrong.jsonl"


@dataclass(frozen=True)
class PairSet:
    """A folder that `make_pairs` wrote.

    Args:
        folder: the folder.
        difficulty: of its scenes.
    """

    folder: Path
    difficulty: str = "easy"

    def ids(self) -> list[str]:
        """Return the ids of the pairs."""
        return [json.loads(line)["id"] for line in (self.folder / PAIRS).read_text().splitlines()]

    def image(self, name: str) -> Path:
        """Return the reference picture of a pair."""
        return self.folder / "images" / f"{name}.png"

    def video(self, kind: str, name: str) -> Path:
        """Return a video of a pair: `driving`, `truth`, `wrong` or `wrong_driving`."""
        return self.folder / kind / f"{name}.mp4"


def make_tiny_dancers(folder: Path) -> str:
    """Make procedural dancers, some of them flawed, and a few pairs with ground truth, unless they exist."""
    if not (folder / PAIRS).is_file():
        make_toy_clips(folder / "clips", seed=0)
        make_toy_pairs(folder, seed=1, num_pairs=TINY_PAIRS)
    return str(folder / "clips")


def make_dancers(folder: Path, num_dancers: int = NUM_DANCERS, num_pairs: int = NUM_PAIRS) -> str:
    """Make fresh dancers of the difficulty `easy` with every flaw, and pairs, unless they exist; return the clips."""
    if not (folder / WRONG_PAIRS).is_file():
        make_toy_clips(folder / "clips", SEED, num_dancers, flaws=FLAWS, num_frames=51, sizes=CLIP_SIZES)
        make_pairs(folder, "easy", num_pairs)
    return str(folder / "clips")


def make_pairs(folder: Path, difficulty: str, num_pairs: int = NUM_PAIRS) -> PairSet:
    """Make misaligned pairs, each also with another dancer's pose, unless they exist: a miniature X-Dance.

    Driving dancers have another body, framing and often style, and begin in another pose than the reference picture.
    `pairs_wrong.jsonl` drives the same pictures by a third dancer.
    """
    wrong = folder / WRONG_PAIRS
    if not wrong.is_file():
        pairs = make_toy_pairs(
            folder,
            PAIR_SEEDS[difficulty],
            num_pairs,
            33,
            difficulty,
            start_gap=True,
            wrong=True,
            size=(160, 160),
            driving_sizes=DRIVING_SIZES,
        )
        rows = [json.loads(line) for line in pairs.read_text().splitlines()]
        rows = [{**row, "driving": row["driving"].replace("driving/", "wrong_driving/", 1)} for row in rows]
        wrong.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PairSet(folder, difficulty)
