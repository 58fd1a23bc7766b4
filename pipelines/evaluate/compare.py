"""Compare two evaluations pair by pair: `steadydancer compare --metrics A --with B`. One protocol only."""

from collections.abc import Sequence
from typing import Any

from ...datasets.artifact import Artifact, ArtifactError
from ...datasets.artifact_lookup import find_artifact
from ...datasets.storage import Location
from ...models.metrics.statistics import MANY_CLIPS
from .catalogue import METRICS
from .protocols import protocol_differences, recorded_protocol
from .summary import compare_values, format_p, shortfall, tells_apart
from .values import Table, Values

MAX_NAMED = 3  # pairs in a remark


def compare(one: Location, other: Location, methods: Sequence[str] = ()) -> dict[str, Any]:
    """Compare two evaluations on the pairs that both have.

    Args:
        one: the --out of the first evaluation, a.
        other: the --out of the second one, b.
        methods: method to compare, of both results or one of each; by default the first of each.

    Returns:
        The two results, the protocol, and metric → difference b − a, its interval, p, and p by Holm.

    Raises:
        ArtifactError: a result is not finished, or has no such method; or their protocols differ, with the fields.
    """
    a, b = (find_artifact(place, "metrics") for place in (one, other))
    protocol = _require_one_protocol(a, b)
    names = [*methods, *methods][:2] if methods else [None, None]
    (method_a, first), (method_b, second) = (_values(*each) for each in zip((a, b), names, strict=True))
    return {
        "protocol": {"name": protocol.name, "digest": protocol.digest},
        "a": {"metrics": str(a.path), "method": method_a, "weights": a.record().get("weights", {})},
        "b": {"metrics": str(b.path), "method": method_b, "weights": b.record().get("weights", {})},
        "remarks": _remarks(a, b),
        "metrics": compare_values(first, second),
    }


def _require_one_protocol(a: Artifact, b: Artifact) -> Any:
    """Return the protocol of both results.

    Raises:
        ArtifactError: they differ, or one is not known.
    """
    protocols = []
    for artifact in (a, b):
        protocol = recorded_protocol(artifact.record())
        if protocol is None:
            name = artifact.record().get("config", {}).get("protocol")
            raise ArtifactError(
                f"{artifact.path} was scored by the protocol {name!r}, which this version does not know"
            )
        protocols.append(protocol)
    first, second = protocols
    if first.digest != second.digest:
        raise ArtifactError(
            f"{a.path} and {b.path} were scored by different protocols, whose values are not comparable:\n"
            f"{protocol_differences(first, second)}\nscore the videos of one of them again with the other's protocol"
        )
    return first


def _values(artifact: Artifact, method: str | None) -> tuple[str | None, dict[str, Values]]:
    """Return a method's name and its values by metric."""
    table = Table(order=list(artifact.record().get("methods", {})))
    for part in artifact.parts():
        rows = [{"method": None, **row} for row in artifact.read_part(part).to_pylist()]
        table.add(rows, [])
    known = table.methods()
    chosen = (known or [""])[0] if method is None else method
    if chosen not in known:
        raise ArtifactError(f"{artifact.path} has no method {chosen!r}: choose {', '.join(filter(None, known))}")
    names = [name for name in METRICS if (chosen, name) in table.values]
    return chosen or None, {name: table.of(chosen, name) for name in names}


def _remarks(a: Artifact, b: Artifact) -> list[str]:
    """Name what both results used in different versions: weights, ground truths, the benchmark."""
    records = [artifact.record() for artifact in (a, b)]
    one, other = (record.get("weights", {}) for record in records)
    out = [
        f"the weights {name} differ: metrics that use them are not comparable"
        for name in sorted(one.keys() & other.keys())
        if one[name]["sha256"] != other[name]["sha256"]
    ]
    first, second = map(_truth_digests, (a, b))
    if changed := sorted(name for name in first.keys() & second.keys() if first[name] != second[name]):
        named = ", ".join(changed[:MAX_NAMED]) + (", …" if len(changed) > MAX_NAMED else "")
        out.append(f"{len(changed)} ground truths differ ({named}): metrics against them are not comparable")
    digests = {record["benchmark"]["digest"] for record in records if record.get("benchmark")}
    if len(digests) > 1:
        out.append("the benchmarks differ in pairs or files: only pairs with equal files are comparable")
    return out


def _truth_digests(artifact: Artifact) -> dict[str, str]:
    """Return id → digest of its ground truth; empty for a result of an earlier program."""
    plan = artifact.plan()
    names, digests = plan.get("truth_ids", []), plan.get("truths", [])
    return dict(zip(names, digests, strict=True)) if len(names) == len(digests) else {}


def to_text(found: dict[str, Any]) -> str:
    """Format the result of `compare` for a terminal."""
    names = [f"{one['method'] or 'the renders'} ({one['metrics']})" for one in (found["a"], found["b"])]
    lines = [f"a: {names[0]}", f"b: {names[1]}", f"protocol {found['protocol']['name']}", *found["remarks"], ""]
    if not found["metrics"]:
        return "\n".join([*lines, "no pair has a value of the same metric in both"])
    lines.append(f"{'metric':34} {'a':>9} {'b':>9} {'b − a':>9} {'95 %':>20} {'N':>5} {'p':>7} {'Holm':>7}")
    for name, one in found["metrics"].items():
        interval = f"[{one['low']:.4g}, {one['high']:.4g}]" if one["clusters"] > 1 else ""
        p, holm = (format_p(one[key]) for key in ("p", "p_holm"))
        lines.append(
            f"{name:34} {one['mean_a']:>9.4g} {one['mean_b']:>9.4g} {one['difference']:>9.4g} {interval:>20} "
            f"{one['n']:>5} {p:>7} {holm:>7}  {_better(name, one)}"
        )
    fewest = min(one["clusters"] for one in found["metrics"].values())
    if fewest < MANY_CLIPS:
        lines.append(f"intervals over fewer than {MANY_CLIPS} driving videos are too short: {shortfall(fewest)}")
    return "\n".join(lines)


def _better(name: str, one: dict[str, Any]) -> str:
    """Name the better one, if the pairs tell."""
    direction = METRICS[name].better
    if not direction or not tells_apart(one):
        return ""
    return "b is better" if (one["difference"] > 0) == (direction == "higher") else "a is better"
