"""The results that page, CSV and LaTeX table show: one for each method, metric and kind of pairs."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ....datasets.supplied_poses import SUPPLIED
from ....models.pose.estimator import REQUIRED_WEIGHTS
from ...common.outcomes import format_reasons
from ..catalogue import GROUPS, METRICS
from ..summary import compare_values, shortfall, tells_apart
from ..values import Values
from .evaluation import Evaluation

Origin = Literal["measured", "imported", "published"]
ALL_PAIRS = ""  # kind of a result over all pairs
_COUNTS = re.compile(r"\d+ (videos|features|reference images)")
FEATURE_SIZES = {"inception": 2048, "efficientnet": 1280}  # numbers in a feature; of fewer features FID is mostly bias
# Motion, which must stand beside the dimensions that a still picture wins.
MOTION = ("motion_ratio", "dynamic_degree")
REWARDS_STILLNESS = (
    *("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness"),
    *("i2v_subject", "i2v_background"),
)


@dataclass(frozen=True)
class Judge:
    """A network that a metric uses: name of its weights, licence, and whether that forbids commercial use."""

    name: str
    licence: str
    non_commercial: bool
    sha256: str = ""


@dataclass(frozen=True)
class Result:
    """One number of one method, with what a reader needs to judge it.

    Args:
        method: name; of a published row as printed.
        origin: measured here, imported from another program, or published in the paper.
        source: program or table of what was not measured here.
        metric: name, with the variant in brackets.
        kind: of misalignment of the pairs; empty: all pairs.
        value: mean over pairs, or the value of the set; None: no value.
        low: lower end of the 95 % interval.
        high: upper end.
        n: number of pairs, or of features of a set.
        clusters: number of driving videos among them.
        unit: of the value.
        better: `higher`, `lower` or empty.
        ceiling: the same mean of what limits the metric.
        is_best: whether the paired interval against every other method excludes 0; None: not comparable pair by pair.
        missing: reason → number of videos without a value.
        warnings: what limits the meaning of the number.
        judges: networks that it uses.
        spread: variance between seeds and between clips, if there are several seeds.
        remark: further facts, such as N of a set.
    """

    method: str
    origin: Origin
    source: str
    metric: str
    kind: str = ALL_PAIRS
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    clusters: int | None = None
    unit: str = ""
    better: str = ""
    ceiling: float | None = None
    is_best: bool | None = None
    missing: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    judges: tuple[Judge, ...] = ()
    spread: tuple[float, float | None] | None = None
    remark: str = ""

    @property
    def without_value(self) -> str:
        """Counts of the videos without a value, as `3 no_truth, 1 too_short`."""
        return format_reasons(Counter(self.missing))


def measured_results(evaluation: Evaluation) -> list[Result]:
    """Return the results of all methods, for all pairs and for each kind of misalignment."""
    out = []
    for kind in (ALL_PAIRS, *evaluation.kinds):
        summaries = evaluation.summaries(kind)
        best = best_methods(evaluation, kind)
        for method in evaluation.methods:
            own = summaries.get(method, {})
            names = [name for name in evaluation.metrics if name in own]
            out += [_measured(evaluation, method, name, kind, own, best.get(name)) for name in names]
    return _with_unequal_sizes(out)


def _measured(
    evaluation: Evaluation, method: str, name: str, kind: str, own: Mapping[str, Any], best: Mapping[str, bool] | None
) -> Result:
    metric, summary = METRICS[name], own[name]
    ceiling = next((one for one in METRICS.values() if one.ceiling_of == name), None)
    detail = summary.get("detail") or ""
    remarks, warnings = _of_set(detail) if summary["mean"] is not None else ([detail], [])
    size = FEATURE_SIZES.get(metric.group, 0)
    if name.startswith("fid[") and summary["mean"] is not None and summary["n"] < size:
        warnings.append(f"{summary['n']} features of {size} numbers: mostly bias; compare with equal N, and read KID")
    if metric.level == "video" and (words := shortfall(summary.get("clusters"))):
        warnings.append(words)
    if name in REWARDS_STILLNESS and not any(own.get(one, {}).get("mean") is not None for one in MOTION):
        warnings.append(f"rewards stillness, and neither of {', '.join(MOTION)} has a value")
    spread = None
    if "variance_between_seeds" in summary:
        spread = summary["variance_between_seeds"], summary["variance_between_clips"]
    return Result(
        method=method,
        origin="measured",
        source="",
        metric=name,
        kind=kind,
        value=summary["mean"],
        low=summary["low"],
        high=summary["high"],
        n=summary["n"],
        clusters=summary.get("clusters"),
        unit=metric.unit,
        better=metric.better,
        ceiling=own.get(ceiling.name, {}).get("mean") if ceiling else None,
        is_best=None if best is None or summary["mean"] is None else best.get(method),
        missing=evaluation.table.without_value(method, name, kind or None),
        warnings=tuple(warnings),
        judges=judges_of(evaluation, name),
        spread=spread,
        remark="; ".join(remarks),
    )


def _of_set(detail: str) -> tuple[list[str], list[str]]:
    """Return what the detail of a set metric states, and what it warns of."""
    parts = [part for part in detail.split("; ") if part]
    facts = [part for part in parts if _COUNTS.fullmatch(part) or part.startswith("without ")]
    return facts, [part for part in parts if part not in facts]


def _with_unequal_sizes(results: list[Result]) -> list[Result]:
    """Add a warning to Fréchet distances whose N differs between methods: they fall with N."""
    sizes: dict[str, set[int | None]] = {}
    for one in results:
        if METRICS[one.metric].level == "set" and one.value is not None:
            sizes.setdefault(one.metric, set()).add(one.n)
    warning = "N differs between the methods, and a Fréchet distance falls with N"
    return [
        replace(one, warnings=(*one.warnings, warning))
        if len(sizes.get(one.metric, ())) > 1 and one.metric.startswith(("fid[", "fvd[")) and one.value is not None
        else one
        for one in results
    ]


def best_methods(evaluation: Evaluation, kind: str = ALL_PAIRS) -> dict[str, dict[str, bool]]:
    """Return metric → method → whether it is the best, for metrics that several methods have on pairs in common.

    A method is the best if the 95 % interval of its paired difference from every other method excludes 0, over six
    driving videos or more. Set metrics have no pairs, and no best.
    """
    stored = evaluation.record.get("comparisons", ()) if kind == ALL_PAIRS else ()
    known = {(one["a"], one["b"]): one["metrics"] for one in stored}
    out = {}
    for name in evaluation.metrics:
        metric = METRICS[name]
        if metric.level == "set" or not metric.better:
            continue
        values = {method: evaluation.table.of(method, name, kind or None) for method in evaluation.methods}
        sign = 1 if metric.better == "higher" else -1
        ranked = sorted((m for m in values if values[m].ids), key=lambda m: -sign * values[m].means.mean())
        if len(ranked) > 1:
            first, *others = ranked
            # The nearest first: it decides most often, and the others are not drawn.
            is_best = all(_beats(_difference(known, name, first, other, values), sign) for other in others)
            out[name] = {method: is_best and method == first for method in ranked}
    return out


def _difference(
    known: Mapping[tuple[str, str], Any], name: str, first: str, other: str, values: Mapping[str, Values]
) -> Mapping[str, Any] | None:
    """Return first − other over the pairs that both have, as the record has it or computed."""
    if (other, first) in known:
        stored: Mapping[str, Any] | None = known[other, first].get(name)
        return stored
    if (first, other) in known:
        found = known[first, other].get(name)
        return found and {**found, "low": -found["high"], "high": -found["low"]}
    return compare_values({name: values[other]}, {name: values[first]}).get(name)


def _beats(found: Mapping[str, Any] | None, sign: int) -> bool:
    """Check whether the pairs tell that a difference has this sign."""
    return found is not None and tells_apart(found) and sign * found["low"] > 0


def judges_of(evaluation: Evaluation, metric: str) -> tuple[Judge, ...]:
    """Return the networks of a metric whose weights the record names; supplied keypoints have none."""
    group, used = GROUPS[METRICS[metric].group], evaluation.record.get("weights", {})
    wanted = [name for names in group.weights for name in names]
    if group.estimator:
        # Rows of an earlier program do not say which estimator was used.
        named = bool(evaluation.pose_sources) and evaluation.pose_sources <= {*REQUIRED_WEIGHTS, SUPPLIED}
        sources = evaluation.pose_sources if named else REQUIRED_WEIGHTS
        wanted += [name for source in sorted(sources) for name in REQUIRED_WEIGHTS.get(source, ())]
    return tuple(
        Judge(
            name, used[name].get("licence", ""), used[name].get("non_commercial", False), used[name].get("sha256", "")
        )
        for name in dict.fromkeys(wanted)
        if name in used
    )
