"""What became of an artifact's rows: all verdicts and reasons, counted so that they add up, and in words."""

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ... import SteadyDancerError
from ...datasets.artifact import VERDICTS, Artifact, ArtifactError
from ...datasets.clips import Clips
from ...datasets.file_names import file_stem
from ...datasets.schema import Row
from ...datasets.storage import Location

MAX_LISTED_ROWS = 5  # rows of which a closing line tells one by one
MAX_WARNINGS = 20
NAMES = ("id", "clip_id")
IDS = (*NAMES, "source_id")
FILES = ("source_path", "image", "driving", "video", "truth")
HEADER_COLUMNS = (*NAMES, "verdict", "reason", "detail")
MAX_COMPARED_IDS = 20_000
# Folder that a command makes in its --out → the command.
ARTIFACTS = {"clips": "curate", "latents": "cache", "export": "export", "renders": "render", "metrics": "evaluate"}
NO_REASON = "no reason recorded"


def read_known(artifact: Artifact, columns: list[str] | None = None) -> pa.Table:
    """Some columns of all rows, or all that are no bytes; without those that an older version did not write."""
    known = artifact.part_schema(artifact.parts()[0])
    words = [one.name for one in known if not (pa.types.is_large_binary(one.type) or pa.types.is_binary(one.type))]
    return artifact.read([name for name in words if columns is None or name in columns])


def count_reasons(artifact: Artifact) -> dict[str, Counter[str]]:
    """Verdict → reason → rows; of `ok` only those that have one. Every row that is not ok is counted once.

    Of metrics, whose videos have a row a metric, the videos that were not scored are counted.
    """
    table = read_known(artifact, ["verdict", "reason", "metric"])
    if "metric" in table.column_names:
        table = table.filter(pc.not_equal(table["verdict"], "ok"))
    out: dict[str, Counter[str]] = {verdict: Counter() for verdict in VERDICTS}
    keys = [name for name in ("verdict", "reason") if name in table.column_names]
    for row in table.group_by(keys).aggregate([([], "count_all")]).to_pylist():
        if row.get("reason") or row["verdict"] != "ok":
            out[row["verdict"]][row.get("reason") or NO_REASON] += row["count_all"]
    return out


def accepted_rows(curated: Clips, columns: Sequence[str]) -> pa.Table:
    """Read columns of the accepted clips of a curation; null in those that its version did not know.

    Raises:
        ArtifactError: no clip was accepted; the message counts the reasons.
    """
    parts = curated.tables([*columns, "verdict"])
    table = pa.concat_tables(part.filter(pc.equal(part["verdict"], "ok")) for part in parts).select(columns)
    if not len(table):
        reasons = format_reasons(sum(count_reasons(curated.artifact).values(), Counter[str]()))
        raise ArtifactError(f"{curated.artifact.path} holds no accepted clip ({reasons}): loosen the gates of curate")
    return table


def format_reasons(counts: Counter[str]) -> str:
    """`3 too_short, 1 truncated`: all of them, most first."""
    return ", ".join(
        f"{number} {reason}" for reason, number in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    )


def format_counts(counts: Mapping[str, int]) -> str:
    """`4 inputs, 2 ok, 1 rejected, 1 quarantined`, of a record's counts."""
    return ", ".join(f"{counts[name]} {name}" for name in ("inputs", *VERDICTS))


def warn_first(log: logging.Logger, lines: Sequence[str], rest: str) -> None:
    """Warn by the first of many lines, and of how many more there are: `rest` with `%d` for the number."""
    for line in lines[:MAX_WARNINGS]:
        log.warning("%s", line)
    if len(lines) > MAX_WARNINGS:
        log.warning(rest, len(lines) - MAX_WARNINGS)


def closing_lines(artifact: Artifact) -> list[str]:
    """Lines below a command's closing line: every reason with its count, few rows one by one, and what else is told."""
    counts = count_reasons(artifact)
    lines = [f"  {verdict}: {format_reasons(found)}" for verdict, found in counts.items() if found]
    return [*lines, *(few_rows(artifact) if _are_few(counts) else ()), *_remarks(artifact)]


def require_usable(artifact: Artifact, counts: dict[str, int]) -> None:
    """Refuse to go on from a finished artifact in which nothing is ok.

    Raises:
        SteadyDancerError: the message has all reasons, few rows one by one, and how the others are told.
    """
    if counts["ok"]:
        return
    found = count_reasons(artifact)
    reasons, few = sum(found.values(), Counter[str]()), few_rows(artifact) if _are_few(found) else []
    if not few:
        few = [
            f"`steadydancer explain ID --artifact {artifact.path}` tells of one; each has its reason and detail there"
        ]
    raise SteadyDancerError("\n".join([f"nothing came out usable: {format_reasons(reasons)}", *few]))


def _are_few(counts: Mapping[str, Counter[str]]) -> bool:
    """Whether so few rows are not ok that it is worth reading them."""
    return sum(found.total() for verdict, found in counts.items() if verdict != "ok") <= MAX_LISTED_ROWS


def few_rows(artifact: Artifact) -> list[str]:
    """A line for each row that is not ok, with its detail; none if these are many."""
    table = read_known(artifact, [*NAMES, "source_path", "verdict", "reason", "detail"])
    table = table.filter(pc.not_equal(table["verdict"], "ok"))
    return sorted(map(format_row, table.to_pylist())) if len(table) <= MAX_LISTED_ROWS else []


def format_row(row: Row) -> str:
    """One row with its reason and detail, in a line."""
    why = ": ".join(filter(None, (row.get("reason") or NO_REASON, " ".join((row.get("detail") or "").split()))))
    return f"    {name_of(row)}: {why}"


def name_of(row: Row) -> str:
    """What a person calls a row by: its id, and the file where the id is a digest."""
    name = next((str(row[column]) for column in NAMES if row.get(column)), "")
    source = row.get("source_path")
    return f"{PurePath(source).name} ({name})" if source else name


def _remarks(artifact: Artifact) -> list[str]:
    """What rows that are ok tell: of renders, that a pose was not aligned; of metrics, what has no value."""
    record = artifact.record() if artifact.committed else {}
    if record.get("kind") == "renders":
        return _render_remarks(artifact)
    if record.get("kind") == "metrics":
        missing = {name: Counter(found) for name, found in record.get("missing", {}).items() if found}
        told = format_truths(record.get("truths"))
        return [*([f"  truths: {told}"] if told else []),
                *(f"  {name} without a value: {format_reasons(found)}" for name, found in missing.items())]  # fmt: skip
    return []


def _render_remarks(artifact: Artifact) -> list[str]:
    """How many are not aligned, and how many have a word to say; the job itself has said the first of them."""
    table = read_known(artifact, ["id", "verdict", "aligned", "detail"])
    rows = table.filter(pc.equal(table["verdict"], "ok")).to_pylist()
    unaligned, told = (sum(row.get("aligned") is False for row in rows), sum(bool(row.get("detail")) for row in rows))
    lines = [f"  {unaligned} not aligned"] if unaligned else []
    return lines + ([f"  {told} with a remark: `steadydancer explain ID --renders {artifact.path}`"] if told else [])


def format_truths(told: dict[str, Any] | None) -> str:
    """How many truths were found and compared, as the record has it; empty for a record that does not say."""
    if told is None:
        return ""
    if told["folder"] is None:
        return "No truth was given."
    words = f"{told['found']} of {told['asked']} renders have a truth in {told['folder']}"
    if "compared" in told:
        words += f"; {told['compared']} were compared, {told['frames_compared']} frames"
    for reason, names in told["not_found"].items():
        number = told["asked"] - told["found"] if len(told["not_found"]) == 1 else len(names)
        words += f". {reason}: {number} ({', '.join(names[:3])}{', …' if number > 3 else ''})"
    if told["num_unused"]:
        shown = ", ".join(told["unused"][:3]) + (", …" if told["num_unused"] > 3 else "")
        fit = "video there fits" if told["num_unused"] == 1 else "videos there fit"
        words += f". {told['num_unused']} {fit} no render ({shown})"
    return f"{words}."


def artifacts_in(folder: Location) -> list[Artifact]:
    """The artifact that lies in a folder itself, or those in it by the names that commands give them.

    Raises:
        ArtifactError: there is none.
    """
    found = [one for one in map(Artifact, (folder, *(folder / name for name in ARTIFACTS))) if has_rows(one)]
    if not found:
        where = "holds no artifact with rows" if folder.is_dir() else "does not exist"
        where = "is a file; a folder is wanted" if folder.is_file() else where
        raise ArtifactError(f"{folder} {where}: give what --out of {', '.join(ARTIFACTS.values())} was")
    return found[:1] if found[0].path == folder else found


def has_rows(artifact: Artifact) -> bool:
    """Whether parts lie there, finished or not."""
    try:
        return bool(artifact.parts())
    except ArtifactError:
        return False


def find_rows(artifact: Artifact, wanted: str) -> list[Row]:
    """Rows that a person may mean: by id, by a file's path or name with or without suffix, or by an id's beginning."""
    table = read_known(artifact)
    ids = [table[name].to_pylist() for name in IDS if name in table.column_names]
    files = [table[name].to_pylist() for name in FILES if name in table.column_names]
    tries: tuple[tuple[list[list[str | None]], Callable[[str], bool]], ...] = (
        (ids, lambda text: text == wanted),
        (files, lambda text: text == wanted or text == str(Path(wanted).absolute())),
        (ids, lambda text: text == file_stem(wanted)),  # an id as it was asked for, before it named files
        (files, lambda text: wanted in (PurePath(text).name, PurePath(text).stem)),
        (ids, lambda text: text.startswith(wanted)),
    )
    for columns, fits in tries if wanted else ():
        rows = [n for n in range(len(table)) if any(column[n] and fits(str(column[n])) for column in columns)]
        if rows:
            return list(table.take(rows).to_pylist())
    return []


def similar_ids(artifact: Artifact, wanted: str) -> list[str]:
    """Ids that are written alike."""
    table = read_known(artifact, list(IDS))
    every = {str(name) for column in table.columns for name in column.unique().to_pylist() if name}
    return difflib.get_close_matches(wanted, sorted(every)[:MAX_COMPARED_IDS], 5)


def format_rows(artifact: Artifact, rows: list[Row]) -> str:
    """Rows of one id as lines for a terminal: the verdict, the reason with its detail, and what is known of the files.

    Of metrics, which have a row each, the values and the reasons of nulls.
    """
    first = rows[0]
    head = f"{name_of(first)} in {artifact.path}{'' if artifact.committed else ' (not finished)'}: {first['verdict']}"
    told = {name: value for name, value in first.items() if value is not None and name not in HEADER_COLUMNS}
    lines = [head + (f", {first.get('reason') or NO_REASON}" if first["verdict"] != "ok" else "")]
    if first.get("metric"):
        told = {name: value for name, value in told.items() if name not in ("metric", "value", "frames_compared")}
        lines += [_format_metric(row) for row in rows]
    elif first.get("detail"):
        lines.append(f"  {first['detail']}")
    width = max((len(name) for name in told), default=0)
    return "\n".join([*lines, *(f"  {name:{width}}  {value}" for name, value in told.items())])


def _format_metric(row: Row) -> str:
    value = "none" if row["value"] is None else f"{row['value']:.6g}"
    why = ": ".join(filter(None, (row["reason"], row["detail"])))
    return f"  {row['metric']:26}{value:>10}{f'  {why}' if why else ''}"
