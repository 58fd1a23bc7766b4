"""A selection of columns says what the rules say of single rows; targets, quotas and decisions do what they promise."""

import random
from typing import Any

import pyarrow as pa
import pytest

from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_table
from steadydancer.pipelines.crop import content_size
from steadydancer.pipelines.curate.config import CurateConfig, Duplicates, Gates
from steadydancer.pipelines.curate.select import failed_gate, select, select_table
from steadydancer.pipelines.curate.selection import NO_MODEL

GATES = Gates(max_static_edge_ratio=0.4)


def random_rows(number: int, seed: int) -> list[Row]:
    """Rows around the gates' bounds, with nulls, repeated contents, copies, and some that were never measured."""
    chance = random.Random(seed)
    rows = []
    for k in range(number):
        source = k // 3
        row: Row = dict.fromkeys(CLIP_SCHEMA.names) | {
            "source_path": f"/videos/{source:05d}.mp4", "source_id": f"source{source % (number // 4)}",
            "clip_id": f"clip{chance.randrange(number)}", "start_s": 5.0 * (k % 3), "duration_s": 15.0,
            "source_bytes": chance.randrange(10**6), "num_frames": 81,
        }  # fmt: skip
        if chance.random() < 0.1:
            rows.append({**row, "start_s": None, "verdict": "quarantined", "reason": "unreadable", "detail": "no"})
            continue
        if chance.random() < 0.1:
            rows.append({**row, "verdict": "rejected", "reason": "too_short", "detail": "1 s"})
            continue
        row["width"], row["height"] = chance.choice([(1280, 720), (720, 1280), (600, 600), (100, 900)])
        if chance.random() < 0.2:
            row |= {"crop_left_px": 0, "crop_top_px": 0, "crop_width_px": 500, "crop_height_px": 490}
        for gate, column, side, bound in GATES.bounds():
            if gate != "min_side_px" and chance.random() < 0.9:
                off = chance.random() < 0.02
                spread = bound * (1 + (0.5 if (side == "max") == off else -0.5) * chance.random())
                row[column] = round(spread) if column == "num_persons" or column == "pose_gap" else spread
        if chance.random() < 0.5:
            row["num_persons"], row["num_detected_persons"] = None, chance.choice([None, 1, 1, 2])
        if chance.random() < 0.9:
            row |= {"pose_digest": "x", "pose_model": "m"}
        elif chance.random() < 0.5:
            row["pose_model"] = "m"
        row["duplicate_group"] = chance.choice([None, f"group{chance.randrange(number // 5)}"])
        rows.append(row)
    return rows


def by_rows(rows: list[Row], gates: Gates, scope: str) -> list[Row]:
    """The rules, one row after the other."""
    rows = sorted(rows, key=lambda row: (row["source_path"], row["start_s"] or 0.0))
    out: list[Row] = []
    first: dict[str, str] = {}
    for row in rows:
        if row["verdict"] is None:
            failure = failed_gate(row, gates)
            if failure is None and row["pose_digest"] is None:
                failure = "no_pose", NO_MODEL if row["pose_model"] is None else "nobody was found"
            if failure is None and row["clip_id"] in first:
                failure = "duplicate", f"same content as {first[row['clip_id']]}"
            missing = [g for g, column, *_ in gates.bounds() if column != "side_px" and row[column] is None]
            if row["num_persons"] is None and row["num_detected_persons"] is not None:
                missing.remove("max_persons")
            row = row | {"verdict": "rejected" if failure else "ok", "unmeasured": ",".join(missing) or None}
            row["reason"], row["detail"] = failure or (None, None)
            if failure is None:
                first[row["clip_id"]] = row["source_path"]
        out.append(row)
    best: dict[str, Row] = {}

    def quality(row: Row) -> float:
        height, width = content_size(row)
        return float(height * width * row["source_bytes"] / row["duration_s"])

    for row in out:
        group = row["duplicate_group"]
        if row["verdict"] == "ok" and group and (group not in best or quality(row) > quality(best[group])):
            best[group] = row
    key = "source_id" if scope == "source" else "clip_id"
    for row in out:
        kept = best.get(row["duplicate_group"] or "")
        if scope != "off" and row["verdict"] == "ok" and kept is not None and row[key] != kept[key]:
            detail = f"a copy of {kept['source_path']} from {kept['start_s']:.2f} s, which has more pixels and bits"
            row |= {"verdict": "rejected", "reason": "near_duplicate", "detail": detail}
    return out


@pytest.mark.parametrize("scope", ["source", "clip", "off"])
def test_columns_give_the_verdicts_and_the_words_of_the_rules_row_by_row(scope: Any) -> None:
    rows = random_rows(900, seed=len(scope))
    expected = by_rows([dict(row) for row in rows], GATES, scope)
    shuffled = random.Random(1).sample(rows, len(rows))
    config = CurateConfig(gates=GATES, duplicates=Duplicates(scope=scope))
    found = select_table(to_table(shuffled), config).to_pylist()
    # Rows that begin at one moment of one file have no order; there are none but the unreadable.
    key = lambda row: (row["source_path"], row["start_s"] or 0.0, row["clip_id"])  # noqa: E731
    assert sorted(found, key=key) == sorted(expected, key=key)
    reasons = {row["reason"] for row in found}
    assert {"no_pose", "duplicate", None, "too_short", "min_side_px"} < reasons and len(reasons) > 25
    assert ("near_duplicate" in reasons) == (scope != "off")


def test_rows_in_parts_are_judged_as_rows_in_one() -> None:
    table = select_table(to_table(random_rows(300, seed=4)), CurateConfig())
    parts = [table.slice(0, 100), table.slice(100, 0), table.slice(100)]
    selection = select(lambda: parts, CurateConfig())
    again = pa.concat_tables([selection.apply(parts[0], 0), selection.apply(parts[2], 100)])
    # What a selection said before is no obstacle: what was given by measuring stays, all else is judged anew.
    assert again.equals(table)
    assert selection.counts == {v: sum(row == v for row in table["verdict"].to_pylist()) for v in selection.counts}
