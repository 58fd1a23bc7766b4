"""The HTML report of a curation: funnel, reasons, thresholds, borderline clips and composition."""

from typing import Any

import pyarrow as pa

from ....datasets.clips import Clips
from ....datasets.schema import CLIP_SCHEMA
from ....datasets.storage import Location
from ...pages.charts import bar
from ...pages.layout import Section, show, write_page
from ..selection.gating import Bounds, columns_for
from .borderline import PICTURE_COLUMNS
from .card import write_card
from .compare import compare, parent_of
from .compare import sections as difference_sections
from .composition import (
    COMPOSITION_COLUMNS,
    composition,
    copies,
    count_by_model,
    decode_share,
    format_hours,
    hours_of,
    leaks,
    num_sources,
    stage_seconds,
)
from .funnel import FUNNEL_COLUMNS, Step, config_of, count_gates, funnel, meaning_of, read_columns, reasons, verdict_is
from .score_sections import borderline_section, histogram_section, unmeasured_section

# Not report.html: `evaluate` may write that into the same folder.
PAGE, CARD = "curation.html", "card.md"


def write_report(folder: Location, page: Location | None = None) -> Location:
    """Write the report of a finished curation and its card next to it; return the path of the report.

    Args:
        folder: what `curate --out` was given, or the artifact in it.
        page: path of the HTML file; None: next to the artifact.

    Raises:
        ArtifactError: the curation is not finished, or its counts do not balance.
    """
    clips = Clips(folder)
    page = page or clips.artifact.path.parent / PAGE
    table = read_table(clips)
    bounds = Bounds.of(config_of(clips.record))
    steps, counts = funnel(table, clips.record), count_gates(table, bounds)
    sections = [
        _summary(table, clips.record),
        *_difference(clips),
        _funnel_section(steps, clips.record["counts"]["inputs"]),
        *_reason_sections(table),
        unmeasured_section(counts, table),
        histogram_section(table, counts),
        borderline_section(table, bounds, "ok", "Accepted clips nearest to a threshold"),
        borderline_section(table, bounds, "rejected", "Rejected clips nearest to a threshold"),
        *_composition_sections(table),
        _copies_section(table, clips.record),
        _time_section(clips.record, table),
        _models_section(table, clips.record),
    ]
    write_page(page, f"Curation of {clips.record['inputs']['clips']}", sections)
    write_card(page.parent / CARD, clips.record, table, counts)
    return page


def read_table(clips: Clips) -> pa.Table:
    """Read the columns that report and card need."""
    gates = Bounds.of(config_of(clips.record)).gates
    wanted = {*FUNNEL_COLUMNS, *COMPOSITION_COLUMNS, *PICTURE_COLUMNS, *columns_for(gates)}
    return read_columns(clips, [name for name in CLIP_SCHEMA.names if name in wanted])


def funnel_rows(steps: list[Step]) -> list[dict[str, Any]]:
    """Return the funnel as table rows: the steps that lost rows."""
    return [{"step": step.name, "lost": step.lost, "left": step.left, "as": step.verdict, "meaning": step.meaning}
            for step in steps if step.lost]  # fmt: skip


def reason_rows(counted: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Return verdicts and reasons as table rows."""
    return [{"verdict": verdict, "reason": reason, "rows": number, "meaning": meaning_of(reason)}
            for (verdict, reason), number in counted.items()]  # fmt: skip


def _summary(table: pa.Table, record: dict[str, Any]) -> Section:
    accepted, counts = verdict_is(table, "ok"), record["counts"]
    tiles: list[tuple[Any, str]] = [
        (counts["ok"], "clips accepted"),
        (counts["rejected"], "rejected by a gate or rule"),
        (counts["quarantined"], "quarantined: unreadable or damaged"),
        (record["inputs"]["sources"], "sources"),
        (format_hours(hours_of(table, accepted)), "accepted"),
    ]
    text = (
        f"{show(counts['inputs'])} rows (one per clip, or per source without clips) = {show(counts['ok'])} ok + "
        f"{show(counts['rejected'])} rejected + {show(counts['quarantined'])} quarantined. Accepted clips come from "
        f"{show(num_sources(table, accepted))} sources. SteadyDancer {record['version']}."
    )
    left_out = record["inputs"].get("left_out", {"files": 0})
    if left_out["files"]:
        folders = "\n".join(f"{number} in {folder}" for folder, number in left_out["folders"].items())
        text += f"\n{show(left_out['files'])} videos in the given folder were written by this program and "
        text += f"are not used as sources:\n{folders}"
    return Section("Summary", text, tiles)


def _difference(clips: Clips) -> list[Section]:
    parent = parent_of(clips)
    return [] if parent is None else difference_sections(compare(parent, clips))


def _funnel_section(steps: list[Step], inputs: int) -> Section:
    rows: list[list[Any]] = [["inputs", None, inputs, bar([(1.0, "accepted")]), "every row of the table"]]
    rows += [
        [step.name, step.lost, step.left, _step_bar(step, inputs), step.meaning]
        for step in steps
        if step.lost or step.verdict == "quarantined"
    ]
    idle = sum(not step.lost and step.verdict != "quarantined" for step in steps)
    rows = [["" if cell is None else cell for cell in row] for row in rows]
    text = (
        "Quarantined rows by stage, then rejected rows by gate or rule. A clip is counted at the first gate that "
        f"rejects it. {idle} further gates and rules rejected nothing."
    )
    return Section("Funnel", text, head=["step", "lost", "left", "", "meaning"], rows=rows)


def _step_bar(step: Step, inputs: int) -> Any:
    return bar([(step.left / inputs, "accepted"), (step.lost / inputs, step.verdict)])


def _reason_sections(table: pa.Table) -> list[Section]:
    counted = reasons(table)
    sections = []
    for verdict, title, text in (
        ("rejected", "Rejected by a gate or rule", "Readable clips and sources that a gate or rule rejected."),
        ("quarantined", "Quarantined: unreadable or damaged", "These could not be read or decoded."),
    ):
        rows = [
            [reason, number, number / len(table) * 100, bar([(number / len(table), verdict)]), meaning_of(reason)]
            for (found, reason), number in counted.items()
            if found == verdict
        ]
        head = ["reason", "rows", "% of all", "", "meaning"]
        sections.append(Section(title, text if rows else f"{text} None.", head=head, rows=rows))
    return sections


def _composition_sections(table: pa.Table) -> list[Section]:
    rows = [
        [name if place == 0 else "", label, kept, number]
        for name, kinds in composition(table).items()
        for place, (label, kept, number) in enumerate(kinds)
    ]
    text = "Sizes are inside the borders. “unknown”: not given, or the source could not be read."
    return [Section("Composition", text, head=["", "", "accepted clips", "all rows"], rows=rows)]


def _copies_section(table: pa.Table, record: dict[str, Any]) -> Section:
    found, counted, leaked = copies(table), reasons(table), leaks(table)
    text = (
        f"{show(found['groups'])} groups of duplicates ({show(found['rows'])} rows; the largest group has "
        f"{show(found['largest'])} files). {show(counted.get(('rejected', 'duplicate'), 0))} rows were rejected as "
        f"byte-identical to another, {show(counted.get(('rejected', 'near_duplicate'), 0))} as copies of a better "
        "one.\n"
    )
    if leaked is None:
        return Section("Duplicates and leaks", text + "Similarity to evaluation sets was not checked (`exclude`).")
    inputs = record["inputs"]
    if "excluded_videos" in inputs:
        unread = inputs["excluded_unreadable"]
        text += f"{show(inputs['excluded_videos'])} excluded videos were compared.\n"
        if unread:
            text += f"{show(len(unread))} others could not be read; clips that match them may be accepted:\n"
            text += "".join(f"{name}: {why}\n" for name, why in unread.items())
    text += f"Rejected as similar to excluded videos: {show(counted.get(('rejected', 'max_leak_score'), 0))}."
    return Section("Duplicates and leaks", text, head=["excluded video", "clips"], rows=leaked)


def _time_section(record: dict[str, Any], table: pa.Table) -> Section:
    seconds, share = stage_seconds(record), decode_share(record)
    spent = sum(seconds.values())
    title = "Time per stage"
    if not spent:
        return Section(title, "Not measured: no video was read, or earlier runs had finished all packets.")
    rows: list[list[Any]] = [
        [name, took, 100 * took / spent, bar([(took / spent, "accepted")]), 1000 * took / max(1, len(table))]
        for name, took in seconds.items()
    ]
    rows.append(["all stages", spent, 100.0, "", 1000 * spent / max(1, len(table))])
    rows.append(["decoding (included above)", record["seconds"].get("decode"),
                 None if share is None else 100 * share,
                 bar([] if share is None else [(share, "quarantined")]),
                 None if share is None else 1000 * share * spent / max(1, len(table))])  # fmt: skip
    limit = (
        "The time for decoding was not measured."
        if share is None
        else f"Decoding takes {100 * share:.0f} % of this time, so faster scores alone can speed up curation at most "
        f"{1 / max(share, 1e-9):.2f} times."
    )
    text = (
        f"Wall-clock time of the run that finished the curation: {record['seconds']['total']:.1f} s. The table lists "
        f"its seconds, summed over all workers. {limit}"
    )
    if counts := record.get("decoding"):
        text += f"\nDecoding: {', '.join(f'{name} {show(number)}' for name, number in counts.items())}."
    return Section(title, text, head=["stage", "seconds", "%", "", "ms per row"], rows=rows)


def _models_section(table: pa.Table, record: dict[str, Any]) -> Section:
    rows = [[name, number or None] for name, number in count_by_model(table)]
    settings = {name: value for name, value in record["config"].items() if not isinstance(value, dict)}
    text = "Settings: " + ", ".join(f"{name} {value}" for name, value in settings.items())
    return Section("Models", text, head=["model", "rows"], rows=rows)
