"""Select: every row gets exactly one verdict, from its scores alone. No video is touched."""

from collections.abc import Collection, Iterable

from ...datasets.schema import Row
from .config import Gates

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


def select(rows: Iterable[Row], gates: Gates) -> list[Row]:
    """Verdicts for all rows; those that already have one (quarantined, too short) keep it.

    Of clips with the same content the first in path order that passes stays.
    """
    out: list[Row] = []
    first_with: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: (row["source_path"], row["start_s"] or 0.0)):
        if row.get("verdict") is None:
            row = {**row, **_verdict(row, gates, first_with.get(row["clip_id"]))}
            if row["verdict"] == "ok":
                first_with[row["clip_id"]] = row["source_path"]
        # Keypoints are read by the cache alone, and only of accepted clips.
        out.append(row if row["verdict"] == "ok" else {**row, "pose": None})
    return out


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
        return None if row.get("width") is None else float(min(row["width"], row["height"]))
    return row.get(column)
