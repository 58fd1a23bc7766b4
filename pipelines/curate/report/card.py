"""Data set card: Markdown with the YAML front matter that hubs read."""

import re
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.storage import Location
from ....datasets.storage.atomic import atomic_write
from ...pages.layout import show
from .composition import Kinds, composition, copies, count_by_model, format_hours, hours_of, leaks, num_sources
from .funnel import GateCount, meaning_of, reasons, verdict_is

# Licence identifiers that hubs know; any other text becomes `other` in the front matter and is listed in the table.
LICENCES = re.compile(r"(cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|mit|apache-2\.0|bsd-3-clause|pddl|odbl)")
SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
         (10**8, "10M<n<100M")]  # fmt: skip


def write_card(path: Location, record: dict[str, Any], table: pa.Table, counts: list[GateCount]) -> None:
    """Write the card of a finished curation; arguments as `card_text`."""
    with atomic_write(path) as aside:
        aside.write_text(card_text(record, table, counts), encoding="utf-8", errors="replace")


def card_text(record: dict[str, Any], table: pa.Table, counts: list[GateCount]) -> str:
    """Return the card as Markdown.

    Args:
        record: of the clips artifact.
        table: all rows, as the report reads them.
        counts: of each gate.
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
    """Return the hub identifier of the accepted clips' licence: `unknown` if any has none, `other` if they differ."""
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
        f"{format_hours(hours_of(table, accepted))} in total, from {show(num_sources(table, accepted))} of "
        f"{show(record['inputs']['sources'])} source files. Each clip has "
        f"{config['num_frames']} frames at {config['fps']:g} fps ({seconds:.4g} s from first to last), sampled by "
        f"time from one shot, with keypoints. {show(num_prompts)} have a caption.\n\n"
        "The table `clips/` has one row per clip, or per source without clips, with all scores and the verdict. "
        "Keypoints are in `measured/`. The videos themselves are not copied: `source_path` names their location.\n\n"
        f"Written by SteadyDancer {markdown(record['version'])}."
    )


def _verdict_counts(record: dict[str, Any], table: pa.Table) -> str:
    counts = record["counts"]
    rows = [[verdict, reason, number, meaning_of(reason)] for (verdict, reason), number in reasons(table).items()]
    return (
        "## Verdicts\n\n"
        f"{counts['inputs']} rows = {counts['ok']} ok + {counts['rejected']} rejected + {counts['quarantined']} "
        "quarantined. Rejected: by a gate or rule. Quarantined: unreadable or damaged.\n\n"
        + _table(["verdict", "reason", "rows", "meaning"], rows)
    )


def _kinds_text(table: pa.Table) -> str:
    out = ["## Composition of the accepted clips"]
    found: dict[str, Kinds] = composition(table)
    rows = [[name, label, kept] for name, kinds in found.items() for label, kept, _ in kinds if kept]
    return "\n\n".join([*out, _table(["", "", "clips"], rows)])


def _gates(counts: list[GateCount]) -> str:
    rows = [[one.gate, one.threshold_text, one.accepted_unmeasured, meaning_of(one.gate)] for one in counts]
    return (
        "## Filtering\n\nThe paper names its filters but not their thresholds; these are this project's. In brackets, "
        "where labelled clips exist: the worst good clip | the best bad clip.\n\n"
        + _table(["gate", "threshold", "accepted without a score", "meaning"], rows)
    )


def _models(table: pa.Table, record: dict[str, Any]) -> str:
    rows = [[name, number or "not used"] for name, number in count_by_model(table)]
    config = record["config"]
    choices = [f"`{name}` {markdown(config[name])}" for name in ("shot_detector", "text_detector", "person_counter",
                                                      "aesthetic_model", "pose_model") if name in config]  # fmt: skip
    return f"## Models\n\nSettings: {', '.join(choices)}.\n\n" + _table(["model", "rows"], rows)


def _limits(record: dict[str, Any], table: pa.Table, counts: list[GateCount]) -> str:
    accepted = int(verdict_is(table, "ok").sum())
    lines = [
        f"- `{one.gate}`: {'no' if one.accepted_unmeasured == accepted else show(accepted - one.accepted_unmeasured)} "
        f"accepted clip was measured for it{'' if one.accepted_unmeasured == accepted else '; the others were not'}."
        for one in counts
        if one.accepted_unmeasured and accepted
    ]
    found = copies(table)
    lines.append(
        f"- {show(found['groups'])} groups of duplicates were found; one clip or source of each group is kept."
    )
    if leaks(table) is None:
        lines.append("- Similarity to evaluation sets was not checked: these clips may overlap with them.")
    if unread := record["inputs"].get("excluded_unreadable"):
        lines.append(
            f"- {show(len(unread))} videos of the evaluation sets could not be read, so no clip was compared with them."
        )
    if licence_name(table) == "unknown":
        lines.append(
            "- The licence of some clips is unknown. No consent is recorded beyond the licences and origins above."
        )
    return "## Known limits\n\n" + "\n".join(lines)


def _removal() -> str:
    return (
        "## Removing a source\n\n`steadydancer forget SOURCE` (a path or the digest of a file's content, column "
        "`source_id`) removes it from the tables and from the shards built from them."
    )


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([markdown(show(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(value: Any) -> str:
    """Convert text of unknown origin to escaped Markdown on one line."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]<>|#!~])", r"\\\1", line)
