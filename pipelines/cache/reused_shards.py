"""Sound shards that a repaired cache reuses from its parent instead of encoding them again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...datasets.artifact import Artifact, ArtifactError, Packet
from ...datasets.rules import other_rules, other_settings
from ...datasets.shards import shard_path
from ...datasets.storage import Location, location
from ...datasets.storage.copies import copy_atomically
from ...datasets.storage.digests import content_digest
from ..common.older_rules import has_same_pictures, uses_older_pictures
from ..common.older_versions import absent_fields
from ..runtime.runner import progress
from .accepted_clips import AcceptedClips
from .config import CacheConfig
from .verify import Verified, planned


@dataclass(frozen=True)
class Parent:
    """A damaged cache.

    Attributes:
        latents: folder of the cache.
        record: content of its `run.json`.
        verified: result of `verify`.
    """

    latents: Location
    record: dict[str, Any]
    verified: Verified

    def require_plan(self, begun: dict[str, Any]) -> None:
        """Check that clips, networks and settings are those of the parent, so that old and new shards can be mixed.

        Raises:
            ArtifactError: something has changed; the message names it.
        """
        was, absent = planned(self.record), {"config": absent_fields(CacheConfig)}
        if changes := other_settings(was, begun, absent) or other_rules(was, begun):
            raise ArtifactError(
                f"{self.latents} cannot be repaired: settings have changed (left: recorded, right: now):\n{changes}\n"
                "pass the same curation and networks (--clips, --components), or cache the clips again"
            )

    def to_record(self, out: Location) -> dict[str, Any]:
        """Return the `parent` entry for the record of the repaired cache in `out`."""
        num_encoded_again = len(self.verified.packets - self.verified.sound)
        return {**Artifact(self.latents).reference_from(out), "packets_made_anew": num_encoded_again}


def reuse_sound_shards(parent: Parent, artifact: Artifact, packets: list[Packet], accepted: AcceptedClips) -> None:
    """Copy or hard-link sound shards, after checking the sources of the damaged ones.

    Raises:
        ArtifactError: a source of a damaged packet is missing or has changed.
    """
    sound = parent.verified.sound
    remaining = artifact.remaining(packets)
    _require_sources(parent, [packet for packet in remaining if packet.id not in sound], accepted)
    reused = [packet for packet in remaining if packet.id in sound]
    done = len(packets) - len(remaining)
    for packet in progress(reused, "repair: copy", "packets", done + len(reused), done):
        shard = shard_path(parent.latents, packet)
        if shard.is_file():  # a packet with only quarantined clips has none
            copy_atomically(shard, shard_path(artifact.path, packet))
        copy_atomically(Artifact(parent.latents).part(packet), artifact.part(packet))
    for name in sorted(parent.verified.sound_null):
        copy_atomically(parent.latents / "null" / name, artifact.path / "null" / name)


def _require_sources(parent: Parent, packets: list[Packet], accepted: AcceptedClips) -> None:
    wrong = list(_changed_sources(parent, packets, accepted))
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ArtifactError(
            f"{parent.latents} cannot be repaired: source files are missing or have changed: "
            f"{', '.join(wrong[:4])}{more}. Restore them"
        )


def _changed_sources(parent: Parent, packets: list[Packet], accepted: AcceptedClips) -> Iterator[str]:
    unreadable, older = _quarantined(parent, packets), uses_older_pictures(parent.record)
    sources = {
        (row["source_path"], row["source_id"])
        for packet in packets
        for row in map(accepted.__getitem__, packet.ids)
        if row["clip_id"] not in unreadable
    }
    for path, digest in progress(sorted(sources), "repair: check", "sources", len(sources)):
        try:
            if content_digest(location(path)) != digest:
                yield f"{path} (changed)"
            elif older and not has_same_pictures(path):
                # The repaired cache would mix two versions of the rule.
                yield f"{path} (decoded differently by today's `pictures` rule: cache the clips again)"
        except FileNotFoundError:
            yield f"{path} (missing)"


def _quarantined(parent: Parent, packets: list[Packet]) -> set[str]:
    """Return clips of damaged packets that were quarantined before, as far as their index can be read."""
    out: set[str] = set()
    old = Artifact(parent.latents)
    for packet in packets:
        try:
            rows = old.read_part(old.part(packet).name).to_pylist()
        except ArtifactError:
            continue
        out |= {row["clip_id"] for row in rows if row["verdict"] == "quarantined"}
    return out
