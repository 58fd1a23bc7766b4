"""What a rendering job would do, need and refuse, and where its renders are; nothing is written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ... import SteadyDancerError
from ...datasets.artifact import Artifact, Packet, plan_packets
from ...datasets.artifact_lookup import find_artifact
from ...datasets.file_names import file_stem
from ...datasets.pairs import require_unique
from ...datasets.schema import Row
from ...datasets.storage import Location
from ...datasets.storage.result_store import ResultStore
from ...models.mode_requirements import this_machine
from ...models.modes import ModeError
from ..common.components import parts_are_local
from . import mode
from .config import RenderConfig
from .preflight import gpu_memory, missing_gpus
from .rows import consent_counts, rows_of

WORK_FOLDER = "work"
# Folders of OUT that are not a checkpoint's.
RESERVED = ("renders", WORK_FOLDER, "metrics", "measurements", "imported")


def components_of(config: RenderConfig, checkpoint: Location, record: dict[str, Any]) -> str:
    """Return the source of VAE and encoders: as configured, else the checkpoint itself, else the one in its record."""
    if config.components:
        return config.components
    if (checkpoint / "model_index.json").is_file():
        return str(checkpoint)
    named = record.get("components") or record["base"]
    return str(named["path"] or named["source"])  # the package's checkpoints have no path


def plan(
    config: RenderConfig,
    pairs: list[Row],
    checkpoint: Location | Mapping[str, Location],
    out: Location,
    work: Location | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Describe what `run` would do; window counts are None if a video's length depends on its driving video.

    Takes one checkpoint, or several by name. `refusals` are the reasons why this machine cannot run it, one sentence
    each; there are none with the `address` of a cluster, whose machines are unknown.

    Raises:
        ModeError: no machine can run the mode with these settings and checkpoints.
    """
    require_unique(pairs)
    windows = num_windows(config)
    rows = rows_of(pairs, config)
    packets = plan_packets(rows, config.packet_size)
    given = checkpoint if isinstance(checkpoint, Mapping) else {"": checkpoint}
    mode.report_kept(config)
    for place in given.values():
        mode.check(config, find_artifact(place, "checkpoint").path)
    by_name = {name: _planned(config, place, folder_of(out, name), packets) for name, place in given.items()}
    refused = sum(row.get("verdict") is not None for row in rows.values())
    return {
        "pairs": len(pairs),
        "seeds": config.num_seeds,
        "videos": (len(rows) - refused) * len(given),
        "consent": consent_counts(pairs),
        **(by_name[""] if by_name.keys() == {""} else {"checkpoints": by_name}),
        "kept_results": ResultStore(work or out / WORK_FOLDER).counts(),
        "windows_a_video": windows,
        "evaluations_a_video": windows and windows * evaluations_a_window(config),
        "mode": mode.describe(config),
        "refusals": [] if address else list(dict.fromkeys(_refusals(config, given.values(), by_name.values()))),
    }


def _planned(config: RenderConfig, checkpoint: Location, out: Location, packets: list[Packet]) -> dict[str, Any]:
    trained = find_artifact(checkpoint, "checkpoint")
    record = trained.record()
    components, artifact = components_of(config, trained.path, record), Artifact(out / "renders")
    rows = sum(len(packet.ids) for packet in packets)
    left = sum(len(packet.ids) for packet in artifact.remaining(packets)) if artifact.path.is_dir() else rows
    return {
        "finished": artifact.committed,
        "rows_done": rows - left,
        "stage": record.get("stage"),
        "components": components,
        "components_here": parts_are_local(components),
        "gpu_memory": gpu_memory(config, str(trained.path), components),
    }


def _refusals(
    config: RenderConfig, checkpoints: Iterable[Location], planned: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield why this machine cannot run the job: what `check_mode` and `require_gpus` raise, and too little memory."""
    try:
        check_mode(config, checkpoints, None)
        require_gpus(config, None)
    except ModeError as refused:
        yield str(refused)
    for each in planned:
        if each["gpu_memory"] and each["gpu_memory"]["refusal"]:
            yield each["gpu_memory"]["refusal"]


def evaluations_a_window(config: RenderConfig) -> int:
    """Return how often the network is evaluated to sample a window: one branch at a step is one evaluation."""
    low, high = config.pose_guidance_interval
    steps = config.num_inference_steps
    text_guided, pose_guided = config.guidance_scale != 1, config.pose_guidance_scale != 0
    return (1 + text_guided) * steps + pose_guided * sum(low < i / steps < high for i in range(steps))


def num_windows(config: RenderConfig) -> int | None:
    """Return the number of windows per video; None if its length depends on the driving video."""
    if config.num_frames is None or config.num_frames <= config.window_frames:
        return config.num_frames and 1
    from ...models.long_video import plan_windows

    return len(plan_windows(config.num_frames, config.window_frames, config.window_overlap))


def name_checkpoints(given: Sequence[tuple[str | None, Location]]) -> dict[str, Location]:
    """Return checkpoints by name. The only one may have no name; of several, the default is that of the run's folder.

    Raises:
        SteadyDancerError: two have the same name, or a name cannot be that of a folder.
    """
    if len(given) == 1 and given[0][0] is None:
        return {"": given[0][1]}
    named: dict[str, Location] = {}
    for name, place in given:
        whole = place.absolute()
        own = name or (whole.parent.name if whole.name == "checkpoint" else whole.name)
        if own != file_stem(own) or own in ("", *RESERVED):
            raise SteadyDancerError(
                f"{own!r} cannot be the name of a checkpoint's folder: pass --checkpoint NAME={place}"
            )
        if own in named:
            raise SteadyDancerError(
                f"{named[own]} and {place} are both called {own}: pass --checkpoint NAME={place} with another name"
            )
        named[own] = place
    return named


def folder_of(out: Location, name: str) -> Location:
    """Return the folder in which the renders of a checkpoint are: `out`, or with several checkpoints `out/NAME`."""
    return out / name if name else out


def check_mode(config: RenderConfig, checkpoints: Iterable[Location], address: str | None) -> None:
    """Check that the mode can run with all checkpoints, and on this machine unless a cluster renders."""
    machine = None if address else this_machine(config.num_gpus)
    for checkpoint in checkpoints:
        mode.check(config, find_artifact(checkpoint, "checkpoint").path, machine)


def require_gpus(config: RenderConfig, address: str | None) -> None:
    """Check that this machine has the GPUs of one worker, unless a cluster renders.

    Raises:
        ModeError: it has fewer.
    """
    if address is None and (missing := missing_gpus(config)):
        raise ModeError(missing)
