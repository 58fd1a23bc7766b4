"""The card of a data set: Markdown with the head that hubs read. It says what is known, and that the rest is not."""

import re
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.storage import Location
from ....datasets.storage.atomic import written_aside
from ...pages.layout import show
from .composition import Kinds, composition, copies, count_by_model, format_hours, hours_of, leaks, num_sources
from .funnel import GateCount, meaning_of, reasons, verdict_is

# Names that hubs know; a manifest's own words become `other` and stand in the table.
LICENCES = re.compile(r"(cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|mit|apache-2\.0|bsd-3-clause|pddl|odbl)")
SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
         (10**8, "10M<n<100M")]  # fmt: skip


def write_card(path: Location, record: dict[str, Any], table: pa.Table, counts: list[GateCount]) -> None:
    """Write the card of a finished curation; arguments as `card_text`."""
    with written_aside(path) as aside:
        aside.write_text(card_text(record, table, counts), encoding="utf-8", errors="replace")


def card_text(record: dict[str, Any], table: pa.Table, counts: list[GateCount]) -> str:
    """The card.

    Args:
        record: of the clips artifact.
        table: all rows, as the report reads them.
        counts: what each gate did.
    """
    parts = [
        _front_matter(table),
        _description(record, table),
        _verdict_counts(record, table),
        _kinds_text(table),
        _gates(counts),
        _models(table, record),
        _limits(record, table, counts),
        _removal(),
    ]
    return "\n\n".join(parts) + "\n"


def licence_name(table: pa.Table) -> str:
    """The accepted clips' licence as hubs write it: `unknown` unless all of them have one, `other` for several."""
    column = table["licence"].filter(pc.equal(table["verdict"], "ok"))
    found = {(text or "").strip().lower() for text in column.unique().to_pylist()}
    if not found or "" in found:
        return "unknown"
    (one, *more) = sorted(found)
    return one if not more and LICENCES.fullmatch(one) else "other"


def _front_matter(table: pa.Table) -> str:
    number = int(verdict_is(table, "ok").sum())
    size = next((name for limit, name in SIZES if number < limit), "n>100M")
    lines = [f"license: {licence_name(table)}", f"size_categories: [{size}]", "task_categories: [image-to-video]"]
    return "\n".join(["---", *lines, "---"])


def _description(record: dict[str, Any], table: pa.Table) -> str:
    accepted, config = verdict_is(table, "ok"), record["config"]
    num_prompts = int(pc.sum(pc.and_(pc.equal(table["verdict"], "ok"), pc.is_valid(table["prompt"]))).as_py() or 0)
    seconds = (config["num_frames"] - 1) / config["fps"]
    return (
        f"# Clips of {markdown(PurePath(record['inputs']['clips']).name)}\n\n"
        f"{show(int(accepted.sum()))} clips of people for pose-driven animation, "
        f"{format_hours(hours_of(table, accepted))} together, out of {show(num_sources(table, accepted))} of "
        f"{show(record['inputs']['sources'])} source files. Each clip has "
        f"{config['num_frames']} frames at {config['fps']:g} a second ({seconds:.4g} s from first to last), chosen "
        f"by time, of one shot, with keypoints. {show(num_prompts)} have a caption.\n\n"
        "The table `clips/` has one row a clip or a source that gave none, with every score and verdict; keypoints lie "
        "in `measured/`. The videos themselves stay where `source_path` says.\n\n"
        f"Made by SteadyDancer {markdown(record['version'])}."
    )


def _verdict_counts(record: dict[str, Any], table: pa.Table) -> str:
    counts = record["counts"]
    rows = [[verdict, reason, number, meaning_of(reason)] for (verdict, reason), number in reasons(table).items()]
    return (
        "## What went in and what came out\n\n"
        f"{counts['inputs']} rows = {counts['ok']} ok + {counts['rejected']} rejected + {counts['quarantined']} "
        "quarantined. Rejected did not please; quarantined could not be read.\n\n"
        + _table(["verdict", "reason", "rows", "what it says"], rows)
    )


def _kinds_text(table: pa.Table) -> str:
    out = ["## What the accepted clips are"]
    found: dict[str, Kinds] = composition(table)
    rows = [[name, label, kept] for name, kinds in found.items() for label, kept, _ in kinds if kept]
    return "\n\n".join([*out, _table(["", "", "clips"], rows)])


def _gates(counts: list[GateCount]) -> str:
    rows = [[one.gate, one.asks, one.accepted_unmeasured, meaning_of(one.gate)] for one in counts]
    return (
        "## How it was filtered\n\nThe paper names what it filters on, but no bound; these are this project's. In "
        "brackets, where there are labelled clips: the worst value of a good one | the best of those to be refused.\n\n"
        + _table(["gate", "asks", "accepted without being measured", "of"], rows)
    )


def _models(table: pa.Table, record: dict[str, Any]) -> str:
    rows = [[name, number or "not used"] for name, number in count_by_model(table)]
    config = record["config"]
    choices = [f"`{name}` {markdown(config[name])}" for name in ("shot_detector", "text_detector", "person_counter",
                                                      "aesthetic_model", "pose_model") if name in config]  # fmt: skip
    return f"## What measured\n\nAsked for: {', '.join(choices)}.\n\n" + _table(["model", "rows"], rows)


def _limits(record: dict[str, Any], table: pa.Table, counts: list[GateCount]) -> str:
    accepted = int(verdict_is(table, "ok").sum())
    lines = [
        f"- `{one.gate}`: {'no' if one.accepted_unmeasured == accepted else show(accepted - one.accepted_unmeasured)} "
        f"accepted clip was measured for it{'' if one.accepted_unmeasured == accepted else ', the others were not'}."
        for one in counts
        if one.accepted_unmeasured and accepted
    ]
    found = copies(table)
    lines.append(f"- {show(found['groups'])} groups of copies were found; one of each stays.")
    if leaks(table) is None:
        lines.append("- Likeness to evaluation sets was not looked for: clips of theirs may be among these.")
    if unread := record["inputs"].get("excluded_unreadable"):
        lines.append(f"- {show(len(unread))} videos of the evaluation sets could not be read and were not looked for.")
    if licence_name(table) == "unknown":
        lines.append("- The licence of some clips is unknown. Nobody's consent was recorded beyond what is told above.")
    return "## Known limits\n\n" + "\n".join(lines)


def _removal() -> str:
    return (
        "## To have a source removed\n\n`steadydancer forget SOURCE` (a path or the digest of a file's content, column "
        "`source_id`) takes it out of the tables, and out of shards that were made of them."
    )


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([markdown(show(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(value: Any) -> str:
    """Text of unknown origin as Markdown that shows it, on one line, and does nothing else."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]<>|#!~])", r"\\\1", line)
