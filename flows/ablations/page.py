"""The pages of the ablations: what the small world says about each claim, first in words and then in numbers."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.storage.atomic import atomic_write
from ...models.metrics import Interval
from ...pipelines.pages.curves import draw_curves, legend
from ...pipelines.pages.layout import Figure, Section, write_page
from ..demo.dancers import PairSet
from ..demo.pairs_page import write_playable
from ..demo.toydance import rendered_videos
from .causes import CAUSES
from .measure import RESOLVED_BY_JOINTS, RESOLVED_BY_PIXELS
from .packet import Packet
from .paper import COLUMNS, DATASETS, RESOLVED_CLAIM, TABLE_3
from .rows import GROUPS, ROWS
from .table import AGREES, DISAGREES, SAME, UNKNOWN, Compared, Results

MAIN = ("person_psnr_db", "right_minus_wrong_db", "pck_0_1_limbs", "psnr_db", "first_frame_psnr_db",
        "start_gap_jump_excess")  # fmt: skip
SHOWN_ROWS = ("stage1", "without_ssae", "without_tmcm", "without_faau", "normal_distillation_one", "stage3")
PAIRS_PER_CAUSE = 1
TITLE = "The paper's ablations at small size"
WORDS_TEXT = (
    "A claim agrees where the 95 % interval of the paired difference between its two rows is on the claimed side of 0, "
    "does not agree where it is on the other side, and cannot be told apart where it contains 0. Intervals count both "
    "the training seeds and the pairs as samples. No correction is made for the number of claims: of 20 that are not "
    "true, one is expected to be decided by chance."
)
TABLE_TEXT = (
    "Differences from the row that each row is compared with, beside the printed ones. IS, IB, SC and FVD are measured "
    "on ToyDance's image encoder, not on the paper's networks: compare directions, not sizes. The paper's columns are "
    "in percent. The clean pairs stand for RealisDance-Val, all others for X-Dance."
)


def write_pages(out: Path, results: Results, table: Mapping[str, Any]) -> None:
    """Write `out/index.html`, with its videos below `out/media`, and `out/table.md`."""
    sections = [_summary(results, table), *_tables(results), *_curves(results), _rows(results, table),
                _videos(out, results)]  # fmt: skip
    write_page(out / "index.html", TITLE, sections)
    with atomic_write(out / "table.md") as aside:
        aside.write_text(markdown(results, table))


def _summary(results: Results, table: Mapping[str, Any]) -> Section:
    compared = results.claims()
    counts = Counter(one.words for one in compared)
    tiles: list[tuple[Any, str]] = [(counts[word], word) for word in (AGREES, DISAGREES, SAME, UNKNOWN)]
    tiles += [(table["finished"], f"of {table['packets']} packets"), (table["cpu_seconds"] / 3600, "CPU hours")]
    rows = [_claim_row(one) for one in compared]
    return Section("Claims", f"{WORDS_TEXT}\n{_how_made(results, table)}", tiles=tiles, head=_CLAIM_HEAD, rows=rows)


_CLAIM_HEAD = ("the paper", "claim", "here", "difference", "95 %", "measured by", "pairs")


def _claim_row(one: Compared) -> list[Any]:
    found, claim = one.difference, one.claim
    return [claim.place, claim.words, one.words, *_difference(found), claim.metric, claim.subset]


def _difference(found: Interval) -> tuple[str, str]:
    if np.isnan(found.mean):
        return "not measured", ""
    if np.isnan(found.low):
        return f"{found.mean:+.3g}", "one seed: no interval"
    return f"{found.mean:+.3g}", f"{found.low:+.3g} to {found.high:+.3g}"


def _value(found: Interval) -> str:
    if np.isnan(found.mean):
        return "not measured"
    return f"{found.mean:.4g}" + ("" if np.isnan(found.low) else f" ± {found.high - found.mean:.2g}")


def _tables(results: Results) -> list[Section]:
    return [_resolved(results), _choices(results), _table_3(results), _collapse(results), _by_cause(results),
            _values(results)]  # fmt: skip


def _resolved(results: Results) -> Section:
    compared = [name for name, row in ROWS.items() if row.group == "start gap"]
    columns = [(metric, subset) for subset in ("start_gap", "large_gap")
               for metric in (RESOLVED_BY_JOINTS, RESOLVED_BY_PIXELS, "start_gap_jump_excess")]  # fmt: skip
    rows = [
        [ROWS[name].title, *(_value(results.value(name, *column)) for column in columns)]
        for name in ("stage2", "stage3", *compared)
    ]
    return Section(
        "Start gaps resolved",
        f"The paper: over {RESOLVED_CLAIM:.0%} of extreme jumps, without a definition. Here: of the pairs with a start "
        "gap, those whose largest jump at the start is at most 1.3 times that of the truth, by joints and by pixels.",
        head=("row", *(f"{metric}, {subset}" for metric, subset in columns)),
        rows=rows,
    )


def _choices(results: Results) -> Section:
    rows = [[one.claim.words, one.words, *_difference(one.difference), one.claim.metric] for one in results.choices()]
    return Section(
        "Printed against released",
        "Where the paper prints something else than its code does: which is better here. Differences are the released "
        "form minus the printed one.",
        head=("printed form", "here", "difference", "95 %", "measured by"),
        rows=rows,
    )


def _table_3(results: Results) -> Section:
    rows = []
    for dataset, row, column, printed, one in results.table_3():
        metric, subset = COLUMNS[column][0], DATASETS[dataset]
        found = results.difference(row, ROWS[row].versus or "", metric, subset)
        rows.append([dataset, ROWS[row].title, column, TABLE_3[dataset][row][column], f"{printed:+.2f}",
                     _value(results.value(row, metric, subset)), *_difference(found), one.words])  # fmt: skip
    head = ("data set", "row", "column", "printed", "printed difference", "here", "difference here", "95 %", "words")
    return Section("Table 3", TABLE_TEXT, head=head, rows=rows)


def _collapse(results: Results) -> Section:
    rows = []
    for name in ("stage1", "stage2", *(n for n in ROWS if n.startswith("normal_distillation"))):
        found = [results.value(name, metric) for metric in ("right_minus_wrong_db", "psnr_db", "motion_ratio")]
        rows.append([ROWS[name].title, *map(_value, found), _collapses(results, name)])
    return Section(
        "Does normal distillation collapse?",
        "Right minus wrong is the PSNR inside both silhouettes against the right truth minus that against the truth of "
        "another dance: at 0, the pose is not followed. A row collapses if its interval is below half of stage 1.",
        head=("row", "right minus wrong, dB", "PSNR, dB", "motion, render over driven", "collapses"),
        rows=rows,
    )


def _collapses(results: Results, name: str) -> str:
    if "stage1" not in results.rows:
        return UNKNOWN
    found, reference = (results.value(row, "right_minus_wrong_db") for row in (name, "stage1"))
    if np.isnan(found.low) or np.isnan(reference.mean):
        return UNKNOWN
    half = reference.mean / 2
    return "yes" if found.high < half else "no" if found.low > half else SAME


def _by_cause(results: Results) -> Section:
    subsets = (*CAUSES, "small_gap", "large_gap")
    rows = []
    for name in results.rows:
        versus = ROWS[name].versus
        if versus is not None:
            found = [results.difference(name, versus, "person_psnr_db", subset) for subset in subsets]
            rows.append([ROWS[name].title, ROWS[versus].title, *(" ".join(_difference(one)) for one in found)])
    meanings = "\n".join(f"{name}: {meaning}." for name, meaning in CAUSES.items())
    return Section(
        "By cause",
        "PSNR in dB inside both silhouettes, frames ≥ 1, row minus the one it is compared with.\n" + meanings,
        head=("row", "compared with", *subsets),
        rows=rows,
    )


def _values(results: Results) -> Section:
    metrics = [*MAIN, *(metric for metric in results.metrics if metric not in MAIN)]
    rows = [[ROWS[name].title, *(_value(results.value(name, metric)) for metric in metrics)] for name in results.rows]
    return Section("All values", "Means over seeds and all pairs.", head=("row", *metrics), rows=rows, is_folded=True)


def _curves(results: Results) -> list[Section]:
    figures = []
    for group, names in (("steps", ("steps_8", "steps_4", "steps_2", "stage1")),
                         ("clips", ("clips_16", "clips_4", "stage1"))):  # fmt: skip
        present = [name for name in names if name in results.rows]
        if len(present) < 2:
            continue
        shares = np.array([_share(name) for name in present])
        for metric in ("right_minus_wrong_db", "person_psnr_db", "psnr_db"):
            found = [results.value(name, metric) for name in present]
            lines = [(shares, np.array([getattr(one, part) for one in found])) for part in ("mean", "low", "high")]
            caption = f"over the share of the {group}; {legend(('mean', '95 %, low', '95 %, high'))}"
            figures.append(Figure(f"{metric} by {group}", draw_curves(lines), caption))
    text = "Quality of stage 1 over its optimizer steps (Figure 5) and over the clips it learns from (Table 1)."
    return [Section("Steps and clips", text, figures=figures)] if figures else []


def _share(name: str) -> float:
    row = ROWS[name]
    return (1 - row.train["validation_share"]) if "validation_share" in row.train else 1 / row.steps_divisor


def _rows(results: Results, table: Mapping[str, Any]) -> Section:
    rows = []
    for name in results.rows:
        row, entry = ROWS[name], table["rows"][name]
        network, train = entry["network"], entry["train"]
        differs = ", ".join(f"{key} = {_short(value)}" for key, value in {**row.train, **row.render}.items())
        rows.append([
            GROUPS[row.group], row.title, ROWS[row.parent].title if row.parent else "base", differs or "reference",
            network and network["num_parameters"], network and f"{network['change']:+,}", train and train["steps"],
            train and train["samples"], ", ".join(map(str, entry["seeds"])),
        ])  # fmt: skip
    return Section(
        "Rows",
        "What each row differs in. Rows of one seed see the same clips, noise and times in the same order, and render "
        "from the same noise. The difference in parameters is checked against what the row names.",
        head=(
            "group",
            "row",
            "starts from",
            "differs in",
            "parameters",
            "of them more",
            "steps",
            "clips seen",
            "seeds",
        ),
        rows=rows,
    )


def _short(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _videos(out: Path, results: Results) -> Section:
    """Copy some renders of the first seed, and play them in step with their truths."""
    names = [name for cause in CAUSES for name in results.subsets.get(cause, ())[:PAIRS_PER_CAUSE]]
    if not names:
        return Section("Videos", "No pairs.")
    pairs, groups = PairSet(out / "pairs"), []
    shown = [name for name in SHOWN_ROWS if name in results.rows and 0 in results.seeds(name)]
    renders = {name: rendered_videos(Packet(name, 0).folder(out) / "renders") for name in shown}
    (out / "media").mkdir(exist_ok=True)
    for name in names:
        group: list[tuple[str, str | None]] = []
        for kind in ("driving", "truth"):
            shutil.copyfile(pairs.video(kind, name), out / "media" / f"{name}-{kind}.mp4")
            group.append((f"{name}: {kind}" if kind == "driving" else kind, f"media/{name}-{kind}.mp4"))
        for row, videos in renders.items():
            place = f"media/{name}-{row}.mp4"
            if name in videos:
                write_playable(videos[name], out / place)
            group.append((ROWS[row].title, place if name in videos else None))
        groups.append(group)
    text = "One pair of each cause, first seed: driving video, truth, and renders. Pictures are enlarged."
    return Section("Videos", text, players=groups)


def markdown(results: Results, table: Mapping[str, Any]) -> str:
    """Return the comparisons as Markdown tables, for the documentation."""
    parts = [_how_made(results, table), _markdown_table(_summary(results, table))]
    for section in (_resolved(results), _choices(results), _collapse(results), _table_3(results)):
        parts += [f"## {section.title}", section.text, _markdown_table(section)]
    return "\n\n".join(parts) + "\n"


def _how_made(results: Results, table: Mapping[str, Any]) -> str:
    """Describe how the table was made: command, sizes, steps, seeds and CPU hours."""
    world, steps = table["world"], table["steps"]
    seeds = ", ".join(str(seed) for seed in sorted({packet.seed for packet in results.by_packet}))
    return (
        f"Made by `{table['command']}`: {table['finished']} of {table['packets']} packets, seeds {seeds}; "
        f"{world['num_sets'] * world['clips_per_set']} clips drawn, {world['num_pairs']} pairs of each cause; "
        f"{', '.join(f'{count} steps of {name}' for name, count in steps.items())}; "
        f"{table['cpu_seconds'] / 3600:.1f} CPU hours."
    )


def _markdown_table(section: Section) -> str:
    lines: list[Sequence[Any]] = [section.head, ["---"] * len(section.head), *section.rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
