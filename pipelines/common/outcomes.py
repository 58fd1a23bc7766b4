"""Outcomes of an artifact's rows: counts of verdicts and reasons, and their text for messages and pages."""

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

MAX_LISTED_ROWS = 5  # up to this many rows are listed one by one below a command's closing line
MAX_WARNINGS = 20
NAMES = ("id", "clip_id")
IDS = (*NAMES, "source_id")
FILES = ("source_path", "image", "driving", "video", "truth")
HEADER_COLUMNS = (*NAMES, "verdict", "reason", "detail")
MAX_COMPARED_IDS = 20_000
# Folder that a command creates in its --out → the command.
ARTIFACTS = {"clips": "curate", "latents": "cache", "export": "export", "renders": "render", "metrics": "evaluate"}
NO_REASON = "no reason recorded"


def read_known(artifact: Artifact, columns: list[str] | None = None) -> pa.Table:
    """Read columns of all rows, by default all except binary ones; skip columns that an older version did not write."""
    known = artifact.part_schema(artifact.parts()[0])
    words = [one.name for one in known if not (pa.types.is_large_binary(one.type) or pa.types.is_binary(one.type))]
    return artifact.read([name for name in words if columns is None or name in columns])


def count_reasons(artifact: Artifact) -> dict[str, Counter[str]]:
    """Count rows as verdict → reason → number. Of `ok` rows, count those with a reason; of others, count every row.

    In metrics, which have one row per video and metric, count the videos that were not scored.
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
    """Read columns of a curation's accepted clips; columns that its version did not write are null.

    Raises:
        ArtifactError: no clip was accepted; the message counts the reasons.
    """
    parts = curated.tables([*columns, "verdict"])
    table = pa.concat_tables(part.filter(pc.equal(part["verdict"], "ok")) for part in parts).select(columns)
    if not len(table):
        reasons = format_reasons(sum(count_reasons(curated.artifact).values(), Counter[str]()))
        raise ArtifactError(f"{curated.artifact.path} has no accepted clip ({reasons}): curate again with looser gates")
    return table


def format_reasons(counts: Counter[str]) -> str:
    """Format counts as `3 too_short, 1 truncated`, the largest first."""
    return ", ".join(
        f"{number} {reason}" for reason, number in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    )


def format_counts(counts: Mapping[str, int]) -> str:
    """Format a record's counts as `4 inputs, 2 ok, 1 rejected, 1 quarantined`."""
    return ", ".join(f"{counts[name]} {name}" for name in ("inputs", *VERDICTS))


def warn_first(log: logging.Logger, lines: Sequence[str], rest: str) -> None:
    """Log the first lines as warnings, and `rest`, with the number of the others for its `%d`."""
    for line in lines[:MAX_WARNINGS]:
        log.warning("%s", line)
    if len(lines) > MAX_WARNINGS:
        log.warning(rest, len(lines) - MAX_WARNINGS)


def closing_lines(artifact: Artifact) -> list[str]:
    """Return the lines below a command's closing line: counts of reasons, a few rows one by one, and remarks."""
    counts = count_reasons(artifact)
    lines = [f"  {verdict}: {format_reasons(found)}" for verdict, found in counts.items() if found]
    return [*lines, *(few_rows(artifact) if _are_few(counts) else ()), *_remarks(artifact)]


def require_usable(artifact: Artifact, counts: dict[str, int]) -> None:
    """Check that a finished artifact has at least one row with the verdict `ok`.

    Raises:
        SteadyDancerError: it has none; the message counts the reasons and lists up to `MAX_LISTED_ROWS` rows.
    """
    if counts["ok"]:
        return
    found = count_reasons(artifact)
    reasons, few = sum(found.values(), Counter[str]()), few_rows(artifact) if _are_few(found) else []
    if not few:
        few = [
            f"see columns `reason` and `detail` in {artifact.path}; for one row, run "
            f"`steadydancer explain ID --artifact {artifact.path}`"
        ]
    raise SteadyDancerError("\n".join([f"no usable output: {format_reasons(reasons)}", *few]))


def _are_few(counts: Mapping[str, Counter[str]]) -> bool:
    """Check whether at most `MAX_LISTED_ROWS` rows are not ok."""
    return sum(found.total() for verdict, found in counts.items() if verdict != "ok") <= MAX_LISTED_ROWS


def few_rows(artifact: Artifact) -> list[str]:
    """List the rows that are not ok, one line each; empty if there are more than `MAX_LISTED_ROWS`."""
    table = read_known(artifact, [*NAMES, "source_path", "verdict", "reason", "detail"])
    table = table.filter(pc.not_equal(table["verdict"], "ok"))
    return sorted(map(format_row, table.to_pylist())) if len(table) <= MAX_LISTED_ROWS else []


def format_row(row: Row) -> str:
    """Format a row with its reason and detail as one line."""
    why = ": ".join(filter(None, (row.get("reason") or NO_REASON, " ".join((row.get("detail") or "").split()))))
    return f"    {name_of(row)}: {why}"


def name_of(row: Row) -> str:
    """Return a row's id, after its file's name if the id is a digest."""
    name = next((str(row[column]) for column in NAMES if row.get(column)), "")
    source = row.get("source_path")
    return f"{PurePath(source).name} ({name})" if source else name


def _remarks(artifact: Artifact) -> list[str]:
    """Return remarks on rows that are ok: renders that are not aligned, metrics without a value."""
    record = artifact.record() if artifact.committed else {}
    if record.get("kind") == "renders":
        return _render_remarks(artifact)
    if record.get("kind") == "metrics":
        truths = format_truths(record.get("truths"))
        by_method: Mapping[str, Any] = record.get("missing_by_method", {})
        if len(by_method) < 2:  # the names of several methods stand before their lines
            by_method = {"": record.get("missing", {})}
        lines = [line for method, found in by_method.items() for line in _missing_metrics(found, method)]
        return [*([f"  {truths}"] if truths else []), *lines]
    return []


def _missing_metrics(missing: Mapping[str, Mapping[str, int]], method: str) -> list[str]:
    """List the metrics that some videos lack, with the reasons; metrics with the same reasons share a line."""
    by_reasons: dict[str, list[str]] = {}
    for name, found in missing.items():
        if found:
            by_reasons.setdefault(format_reasons(Counter(found)), []).append(name)
    lines = []
    for reasons, names in by_reasons.items():
        several = f"{len(names)} metrics ({', '.join(names[:3])}, …)" if len(names) > 3 else " and ".join(names)
        lines.append(f"  {f'{method}: ' if method else ''}{several} without a value: {reasons}")
    return lines


def _render_remarks(artifact: Artifact) -> list[str]:
    """Count renders that are not aligned and renders with a detail; the job has already logged the first details."""
    table = read_known(artifact, ["id", "verdict", "aligned", "detail"])
    rows = table.filter(pc.equal(table["verdict"], "ok")).to_pylist()
    unaligned, noted = (sum(row.get("aligned") is False for row in rows), sum(bool(row.get("detail")) for row in rows))
    lines = [f"  {unaligned} rendered without alignment"] if unaligned else []
    return lines + ([f"  {noted} with a note: `steadydancer explain ID --renders {artifact.path}`"] if noted else [])


def format_truths(truths: dict[str, Any] | None) -> str:
    """Format a record's counts of ground-truth videos found and compared; empty for a record without them."""
    if truths is None:
        return ""
    if truths["folder"] is None:
        return "No ground truth was given."
    words = f"{truths['found']} of {truths['asked']} ids have ground truth in {truths['folder']}"
    if "compared" in truths:
        words += f"; {truths['compared']} renders were compared, {truths['frames_compared']} frames"
    for reason, names in truths["not_found"].items():
        number = truths["asked"] - truths["found"] if len(truths["not_found"]) == 1 else len(names)
        words += f". {reason}: {number} ({', '.join(names[:3])}{', …' if number > 3 else ''})"
    if truths["num_unused"]:
        listed = ", ".join(truths["unused"][:3]) + (", …" if truths["num_unused"] > 3 else "")
        match = "video in it matches" if truths["num_unused"] == 1 else "videos in it match"
        words += f". {truths['num_unused']} {match} no render ({listed})"
    return f"{words}."


def artifacts_in(folder: Location) -> list[Artifact]:
    """Return the artifact at a folder, or the artifacts in it under the names that commands give them.

    Raises:
        ArtifactError: there is none.
    """
    found = [one for one in map(Artifact, (folder, *(folder / name for name in ARTIFACTS))) if has_rows(one)]
    if not found:
        where = "has no artifact with rows" if folder.is_dir() else "does not exist"
        where = "is a file, not a folder" if folder.is_file() else where
        raise ArtifactError(f"{folder} {where}: pass the --out folder of {', '.join(ARTIFACTS.values())}")
    return found[:1] if found[0].path == folder else found


def has_rows(artifact: Artifact) -> bool:
    """Check whether the artifact has parts, finished or not."""
    try:
        return bool(artifact.parts())
    except ArtifactError:
        return False


def find_rows(artifact: Artifact, wanted: str) -> list[Row]:
    """Find rows by id, by a file's path or name with or without suffix, or by the first characters of an id."""
    table = read_known(artifact)
    ids = [table[name].to_pylist() for name in IDS if name in table.column_names]
    files = [table[name].to_pylist() for name in FILES if name in table.column_names]
    tries: tuple[tuple[list[list[str | None]], Callable[[str], bool]], ...] = (
        (ids, lambda text: text == wanted),
        (files, lambda text: text == wanted or text == str(Path(wanted).absolute())),
        (ids, lambda text: text == file_stem(wanted)),  # an id as the user gave it, before it became a file name
        (files, lambda text: wanted in (PurePath(text).name, PurePath(text).stem)),
        (ids, lambda text: text.startswith(wanted)),
    )
    for columns, fits in tries if wanted else ():
        rows = [n for n in range(len(table)) if any(column[n] and fits(str(column[n])) for column in columns)]
        if rows:
            return list(table.take(rows).to_pylist())
    return []


def similar_ids(artifact: Artifact, wanted: str) -> list[str]:
    """Return up to five ids that are spelled like `wanted`."""
    table = read_known(artifact, list(IDS))
    every = {str(name) for column in table.columns for name in column.unique().to_pylist() if name}
    return difflib.get_close_matches(wanted, sorted(every)[:MAX_COMPARED_IDS], 5)


def format_rows(artifact: Artifact, rows: list[Row]) -> str:
    """Format the rows of one id for a terminal: verdict, reason, detail, and all other columns with a value.

    Of metrics, which have one row each, list the values and the reasons of nulls.
    """
    first = rows[0]
    head = f"{name_of(first)} in {artifact.path}{'' if artifact.committed else ' (not finished)'}: {first['verdict']}"
    values = {name: value for name, value in first.items() if value is not None and name not in HEADER_COLUMNS}
    lines = [head + (f", {first.get('reason') or NO_REASON}" if first["verdict"] != "ok" else "")]
    if first.get("metric"):
        values = {name: value for name, value in values.items() if name not in ("metric", "value", "frames_compared")}
        lines += [_format_metric(row) for row in rows]
    elif first.get("detail"):
        lines.append(f"  {first['detail']}")
    width = max((len(name) for name in values), default=0)
    return "\n".join([*lines, *(f"  {name:{width}}  {value}" for name, value in values.items())])


def _format_metric(row: Row) -> str:
    value = "none" if row["value"] is None else f"{row['value']:.6g}"
    why = ": ".join(filter(None, (row["reason"], row["detail"])))
    return f"  {row['metric']:26}{value:>10}{f'  {why}' if why else ''}"
