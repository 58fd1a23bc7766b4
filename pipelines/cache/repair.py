"""Repair of a damaged cache: a new version that reuses sound shards and encodes damaged ones again."""

from typing import Any

from ...datasets.artifact import Artifact, ArtifactError
from ...datasets.artifact_lookup import find_artifact
from ...datasets.storage import Location, location
from ..runtime.runner import Engine
from . import job
from .config import CacheConfig
from .reused_shards import Parent
from .verify import verify


def plan(latents: Location, clips: Location | None = None, components: str | None = None) -> dict[str, Any]:
    """Describe what `repair` would do: the damage, and the inputs for encoding again. Reads the whole cache."""
    latents = find_artifact(latents, "latents").path
    record, verified = Artifact(latents).record(), verify(latents)
    damaged = len(verified.packets - verified.sound)
    return {
        "packets": len(verified.packets),
        "packets_to_encode": damaged,
        "null_to_encode": len(record["null"]) - len(verified.sound_null),
        "clips": str(clips or record["inputs"]["clips"]),
        "components": components or record["components"]["path"],
        "findings": [vars(finding) for finding in verified.findings],
    }


def repair(
    latents: Location,
    out: Location,
    engine: Engine,
    *,
    clips: Location | None = None,
    components: str | None = None,
    captioner: str | None = None,
    num_gpus: float | None = None,
) -> dict[str, Any] | None:
    """Write `out/latents` with the bytes that `latents` had before it was damaged; return its record.

    The record names `latents` as its parent; the parent is not changed. Resumes after a kill.

    Args:
        latents: the damaged cache.
        out: folder in which the new version is created.
        engine: where packets run.
        clips: the curation, if it has moved since the cache was made; its content must be the same.
        components: the encoders, if they have moved.
        captioner: the captioner, if it has moved.
        num_gpus: GPUs per encoding worker; None uses the recorded number.

    Returns:
        The record; None if nothing is damaged, in which case nothing is written.

    Raises:
        ArtifactError: `latents` is not a finished cache, or clips, sources or networks have changed since.
        ComponentsError: a network is missing.
        JobStopped: the code or the machine failed.
    """
    latents = find_artifact(latents, "latents").path
    if (out / "latents").absolute() == latents.absolute():
        raise ArtifactError(f"{out} contains a finished cache, which repair never changes: choose another --out")
    if Artifact(out / "latents").committed:
        return Artifact(out / "latents").record()
    record, verified = Artifact(latents).record(), verify(latents)
    if not verified.findings:
        return None
    gpus = record["num_gpus"] if num_gpus is None else num_gpus
    config = CacheConfig(
        **record["config"],
        **record["cut"],
        components=components or record["components"]["path"],
        captioner=captioner or record["components"]["captioner"],
        num_gpus=gpus,
    )
    return job.run(
        config,
        clips=clips or location(record["inputs"]["clips"]),
        out=out,
        engine=engine,
        parent=Parent(latents, record, verified),
    )
