"""Inputs of an evaluation: the videos of one or several methods, with reference, driving video and ground truth.

A method's videos are what `render` wrote, or any folder of `ID.mp4`. A method that is named several times has several
seeds: its folders are the seeds of one method.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ... import SteadyDancerError
from ...datasets.artifact import Artifact
from ...datasets.artifact_lookup import find_artifact
from ...datasets.file_names import file_stem
from ...datasets.rules import recorded_rules
from ...datasets.schema import Row
from ...datasets.sidecars import VIDEO_SUFFIXES
from ...datasets.storage import Location, format_location
from ...datasets.storage.digests import content_digest, json_digest
from ...datasets.storage.files import files_in
from ..common.components import find_parts
from .benchmark_pairs import BenchmarkPairs, read_pairs
from .config import EvaluateConfig
from .ground_truth import GroundTruth, find_ground_truth, possible_ids
from .protocols import Protocol
from .sources import Source, is_plain_folder, require_artifact, require_names
from .video import Rendered

_SEED = re.compile(r"(?P<id>.+)-(?P<seed>\d+)")
_ABSENT = "not_rendered"
_EMPTY: Row = dict.fromkeys(("video", "image", "driving", "pose_model", "aligned", "verdict", "reason", "detail"))


@dataclass
class Inputs:
    """What is evaluated.

    Args:
        rows: key → row of a video; keys are ids, or METHOD/ID (and the seed) if there are several methods.
        methods: name → how its videos were rendered, in the order given.
        truths: ground truth that was found.
        origin: what the record and the plan state about the videos.
    """

    rows: dict[str, Row]
    methods: dict[str, Rendered]
    truths: GroundTruth
    origin: dict[str, Any]
    benchmark: dict[str, Any] | None = None
    ignored: list[str] = field(default_factory=list)


def read_inputs(
    config: EvaluateConfig,
    sources: Sequence[Source],
    truth: Location | None = None,
    benchmark: str | None = None,
) -> Inputs:
    """Find the videos of all methods, and the ground truth of each.

    Raises:
        ArtifactError: renders are not finished.
        SteadyDancerError: a folder has no videos, `truth` has no ground truth for any of them, the benchmark cannot be
            read, or the autoencoder is missing.
    """
    require_names(sources)
    pairs = read_pairs(benchmark) if benchmark else BenchmarkPairs({}, {})
    read = [_read_source(source, config, pairs.pairs) for source in sources]
    videos = _numbered([video for one in read for video in one.videos])
    wanted = config.rules.clips
    videos = [video for video in videos if wanted is None or video["id"] in wanted]
    ids = sorted({video["id"] for video in videos})
    if not ids:
        raise SteadyDancerError(f"no video has an id of the protocol {config.rules.name}: {', '.join(wanted or ())}")
    truths = _truths(ids, truth, pairs.pairs)
    videos += _absent_clips(videos, config.rules)
    several = len({video["method"] for video in videos}) > 1
    rows = {_key(video, several): _completed(video, truths, pairs.pairs) for video in videos}
    origin = read[0].origin if len(read) == 1 and not benchmark else _origin(read, rows, pairs.record)
    methods: dict[str, Rendered] = {}
    for one in read:
        methods.setdefault(one.method, one.rendered)
    ignored = sorted(name for one in read for name in one.ignored)
    return Inputs(rows, methods, truths, origin, pairs.record or None, ignored)


@dataclass(frozen=True)
class _Read:
    method: str
    rendered: Rendered
    videos: list[Row]
    origin: dict[str, Any]
    ignored: list[str] = field(default_factory=list)


def _read_source(source: Source, config: EvaluateConfig, pairs: Mapping[str, Row]) -> _Read:
    name = source.method
    if is_plain_folder(source.folder):
        return _read_folder(source.folder, name, config, pairs)
    require_artifact(source.folder)
    artifact = find_artifact(source.folder, "renders")
    record = artifact.record()
    videos = [_rendered_video(row, artifact, name) for row in artifact.read().to_pylist()]
    settings = record.get("config", {})
    components = find_parts(str(config.components or record["components"]["path"]), ("vae",))
    rendered = Rendered(
        driving_fps=settings.get("driving_fps"),
        main_person_only=bool(settings.get("main_person_only", False)),
        fps=settings.get("fps", 16),
        crf=settings.get("crf", 18),
        chroma=settings.get("chroma", "4:2:0"),
        has_record=True,
        components=str(components),
    )
    # Include the rules of the renders, so that a resumed evaluation does not mix two kinds of videos.
    origin = record["inputs"] | {"config": record["config"]} | recorded_rules(record)
    origin |= {"method": source.name} if source.name else {}
    return _Read(name, rendered, videos, origin)


def _rendered_video(row: Row, artifact: Artifact, method: str) -> Row:
    made = row["verdict"] == "ok"
    return {
        "id": row["id"],
        "method": method,
        **({} if row.get("seed_index") is None else {"seed": row["seed_index"]}),
        "video": str(artifact.path.absolute() / row["video"]) if row["video"] else None,
        "image": row["image"],
        "driving": row["driving"],
        "pose_model": row.get("pose_model"),
        "aligned": row.get("aligned"),
        # Keep videos that were not rendered in the table, so that their absence is counted.
        "verdict": None if made else "quarantined",
        "reason": None if made else _ABSENT,
        "detail": None if made else ": ".join(filter(None, (row["reason"], row["detail"]))),
    }


def _read_folder(folder: Location, method: str, config: EvaluateConfig, pairs: Mapping[str, Row]) -> _Read:
    """Read a folder of videos; with a benchmark, one video or more for each of its pairs."""
    files = sorted(
        (file for file in files_in(folder) if file.suffix.lower() in VIDEO_SUFFIXES and file.name[0] != "."), key=str
    )
    components = str(find_parts(config.components, ("vae",))) if config.components else None
    videos, ignored = list[Row](), list[str]()
    for file in files:
        name, seed = _id_of(file.stem, pairs)
        if pairs and name not in pairs:
            ignored.append(format_location(file.absolute()))
            continue
        place = format_location(file.absolute())
        videos.append({**_EMPTY, "id": name, "method": method, "seed": seed, "video": place})
    if pairs and not videos:
        raise SteadyDancerError(
            f"{folder} has no video of a pair of the benchmark: expected {next(iter(pairs))}.mp4 and so on, found "
            f"{', '.join(file.name for file in files[:3])}"
        )
    _require_one_each(folder, videos)
    found = {video["id"] for video in videos}
    for name in pairs:
        if name not in found:
            videos.append(_absent(name, method, f"{folder} has no video named {name}"))
    digests = {video["id"] + _suffix(video): content_digest(video["video"]) for video in videos if video["video"]}
    origin = {"method": method, "videos": json_digest(digests)}
    return _Read(method, Rendered(components=components), videos, origin, ignored)


def _absent(name: str, method: str, why: str) -> Row:
    """Return the row of a pair that a method lacks, so that its absence is counted."""
    return {**_EMPTY, "id": name, "method": method, "verdict": "quarantined", "reason": _ABSENT, "detail": why}


def _absent_clips(videos: Sequence[Row], protocol: Protocol) -> list[Row]:
    """Return a row for each clip that the protocol names and a method lacks; a mean over others would hide it."""
    found: dict[str, set[str]] = {}
    for video in videos:
        found.setdefault(video["method"], set()).add(video["id"])
    return [
        _absent(name, method, f"the protocol {protocol.name} names {name}, and {method} has no video of it")
        for method, ids in found.items()
        for name in protocol.clips or ()
        if name not in ids
    ]


def _id_of(stem: str, pairs: Mapping[str, Row]) -> tuple[str, int | None]:
    """Return id and seed of a video's name: `ID`, or `ID-0`, `ID-1` for several seeds of a benchmark's pair."""
    for name in (stem, *sorted(possible_ids(stem))):
        if name in pairs:
            return name, None
    numbered = _SEED.fullmatch(stem)
    if numbered and numbered["id"] in pairs:
        return numbered["id"], int(numbered["seed"])
    return file_stem(stem), None


def _require_one_each(folder: Location, videos: Sequence[Row]) -> None:
    seen: dict[tuple[str, Any], str] = {}
    for video in videos:
        key = video["id"], video.get("seed")
        if key in seen:
            raise SteadyDancerError(f"{seen[key]} and {video['video']} are both {video['id']}: keep one in {folder}")
        seen[key] = video["video"]


def _numbered(videos: list[Row]) -> list[Row]:
    """Give the videos of a method that is named several times their seed: the number of the folder, from 0."""
    counts: dict[tuple[str, str, Any], int] = {}
    for video in videos:
        key = video["method"], video["id"], video.get("seed")
        video["repeat"] = counts.get(key, 0)
        counts[key] = video["repeat"] + 1
    repeated = {key[:2] for key, count in counts.items() if count > 1}
    for video in videos:
        repeat = video.pop("repeat")
        if (video["method"], video["id"]) in repeated:
            if video.get("seed") is not None:
                raise SteadyDancerError(
                    f"method {video['method']}: {video['id']} has several seeds in one folder and stands in several "
                    "folders: pass them as different methods"
                )
            video["seed"] = repeat
    return videos


def _truths(ids: list[str], truth: Location | None, pairs: Mapping[str, Row]) -> GroundTruth:
    """Find the truth of each id in a folder, or take that of the benchmark."""
    if truth is not None or not pairs:
        return find_ground_truth(ids, truth)
    found = {name: pairs[name]["truth"] for name in ids if pairs.get(name, {}).get("truth")}
    missing = {
        name: ("no_truth", pairs.get(name, {}).get("problems") or "the benchmark has no ground truth for it")
        for name in ids
        if name not in found
    }
    return GroundTruth("the benchmark", found, missing, [])


def _completed(video: Row, truths: GroundTruth, pairs: Mapping[str, Row]) -> Row:
    """Add truth, reference, driving video and kinds to a video's row."""
    pair = pairs.get(video["id"], {})
    row = {"seed": None, **video, "truth": truths.found.get(video["id"]), "kinds": pair.get("kinds")}
    for name in ("image", "driving"):
        row[name] = row[name] or pair.get(name)
    if row["verdict"] is None:
        # Until a video is scored, `reason` and `detail` explain why it has no truth.
        row["reason"], row["detail"] = truths.missing.get(video["id"], (None, None))
    return row


def _key(video: Row, several: bool) -> str:
    return (f"{video['method']}/" if several else "") + video["id"] + _suffix(video)


def _suffix(video: Row) -> str:
    return "" if video.get("seed") is None else f"#{video['seed']}"


def _origin(read: Sequence[_Read], rows: Mapping[str, Row], benchmark: dict[str, Any]) -> dict[str, Any]:
    """Return what the plan states about several methods, or the pairs of a benchmark."""
    origin: dict[str, Any] = {"methods": [[one.method, one.origin] for one in read]}
    if benchmark:
        names = ("image", "driving", "truth")
        pairs = json_digest([[key, *(row[name] for name in names)] for key, row in sorted(rows.items())])
        origin["benchmark"] = {"name": benchmark.get("name"), "digest": benchmark.get("digest"), "pairs": pairs}
    return origin
