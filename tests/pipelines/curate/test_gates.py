"""Each gate at its bound and to both sides of it; a score that is null; the bounds themselves."""

import math
import random

import pytest
from pydantic import ValidationError

from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_table
from steadydancer.pipelines.curate.config import SELECTION_FIELDS, CurateConfig, Quotas
from steadydancer.pipelines.curate.gates import RANKING_GATES, Gates
from steadydancer.pipelines.curate.selection.select import failed_gate, select_table

# The bounds as they were measured, in the order in which they are applied: what is refused for two reasons is refused
# for the first. Who moves one says so here.
BOUNDS: dict[str, float | None] = {
    "min_side_px": 160, "max_border_ratio": 0.7, "max_leak_score": 0.65, "max_cut_score": 0.2,
    "max_transition_score": 0.3, "min_brightness": 0.12, "min_contrast": 0.04, "min_sharpness": 0.0003,
    "max_blur": 0.51, "min_motion_magnitude": 0.0006, "max_motion_magnitude": 0.12, "max_frozen_ratio": 0.6,
    "min_own_motion_ratio": 0.006, "max_noise": 0.008, "max_flicker": 0.004, "max_camera_shake": 0.006,
    "max_blockiness": 0.3, "max_static_edge_ratio": None, "max_text_ratio": 0.02, "max_text_length": 0.25,
    "max_persons": 1, "min_aesthetic_score": 5.0, "max_extreme_action": 0.5, "max_missing_pose_ratio": 0.1,
    "max_pose_gap": 4, "min_pose_confidence": 0.5, "min_visible_joint_ratio": 0.52, "min_head_ratio": 0.8,
    "min_subject_height": 0.3, "min_subject_area": 0.03, "max_subject_offset": 0.4, "min_in_frame_ratio": 0.9,
    "min_track_continuity": 0.95, "max_appearance_change": 0.3, "max_subject_clipped_ratio": 0.25,
    "min_head_above_hips_ratio": 0.9, "max_torso_tilt_deg": 80.0, "max_rotation_rate": 4.0,
    "max_airborne_height": 1.0, "min_pose_motion": 0.1, "min_motion_smoothness": None, "max_pose_jerk": 0.32,
}  # fmt: skip
INTEGERS = {"min_side_px", "max_persons", "max_pose_gap"}


def test_the_bounds_are_those_that_were_measured_in_the_order_of_what_they_cost() -> None:
    assert list(Gates().model_dump().items()) == list(BOUNDS.items())
    assert [gate for gate, *_ in Gates().bounds()] == [gate for gate, bound in BOUNDS.items() if bound is not None]
    assert set(BOUNDS) >= set(RANKING_GATES) and len(set(RANKING_GATES)) == len(RANKING_GATES) == 12


def column(gate: str) -> str:
    return {"max_persons": "num_persons"}.get(gate, gate[4:])


def row_with(gate: str, value: float | None) -> Row:
    """A row of which nothing else was measured."""
    row = dict.fromkeys(CLIP_SCHEMA.names) | {"source_path": "a", "clip_id": "a", "pose_digest": "x", "source_id": "a"}
    if gate == "min_side_px":
        return row | {"width": value, "height": value and value + 200}
    return row | {column(gate): value}


def verdicts(rows: list[Row], gates: Gates) -> list[tuple[str | None, str | None]]:
    """By columns, as a whole selection judges them; and by each row alone, which must say the same."""
    rows = [row | {"source_path": f"{k:03d}", "clip_id": f"{k}"} for k, row in enumerate(rows)]
    found = select_table(to_table(rows), CurateConfig(gates=gates)).to_pylist()
    reported = [(row["reason"], row["detail"]) for row in found]
    assert [failed_gate(row, gates) or (None, None) for row in rows] == reported
    assert [row["verdict"] for row in found] == ["ok" if reason is None else "rejected" for reason, _ in reported]
    return reported


def verdict(row: Row, gates: Gates) -> tuple[str | None, str | None]:
    return verdicts([row], gates)[0]


@pytest.mark.parametrize("gate", BOUNDS)
def test_a_gate_is_closed_beyond_its_bound_and_open_at_it(gate: str) -> None:
    bound = 3.0 if gate in INTEGERS else BOUNDS[gate] or 0.4
    gates = Gates(**{gate: bound})
    # Nothing else is measured, so nothing else can refuse.
    if gate in INTEGERS:
        below, above = bound - 1, bound + 1
    else:
        below, above = math.nextafter(bound, -1), math.nextafter(bound, math.inf)
    is_min = gate.startswith("min")
    refused, passed = (below, above) if is_min else (above, below)
    words = f"{column(gate)} is {refused:.4g}, expected {'at least' if is_min else 'at most'} {bound:.4g}"
    rows = [row_with(gate, value) for value in (refused, bound, passed, None)]
    assert verdicts(rows, gates) == [(gate, words), (None, None), (None, None), (None, None)]
    assert verdict(row_with(gate, refused), Gates(**{gate: None})) == (None, None)
    # A bound of zero is a bound.
    wrong = -1 if is_min else 1
    assert verdict(row_with(gate, wrong), Gates(**{gate: 0}))[0] == gate


def test_a_score_that_is_null_passes_and_is_named_and_zero_is_measured() -> None:
    row = row_with("min_side_px", 500)
    (found,) = select_table(to_table([row]), CurateConfig()).to_pylist()
    on = [gate for gate, bound in BOUNDS.items() if bound is not None]
    assert found["verdict"] == "ok" and found["unmeasured"] == ",".join(on[1:])
    zeros = {column(gate): 0 for gate in on if gate != "min_side_px"}
    (found,) = select_table(to_table([row | zeros]), CurateConfig()).to_pylist()
    assert (found["reason"], found["unmeasured"]) == ("min_brightness", None)


def test_the_first_gate_that_refuses_is_told() -> None:
    gates = Gates(min_motion_smoothness=0.5, max_static_edge_ratio=0.4)
    names = [gate for gate, *_ in gates.bounds()]
    row = dict.fromkeys(CLIP_SCHEMA.names) | {"source_path": "a", "clip_id": "a", "pose_digest": "x"}
    row |= {"width": 159, "height": 500}
    row |= {name: bound + 1 if side == "max" else bound / 2 for _, name, side, bound in gates.bounds()[1:]}
    row["motion_magnitude"] = 0.0
    # One after the other is mended: each then fails the next.
    rows = [row]
    for gate in names:
        row = row | ({"width": 160} if gate == "min_side_px" else {column(gate): None})
        rows.append(row)
    found = list(dict.fromkeys(reason for reason, _ in verdicts(rows, gates)))
    # One magnitude cannot be too small and too large.
    assert found == [*(gate for gate in names if gate != "max_motion_magnitude"), None]


def test_the_side_is_that_of_the_picture_inside_its_borders() -> None:
    reported = {
        (500, 100, None, None): "side_px is 100, expected at least 160",
        (100, 500, None, None): "side_px is 100, expected at least 160",
        (500, 100, 90, 80): "side_px is 80, expected at least 160",
        (500, 500, 150, 500): "side_px is 150, expected at least 160",
        (500, 500, 170, 160): None,
        (None, None, None, None): None,
    }
    names = ("width", "height", "crop_width_px", "crop_height_px")
    rows = [row_with("min_side_px", 500) | dict(zip(names, sizes, strict=True)) for sizes in reported]
    assert [detail for _, detail in verdicts(rows, Gates())] == list(reported.values())


def test_people_are_counted_by_keypoints_and_else_by_the_detector() -> None:
    def refused(counted: int | None, detected: int | None) -> str | None:
        row = row_with("max_persons", counted) | {"num_detected_persons": detected}
        return verdict(row, Gates())[1]

    assert refused(2, None) == refused(2, 1) == refused(None, 2) == "num_persons is 2, expected at most 1"
    assert refused(1, 3) is None and refused(None, 1) is None and refused(None, None) is None and refused(0, 2) is None


def random_row(chance: random.Random, gates: Gates) -> Row:
    """Values at, beside and far from the bounds, infinite ones, NaN and nulls; most pass, so that every gate is met."""
    row = dict.fromkeys(CLIP_SCHEMA.names) | {"source_id": "a", "pose_digest": "x"}
    for gate, name, side, bound in gates.bounds():
        toward = math.inf if side == "min" else -math.inf
        values = [bound, math.nextafter(bound, toward), None, math.nan, toward]
        if chance.random() < 0.03:
            values = [math.nextafter(bound, -toward), bound - 1 if side == "min" else bound + 1, -toward]
        value = chance.choice(values)
        if gate in INTEGERS and value is not None:
            value = round(value) if math.isfinite(value) else None
        if gate != "min_side_px":
            row[name] = value
    row["num_detected_persons"] = chance.choice([None, 0, 1, 1, 1, 2])
    row["width"], row["height"] = chance.choice([(160, 161), (161, 159), (500, 700), (None, None)])
    if row["width"] is not None and chance.random() < 0.3:
        row["crop_width_px"], row["crop_height_px"] = chance.choice([(160, 200), (158, 200), (300, 158)])
    return row


def by_the_rule(row: Row, gates: Gates) -> tuple[tuple[str, str] | tuple[None, None], str | None]:
    """(gate and words of the first gate that refuses, gates without a score), written out without the job's code."""
    crop = "crop_width_px" if row["crop_width_px"] is not None else "width"
    crop_height = "crop_height_px" if row["crop_height_px"] is not None else "height"
    side_px = None if row["width"] is None else min(row[crop], row[crop_height])
    persons = row["num_detected_persons"] if row["num_persons"] is None else row["num_persons"]
    failed, unmeasured = [], []
    for gate, bound in gates.model_dump(exclude_none=True).items():
        name = column(gate)
        value = {"side_px": side_px, "num_persons": persons}[name] if name in ("side_px", "num_persons") else row[name]
        if value is None or math.isnan(value):
            unmeasured.append(gate)
        elif gate.startswith("min") and value < bound:
            failed.append((gate, f"{name} is {value:.4g}, expected at least {bound:.4g}"))
        elif gate.startswith("max") and value > bound:
            failed.append((gate, f"{name} is {value:.4g}, expected at most {bound:.4g}"))
    return failed[0] if failed else (None, None), ",".join(unmeasured) or None


def test_a_row_alone_and_among_thousands_gets_the_verdict_of_the_rule() -> None:
    chance, gates = random.Random(0), Gates(max_static_edge_ratio=0.4, min_motion_smoothness=0.6)
    places = [{"source_path": f"{k:05d}", "clip_id": f"{k}"} for k in range(2000)]
    rows = [random_row(chance, gates) | place for place in places]
    expected = [by_the_rule(row, gates) for row in rows]
    assert [failed_gate(row, gates) or (None, None) for row in rows] == [said for said, _ in expected]
    found = select_table(to_table(rows), CurateConfig(gates=gates)).to_pylist()
    assert [((row["reason"], row["detail"]), row["unmeasured"]) for row in found] == expected
    assert {said[0] for said, _ in expected} == {*gates.model_dump(), None}


def test_pictures_of_one_shape_have_their_own_bounds() -> None:
    config = CurateConfig(
        gates=Gates(min_contrast=0.1),
        gates_by_shape={"vertical": {"min_contrast": 0.2}, "square": {"min_contrast": None, "max_blur": 0.3}},
    )
    assert config.gates_for("vertical").min_contrast == 0.2 and config.gates_for("square").min_contrast is None
    assert config.gates_for("horizontal") == Gates(min_contrast=0.1)
    assert config.gates_for("square") == Gates(min_contrast=None, max_blur=0.3)

    def reason(width: int, height: int, **scores: float) -> str | None:
        row = row_with("min_contrast", None) | {"width": width, "height": height} | scores
        return str(select_table(to_table([row]), config).to_pylist()[0]["reason"])

    # Square is what is within a twentieth, either way: 1000 × 1050 is, 1000 × 1051 is not.
    sizes = {(1000, 1051): "vertical", (1000, 1050): "square", (1050, 1000): "square", (1051, 1000): "horizontal"}
    for size, shape in sizes.items():
        assert reason(*size, contrast=0.15) == {"vertical": "min_contrast"}.get(shape, "None")
        assert reason(*size, contrast=0.05) == {"square": "None"}.get(shape, "min_contrast")
        assert reason(*size, blur=0.4) == {"square": "max_blur"}.get(shape, "None")
    # The picture's shape is that inside its borders.
    assert reason(1000, 2000, crop_width_px=900, crop_height_px=600, contrast=0.15) == "None"
    with pytest.raises(ValidationError):
        CurateConfig(gates_by_shape={"vertical": {"min_beauty": 1.0}})


def test_settings_outside_their_range_are_refused() -> None:
    wrong = {"num_frames": [80, 1], "fps": [0], "packet_size": [0], "min_joint_confidence": [1.5, -0.1],
             "num_network_frames": [0], "num_score_frames": [1], "cut_threshold": [0, 1]}  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValidationError):
                CurateConfig(**{name: value})
    for name, number in {"num_frames": 5, "num_network_frames": 1, "num_score_frames": 2, "packet_size": 1}.items():
        assert getattr(CurateConfig(**{name: number}), name) == number


def test_settings_as_the_paper_and_the_measurements_have_them() -> None:
    reported = CurateConfig().model_dump(exclude={"gates"})
    assert reported["num_frames"] == 81 and reported["fps"] == 16.0  # five seconds
    assert (reported["cut_threshold"], reported["transition_threshold"], reported["min_joint_confidence"]) == (
        0.3,
        0.5,
        0.3,
    )
    assert (reported["num_score_frames"], reported["num_network_frames"], reported["packet_size"]) == (8, 4, 8)
    assert reported["duplicates"] == {"scope": "source", "min_common_ratio": 0.8}
    assert SELECTION_FIELDS == ("gates", "gates_by_shape", "duplicates", "quotas", "target")
    assert Quotas().limits() == [2**62] * 3 and not Quotas().need_margins
    assert Quotas(max_accepted_by_shape={"square": 3}).limits() == [2**62, 2**62, 3]
    assert Quotas(max_accepted_by_shape={"square": 0}).need_margins and Quotas(max_accepted_per_source=2).need_margins


def test_gates_that_are_not_among_those_asked_stop_nothing() -> None:
    """Neither the row, nor the look at the gates behind them."""
    gates = Gates.model_validate(dict.fromkeys(Gates.model_fields) | {"min_brightness": 0.5, "max_noise": 0.1})
    row = {"brightness": 0.2, "noise": 0.4}
    assert (failed_gate(row, gates) or ("",))[0] == "min_brightness"
    assert (failed_gate(row, gates, {"max_noise"}) or ("",))[0] == "max_noise"
    assert failed_gate(row, gates, {"min_contrast"}) is None
