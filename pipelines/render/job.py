"""The render job: checkpoints and pairs → one mp4 for each checkpoint, pair and seed → one artifact per checkpoint."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...datasets.artifact import Artifact, count_verdicts, exclusive, plan_packets
from ...datasets.artifact_lookup import find_artifact
from ...datasets.pairs import pair, read_pairs, require_unique
from ...datasets.rules import versions
from ...datasets.schema import Row
from ...datasets.storage import Location, location
from ...datasets.storage.digests import content_digest, json_digest
from ...datasets.storage.result_store import ResultStore
from ..common.components import find_parts, part_digests
from ..common.older_versions import absent_fields
from ..common.outcomes import warn_first
from ..runtime.runner import Engine, Job, run_packets
from . import mode
from .artifacts import RenderArtifacts, split_key
from .config import FROZEN, RESOURCES, RenderConfig
from .plan import (
    WORK_FOLDER,
    check_mode,
    components_of,
    folder_of,
    name_checkpoints,
    num_windows,
    plan,
    require_gpus,
)
from .rows import consent_counts, largest_first, rows_of, sizes_of

if TYPE_CHECKING:
    from .task import CheckpointTask

__all__ = ["components_of", "folder_of", "name_checkpoints", "num_windows", "pair", "plan", "read_pairs", "run",
           "run_checkpoints"]  # fmt: skip

_log = logging.getLogger(__name__)


def run(
    config: RenderConfig,
    *,
    checkpoint: Location,
    pairs: list[Row],
    out: Location,
    engine: Engine,
    benchmark: dict[str, Any] | None = None,
    work: Location | None = None,
) -> dict[str, Any]:
    """Render `pairs` with one checkpoint into `out/renders`; return the artifact's record. See `run_checkpoints`."""
    records = run_checkpoints(
        config, checkpoints={"": checkpoint}, pairs=pairs, out=out, engine=engine, benchmark=benchmark, work=work
    )
    return records[""]


def run_checkpoints(
    config: RenderConfig,
    *,
    checkpoints: Mapping[str, Location],
    pairs: list[Row],
    out: Location,
    engine: Engine,
    benchmark: dict[str, Any] | None = None,
    work: Location | None = None,
) -> dict[str, dict[str, Any]]:
    """Render `pairs` with each checkpoint into `out/NAME/renders`; return the artifacts' records by name.

    A pair that fails does not stop the others. Poses and encoded inputs are made once for all checkpoints and seeds,
    and kept in `work`, with the denoised latents: a killed run repeats no finished step.

    Args:
        config: settings.
        checkpoints: trained checkpoints by name; the only one may have an empty name: its renders are in `out/renders`.
        pairs: rows of `datasets.pairs`.
        out: folder.
        engine: where packets run.
        benchmark: record of the benchmark that the pairs are from, stored in the artifacts' records.
        work: folder of the kept results, which several runs may share; None: `out/work`.

    Raises:
        ArtifactError: a checkpoint is not finished, a folder was started with different settings, or it is in use.
        ComponentsError: the VAE or an encoder is missing.
        ModeError: the machine or the checkpoint cannot run the mode, or the machine has too few GPUs.
        JobStopped: the code or the machine failed.
    """
    require_unique(pairs)
    mode.report_kept(config)
    check_mode(config, checkpoints.values(), engine.address)
    opened = {name: _open(config, place, folder_of(out, name)) for name, place in checkpoints.items()}
    if not all(one.artifact.committed for one in opened.values()):  # what is finished is returned by any machine
        require_gpus(config, engine.address)
    with exclusive(out):
        settings = config.model_dump(mode="json", exclude={"components", *RESOURCES})
        pairs_digest = json_digest([[row, *(_digest(row, name) for name in ("image", "driving"))] for row in pairs])
        for one in opened.values():
            one.begin(config, settings, pairs_digest)
        artifacts = RenderArtifacts({name: one.artifact for name, one in opened.items()})
        if all(artifact.committed for artifact in artifacts.by_name.values()):
            return {name: artifact.record() for name, artifact in artifacts.by_name.items()}
        start = time.perf_counter()
        place = (work or out / WORK_FOLDER).absolute()
        seconds = _render(config, opened, artifacts, pairs, place, engine)
        records = {}
        for name, one in opened.items():
            rows = one.artifact.read(["id", "image", "driving", "verdict", "detail"]).to_pylist()
            _warn_of_details(rows)
            if one.artifact.committed:
                records[name] = one.artifact.record()
                continue
            records[name] = one.artifact.commit(
                {
                    "kind": "renders",
                    "version": __version__,
                    "config": settings,
                    "rules": one.rules,
                    "inputs": {"checkpoint": str(one.checkpoint), "digest": one.digest, "pairs": pairs_digest},
                    "components": {"path": one.components, "digests": one.frozen},
                    **({"benchmark": benchmark} if benchmark else {}),
                    "consent": consent_counts(pairs),
                    "work": str(place),
                    "counts": count_verdicts(len(rows), (row["verdict"] for row in rows)),
                    "seconds": {**seconds, "total": time.perf_counter() - start},
                }
            )
        return records


@dataclass(frozen=True)
class _Opened:
    """A checkpoint that can be rendered with, and the artifact of its videos."""

    checkpoint: Location
    components: str
    frozen: dict[str, str]
    artifact: Artifact
    rules: dict[str, int]

    @cached_property
    def digest(self) -> str:
        """Digest of the checkpoint."""
        return content_digest(self.checkpoint)

    def begin(self, config: RenderConfig, settings: dict[str, Any], pairs: str) -> None:
        """Open the artifact for work, or resume it."""
        plan = {"config": settings, "checkpoint": self.digest, "pairs": pairs, "components": self.frozen,
                "packet_size": config.packet_size, "rules": self.rules}  # fmt: skip
        self.artifact.begin(plan, {"config": absent_fields(RenderConfig)})

    def to_task(self) -> "CheckpointTask":
        """Return what workers are told of it."""
        from .task import CheckpointTask

        digests = {"checkpoint": self.digest, **self.frozen}
        return CheckpointTask(
            str(self.checkpoint.resolve()), self.components, digests, str(self.artifact.path.resolve())
        )


def _open(config: RenderConfig, checkpoint: Location, out: Location) -> _Opened:
    """Find a checkpoint and its components; writes nothing."""
    trained = find_artifact(checkpoint, "checkpoint")
    parts = find_parts(components_of(config, trained.path, trained.record()), FROZEN)
    rules = versions("pictures", "driving_poses", "sidecars")
    frozen = {**part_digests(parts, FROZEN), **mode.lora_digests(config)}
    return _Opened(trained.path, str(parts), frozen, Artifact(out / "renders"), rules)


def _render(
    config: RenderConfig,
    opened: Mapping[str, _Opened],
    artifacts: RenderArtifacts,
    pairs: list[Row],
    work: Location,
    engine: Engine,
) -> dict[str, float]:
    """Run the packets that have no part yet; return the seconds of each stage."""
    from .steps import WORK, RenderTask, stages

    ResultStore(work).remove_leftovers()
    rows = rows_of(pairs, config)
    own = plan_packets(rows, config.packet_size)
    wanted = [pair for pair in pairs if pair.get("consent") != "no"]
    sizes = sizes_of(wanted, config) if artifacts.remaining(artifacts.packets(own)) else {}
    order = largest_first([packet.ids for packet in own], rows, sizes)
    packets = artifacts.packets([own[k] for k in order])

    def open_row(key: str) -> Row:
        name, own_key = split_key(key)
        return {**rows[own_key], "checkpoint": name}

    for packet in artifacts.remaining(packets):
        refused = [open_row(key) for key in packet.ids]
        if all(row.get("verdict") for row in refused):  # no worker has to start for them
            artifacts.write_packet(packet, refused)
    job = Job(
        name="render",
        stages=stages(config),
        config=RenderTask(config, {name: one.to_task() for name, one in opened.items()}, str(work)),
        schema=WORK,
        open_row=open_row,
        write_packet=artifacts.write_packet,
    )
    return run_packets(job, artifacts, packets, engine)


def _warn_of_details(rows: list[Row]) -> None:
    """Log the details of rendered videos as warnings, with the names of their image and driving video."""
    lines = []
    for row in rows:
        if row["verdict"] == "ok" and row["detail"]:
            image, driving = (row[name].rsplit("/", 1)[-1] for name in ("image", "driving"))
            lines.append(f"{row['id']} (image {image}, driving {driving}): {row['detail']}")
    warn_first(_log, lines, "%d more videos have notes; see column `detail` of the renders")


def _digest(row: Row, name: str) -> str | None:
    """Compute a file's digest; None if it is missing, which fails only its own pair, or must not be used."""
    file = row[name]
    return content_digest(file) if row.get("consent") != "no" and location(file).is_file() else None
