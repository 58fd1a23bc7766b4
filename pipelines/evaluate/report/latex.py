"""The results as LaTeX tables in the form of papers: a row for each method, a column for each metric, by booktabs."""

from collections.abc import Mapping, Sequence

from ....datasets.storage import Location
from ....datasets.storage.atomic import atomic_write
from ..catalogue import METRICS
from .evaluation import Evaluation
from .published_results import source_of
from .results import ALL_PAIRS, Result
from .tables import Column, columns_of, printed, tables_of

MAX_COLUMNS = 6  # metrics side by side; wider tables are continued in the next one
_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "−": "$-$",
    "≥": "$\\geq$",
    "≤": "$\\leq$",
    "⁹": "$^9$",
}
_MARKS = {"measured": "", "imported": "$^{\\ast}$", "published": "$^{\\dagger}$"}
_LEFT_OUT = (source_of("3"), source_of("text"))  # ablations of the paper: page and CSV have them
_ARROWS = {"higher": " $\\uparrow$", "lower": " $\\downarrow$", "": ""}


def escaped(text: str) -> str:
    """Replace the characters that LaTeX reads as commands."""
    return "".join(_SPECIAL.get(sign, sign) for sign in text.replace("\n", " "))


def latex_text(evaluation: Evaluation, results: Sequence[Result]) -> str:
    """Return the tables of all pairs, and those of each kind of misalignment."""
    head = ["% Written by `steadydancer evaluate`. Needs \\usepackage{booktabs}.", ""]
    tables = [
        _table(evaluation, results, title, names[at : at + MAX_COLUMNS], kind)
        for kind in (ALL_PAIRS, *evaluation.kinds)
        for title, names in tables_of(_shown(results, kind)).items()
        for at in range(0, len(names), MAX_COLUMNS)
    ]
    return "\n".join([*head, *tables])


def _shown(results: Sequence[Result], kind: str) -> list[str]:
    """Return the metrics that have a value of some method; published ones alone have their own tables."""
    own = [one for one in results if one.kind == kind and one.value is not None and one.origin != "published"]
    names = {one.metric for one in own}
    known = [name for name in METRICS if name in names]
    return [*known, *sorted(names - METRICS.keys())]


def _table(evaluation: Evaluation, results: Sequence[Result], title: str, names: Sequence[str], kind: str) -> str:
    own = [one for one in results if one.kind == kind and one.metric in names and one.source not in _LEFT_OUT]
    at = {(Column(one.method, one.origin, one.source), one.metric): one for one in own}
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_caption(evaluation, own, title, kind)}}}",
        f"\\begin{{tabular}}{{l{'c' * len(names)}}}",
        "\\toprule",
        " & ".join(["Method", *(_head(name, own) for name in names)]) + " \\\\",
        "\\midrule",
    ]
    before = ""
    for column in columns_of(sorted(own, key=lambda one: list(_MARKS).index(one.origin))):
        if before not in ("", column.origin):
            lines.append("\\midrule")
        before = column.origin
        cells = [_cell(at.get((column, name))) for name in names]
        lines.append(" & ".join([f"{{{escaped(column.method or 'render')}}}{_MARKS[column.origin]}", *cells]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *_notes(own), "\\end{table}", ""])


def _head(name: str, results: Sequence[Result]) -> str:
    first = next(one for one in results if one.metric == name)
    unit = printed(name, first.unit)[1]
    words = f"{escaped(name)}{_ARROWS[first.better]}"
    return f"\\shortstack{{{words}\\\\{{\\scriptsize ({escaped(unit)})}}}}" if unit else words


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    if result.value is None:
        return "--"
    factor, unit = printed(result.metric, result.unit)
    text = _number(factor * result.value, unit)
    value = f"\\textbf{{{text}}}" if result.is_best else text
    if result.low is None or result.high is None:
        return value
    ends = f"[{_number(factor * result.low, unit)}, {_number(factor * result.high, unit)}]"
    return f"\\shortstack{{{value}\\\\{{\\scriptsize {ends}}}}}"


def _number(value: float, unit: str) -> str:
    text = f"{value:.2f}" if unit == "%" else f"{value:.4g}"
    return f"${text}$" if text.startswith("-") or "e" in text else text


def _caption(evaluation: Evaluation, results: Sequence[Result], title: str, kind: str) -> str:
    """Describe pairs, N, protocol, and what the marks mean."""
    record = evaluation.record
    counts = {one.n for one in results if one.origin == "measured" and one.n is not None and one.value is not None}
    benchmark, protocol = record.get("benchmark", {}).get("name"), evaluation.protocol
    number = "" if not counts else f"{min(counts)}" if len(counts) == 1 else f"{min(counts)}$--${max(counts)}"
    parts = [
        f"{escaped(title)}{f', pairs of kind {escaped(kind)}' if kind else ''}.",
        f"Protocol {escaped(protocol.name)}{f', benchmark {escaped(benchmark)}' if benchmark else ''}"
        f"{f', $N = {number}$' if number else ''}.",
    ]
    if any(one.metric in METRICS and METRICS[one.metric].level == "set" for one in results):
        parts.append("$N$ counts features.")
    if any(one.low is not None for one in results):
        parts.append("Below a mean: 95\\,\\% interval.")
    if any(one.is_best is not None for one in results):
        parts.append("Bold: the paired interval against every other method excludes 0.")
    sources = {mark: sorted({one.source for one in results if one.origin == mark}) for mark in _MARKS}
    parts += [
        f"{_MARKS[origin]}~{origin.capitalize()} ({escaped(', '.join(found))}), not measured here."
        for origin, found in sources.items()
        if found and origin != "measured"
    ]
    return " ".join(parts)


def _notes(results: Sequence[Result]) -> list[str]:
    """Return what limits the numbers, below the table: nulls with their reasons, warnings, non-commercial judges."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for one in results:
        if one.without_value and one.origin == "measured":
            lacking.setdefault((one.method or "render", one.without_value), []).append(one.metric)
    number = len({one.metric for one in results})
    notes = {
        escaped(f"{method} lacks {words}" + (f" in {', '.join(names)}" if len(names) < number else "")): None
        for (method, words), names in lacking.items()
    }
    notes |= dict.fromkeys(escaped(word) for one in results if one.origin != "published" for word in one.warnings)
    licences: Mapping[str, str] = {
        judge.name: judge.licence for one in results for judge in one.judges if judge.non_commercial
    }
    notes |= dict.fromkeys(f"{escaped(name)} is non-commercial ({escaped(words)})" for name, words in licences.items())
    return [f"\\par{{\\scriptsize {'; '.join(notes)}.}}"] if notes else []


def write_latex(path: Location, evaluation: Evaluation, results: Sequence[Result]) -> None:
    """Write the tables of an evaluation in UTF-8."""
    with atomic_write(path) as aside:
        aside.write_text(latex_text(evaluation, results), encoding="utf-8")
