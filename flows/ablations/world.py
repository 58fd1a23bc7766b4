"""The world of the ablations: clips to train on, curated and cached, and pairs to render, by cause."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...datasets.artifact import Artifact
from ...datasets.storage.atomic import atomic_folder, write_json
from ...datasets.supplied_poses import load_supplied_pose, save_supplied_pose
from ...datasets.toydance import make_toy_pairs
from ...models.metrics import start_gap, torso_length
from ...models.toydance.training_clips import write_training_clips
from ...pipelines.cache import job as cache_job
from ...pipelines.common.outcomes import require_usable
from ...pipelines.curate import job as curate_job
from ...pipelines.runtime.runner import Engine
from ..demo.dancers import DRIVING_SIZES, PAIRS, PairSet
from ..presets import Run
from .causes import CAUSES, DRIVING, REFERENCE, cause_of, corrupted

GAPS = "start_gaps.json"
PAIR_SEED = 420  # sets of dancers that neither training nor the demo has
SIZE, NUM_FRAMES = (160, 160), 33
DIFFICULTIES = (*("easy",) * 8, "standard", "hard")  # in turn, about the shares of the shipped weights' clips


@dataclass(frozen=True)
class World:
    """Sizes of the world.

    Args:
        num_sets: sets of training clips.
        clips_per_set: clips of a set.
        num_pairs: pairs of each cause.
    """

    num_sets: int = 20
    clips_per_set: int = 50
    num_pairs: int = 12

    def to_record(self) -> dict[str, int]:
        """Return the sizes."""
        return asdict(self)


def make_world(run: Run, world: World, out: Path, engine: Engine) -> None:
    """Draw, curate and cache clips into `out/latents`, and draw pairs into `out/pairs`; finished parts stay.

    Raises:
        SteadyDancerError: a job failed, or accepted no clip.
    """
    if not Artifact(out / "latents").committed:
        sets = tuple(DIFFICULTIES[k % len(DIFFICULTIES)] for k in range(world.num_sets))
        write_training_clips(out / "dancers", sets, world.clips_per_set)
        record = curate_job.run(run.curate, clips=str(out / "dancers"), out=out, engine=engine)
        require_usable(Artifact(out / "clips"), record["counts"])
        record = cache_job.run(run.cache, clips=out, out=out, engine=engine, samples_drawn=run.samples_drawn)
        require_usable(Artifact(out / "latents"), record["counts"])
    make_pairs(out / "pairs", world.num_pairs)


def make_pairs(folder: Path, num_pairs: int) -> PairSet:
    """Draw `num_pairs` pairs of each cause into one table, unless they exist; their ids begin with the cause.

    `start_gaps.json` has the distance of the reference pose from the first driven one, in torso lengths.
    """
    if not (folder / GAPS).is_file():
        with atomic_folder(folder) as aside:
            rows = [row for cause in CAUSES for row in _draw(aside, cause, num_pairs)]
            (aside / PAIRS).write_text("".join(json.dumps(row) + "\n" for row in rows))
            write_json(aside / GAPS, {row["id"]: _start_gap(PairSet(aside), row["id"]) for row in rows})
    return PairSet(folder)


def _draw(folder: Path, cause: str, num_pairs: int) -> list[dict[str, Any]]:
    """Draw the pairs of a cause into the common folders, and change the keypoints that it changes."""
    drawn = folder / f".{cause}"
    make_toy_pairs(drawn, PAIR_SEED, num_pairs, NUM_FRAMES, start_gap=cause == "start_gap", wrong=True, size=SIZE,
                   driving_sizes=DRIVING_SIZES)  # fmt: skip
    rows = [json.loads(line) for line in (drawn / PAIRS).read_text().splitlines()]
    for k, row in enumerate(rows):
        for name, causes in (("driving", DRIVING), ("image", REFERENCE)):
            if cause in causes:
                _rewrite(drawn / row[name], cause, seed=k)
    for file in [file for file in drawn.rglob("*") if file.is_file() and file.name != PAIRS]:
        target = folder / file.parent.name / _named(cause, file.name)
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
    shutil.rmtree(drawn)
    return [
        {**row, "id": _named(cause, row["id"]), **{name: _moved(cause, row[name]) for name in ("image", "driving")}}
        for row in rows
    ]


def _named(cause: str, name: str) -> str:
    return f"{cause}-{name}"


def _moved(cause: str, place: str) -> str:
    folder, _, name = place.rpartition("/")
    return f"{folder}/{_named(cause, name)}"


def _rewrite(path: Path, cause: str, seed: int) -> None:
    supplied = load_supplied_pose(path)
    assert supplied is not None
    people, fps = supplied
    save_supplied_pose(path, [corrupted(one, cause, seed) for one in people], fps)


def _start_gap(pairs: PairSet, name: str) -> float:
    """Measure the distance of the reference pose from the first pose of the truth, in torso lengths."""
    (reference,), (driven,) = (
        (load_supplied_pose(path) or ([], 0.0))[0] for path in (pairs.image(name), pairs.video("truth", name))
    )
    # The keypoints of a picture whose limbs are measured wrongly are not where they are drawn: there is no gap.
    if cause_of(name) in REFERENCE:
        return 0.0
    scale = (SIZE[1], SIZE[0])
    torso_px, _ = torso_length(driven.body * scale, driven.body_visible)
    return start_gap(reference.body[0] * scale, reference.body_visible[0],
                     driven.body[0] * scale, driven.body_visible[0], torso_px)  # fmt: skip
