"""Report sections on scores and thresholds: missing scores, histograms, borderline clips."""

import numpy as np
import pyarrow as pa

from ....datasets.arrays import Floats64
from ....datasets.schema import CLIP_SCHEMA
from ...pages.charts import draw_histogram, histogram
from ...pages.layout import Figure, Section, show
from ..selection.gating import Bounds, values_of
from .borderline import captioned_thumbnails, nearest
from .funnel import GateCount, reached_gates, verdict_is


def unmeasured_section(counts: list[GateCount], table: pa.Table) -> Section:
    """Return the table of the gates: how many clips have a score, and how many each gate rejects."""
    without_scores = [one.gate for one in counts if not one.measured]
    num_gated = int(reached_gates(table).sum())
    text = (
        "A missing score passes its gate. Expensive scores are measured only for clips that pass the earlier gates, so "
        "most missing scores belong to clips that are rejected anyway. Check the column “accepted unmeasured”. "
        f"{show(num_gated)} clips reached the gates.\n"
    )
    text += f"No clip has a score for these gates: {', '.join(without_scores)}." * bool(without_scores)
    rows = [
        [one.gate, one.threshold_text, one.measured, num_gated - one.measured, one.accepted_unmeasured,
         one.beyond, one.first, one.alone]
        for one in counts
    ]  # fmt: skip
    head = ["gate", "threshold", "measured", "not measured", "accepted unmeasured", "beyond the threshold",
            "first to reject", "only gate to reject"]  # fmt: skip
    return Section("Gates and missing scores", text, head=head, rows=rows)


def histogram_section(table: pa.Table, counts: list[GateCount]) -> Section:
    """Draw a histogram of each score that a gate reads."""
    gated = reached_gates(table)
    accepted, rejected = verdict_is(table, "ok"), verdict_is(table, "rejected") & gated
    figures = []
    for column in dict.fromkeys(one.column for one in counts if one.measured):
        values = values_of(table, column)
        figures.append(_figure([one for one in counts if one.column == column], values[accepted], values[rejected]))
    text = (
        "Clips that reached the gates: accepted (blue), and stacked on them rejected for any reason (orange). The red "
        "line is the threshold; its rejected side is shaded. Values beyond the axis are counted in the outermost bins."
    )
    return Section("Score histograms", text, figures=figures)


def _figure(gates: list[GateCount], accepted: Floats64, rejected: Floats64) -> Figure:
    """Draw one score with the thresholds of all gates that read it."""
    column = gates[0].column
    known = column in CLIP_SCHEMA.names
    bounds = sorted({(one.side, bound) for one in gates for bound in one.bounds if not np.isnan(bound)})
    bins = histogram(
        accepted[~np.isnan(accepted)],
        rejected[~np.isnan(rejected)],
        [bound for _, bound in bounds],
        whole=known and pa.types.is_integer(CLIP_SCHEMA.field(column).type),
    )
    caption = f"{show(gates[0].measured)} measured. " + ". ".join(
        f"{one.gate}: {one.threshold_text}, {show(one.beyond)} beyond" for one in gates
    )
    if known:
        metadata = CLIP_SCHEMA.field(column).metadata
        caption += f"\n{metadata[b'meaning'].decode()} ({metadata[b'unit'].decode() or 'count'})"
    return Figure(column, draw_histogram(bins, bounds), caption)


def borderline_section(table: pa.Table, bounds: Bounds, verdict: str, title: str) -> Section:
    """Show thumbnails of the rows with this verdict that are nearest to a threshold."""
    near = nearest(table, bounds, verdict)
    rows = table.take(pa.array([one.index for one in near], pa.int64())).to_pylist()
    text = (
        "Distance to the threshold, relative to the typical distance of accepted clips. A few per gate, one per source."
        if near
        else "No clip is near a threshold."
    )
    return Section(title, text, media=[captioned_thumbnails(rows, near, bounds)] if near else [])
