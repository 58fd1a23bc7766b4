"""Pieces of a selection on a handful of rows whose answers are told by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from steadydancer.datasets.artifact import ArtifactError
from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_table
from steadydancer.pipelines.curate.config import CurateConfig, Duplicates, Quotas, Target
from steadydancer.pipelines.curate.gates import Gates
from steadydancer.pipelines.curate.selection.copies import Copies, over_quota
from steadydancer.pipelines.curate.selection.overrides import read_decisions
from steadydancer.pipelines.curate.selection.row_keys import RowKeys
from steadydancer.pipelines.curate.selection.select import columns_read, select
from steadydancer.pipelines.curate.selection.targets import UNMEASURED, MovingGates, Scale, margins, mix_parts
from steadydancer.pipelines.curate.selection.verdicts import NO_MODEL, Selection

OFF: dict[str, Any] = dict.fromkeys(Gates.model_fields)


def gates(**bounds: Any) -> Gates:
    return Gates(**{**OFF, **bounds})


def rows(*changes: Row) -> pa.Table:
    """One row a source, in path order, that passes whatever was not measured."""
    common = dict.fromkeys(CLIP_SCHEMA.names) | {"pose_digest": "x", "pose_model": "m", "width": 300, "height": 300,
        "start_s": 0.0, "duration_s": 1.0, "source_bytes": 1}  # fmt: skip
    return to_table(
        common | {"source_path": f"/v/{k}.mp4", "source_id": f"s{k}", "clip_id": f"c{k}"} | change
        for k, change in enumerate(changes)
    )


def run(table: pa.Table, **fields: Any) -> Selection:
    decisions = fields.pop("decisions", None)
    measured = fields.pop("measured_gates", None)
    config = CurateConfig(**{"gates": gates(), **fields})
    return select(lambda: [table.slice(0, 2), table.slice(2)], config, decisions=decisions, measured_gates=measured)


def selected_values(selection: Selection, table: pa.Table, *names: str) -> list[Any]:
    found = selection.apply(table, 0).to_pylist()
    return [row[names[0]] if len(names) == 1 else tuple(row[name] for name in names) for row in found]


def test_of_one_content_the_first_stays_and_of_one_look_the_best() -> None:
    #                 row:  0  1  2  3   4  5   6
    clip = np.array([0, 1, 0, 2, 3, 4, 0])
    group = np.array([5, 5, 5, 5, -1, 5, -1])
    unit = np.array([0, 1, 0, 1, 2, 3, 0])
    quality = np.array([1.0, 3.0, 9.0, 2.0, 9.0, 3.0, 9.0])
    position = np.array([3, 5, 1, 2, 0, 4, 6])
    nobody = np.zeros(7, bool)
    left = Copies(clip, group, unit, quality, position, nobody).deduplicate(np.ones(7, bool))
    # Content 0: row 2 comes first in path order. Then group 5: row 2 is the best; 1, 3 and 5 are other units.
    assert left.same_as.tolist() == [2, -1, -1, -1, -1, -1, 2]
    assert left.copy_of.tolist() == [-1, 2, -1, 2, -1, 2, -1]
    assert left.kept.tolist() == [False, False, True, False, True, False, False]
    # Without row 2 row 0 is content 0's; then rows 1 and 5 are equally good, and 5 comes first: row 1 goes, row 3 too.
    left = Copies(clip, group, unit, quality, position, nobody).deduplicate(np.arange(7) != 2)
    assert left.same_as.tolist() == [-1, -1, -1, -1, -1, -1, 0]
    assert left.copy_of.tolist() == [5, 5, -1, 5, -1, -1, -1]
    # What belongs to the unit of the best one stays beside it.
    left = Copies(clip, group, unit, quality, position, nobody).deduplicate(np.isin(np.arange(7), [0, 1, 3]))
    assert left.kept.tolist() == [False, True, False, True, False, False, False]
    # A person's choice goes before path order and quality, and stays beside a better copy.
    wanted = np.isin(np.arange(7), [3, 6])
    left = Copies(clip, group, unit, quality, position, wanted).deduplicate(np.ones(7, bool))
    assert left.same_as.tolist() == [6, -1, 6, -1, -1, -1, -1]
    assert left.copy_of.tolist() == [-1, -1, -1, -1, -1, 3, -1]
    assert left.kept.tolist() == [False, True, False, True, True, False, True]


def test_beyond_a_quota_are_the_smallest_margins_and_the_last_in_path_order() -> None:
    kept = np.array([True, True, True, False, True, True])
    code, margin = np.array([0, 0, 0, 0, 1, 1]), np.array([0.1, 0.3, 0.3, 0.9, 0.2, 0.5])
    position, nobody = np.array([0, 2, 1, 3, 4, 5]), np.zeros(6, bool)

    def over(limit: Any, wanted: np.ndarray = nobody) -> list[int]:
        return np.flatnonzero(over_quota(kept, code, limit, margin, position, wanted)).tolist()

    assert over(1) == [0, 1, 4] and over(2) == [0] and over(3) == [] and over(0) == [0, 1, 2, 4, 5]
    assert over(np.array([2, 1])) == [0, 4] and over(np.array([0, 2])) == [0, 1, 2]
    # What a person wants counts first, and stays even beyond.
    assert over(1, np.array([True, False, False, False, False, False])) == [1, 2, 4]
    assert over(0, np.array([True, False, False, False, True, False])) == [1, 2, 5]


def test_rows_stand_in_path_order_whatever_order_they_come_in() -> None:
    table = rows(*({"source_path": path, "start_s": start} for path, start in
                   (("b", 5.0), ("a", None), ("b", 0.0), ("a", 7.0), ("B", 1.0))))  # fmt: skip
    keys = RowKeys.of(table)
    assert keys.position.tolist() == [4, 1, 3, 2, 0]
    assert keys.start_s.tolist() == [5, 0, 0, 7, 1]
    for order in ([4, 1, 3, 2, 0], [1], []):
        some = RowKeys.of(table.take(pa.array(order, pa.int64())))
        assert some.position.tolist() == list(range(len(order)))
    best = RowKeys.of(rows({"width": 20, "height": 30, "source_bytes": 500, "duration_s": 4.0, "crop_width_px": 10,
                            "crop_height_px": 8}))  # fmt: skip
    assert best.quality.tolist() == [10 * 8 * 500 / 4]


def test_the_funnel_counts_who_is_first_who_is_alone_and_what_was_not_measured() -> None:
    table = rows(
        {"brightness": 0.9, "contrast": 0.9},
        {"brightness": 0.1, "contrast": 0.1},  # refused twice: first by brightness, alone by none
        {"brightness": 0.1, "contrast": None},  # by brightness alone
        {"brightness": 0.9, "contrast": 0.1},  # by contrast alone
        {"brightness": None, "contrast": 0.1, "pose_digest": None},  # by contrast; without a pose it would not pass
        {"brightness": None, "contrast": None, "pose_digest": None},
        {"verdict": "rejected", "reason": "too_short", "detail": "1 s"},
        {"verdict": "quarantined", "reason": "unreadable", "detail": "no", "width": None, "height": None},
        {"brightness": 0.9, "contrast": 0.9, "clip_id": "c0"},
    )
    selection = run(table, gates=gates(min_brightness=0.5, min_contrast=0.5))
    assert selection.funnel() == {
        "measuring": 2,
        "gates": {
            "min_brightness": {"first": 2, "alone": 1, "unmeasured": 2},
            "min_contrast": {"first": 2, "alone": 1, "unmeasured": 2},
        },
        "no_pose": 1,
        "duplicate": 1,
    }
    assert selection.counts == {"ok": 1, "rejected": 7, "quarantined": 1} and len(selection) == 9
    assert selected_values(selection, table, "verdict", "reason", "detail") == [
        ("ok", None, None),
        ("rejected", "min_brightness", "brightness is 0.1, expected at least 0.5"),
        ("rejected", "min_brightness", "brightness is 0.1, expected at least 0.5"),
        ("rejected", "min_contrast", "contrast is 0.1, expected at least 0.5"),
        ("rejected", "min_contrast", "contrast is 0.1, expected at least 0.5"),
        ("rejected", "no_pose", "no person was found"),
        ("rejected", "too_short", "1 s"),
        ("quarantined", "unreadable", "no"),
        ("rejected", "duplicate", "same content as /v/0.mp4"),
    ]
    assert selected_values(selection, table, "unmeasured") == [
        None, None, "min_contrast", None, "min_brightness", "min_brightness,min_contrast", None, None, None,
    ]  # fmt: skip
    assert selection.accepted_by_shape() == {"vertical": 0, "horizontal": 0, "square": 1}
    record = selection.record()
    assert record["funnel"] == selection.funnel() and record["target"] is None
    assert record["gates"]["min_brightness"] == 0.5 and record["quotas"]["max_accepted_per_source"] is None


def test_what_was_refused_before_its_pose_is_not_measured_rather_than_empty() -> None:
    early = {"brightness": 0.1, "pose_digest": None, "pose_model": None}
    table = rows(early, early | {"pose_model": "m"}, {"pose_digest": None, "pose_model": None}, {"brightness": 0.1})
    measured = gates(min_brightness=0.5)
    # With the gates of then it is refused as then; with none, its pose is what is lacking.
    assert selected_values(run(table, gates=measured, measured_gates=measured), table, "reason") == [
        "min_brightness", "min_brightness", "no_pose", "min_brightness",
    ]  # fmt: skip
    loose = run(table, measured_gates=measured)
    assert selected_values(loose, table, "reason") == ["not_measured", "no_pose", "no_pose", None]
    details = selected_values(loose, table, "detail")
    assert details[0].startswith("no pose was estimated because min_brightness rejected the clip: ")
    assert details[1:3] == ["no person was found", NO_MODEL]
    # A gate that looks at what was measured later did not keep anything from being measured.
    late = gates(min_pose_motion=99.0)
    table = rows({"pose_motion": 1.0, "pose_digest": None, "pose_model": None})
    assert selected_values(run(table, measured_gates=late), table, "reason") == ["no_pose"]


def decided(folder: Path, *lines: str, columns: str = "clip_id,source_path,start_s,verdict,note") -> Any:
    (folder / "decisions.csv").write_text("\n".join([columns, *lines]) + "\n")
    return read_decisions(folder / "decisions.csv")


def test_a_person_accepts_rejects_and_accepts_in_vain(tmp_path: Path) -> None:
    table = rows(
        {"brightness": 0.1},
        {"brightness": 0.9},
        {"pose_digest": None},
        {"verdict": "quarantined", "reason": "unreadable"},
        {"brightness": 0.1},
        {"source_path": "/v/0.mp4", "start_s": 5.0, "brightness": 0.1},
        {"verdict": "quarantined", "reason": "unreadable"},
    )
    said = decided(
        tmp_path,
        "c0,,,accept,the light is meant so",
        ",/v/1.mp4,0.004,reject,",
        "c2,,,accept,",
        "c3,,,accept,",
        ",/v/0.mp4,5.01,accept,here too",
        "c6,,,reject,it could not be read anyhow",
    )
    assert said.digest and [one.line for one in said.lines] == [2, 3, 4, 5, 6, 7]
    selection = run(table, gates=gates(min_brightness=0.5), decisions=said)
    assert selected_values(selection, table, "verdict", "reason", "detail") == [
        ("ok", "decision", "the light is meant so"),
        ("rejected", "decision", "decided by hand"),
        ("rejected", "no_pose", "accepted by hand, but no person was found"),
        ("quarantined", "unreadable", None),
        ("rejected", "min_brightness", "brightness is 0.1, expected at least 0.5"),
        ("ok", "decision", "here too"),
        ("quarantined", "unreadable", None),
    ]
    assert selection.decided_counts() == {"accepted": 2, "rejected": 1, "accepted_in_vain": 2}
    # Decided rows are in no gate's count.
    assert selection.funnel()["gates"]["min_brightness"] == {"first": 1, "alone": 1, "unmeasured": 0}
    assert selection.funnel()["decision"] == 1
    # Once more, without the table: what was decided is read from the rows, its notes too.
    after = selection.apply(table, 0)
    again = select(lambda: [after.slice(0, 1), after.slice(1)], CurateConfig(gates=gates(min_brightness=0.95)))
    assert selected_values(again, after, "verdict", "reason", "detail")[0] == (
        "ok",
        "decision",
        "the light is meant so",
    )
    assert selected_values(again, after, "verdict")[1:6] == ["rejected", "rejected", "quarantined", "rejected", "ok"]
    # Gates of an earlier selection do not bind: what they refused is judged anew.
    loose = select(lambda: [after], CurateConfig(gates=gates()))
    assert selected_values(loose, after, "verdict", "reason")[4] == ("ok", None)
    assert selected_values(again, after, "reason")[1:6] == [
        "decision",
        "no_pose",
        "unreadable",
        "min_brightness",
        "decision",
    ]


def test_a_decision_is_about_rows_that_all_its_words_name(tmp_path: Path) -> None:
    table = rows(*({"source_path": "/v/a.mp4", "start_s": start} for start in (0.0, 5.0, 10.0)))
    rejected = selected_values(run(table, decisions=decided(tmp_path, "c1,/v/a.mp4,,reject,")), table, "verdict")
    assert rejected == ["ok", "rejected", "ok"]
    rejected = selected_values(run(table, decisions=decided(tmp_path, ",/v/a.mp4,,reject,")), table, "verdict")
    assert rejected == ["rejected"] * 3
    rejected = selected_values(run(table, decisions=decided(tmp_path, ",/v/a.mp4,10.009,reject,")), table, "verdict")
    assert rejected == ["ok", "ok", "rejected"]
    for line, words in (
        (",/v/a.mp4,10.02,reject,", r"line 2: no row matches /v/a\.mp4 at 10\.02 s"),
        ("c1,/v/b.mp4,,reject,", "line 2: no row matches c1 of /v/b.mp4"),
        ("c1,,,reject,\nc1,,,accept,", "lines 2 and 3 contradict each other on c1"),
    ):
        with pytest.raises(ArtifactError, match=words):
            run(table, decisions=decided(tmp_path, *line.split("\n")))
    # Paths are relative to the table, blanks do not count, and the same said twice is no contradiction.
    table = rows({"source_path": str(tmp_path / "x" / "b.mp4")})
    said = decided(tmp_path, " , x/b.mp4 ,, accept ,  as it is ", "c0,,,accept,again")
    assert selected_values(run(table, decisions=said), table, "detail") == ["again"]
    # As a spreadsheet saves it where the comma stands in numbers, with rows of nothing at the end.
    (tmp_path / "mine.csv").write_bytes("\ufeffclip_id;verdict;note\r\nc0;accept;weiter, so\r\n;;\r\n".encode())
    assert selected_values(run(table, decisions=read_decisions(tmp_path / "mine.csv")), table, "detail") == [
        "weiter, so"
    ]
    with pytest.raises(ArtifactError, match="and 2 more"):
        run(table, decisions=decided(tmp_path, *["zz,,,accept,"] * 10))


def test_a_bound_is_a_quantile_of_its_column_and_a_margin_the_strictness_at_which_it_passes() -> None:
    values = np.array([0.1, 0.2, 0.2, 0.5, 0.9, np.nan])
    scale = Scale.of(values, "min", 0.3)
    # Three of five are refused at strictness 0: 0.1 passes at −1 (nobody is refused), 0.2 where one fifth is.
    np.testing.assert_allclose(scale.margins, [-1, (0.2 - 0.6) / 0.6, 0, (0.8 - 0.6) / 0.4])
    np.testing.assert_allclose(scale.margin(values, "min"), [-1, -2 / 3, -2 / 3, 0, 0.5, UNMEASURED])
    assert [scale.bound(s, "min") for s in (-1, -0.8, -2 / 3, -0.5, 0, 0.5)] == [0.1, 0.2, 0.2, 0.5, 0.5, 0.9]
    beyond = scale.bound(0.6, "min")
    assert beyond is not None and beyond > 0.9
    # A gate from above is the same with the sign changed.
    other = Scale.of(-values, "max", -0.3)
    np.testing.assert_allclose(other.margin(-values, "max"), scale.margin(values, "min"))
    assert other.bound(-2 / 3, "max") == -0.2
    nothing = Scale.of(np.array([np.nan, np.nan]), "min", 0.3)
    assert nothing.margin(np.array([0.1, np.nan]), "min").tolist() == [1, 1] and nothing.bound(0.0, "min") is None
    # A row's margin is that of the gate that it passes least well.
    config = CurateConfig(
        gates=gates(min_brightness=0.3, max_blur=0.5), quotas=Quotas(along=("min_brightness", "max_blur"))
    )
    moving = MovingGates.of(config)
    assert (moving.gates, moving.columns) == (("min_brightness", "max_blur"), ("brightness", "blur"))
    assert (moving.sides, moving.bounds) == (("min", "max"), (0.3, 0.5))
    taste = np.array([[0.1, 0.1], [0.5, 0.9], [np.nan, np.nan], [0.9, 0.4]])
    each = [Scale.of(taste[:, k], moving.sides[k], moving.bounds[k]) for k in (0, 1)]
    np.testing.assert_allclose(
        margins(taste, moving, each),
        [min(each[k].margin(taste[i : i + 1, k], moving.sides[k])[0] for k in (0, 1)) for i in range(4)],
    )
    # What was not measured is behind what keeps the bound, if only just, and before what does not.
    assert margins(taste, moving, each).tolist()[0] == -1 and -1e-9 < margins(taste, moving, each)[2] < 0


def test_a_target_takes_the_largest_margins_of_each_part() -> None:
    table = rows(*({"brightness": 0.1 * k, "width": 300, "height": 500 if k % 2 else 200} for k in range(1, 10)))
    target = Target(num_clips=4, mix={"vertical": 0.25})
    quotas = Quotas(along=("min_brightness",))
    selection = run(table, gates=gates(min_brightness=0.5), target=target, quotas=quotas)
    # Vertical: 1, 3, 5, 7, 9, one is wanted; others: 2, 4, 6, 8, three are wanted.
    assert selected_values(selection, table, "verdict") == [
        "rejected", "rejected", "rejected", "ok", "rejected", "ok", "rejected", "ok", "ok"
    ]  # fmt: skip
    assert selection.target is not None and selection.target["reached"] and selection.target["asked"] == 4
    assert [part["available"] for part in selection.target["parts"]] == [5, 4]
    found = selection.config.gates_by_shape
    assert found["vertical"]["min_brightness"] == pytest.approx(0.9)
    assert found["horizontal"]["min_brightness"] == found["square"]["min_brightness"] == pytest.approx(0.4)
    assert selection.config.quotas.max_accepted_by_shape == {"vertical": 1, "horizontal": 3, "square": 0}
    assert [part.wanted for part in mix_parts(target)] == [1, 3]
    # Gates that do not move stay where they are: what they refuse is not to be had.
    still = run(table, gates=gates(min_brightness=0.5, max_blur=0.5), target=target, quotas=quotas)
    assert still.target is not None and still.target["reached"]


def test_what_was_not_measured_is_not_taken_for_the_best_there_is() -> None:
    """A clip without a score comes after those that keep the bound, and before those that do not."""
    table = rows(*({"brightness": b, "source_id": "one"} for b in (None, 0.9, 0.6, 0.5, 0.2)))
    along = Quotas(along=("min_brightness",))
    takes = {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3, 4]}
    for number, taken in takes.items():
        selection = run(table, gates=gates(min_brightness=0.5), target=Target(num_clips=number), quotas=along)
        verdicts = selected_values(selection, table, "verdict")
        assert [k for k, verdict in enumerate(verdicts) if verdict == "ok"] == taken
        assert selection.target is not None
        (part,) = selection.target["parts"]
        assert part["unmeasured"] == (0 in taken) and part["accepted"] == number
        again = run(table, **{name: getattr(selection.config, name) for name in ("gates", "gates_by_shape", "quotas")})
        assert (
            selected_values(again, table, "verdict") == verdicts
        )  # the bounds that were found give the same clips again
    quota = Quotas(max_accepted_per_source=2, along=("min_brightness",))
    selection = run(table, gates=gates(min_brightness=0.5), quotas=quota)
    assert selected_values(selection, table, "verdict") == ["rejected", "ok", "ok", "rejected", "rejected"]
    # A score that nobody has ranks nobody: all are alike, and the first in path order stay.
    blind = rows(*[{"brightness": None}] * 3)
    selection = run(blind, gates=gates(min_brightness=0.5), target=Target(num_clips=2), quotas=along)
    assert selected_values(selection, blind, "verdict") == ["ok", "ok", "rejected"]


def test_a_copy_of_unknown_rate_is_not_the_best_one() -> None:
    for duration_s in (0.0, None):
        table = rows({"duplicate_group": "g", "duration_s": duration_s, "source_bytes": 100},
                     {"duplicate_group": "g", "duration_s": 4.0, "source_bytes": 1})  # fmt: skip
        assert selected_values(run(table), table, "reason") == ["near_duplicate", None]


def test_what_a_person_accepts_is_one_of_a_targets_clips(tmp_path: Path) -> None:
    table = rows(*({"brightness": 0.1 * k, "width": 500, "blur": 0.9 if k == 1 else 0.1} for k in range(1, 10)))
    accept = decided(tmp_path, "c0,,,accept,", "c8,,,reject,")
    fields: dict[str, Any] = {"gates": gates(min_brightness=0.5, max_blur=0.5), "decisions": accept}
    fields |= {"target": Target(num_clips=3), "quotas": Quotas(along=("min_brightness",))}
    selection = run(table, **fields)
    # The first, which a gate that does not move refuses, and the two best that are not rejected.
    assert np.flatnonzero([word == "ok" for word in selected_values(selection, table, "verdict")]).tolist() == [0, 6, 7]
    assert selection.config.gates_by_shape["horizontal"]["min_brightness"] == pytest.approx(0.7)


def test_a_gate_that_is_off_for_a_shape_is_not_missed_there() -> None:
    table = rows({"width": 300}, {"width": 500}, {"width": 500, "contrast": 0.5})
    shapes: dict[Any, Any] = {"square": {"min_contrast": None}}
    selection = run(table, gates=gates(min_contrast=0.1, max_blur=0.5), gates_by_shape=shapes)
    assert selected_values(selection, table, "unmeasured") == ["max_blur", "min_contrast,max_blur", "max_blur"]
    assert [gate["unmeasured"] for gate in selection.funnel()["gates"].values()] == [1, 3]


def test_a_quota_of_shape_says_how_many_are_better() -> None:
    table = rows(*({"brightness": b, "width": 500, "source_id": "one"} for b in (0.6, 0.9, 0.7, 0.8)))
    quotas = Quotas(max_accepted_by_shape={"horizontal": 2}, along=("min_brightness",))
    selection = run(table, gates=gates(min_brightness=0.5), quotas=quotas)
    assert selected_values(selection, table, "reason") == ["quota_of_shape", None, "quota_of_shape", None]
    assert selected_values(selection, table, "detail")[0] == "over quota: the best 2 horizontal clips were kept"
    quotas = Quotas(max_accepted_per_source=3, max_accepted_by_shape={"horizontal": 2}, along=("min_brightness",))
    selection = run(table, gates=gates(min_brightness=0.5), quotas=quotas)
    assert selected_values(selection, table, "reason") == ["quota_of_source", None, "quota_of_shape", None]
    assert selected_values(selection, table, "detail")[0] == "over quota: the best 3 clips of its source were kept"


def test_copies_are_told_with_the_best_ones_place() -> None:
    table = rows(
        {"duplicate_group": "g", "source_bytes": 10, "start_s": 1.25},
        {"duplicate_group": "g", "source_bytes": 30, "start_s": 2.5},
        {"duplicate_group": "g", "source_bytes": 20},
        {"duplicate_group": None, "source_bytes": 5},
    )
    words = "copy of /v/1.mp4 at 2.50 s, which has more pixels and bits"
    assert selected_values(run(table), table, "reason", "detail") == [
        ("near_duplicate", words), (None, None), ("near_duplicate", words), (None, None),
    ]  # fmt: skip
    assert selected_values(run(table, duplicates=Duplicates(scope="off")), table, "reason") == [None] * 4
    # Other clips of the file that is the best copy stay, unless clips are compared with each other.
    ours = rows({"duplicate_group": "g", "source_bytes": 9, "source_id": "a"},
                {"duplicate_group": "g", "source_bytes": 9, "source_id": "a"},
                {"duplicate_group": "g", "source_bytes": 5})  # fmt: skip
    assert selected_values(run(ours), ours, "reason") == [None, None, "near_duplicate"]
    one = run(ours, duplicates=Duplicates(scope="clip"))
    assert selected_values(one, ours, "reason") == [None, "near_duplicate", "near_duplicate"]
    other = pa.array([None, "h", "h", None], pa.string())
    grouped = select(lambda: [table], CurateConfig(gates=gates()), groups=other)
    assert selected_values(grouped, table, "duplicate_group", "reason") == [
        (None, None), ("h", None), ("h", "near_duplicate"), (None, None),
    ]  # fmt: skip


def test_columns_that_a_selection_reads() -> None:
    read = set(
        columns_read(CurateConfig(gates=gates(max_persons=1, min_side_px=5), quotas=Quotas(along=("max_blur",))))
    )
    assert {"num_persons", "num_detected_persons", "width", "height", "crop_width_px", "crop_height_px", "blur"} <= read
    assert not read & {"side_px", "persons", "brightness"}
    with_measured = columns_read(CurateConfig(gates=gates()), gates(min_brightness=0.1))
    assert "brightness" in with_measured and with_measured == sorted(with_measured)
