"""One packet: a row at one seed is trained, renders all pairs and is measured. Finished parts of it stay.

This runs in a worker process (`workers.py`); what it leaves is `packets/ROW/SEED/result.json`.
"""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.artifact import Artifact
from ...datasets.storage.atomic import write_json
from ...pipelines.common.components import find_parts
from ...pipelines.common.outcomes import require_usable
from ...pipelines.common.poses import load_pose_estimator
from ...pipelines.evaluate import job as evaluate_job
from ...pipelines.render import job as render_job
from ...pipelines.runtime.runner import Engine
from ...pipelines.train import job as train_job
from ..demo.dancers import PAIRS, PairSet
from ..demo.toydance import rendered_videos
from ..presets import Run
from .causes import cause_of
from .measure import FVD, measure_renders
from .networks import NetworkDifference, difference, require_named
from .rows import ROWS, Row, configure
from .world import GAPS

RESULT = "result.json"


@dataclass(frozen=True)
class Packet:
    """A row at one training seed.

    Args:
        row: name of the row.
        seed: training seed.
    """

    row: str
    seed: int

    def __str__(self) -> str:
        return f"{self.row}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Return the packet's folder below the run's."""
        return out / "packets" / self.row / str(self.seed)

    def is_done(self, out: Path) -> bool:
        """Return whether the packet is finished."""
        return (self.folder(out) / RESULT).is_file()

    @property
    def needs(self) -> Packet | None:
        """The packet whose checkpoint it starts from or renders; None: the base."""
        parent = ROWS[self.row].parent
        return None if parent is None else Packet(parent, self.seed)


def checkpoint_of(packet: Packet, out: Path) -> Path:
    """Return the folder of the checkpoint that a packet renders with."""
    if ROWS[packet.row].stage is None:
        assert packet.needs is not None
        return checkpoint_of(packet.needs, out)
    return packet.folder(out) / "train" / "checkpoint"


def run_packet(packet: Packet, run: Run, out: Path, in_phase: Callable[[str], object] = lambda _: None) -> None:
    """Train, render and measure; `in_phase` is called with "train", "render" and "measure" as each begins.

    Raises:
        SteadyDancerError: a job failed; call again to resume.
    """
    if packet.is_done(out):
        return
    row, folder = ROWS[packet.row], packet.folder(out)
    configured = configure(run, row, packet.seed)
    # Results are written last, and phases after one another: an interrupted packet resumes at its phase.
    cpu = _CpuSeconds(folder / "cpu.json")
    trained = None
    if row.stage is not None:
        in_phase("train")
        with cpu("train"):
            trained = _train(packet, configured, out)
    in_phase("render")
    with cpu("render"):
        _render(packet, configured, out)
    in_phase("measure")
    with cpu("measure"):
        measured = _measure(configured, out, folder)
    network = network_of(run, row)
    result = {"row": packet.row, "seed": packet.seed, "train": trained, "network": network and network._asdict(),
              **measured, "cpu_seconds": cpu.seconds}  # fmt: skip
    for name in ("state", "pose_simulation"):  # a finished run does not need them
        shutil.rmtree(folder / "train" / name, ignore_errors=True)
    write_json(folder / RESULT, result)


def _train(packet: Packet, run: Run, out: Path) -> dict[str, Any]:
    row = ROWS[packet.row]
    assert row.stage is not None
    record = train_job.run(
        run.stage(row.stage),
        latents=out / "latents",
        base=run.cache.components,
        out=packet.folder(out) / "train",
        from_checkpoint=None if packet.needs is None else checkpoint_of(packet.needs, out),
    )
    kept = ("steps", "loss_before", "loss_after", "validation_loss")
    return {"stage": row.stage, **{name: record.get(name) for name in kept},
            "samples": record["steps"] * run.stage(row.stage).global_batch_size}  # fmt: skip


def _render(packet: Packet, run: Run, out: Path) -> None:
    folder = packet.folder(out)
    record = render_job.run(
        run.render,
        checkpoint=checkpoint_of(packet, out),
        pairs=render_job.read_pairs(out / "pairs" / PAIRS),
        out=folder,
        engine=_engine(folder),
        work=out / "work" / str(packet.seed),
    )
    require_usable(Artifact(folder / "renders"), record["counts"])


def _measure(run: Run, out: Path, folder: Path) -> dict[str, Any]:
    """Evaluate the renders as any others, and measure what needs the exact truth."""
    from ...models.components import load_components

    pairs = PairSet(out / "pairs")
    evaluate_job.run(run.evaluate, renders=folder, truth=out / "pairs" / "truth", out=folder, engine=_engine(folder))
    encoder = load_components(run.cache.components, ("image_encoder",))["image_encoder"].float()
    estimator = load_pose_estimator(run.evaluate.pose_model)
    gaps = json.loads((out / "pairs" / GAPS).read_text())
    measured = measure_renders(pairs, rendered_videos(folder / "renders"), gaps, encoder, estimator)
    evaluated, of_sets = _evaluated(folder)
    videos = {name: {**evaluated.get(name, {}), **values} for name, values in measured.videos.items()}
    subsets = subsets_of(gaps)
    return {"videos": videos, "sets": {**{name: {"all": value} for name, value in of_sets.items()},
            FVD: {name: measured.distance(ids) for name, ids in subsets.items()}}}  # fmt: skip


def _evaluated(folder: Path) -> tuple[dict[str, dict[str, float | None]], dict[str, float | None]]:
    """Return the evaluation's values by pair and metric, and those of the whole set."""
    by_video: dict[str, dict[str, float | None]] = {}
    of_sets: dict[str, float | None] = {}
    for row in Artifact(folder / "metrics").read(["id", "metric", "value"]).to_pylist():
        if row["metric"] is not None:  # else the video could not be read
            target = of_sets if row["id"] is None else by_video.setdefault(row["id"], {})
            target[row["metric"]] = row["value"]
    return by_video, of_sets


def subsets_of(gaps: Mapping[str, float]) -> dict[str, list[str]]:
    """Return the pairs of each subset: all, those of each cause, all but the clean ones, and two halves by gap."""
    subsets: dict[str, list[str]] = {"all": list(gaps), "misaligned": [n for n in gaps if cause_of(n) != "clean"]}
    for name in gaps:
        subsets.setdefault(cause_of(name), []).append(name)
    by_gap = sorted(subsets.get("start_gap", []), key=lambda name: gaps[name])
    half = len(by_gap) // 2
    return {**subsets, "small_gap": by_gap[:half], "large_gap": by_gap[half:]}


def network_of(run: Run, row: Row) -> NetworkDifference | None:
    """Return how a row's network differs from that of the reference row; None if it trains none.

    Raises:
        SteadyDancerError: it differs in something that the row does not name.
    """
    if row.stage is None:
        return None
    place = find_parts(run.cache.components, ("transformer",)) / "transformer" / "config.json"
    base = json.loads(place.read_text())
    found = difference(base, run.stage(1), configure(run, row, 0).stage(row.stage))
    require_named(row, found)
    return found


def _engine(folder: Path) -> Engine:
    return Engine(folder / ".engine", in_process=True)


class _CpuSeconds:
    """CPU seconds of a packet by phase, over all attempts that finished the phase or raised."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        begin = _cpu_seconds()
        try:
            yield
        finally:
            used = _cpu_seconds() - begin
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + used, 2)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self.seconds)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
