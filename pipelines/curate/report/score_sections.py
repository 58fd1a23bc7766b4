"""The page's sections on scores and bounds: what was not measured, where clips lie, which are near to a bound."""

import numpy as np
import pyarrow as pa

from ....datasets.schema import CLIP_SCHEMA
from ...pages.charts import draw_histogram, histogram
from ...pages.layout import Figure, Section, show
from ..selection.gating import Bounds, Floats, values_of
from .borderline import captioned_thumbnails, nearest
from .funnel import GateCount, reached_gates, verdict_is


def unmeasured_section(counts: list[GateCount], table: pa.Table) -> Section:
    """How often each gate could be considered, and what it did."""
    silent = [one.gate for one in counts if not one.measured]
    num_asked = int(reached_gates(table).sum())
    text = (
        "A score that was not measured passes its gate. Dear scores are taken only where the gates before let a clip "
        "through, so that most of what is missing belongs to clips that were refused already; what counts is how many "
        f"were accepted without being considered. Of {show(num_asked)} clips that came to the gates:\n"
    )
    text += f"These gates could say nothing at all, no model having measured for them: {', '.join(silent)}." * bool(
        silent
    )
    rows = [
        [one.gate, one.asks, one.measured, num_asked - one.measured, one.accepted_unmeasured,
         one.beyond, one.first, one.alone]
        for one in counts
    ]  # fmt: skip
    head = ["gate", "bound", "measured", "not measured", "accepted unmeasured", "beyond the bound",
            "first to refuse", "alone to refuse"]  # fmt: skip
    return Section("Gates, and what was not measured", text, head=head, rows=rows)


def histogram_section(table: pa.Table, counts: list[GateCount]) -> Section:
    """A histogram of each score that a gate looks at."""
    considered = reached_gates(table)
    accepted, rejected = verdict_is(table, "ok"), verdict_is(table, "rejected") & considered
    figures = []
    for column in dict.fromkeys(one.column for one in counts if one.measured):
        values = values_of(table, column)
        figures.append(_figure([one for one in counts if one.column == column], values[accepted], values[rejected]))
    text = (
        "Clips that came to the gates: accepted below (blue), rejected for whatever reason on top (orange). The red "
        "line is the bound, its refused side shaded; what lies beyond the ends of the axis counts in the last bins."
    )
    return Section("Scores and their bounds", text, figures=figures)


def _figure(gates: list[GateCount], accepted: Floats, rejected: Floats) -> Figure:
    """One score, with the bounds of all gates that look at it."""
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
        f"{one.gate}: {one.asks}, {show(one.beyond)} beyond" for one in gates
    )
    if known:
        metadata = CLIP_SCHEMA.field(column).metadata
        caption += f"\n{metadata[b'meaning'].decode()} ({metadata[b'unit'].decode() or 'count'})"
    return Figure(column, draw_histogram(bins, bounds), caption)


def borderline_section(table: pa.Table, bounds: Bounds, verdict: str, title: str) -> Section:
    """Pictures of the rows of a verdict that a little more or less would have judged otherwise."""
    near = nearest(table, bounds, verdict)
    rows = table.take(pa.array([one.index for one in near], pa.int64())).to_pylist()
    text = (
        "Nearest to a bound, measured by how far accepted clips usually are from it; of each gate and source a few."
        if near
        else "None lies near a bound."
    )
    return Section(title, text, media=[captioned_thumbnails(rows, near, bounds)] if near else [])
