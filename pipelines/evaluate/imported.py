"""Scores of other programs beside an evaluation: read once, checked against its pairs, and kept in `OUT/imported`.

They are never rows of `OUT/metrics`, so that no value of another program is mixed with one that was measured here.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ... import SteadyDancerError
from ...datasets.benchmarks import ScoreRow, read_judge_table, read_vbench_results
from ...datasets.storage import Location, format_location
from ...datasets.storage.atomic import write_json
from ...datasets.storage.digests import content_digest, json_digest
from ...datasets.storage.files import files_in

FOLDER = "imported"
VBENCH_SUFFIX, TABLE_SUFFIXES = ".json", (".csv", ".tsv", ".txt")


class ScoreFile(NamedTuple):
    """A file of scores, and the method whose videos were scored; None: the file names it."""

    method: str | None
    file: Location


@dataclass(frozen=True)
class ImportedScores:
    """What was imported from one file: its rows, and the entries that were refused as (place, reason)."""

    file: str
    sha256: str
    rows: tuple[ScoreRow, ...]
    refused: tuple[tuple[str, str], ...]


def read_score_file(scores: ScoreFile, ids: Collection[str], methods: Sequence[str]) -> ImportedScores:
    """Read VBench's `*_eval_results.json`, or a csv of a judge with one video a row.

    Args:
        scores: the file.
        ids: ids of the pairs that are evaluated; rows of others are refused one by one.
        methods: methods of the evaluation; a file that names none is of the only one.

    Raises:
        SteadyDancerError: the file is of neither kind, cannot be read, names no method where there are several, or has
            no score of any pair.
    """
    file, suffix = scores.file, scores.file.suffix.lower()
    method = scores.method or (methods[0] if len(methods) == 1 else None)
    if suffix == VBENCH_SUFFIX:
        if not method:
            raise SteadyDancerError(
                f"{file} names no method: pass METHOD={file}, with one of {', '.join(methods)} or another name"
            )
        found = read_vbench_results(file, method, ids)
    elif suffix in TABLE_SUFFIXES:
        found = read_judge_table(file, method, ids)
    else:
        raise SteadyDancerError(
            f"{file}: expected VBench's result file ({VBENCH_SUFFIX}) or a table ({', '.join(TABLE_SUFFIXES)})"
        )
    if not found.rows:
        first = f"; first: {found.refused[0][0]}, {found.refused[0][1]}" if found.refused else ""
        raise SteadyDancerError(
            f"{file} has no score of a pair of this evaluation ({len(found.refused)} refused{first})"
        )
    refused = (*found.refused, *((f"column {name}", "no number in it") for name in found.ignored_columns))
    return ImportedScores(format_location(file.absolute()), content_digest(file), found.rows, refused)


def keep_scores(out: Location, found: Sequence[ImportedScores]) -> None:
    """Write what was read into `out/imported`; the same file for the same method is kept once."""
    for one in found:
        record = {**asdict(one), "rows": [asdict(row) for row in one.rows]}
        name = json_digest([one.sha256, sorted({row.method for row in one.rows})])[:16]
        write_json(out / FOLDER / f"{name}.json", record)


def kept_scores(out: Location) -> list[ImportedScores]:
    """Return what was imported beside an evaluation, in the order of the files' names."""
    folder = out / FOLDER
    files = [file for file in files_in(folder) if file.suffix == ".json"] if folder.is_dir() else []
    records = [json.loads(file.read_text()) for file in files]
    return [_from_record(record) for record in sorted(records, key=lambda one: (one["file"], one["sha256"]))]


def _from_record(record: dict[str, Any]) -> ImportedScores:
    rows = tuple(ScoreRow(**row) for row in record["rows"])
    return ImportedScores(record["file"], record["sha256"], rows, tuple((a, b) for a, b in record["refused"]))
