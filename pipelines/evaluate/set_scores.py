"""Metrics of a whole set of videos, from the features that were stored when each video was measured."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ...datasets.arrays import Floats
from ...datasets.artifact import Packet
from ...models.metrics import fid_infinity, frechet_distance, humanvid_fvd, kernel_distance
from ...models.metrics.identity import cosine_similarity, distance_similarity
from ...models.metrics.variants import FVD_VARIANTS, small_set_remark, variant_of
from .catalogue import FACE, METRICS
from .groups.sets import feature_name
from .measured import Measured
from .scores import Score, from_bytes, score

MIN_ROWS = 16  # for the line through the distances of eight subsets


class _Set(NamedTuple):
    """Features of both sides: one array [n, D] for each video that has both; and why others have none."""

    render: list[Floats]
    truth: list[Floats]
    missing: Counter[str]


def score_sets(
    names: Sequence[str], measured: Measured, packets: Sequence[Packet], keys: Iterable[str]
) -> dict[str, Score]:
    """Return the set metrics of the videos `keys`, one method's; `frames_compared` is N, the number of features."""
    wanted, out = set(keys), dict[str, Score]()
    by_features: dict[tuple[str, str], list[str]] = {}
    for name in names:
        by_features.setdefault((METRICS[name].group, variant_of(name).removesuffix(",floor")), []).append(name)
    for (group, variant), own in by_features.items():
        if own[0].startswith("identity["):
            out[own[0]] = _floor(group, variant, measured, packets, wanted)
            continue
        features = _read(measured, group, variant, packets, wanted)
        out |= {name: _score(name.partition("[")[0], f"fvd[{variant}]", features) for name in own}
    return out


def _floor(group: str, judge: str, measured: Measured, packets: Sequence[Packet], keys: set[str]) -> Score:
    """Return the mean similarity of the reference images of different people; equal features are one image."""
    name = feature_name(judge, "reference")
    rows = [row for table in measured.features(group, packets) for row in table.to_pylist()]
    stored = [from_bytes(row["features"]) for row in rows if row["key"] in keys and row["metric"] == name]
    known = [one for one in stored if len(one)]
    people = np.unique(np.concatenate(known), axis=0) if known else np.zeros((0, 1), np.float32)
    if len(people) < 2:
        return Score(None, "too_few", f"{len(people)} different reference images have features, but 2 are needed")
    similarity = distance_similarity if judge == FACE else cosine_similarity
    value = similarity(people, people)[np.triu_indices(len(people), 1)].mean()
    return Score(float(value), None, f"{len(people)} reference images", len(people))


def _read(measured: Measured, group: str, variant: str, packets: Sequence[Packet], keys: set[str]) -> _Set:
    sides = {feature_name(variant, side): dict[str, Floats]() for side in ("render", "truth")}
    reasons: dict[str, str] = {}
    for table in measured.features(group, packets):
        for row in table.to_pylist():
            if row["key"] in keys and row["features"] is not None and row["metric"] in sides:
                sides[row["metric"]][row["key"]] = from_bytes(row["features"])
            elif row["key"] in keys and row["reason"] and row["metric"] in (*sides, "features"):
                reasons[row["key"]] = row["reason"]
    render, truth = sides.values()
    both = sorted(render.keys() & truth.keys())
    missing = Counter(reasons[key] for key in reasons if key not in both)
    missing.update({"not_scored": len(keys) - len(both) - missing.total()})
    return _Set([render[key] for key in both], [truth[key] for key in both], +missing)


def _score(kind: str, name: str, features: _Set) -> Score:
    num_videos = len(features.render)
    lost = ", ".join(f"{number} {reason}" for reason, number in sorted(features.missing.items()))
    if num_videos == 0:
        return Score(None, next(iter(features.missing), "no_features"), f"no video has features ({lost})")
    if name in FVD_VARIANTS and FVD_VARIANTS[name].is_paired:
        value = humanvid_fvd(np.stack(features.render), np.stack(features.truth))
        return score(value, "too_few", "no pair has features", _words(num_videos, 0, lost), num_videos)
    render, truth = np.concatenate(features.render), np.concatenate(features.truth)
    functions: dict[str, Callable[[Floats, Floats], float]] = {
        "fid": frechet_distance,
        "fvd": frechet_distance,
        "kid": kernel_distance,
        "kvd": kernel_distance,
        "fid_infinity": lambda x, y: fid_infinity(x, y)[0] if len(x) >= MIN_ROWS else np.nan,
    }
    needed = MIN_ROWS if kind == "fid_infinity" else 2
    why = f"{len(render)} features, but {needed} are needed"
    return score(
        functions[kind](render, truth), "too_few", why, _words(num_videos, len(render), lost, kind), len(render)
    )


def _words(num_videos: int, num_rows: int, lost: str, kind: str = "") -> str:
    """Describe the set: N beside every distance, and a warning where N is small."""
    parts = [f"{num_videos} videos", *([f"{num_rows} features"] if num_rows else [])]
    if kind == "fvd" and (remark := small_set_remark([num_videos])):
        parts.append(remark)
    return "; ".join([*parts, *([f"without {lost}"] if lost else [])])
