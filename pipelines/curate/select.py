"""Select: every row gets exactly one verdict, from its scores alone. No video is touched."""

from collections.abc import Collection, Iterable

from ...datasets.schema import Row
from ..crop import content_size
from .config import Duplicates, Gates
from .duplicates import group_rows

NO_MODEL = "no keypoints beside the clip, and no pose model here: `steadydancer weights fetch blazepose`"


def failed_gate(row: Row, gates: Gates, among: Collection[str] | None = None) -> tuple[str, str] | None:
    """The first gate that refuses a row, with the value and the bound; None when all that were measured pass."""
    for gate, column, side, bound in gates.bounds():
        if among is not None and gate not in among:
            continue
        value = _value(row, column)
        if value is not None and (value < bound if side == "min" else value > bound):
            return gate, f"{column} {value:.4g}, {'at least' if side == 'min' else 'at most'} {bound:.4g} is asked"
    return None


def select(rows: Iterable[Row], gates: Gates, duplicates: Duplicates | None = None) -> list[Row]:
    """Verdicts for all rows; those that already have one (quarantined, too short) keep it.

    Of clips with the same content the first in path order that passes stays; of files that show the same
    (`duplicate_group`, found here where no row has it yet), among those with a clip that passes, the best copy: the
    largest product of the picture's area and bits a second.
    """
    ordered = sorted(rows, key=lambda row: (row["source_path"], row["start_s"] or 0.0))
    duplicates = duplicates or Duplicates()
    if duplicates.scope != "off" and not any(row.get("duplicate_group") for row in ordered):
        groups = group_rows(ordered, duplicates.scope, duplicates.min_common_ratio)
        ordered = [{**row, "duplicate_group": groups.get(index)} for index, row in enumerate(ordered)]
    first_with: dict[str, str] = {}
    for index, row in enumerate(ordered):
        if row.get("verdict") is None:
            ordered[index] = row = {**row, **_verdict(row, gates, first_with.get(row["clip_id"]))}
            if row["verdict"] == "ok":
                first_with[row["clip_id"]] = row["source_path"]
    if duplicates.scope != "off":
        ordered = _keep_best_copies(ordered, duplicates.scope)
    return ordered


def _keep_best_copies(rows: list[Row], scope: str) -> list[Row]:
    """Accepted rows of a group stay where they are of its best copy; the others name it."""
    best: dict[str, Row] = {}
    for row in rows:
        group = row.get("duplicate_group")
        if row["verdict"] == "ok" and group and (group not in best or _quality(row) > _quality(best[group])):
            best[group] = row
    out = []
    key = "source_id" if scope == "source" else "clip_id"
    for row in rows:
        kept = best.get(row.get("duplicate_group") or "")
        if row["verdict"] == "ok" and kept is not None and row[key] != kept[key]:
            detail = f"a copy of {kept['source_path']} from {kept['start_s']:.2f} s, which has more pixels and bits"
            row = {**row, "verdict": "rejected", "reason": "near_duplicate", "detail": detail}
        out.append(row)
    return out


def _quality(row: Row) -> float:
    height, width = content_size(row)
    return float(height * width * row["source_bytes"] / row["duration_s"])


def _verdict(row: Row, gates: Gates, holder: str | None) -> Row:
    unmeasured = [gate for gate, column, _, _ in gates.bounds() if _value(row, column) is None]
    failure = failed_gate(row, gates)
    if failure is None and row.get("pose") is None:
        failure = "no_pose", NO_MODEL if row.get("pose_model") is None else "nobody was found"
    if failure is None and holder is not None:
        failure = "duplicate", f"same content as {holder}"
    return {
        "verdict": "ok" if failure is None else "rejected",
        "reason": failure[0] if failure else None,
        "detail": failure[1] if failure else None,
        "unmeasured": ",".join(unmeasured) or None,
    }


def _value(row: Row, column: str) -> float | None:
    if column == "side_px":
        return None if row.get("width") is None else float(min(content_size(row)))
    if column == "num_persons" and row.get(column) is None:
        return row.get("num_detected_persons")
    return row.get(column)
