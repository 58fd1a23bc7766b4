"""Selection: which metrics a run has, which groups measure them, and which of these can be measured here."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ... import SteadyDancerError
from ...datasets.supplied_poses import SUPPLIED
from ..common.poses import ESTIMATORS
from .catalogue import GROUPS, METRICS, TABLES, Group
from .config import EvaluateConfig
from .inputs import Inputs
from .judges import Availability, availability
from .protocols import Protocol


def metrics_of(protocol: Protocol) -> list[str]:
    """List the metrics of a protocol: all but the variants that it leaves out."""
    return [
        name
        for name, metric in METRICS.items()
        if metric.variant is None or metric.variant[1] in getattr(protocol, metric.variant[0])
    ]


def select_metrics(words: Iterable[str] | None, protocol: Protocol) -> list[str]:
    """Return the metrics that are asked for, in the order of the catalogue.

    Args:
        words: names of metrics, of groups or tables (`vbench`, `pose`), or without the brackets for all variants;
            several may stand in one word with commas between them. None: all of the protocol.
        protocol: leaves variants out.

    Raises:
        SteadyDancerError: a word is none of these.
    """
    offered = metrics_of(protocol)
    if words is None:
        return offered
    asked: set[str] = set()
    for word in (each.strip() for text in words for each in re.split(r",(?![^\[]*\])", text)):
        found = _named(word)
        if not found:
            near = difflib.get_close_matches(word, [*METRICS, *GROUPS, *TABLES], 4)
            hint = f"; similar: {', '.join(near)}" if near else ""
            raise SteadyDancerError(f"{word!r} is no metric, group or table{hint}; see `steadydancer evaluate --list`")
        if not found & set(offered):
            raise SteadyDancerError(f"{word!r} is a variant that the protocol {protocol.name} leaves out")
        asked |= found
    return [name for name in offered if name in asked]


def _named(word: str) -> set[str]:
    if word in METRICS:
        return {word}
    return {
        name
        for name, metric in METRICS.items()
        if word in (metric.group, *metric.tables) or name.partition("[")[0] == word
    }


def groups_of(names: Iterable[str]) -> list[Group]:
    """Return the groups that measure these metrics, in the order of the catalogue."""
    wanted = {METRICS[name].group for name in names}
    return [group for group in GROUPS.values() if group.name in wanted]


class Selected(NamedTuple):
    """Metrics of a run in the catalogue's order, the groups that measure them, and what each group has here."""

    metrics: list[str]
    groups: list[Group]
    here: dict[str, Availability]

    @property
    def measured(self) -> list[Group]:
        """The groups whose weights are here."""
        return [group for group in self.groups if self.here[group.name].missing is None]


def selected_here(metrics: list[str], config: EvaluateConfig, inputs: Inputs) -> Selected:
    """Return the metrics with their groups, and which of these can be measured on this machine."""
    estimators = (config.pose_model,) if config.pose_model != "auto" else _rendered_by(inputs)
    groups = groups_of(metrics)
    return Selected(metrics, groups, {group.name: availability(group, estimators) for group in groups})


def _rendered_by(inputs: Inputs) -> tuple[str, ...]:
    """Return the estimators that `auto` may choose: those of the renders, and the general ones."""
    names = {row["pose_model"] for row in inputs.rows.values()} - {None, SUPPLIED}
    return *sorted(names), *(name for name in ESTIMATORS if name not in names)


def holds(record: Mapping[str, Any], config: EvaluateConfig, selected: Selected) -> bool:
    """Check whether a finished version has all metrics that this run would measure.

    A version without a list of metrics is of an earlier program, and is only extended if others are asked for.
    """
    if "metrics" not in record:
        return config.metrics is None or set(selected.metrics) <= record["means"].keys()
    unmeasured = {name for one in record["weights_missing"].values() for name in one}
    here = {group.name for group in selected.measured}
    return all(
        name in record["metrics"] and (name not in unmeasured or METRICS[name].group not in here)
        for name in selected.metrics
    )
