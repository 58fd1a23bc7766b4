"""A selection of columns says what the rules say of single rows; targets, quotas and decisions do what they promise."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_table
from steadydancer.pipelines.common.crop import content_size
from steadydancer.pipelines.curate.config import SHAPES, CurateConfig, Duplicates, Quotas, Target
from steadydancer.pipelines.curate.gates import Gates
from steadydancer.pipelines.curate.selection.overrides import read_decisions
from steadydancer.pipelines.curate.selection.select import failed_gate, select, select_table
from steadydancer.pipelines.curate.selection.targets import UNMEASURED, Scale, mix_parts
from steadydancer.pipelines.curate.selection.verdicts import NO_MODEL, Selection

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
                failure = "no_pose", NO_MODEL if row["pose_model"] is None else "no person was found"
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
            detail = f"copy of {kept['source_path']} at {kept['start_s']:.2f} s, which has more pixels and bits"
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


def clips_of(number: int, seed: int = 0, **changes: Any) -> pa.Table:
    """Rows that pass every gate or fail only those of taste; a third lies on its side, a tenth is square."""
    chance = random.Random(seed)
    rows = []
    for k in range(number):
        width, height = chance.choices([(720, 1280), (1280, 720), (700, 700)], [6, 3, 1])[0]
        row: Row = dict.fromkeys(CLIP_SCHEMA.names) | {
            "source_path": f"/videos/{k // 4:05d}.mp4", "source_id": f"source{k // 4}", "clip_id": f"clip{k}",
            "start_s": 5.0 * (k % 4), "duration_s": 20.0, "source_bytes": 1000, "width": width, "height": height,
            "pose_digest": "x", "pose_model": "m", "pose_confidence": chance.random(),
            "subject_height": chance.random(), "pose_jerk": chance.choice([None, 0.5 * chance.random()]),
        }  # fmt: skip
        rows.append(row | changes)
    return to_table(rows)


def run(table: pa.Table, **fields: Any) -> Selection:
    return select(lambda: [table.slice(0, 100), table.slice(100)], CurateConfig(**fields))


def accepted(selection: Selection, table: pa.Table) -> list[Row]:
    return [row for row in selection.apply(table, 0).to_pylist() if row["verdict"] == "ok"]


@pytest.mark.parametrize("number", [10, 150, 400], ids=["tighter", "tighter for some", "looser"])
def test_a_target_is_met_in_its_mix_by_bounds_that_anyone_can_apply(number: int) -> None:
    table = clips_of(1500)
    chosen = run(table)
    selection = run(table, target=Target(num_clips=number, mix={"vertical": 0.72}))
    vertical = round(0.72 * number)
    shapes = selection.accepted_by_shape()
    assert (shapes["vertical"], shapes["horizontal"] + shapes["square"]) == (vertical, number - vertical)
    found = selection.target
    assert found is not None and found["reached"] and found["accepted"] == number
    # The bounds alone, held against each row as the rules have it.
    config = CurateConfig.model_validate(found["preset"]["curate"])
    ids = {row["clip_id"] for row in accepted(selection, table)}
    by_bounds = {
        row["clip_id"]
        for row in table.to_pylist()
        if failed_gate(row, config.gates_for("vertical" if row["height"] > row["width"] else "horizontal")) is None
    }
    # A row without a score passes its gate: it is among them only where there are not enough that have one.
    lacking = {row["clip_id"] for row in table.to_pylist() if row["pose_jerk"] is None}
    assert ids <= by_bounds and by_bounds - ids <= lacking
    assert sum(part["unmeasured"] for part in found["parts"]) == len(ids & lacking)
    fields = {name: getattr(config, name) for name in ("gates_by_shape", "quotas", "target")}
    assert {row["clip_id"] for row in accepted(run(table, **fields), table)} == ids
    strictness = [part["strictness"] for part in found["parts"]]
    before = {row["clip_id"] for row in accepted(chosen, table)}
    assert (ids <= before) == all(one >= 0 for one in strictness) and (ids >= before) == all(
        one < 0 for one in strictness
    )


def test_bounds_follow_the_strictness_as_it_is_defined() -> None:
    values, n = np.random.default_rng(0).random(1000), 1000
    for side, bound in (("min", 0.3), ("max", 0.7)):
        scale = Scale.of(np.r_[values, np.nan], side, bound)
        refused = lambda limit: int((values < limit if side == "min" else values > limit).sum())  # noqa: B023, E731
        at_zero = refused(bound) / n
        for strictness in (-1.0, -0.5, 0.0, 0.25, 0.9):
            share = at_zero * (1 + strictness) if strictness <= 0 else at_zero + strictness * (1 - at_zero)
            limit = scale.bound(strictness, side)
            assert limit is not None and refused(limit) == pytest.approx(share * n, abs=1)
        margin = scale.margin(values, side)
        np.testing.assert_array_equal(margin >= 0, values >= bound if side == "min" else values <= bound)
        assert scale.margin(np.array([np.nan]), side) == UNMEASURED
    assert Scale.of(np.array([np.nan]), "min", 0.3).bound(0.5, "min") is None


def test_a_target_that_cannot_be_reached_says_so_and_equal_clips_are_cut_in_path_order() -> None:
    table = clips_of(200, width=1280, height=720)
    found = run(table, target=Target(num_clips=100, mix={"vertical": 0.5})).target
    assert found is not None and not found["reached"] and found["accepted"] == 50
    assert [(part["asked"], part["accepted"], part["available"]) for part in found["parts"]] == [
        (50, 0, 0),
        (50, 50, 200),
    ]
    equal = clips_of(40, pose_confidence=0.9, subject_height=0.5, pose_jerk=0.1)
    selection = run(equal, target=Target(num_clips=7))
    assert [row["clip_id"] for row in accepted(selection, equal)] == [f"clip{k}" for k in range(7)]
    reasons = selection.apply(equal, 0)["reason"].to_pylist()
    assert set(reasons[7:]) == {"quota_of_shape"}


def test_a_target_counts_what_is_left_of_copies() -> None:
    rows = clips_of(400).to_pylist()
    for k in range(0, 400, 2):
        rows[k + 1]["duplicate_group"] = rows[k]["duplicate_group"] = f"group{k}"
        rows[k]["source_id"] = f"other{k}"
    selection = run(to_table(rows), target=Target(num_clips=40, mix={"vertical": 0.5, "horizontal": 0.5}))
    assert selection.accepted_by_shape() == {"vertical": 20, "horizontal": 20, "square": 0}
    groups = [row["duplicate_group"] for row in accepted(selection, to_table(rows))]
    assert len(set(groups)) == 40


def test_the_mix_is_shared_out_in_whole_clips() -> None:
    wanted = lambda number, **mix: [part.wanted for part in mix_parts(Target(num_clips=number, mix=mix))]  # noqa: E731
    assert wanted(7338, vertical=0.72) == [5283, 2055]
    assert wanted(10, vertical=1 / 3, horizontal=1 / 3, square=1 / 3) == [4, 3, 3]
    assert wanted(5) == [5] and wanted(5, vertical=1.0) == [5, 0]
    assert wanted(6, vertical=0.75) == [5, 1]  # 4.5 and 1.5: of equal remainders the first
    for mix in (
        {"vertical": 0.7, "horizontal": 0.7},
        {"vertical": -0.1},
        dict.fromkeys(SHAPES, 0.2),
    ):
        with pytest.raises(ValueError, match="sum to 1"):
            Target(num_clips=5, mix=mix)


def test_of_each_source_the_best_clips_stay() -> None:
    table = clips_of(200)
    free = accepted(run(table), table)
    selection = run(table, quotas=Quotas(max_accepted_per_source=1, along=("min_subject_height",)))
    kept = accepted(selection, table)
    best = sorted(free, key=lambda row: (row["source_id"], -row["subject_height"]))
    expected = {row["clip_id"] for k, row in enumerate(best) if not k or best[k - 1]["source_id"] != row["source_id"]}
    assert {row["clip_id"] for row in kept} == expected and len(expected) < len(free)
    over = [row for row in selection.apply(table, 0).to_pylist() if row["reason"] == "quota_of_source"]
    assert len(over) == len(free) - len(kept) and "the best 1 clips of its source were kept" in over[0]["detail"]
    with pytest.raises(ValueError, match="at least one; got min_beauty"):
        Quotas(along=("min_beauty",))


def test_what_a_person_wants_stays_before_copies_and_quotas(tmp_path: Path) -> None:
    rows = clips_of(8, pose_confidence=0.9, subject_height=0.5, pose_jerk=0.1, width=720, height=1280).to_pylist()
    for k, row in enumerate(rows):
        row |= {"source_id": f"source{k}", "duplicate_group": "one" if k < 4 else None, "source_bytes": 1000 - k}
    rows[5]["clip_id"] = rows[4]["clip_id"]
    table = to_table(rows)
    (tmp_path / "a.csv").write_text(
        f"source_path,start_s,verdict\n{rows[2]['source_path']},10.0,accept\n{rows[5]['source_path']},5,accept\n"
    )
    config = CurateConfig(quotas=Quotas(max_accepted_by_shape={"vertical": 3}))
    selection = select(lambda: [table], config, decisions=read_decisions(tmp_path / "a.csv"))
    found = selection.apply(table, 0).to_pylist()
    assert [row["reason"] for row in found] == [
        "near_duplicate", "near_duplicate", "decision", "near_duplicate", "duplicate", "decision", None,
        "quota_of_shape",
    ]  # fmt: skip
    assert "copy of /videos/00000.mp4 at 10.00 s" in found[0]["detail"]
    assert found[4]["detail"] == "same content as /videos/00001.mp4"


def test_a_progressive_copy_goes_before_the_interlaced_one_with_more_bytes() -> None:
    (row,) = clips_of(1).to_pylist()
    woven = row | {"source_path": "/videos/a.mp4", "source_id": "a", "clip_id": "a", "duplicate_group": "one",
                   "source_bytes": 9000, "deinterlaced": True}  # fmt: skip
    clean = row | {"source_path": "/videos/b.mp4", "source_id": "b", "clip_id": "b", "duplicate_group": "one",
                   "source_bytes": 1000, "deinterlaced": False}  # fmt: skip
    found = run(to_table([woven, clean])).apply(to_table([woven, clean]), 0).to_pylist()
    assert [one["reason"] for one in found] == ["near_duplicate", None]
    assert found[0]["detail"] == "copy of /videos/b.mp4 at 0.00 s, which is not interlaced"
    # a copy of a ninth of the area and the bits is no better for that
    small = clean | {"width": row["width"] // 3, "height": row["height"] // 3}
    found = run(to_table([woven, small])).apply(to_table([woven, small]), 0).to_pylist()
    assert [one["reason"] for one in found] == [None, "near_duplicate"]
    # rows that were measured before this was known count as progressive
    rows = to_table([woven | {"deinterlaced": None}, clean])
    assert [one["reason"] for one in run(rows).apply(rows, 0).to_pylist()] == [None, "near_duplicate"]


def test_the_funnel_adds_up() -> None:
    table = to_table(random_rows(600, seed=9))
    selection = run(table, gates=GATES)
    funnel = selection.funnel()
    first = sum(gate["first"] for gate in funnel["gates"].values())
    others = sum(number for name, number in funnel.items() if name not in ("gates", "measuring"))
    assert funnel["measuring"] + first + others + selection.counts["ok"] == len(table)
    # A gate refuses alone what passes without it.
    off = Duplicates(scope="off")
    for gate in ("min_brightness", "max_pose_jerk"):
        with_it = run(table, gates=GATES, duplicates=off)
        without = run(table, gates=GATES.model_copy(update={gate: None}), duplicates=off)
        ways = [one.counts["ok"] + one.funnel().get("duplicate", 0) for one in (with_it, without)]
        assert funnel["gates"][gate]["alone"] == ways[1] - ways[0] > 0
