"""Inputs of a curation: its sources, the excluded set, and a parent."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from ...datasets.artifact import ArtifactError, Packet, plan_packets
from ...datasets.rules import versions
from ...datasets.schema import Row
from ...datasets.storage import Location, location
from ...datasets.storage.cache import require_scratch
from ...datasets.storage.digests import content_digest, json_digest
from .config import CurateConfig
from .frame_models import versions_of
from .ingest import Sources, sources_digest
from .networks import files_of_excluded, load_excluded
from .parent import RULES_READ, Parent
from .steps import open_source


class Inputs:
    """Inputs of a curation.

    Args:
        config: of the curation.
        clips: `--clips`, as given.
        found: the sources found in `clips`.
        parent: `--out` of an earlier curation whose measurements are reused; None without one.

    Raises:
        SteadyDancerError: the excluded set, a folder for scratch files, a frame model or a finished parent is missing.

    Attributes:
        frame_models: name → version of the frame models.
    """

    def __init__(self, config: CurateConfig, clips: str, found: Sources, parent: Location | None) -> None:
        self.config, self.clips, self.found, self.sources = config, clips, found, found.table
        self.paths = paths_of(found.table)
        _check_prerequisites(config)
        self.frame_models = versions_of(config.frame_models)
        others = {"excluded": self.excluded, "frame_models": self.frame_models}
        self.parent = Parent.of(parent, config, self.sources["source_path"], others) if parent else None

    @cached_property
    def excluded(self) -> str | None:
        """The digest of the excluded set."""
        return content_digest(location(self.config.exclude)) if self.config.exclude else None

    @property
    def packets(self) -> list[Packet]:
        """The sources, in units of work."""
        return plan_packets(self.paths, self.config.packet_size)

    def plan(self) -> dict[str, Any]:
        """Return the plan that identifies this curation when a later run resumes it."""
        plan: dict[str, Any] = {
            "config": self.config.model_dump(mode="json"),
            "sources": sources_digest(self.sources),
            "num_sources": len(self.paths),
            "rules": versions(*RULES_READ),
        }
        if self.excluded:
            plan["excluded"] = self.excluded
        if self.frame_models:
            plan["frame_models"] = self.frame_models
        if self.parent:
            plan["parent"] = json_digest(self.parent.clips.record)
        return plan


def _check_prerequisites(config: CurateConfig) -> None:
    """Fail early if a later stage would fail: check the excluded set and the scratch folder.

    Raises:
        SteadyDancerError: the excluded set is missing or empty, or there is no scratch folder for fingerprints.
    """
    if config.exclude:
        place = location(config.exclude)
        if not place.exists():
            raise ArtifactError(
                f"exclude: {config.exclude} does not exist: pass a folder of videos, or an .npz of fingerprints"
            )
        if place.suffix.lower() == ".npz" and place.is_file():
            load_excluded(place, config.fps)
        if not files_of_excluded(place):
            raise ArtifactError(
                f"exclude: {config.exclude} contains no files: pass a folder of videos, or an .npz of fingerprints"
            )
    if config.duplicates.scope != "off":
        require_scratch()


def paths_of(sources: pa.Table) -> list[str]:
    """Return the column `source_path`."""
    return list(map(str, sources["source_path"].to_pylist()))


def row_opener(sources: pa.Table, paths: Sequence[str]) -> Callable[[str], Row]:
    """Return a function from a path to the first row of its source, with the manifest's values; `paths` are sorted."""

    def open_row(path: str) -> Row:
        (given,) = sources.slice(bisect_left(paths, path), 1).to_pylist()
        return {**given, **open_source(path)}

    return open_row
