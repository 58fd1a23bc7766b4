"""Check the inputs of a stage: parent checkpoint, base and cache. No weights are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from .... import __version__
from ....datasets.rules import with_absent
from ....datasets.shards import ShardDataset
from ....datasets.storage import Location, location
from ....datasets.storage.atomic import write_json
from ....datasets.storage.digests import differences, json_digest
from ...common.older_versions import absent_fields
from ..config import NETWORK_FIELDS, TrainConfig
from ..data.split import split
from ..frozen_components import frozen_parts
from ..run_folder import TrainingRefused, checkpoint_folder, newest_intact_state, read_checkpoint_record, read_json
from .base import constructor_arguments, find_base, vae_config

# Settings that may change when a run is resumed: they do not affect the steps already done.
_FREE = {
    "steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "offload_activations",
    "shard_teacher",
    "asynchronous_checkpoints",
    "max_restarts",
    "gallery",
    "trackers",
    "profile",
    "bundle",
}


_WAN_14B = {"out_channels": 16, "pose_channels": 16, "image_dim": 1280, "text_dim": 4096}


@dataclass(frozen=True)
class StageInputs:
    """Checked inputs of a stage.

    Attributes:
        latents, base, from_checkpoint: absolute paths or addresses; None if not needed or not on this machine.
        record: their entries in `run.json`, with digests.
        transformer_config: constructor arguments of the transformer that the stage starts from.
        vae_config: configuration of the VAE that encodes simulated poses; empty: Wan 2.1's, or none is needed.
        shards: the open latents folder.
    """

    latents: Location
    base: Location | None
    from_checkpoint: Location | None
    record: dict[str, Any]
    transformer_config: dict[str, Any]
    vae_config: dict[str, Any]
    shards: ShardDataset


def check_inputs(
    config: TrainConfig, latents: Location, base: str | None, from_checkpoint: Location | None, *, fetch: bool = True
) -> StageInputs:
    """Find the inputs of a stage and check that they fit together.

    With `fetch=False` only `config.json` is downloaded; see `base.constructor_arguments`.

    Raises:
        TrainingRefused: inputs do not fit together; the message names the field.
        ArtifactError: the latents folder is missing or not finished.
        ComponentsError: the base cannot be found.
    """
    parent = _check_parent(config, from_checkpoint)
    base_record = find_base(config, base, parent, fetch)
    shards = ShardDataset(latents)
    shards.require_complete()
    begins_from = checkpoint_folder(from_checkpoint).resolve() if from_checkpoint else base_record["path"]
    transformer_config = constructor_arguments(begins_from or base_record["source"], fetch)
    _check_cache(config, shards, base_record["path"], {**_WAN_14B, **transformer_config})
    record = {
        "kind": "checkpoint",
        "stage": config.stage,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "latents": {"path": str(latents.resolve()), "digest": _data_digest(shards.record)},
        "base": base_record,
        "components": frozen_parts(config, base_record["path"], shards.record.get("components", {}), fetch),
        "parent": parent and {"path": str(begins_from), "digest": json_digest(parent), "stage": parent["stage"]},
        "validation": split(shards, config).record(),
        "code_version": __version__,
    }
    return StageInputs(
        latents=latents.resolve(),
        base=location(base_record["path"]) if base_record["path"] else None,
        from_checkpoint=location(begins_from) if from_checkpoint else None,
        record=record,
        transformer_config=transformer_config,
        vae_config=vae_config(config, base_record["path"] or base_record["source"], fetch),
        shards=shards,
    )


def _check_parent(config: TrainConfig, from_checkpoint: Location | None) -> dict[str, Any] | None:
    begins_from = config.stage if config.continue_stage else config.stage - 1
    if begins_from == 0:
        if from_checkpoint is not None:
            raise TrainingRefused("from_checkpoint: stage 1 starts from --base; only stages 2 and 3 accept --from")
        return None
    if from_checkpoint is None:
        raise TrainingRefused(
            f"from_checkpoint: stage {config.stage} requires --from, the checkpoint of stage {begins_from}"
        )
    parent = read_checkpoint_record(from_checkpoint)
    if parent["stage"] != begins_from:
        raise TrainingRefused(
            f"stage: {from_checkpoint} is a checkpoint of stage {parent['stage']}, but stage {config.stage} starts "
            f"from stage {begins_from}"
        )
    wanted = config.model_dump(mode="json", include=set(NETWORK_FIELDS))
    parent_config = {**absent_fields(TrainConfig), **parent["config"]}
    for name, value in wanted.items():
        adds = name == "start_gap_module" and config.stage == 3 and parent_config[name] == "none"
        if parent_config[name] != value and not adds:
            raise TrainingRefused(
                f"{name}: the checkpoint has {parent_config[name]!r}, but the configuration {value!r}"
            )
    return parent


def _check_cache(config: TrainConfig, shards: ShardDataset, base: str | None, transformer: dict[str, Any]) -> None:
    """Check sizes and origin of the cached tensors against the configuration, the base and the transformer."""
    from ....models.checkpoints import folders

    cached_with = shards.record.get("components", {}).get("digests", {})
    folder = folders.resolve_folder(base, ("vae",)) if cached_with and base else None
    for name, digest in cached_with.items():
        # Components that the base does not have (a captioner, encoders that were not downloaded) cannot be compared.
        is_here = folder and name in folders.NAMES and not folders.missing_parts(folder, (name,))
        if folder and is_here and folders.part_digest(folder, name) != digest:
            raise TrainingRefused(
                f"{name}: {shards.path} was cached with a different {'VAE' if name == 'vae' else name} (digest "
                f"{digest[:12]}…) from the one in {base}"
            )
    for num_frames in sorted({bucket[0] for bucket in shards.bucket.values()}):
        if num_frames != config.num_frames:
            raise TrainingRefused(
                f"num_frames: {shards.path} was cached with {num_frames} frames per clip, but the configuration has "
                f"{config.num_frames}"
            )
    key = shards.keys[0]
    shapes = {name: tuple(tensor["shape"]) for name, tensor in safetensors.deserialize(shards.read(key)["conditions"])}
    clip = (transformer["out_channels"], config.num_latent_frames)
    wanted = {
        "latents": clip,
        "image_latents": clip,
        "pose_latents": (transformer["pose_channels"], config.num_latent_frames),
    }
    for name, sizes in wanted.items():
        if shapes[name][:2] != sizes:
            raise TrainingRefused(
                f"{name}: {shards.path} has (channels, latent frames) {shapes[name][:2]}, but this run needs {sizes}"
            )
    for name, field in (
        ("image_embeds", "image_dim"),
        ("pose_image_embeds", "image_dim"),
        ("prompt_embeds", "text_dim"),
    ):
        if shapes[name][-1] != transformer[field]:
            raise TrainingRefused(
                f"{name}: {shards.path} has features of width {shapes[name][-1]}, but the transformer's {field} is "
                f"{transformer[field]}: the cache was made with different components"
            )


def _data_digest(latents: dict[str, Any]) -> str:
    """Compute a digest of a cache from its inputs and settings, not from time and place."""
    made_of = [latents.get(name) for name in ("config", "num_frames", "fps", "buckets", "counts")]
    origins = [latents.get("inputs", {}).get("digest"), latents.get("components", {}).get("digests")]
    by = [latents["rules"]] if "rules" in latents else []  # caches of earlier versions keep their digest
    return json_digest([*made_of, *origins, *by])


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same when a run is resumed: its fixed settings and the digests of its inputs."""
    free = _free_settings(record["config"])
    same: dict[str, Any] = {
        "config": {name: value for name, value in record["config"].items() if name not in free},
        **{name: record[name] and record[name]["digest"] for name in ("latents", "base", "parent")},
    }
    return dict(json.loads(json.dumps(same)))


def read_identity(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Read the `identity` of the run in a folder; fields that its version did not know get their old behaviour.

    Raises:
        TrainingRefused: the file is damaged.
    """
    begun = read_json(folder / "start.json")
    free = _free_settings(record["config"])
    config = {name: value for name, value in begun.get("config", {}).items() if name not in free}
    absent = {**absent_fields(TrainConfig), "steps": record["config"].get("steps")}
    return with_absent({**begun, "config": config}, identity(record), {"config": absent})


def _free_settings(config: dict[str, Any]) -> set[str]:
    """Return the settings that may change when a run is resumed; a cosine schedule depends on the steps."""
    return _FREE - {"steps"} if config.get("learning_rate_schedule") == "cosine" else _FREE


def comparable_identity(begun: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return `identity(record)` to compare with an earlier run; a base that a plan did not read counts as the same."""
    now = identity(record)
    return now if now["base"] is not None else {**now, "base": begun["base"]}


def check_same_run(out: Path, record: dict[str, Any]) -> None:
    """Check that `out` is new or resumed by the same run, and write start.json if it is new.

    Raises:
        TrainingRefused: see `refuse_other_run`.
    """
    refuse_other_run(out, record)
    if not (out / "start.json").exists():
        write_json(out / "start.json", identity(record))


def refuse_other_run(out: Path, record: dict[str, Any]) -> None:
    """Check that `out` is new or belongs to this run; more steps, and other workers for its batches, are allowed.

    Raises:
        TrainingRefused: the folder has different settings or inputs (the message lists each change, old → new),
            its newest state has more steps than requested, or it cannot be converted for these workers (the disk is
            too full, or it has an average of the weights).
    """
    file = out / "start.json"
    if not file.exists():
        return
    begun = read_identity(out, record)
    changes = list(differences(begun, _with_workers_of(begun, comparable_identity(begun, record))))
    if changes:
        hint = ""
        if any(change.startswith("config.num_workers:") for change in changes):
            hint = (
                "\nAnother num_workers is allowed if the global batch is the same: global_batch_size = num_workers × "
            )
            hint += "gradient_accumulation × clips in one forward pass"
        raise TrainingRefused(
            f"{out} was started with different settings or inputs; choose another --out, with --fork {out} to start "
            "from its newest training state:\n" + "\n".join(f"  {change}" for change in changes) + hint
        )
    newest = newest_intact_state(out)
    if newest is None:
        return
    steps, state = newest
    if steps > record["config"]["steps"]:
        raise TrainingRefused(
            f"steps: {record['config']['steps']} steps requested, but {out} already has {steps}: use at least {steps}"
        )
    from ..resume.universal import refuse_average, refuse_without_room

    num_workers = max(record["config"]["num_workers"], 1)
    refuse_average(state, num_workers, record["config"]["ema_decay"])
    refuse_without_room(state, num_workers)


def _with_workers_of(begun: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return `wanted` with workers and accumulation of `begun`, if the workers differ and the global batch is the same.

    With the same workers, a change of gradient accumulation alone is not allowed.
    """
    new, old = wanted["config"], begun["config"]
    if new["num_workers"] == old["num_workers"] or new["global_batch_size"] != old["global_batch_size"]:
        return wanted
    return {**wanted, "config": {**new, **{name: old[name] for name in ("num_workers", "gradient_accumulation")}}}
