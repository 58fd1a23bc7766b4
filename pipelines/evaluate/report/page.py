"""The evaluation report: one static page with all results and videos, and the same results as CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any

from ....datasets.artifact import Artifact
from ....datasets.artifact_lookup import find_artifact
from ....datasets.storage import Location
from ....models.metrics.statistics import MANY_CLIPS
from ...common.outcomes import format_counts, format_truths
from ...pages.layout import Section, write_page
from ..imported import ImportedScores, ScoreFile, keep_scores, kept_scores, read_score_file
from ..summary import format_p
from .evaluation import Evaluation, read_evaluation
from .imported_results import imported_results
from .latex import write_latex
from .long_form import write_csv
from .nulls import nulls_section, weights_section
from .published_results import published_results
from .published_sections import published_sections
from .results import Result, measured_results
from .tables import NON_COMMERCIAL, interval, kind_section, metric_sections
from .videos import videos_section

PAGE, CSV, LATEX = "report.html", "report.csv", "report.tex"
MAX_REFUSED = 20


def results_of(evaluation: Evaluation, imported: Sequence[ImportedScores] = ()) -> list[Result]:
    """Return everything that the reports show: measured, imported and published results."""
    return [
        *measured_results(evaluation),
        *imported_results(evaluation, imported),
        *published_results(evaluation.record),
    ]


def write_report(path: Location, metrics: Artifact) -> list[Result]:
    """Write the page of a finished evaluation, and beside it the CSV and the LaTeX table; return their results."""
    evaluation, imported = read_evaluation(metrics), kept_scores(metrics.path.parent)
    results = results_of(evaluation, imported)
    write_csv(path.parent / CSV, evaluation, results)
    write_latex(path.parent / LATEX, evaluation, results)
    sections = [
        Section("Metrics", summary_text(evaluation)),
        *metric_sections(results),
        *published_sections(evaluation.record, results),
        *(kind_section(results, kind) for kind in evaluation.kinds),
        *_comparison_sections(evaluation.record),
        *_import_sections(imported),
        *judges_section(evaluation.record, results),
        *weights_section(evaluation),
        nulls_section(evaluation),
        videos_section(evaluation, path),
    ]
    write_page(path, "Evaluation", sections)
    return results


def rebuild_report(out: Location, scores: Sequence[ScoreFile] = ()) -> Location:
    """Write page, CSV and LaTeX table of a finished evaluation again from its rows; return the page's path.

    Args:
        out: folder given to `evaluate --out`, or the artifact in it.
        scores: further files of scores to import.

    Raises:
        ArtifactError: the evaluation is not finished.
        SteadyDancerError: a file of scores cannot be imported.
    """
    metrics = find_artifact(out, "metrics")
    if scores:
        evaluation = read_evaluation(metrics)
        read = [read_score_file(one, evaluation.pairs.keys(), evaluation.methods) for one in scores]
        keep_scores(metrics.path.parent, read)
    page = metrics.path.parent / PAGE
    write_report(page, metrics)
    return page


def summary_text(evaluation: Evaluation) -> str:
    """Describe protocol, benchmark, counts, truths, excluded clips, and the limits of the intervals."""
    record = evaluation.record
    protocol = record.get("protocol") or {"name": record["config"]["protocol"]}
    digest = f" (digest {protocol['digest'][:12]})" if "digest" in protocol else ""
    benchmark = f"; benchmark {name}" if (name := record.get("benchmark", {}).get("name")) else ""
    parts = [f"Protocol {protocol['name']}{digest}{benchmark}; {format_counts(record['counts'])}. "
             f"{format_truths(record.get('truths'))}"]  # fmt: skip
    for method, ids in record.get("not_measurable", {}).items():
        parts.append(
            f"{method}: {len(ids)} clips are excluded from the metrics of motion, because the estimator does not see "
            f"the motion of their driving video ({', '.join(ids[:8])}{', …' if len(ids) > 8 else ''})."
        )
    summaries = [one for each in evaluation.summaries().values() for one in each.values()]
    clusters = [one["clusters"] for one in summaries if one.get("clusters")]
    if clusters:
        parts.append(
            "Below a mean stand its 95 % interval by the bootstrap over clips, or over driving videos where several "
            "pairs share one, and N."
        )
    if clusters and min(clusters) < MANY_CLIPS:
        parts.append(
            f"With fewer than {MANY_CLIPS} of them intervals are too short: “covers” is the share of such intervals "
            "that contain the true value, by simulation."
        )
    if len(evaluation.methods) > 1:
        parts.append(
            "A mean is bold if the interval of its paired difference from every other method excludes 0. The same "
            f"results are in {CSV} and {LATEX}."
        )
    return "\n".join(parts)


def _comparison_sections(record: Mapping[str, Any]) -> list[Section]:
    """Build the tables of every method against the first one."""
    sections = []
    for one in record.get("comparisons", []):
        rows = [
            [name, found["difference"], _interval(found), found["n"], found["clusters"],
             format_p(found["p"]), format_p(found["p_holm"])]
            for name, found in one["metrics"].items()
        ]  # fmt: skip
        head = ["metric", f"{one['b']} − {one['a']}", "95 %", "N", "driving videos", "p", "p (Holm)"]
        text = "Pairs that both have; driving videos are drawn as clusters where pairs share one."
        sections.append(Section(f"{one['b']} against {one['a']}", text, head=head, rows=rows, is_folded=True))
    return sections


def _interval(found: Mapping[str, Any]) -> str:
    """Format the interval of a difference; one driving video has none."""
    return interval(found["low"], found["high"]) if found["clusters"] > 1 else ""


def _import_sections(imported: Sequence[ImportedScores]) -> list[Section]:
    """List the files of other programs, and what was refused in them."""
    if not imported:
        return []
    rows = [
        [one.file, f"imported: {source}", len([row for row in one.rows if row.source == source]), len(one.refused),
         "\n".join(f"{place}: {reason}" for place, reason in one.refused[:MAX_REFUSED])]
        for one in imported
        for source in dict.fromkeys(row.source for row in one.rows)
    ]  # fmt: skip
    text = "Scores that other programs computed. Their columns are marked, and no comparison uses them."
    return [Section("Imported scores", text, head=["file", "source", "scores", "refused", "why"], rows=rows)]


def judges_section(record: Mapping[str, Any], results: Sequence[Result]) -> list[Section]:
    """List the networks that were used, with licence and digest; those that forbid commercial use are marked."""
    metrics: dict[str, dict[str, None]] = {}
    for one in results:
        for judge in one.judges:
            metrics.setdefault(judge.name, {})[one.metric] = None
    rows = [
        [name, weights.get("licence", ""), NON_COMMERCIAL if weights.get("non_commercial") else "",
         ", ".join(metrics.get(name, ())), weights.get("sha256", "")[:12]]
        for name, weights in record.get("weights", {}).items()
    ]  # fmt: skip
    head = ["weights", "licence", "", "metrics", "sha256"]
    return [Section("Judges", head=head, rows=rows)] if rows else []
