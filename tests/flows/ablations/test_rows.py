"""Rows: what each differs in, by configuration and by parameters, and which rows belong together."""

from dataclasses import replace

import pytest

from steadydancer import SteadyDancerError
from steadydancer.flows.ablations.networks import difference, require_named, shapes_of
from steadydancer.flows.ablations.rows import GROUPS, ROWS, Row, choose, configure, in_order
from steadydancer.flows.presets import load
from steadydancer.models.toydance import base
from steadydancer.pipelines.train.config import NETWORK_FIELDS

RUN = load("toydance_ablations")
TRAINED = [row for row in ROWS.values() if row.stage is not None]
SMALL = {**base.SIZES, "num_layers": 1}


def test_all_rows_of_the_issue_are_there() -> None:
    assert {*GROUPS} == {row.group for row in ROWS.values()}
    named = {"stage1", "stage2", "stage3", "without_ssae", "without_tmcm", "without_faau", "faau_spatial"}
    named |= {"tmcm_pointwise", "latent_addition", "adapter", "without_augmentation", "clip_concatenated"}
    named |= {"normal_distillation_one", "stage3_latent", "stage3_without", "stage2_longer"}
    named |= {"guidance", "guidance_off", "guidance_timesteps", "guidance_shift"}
    assert named <= ROWS.keys()


@pytest.mark.parametrize("row", TRAINED, ids=lambda row: row.name)
def test_a_network_differs_in_exactly_what_its_row_names(row: Row) -> None:
    """By the weights' names and shapes, of networks that are really built."""
    found = difference(SMALL, RUN.stage(1), configure(RUN, row, 0).stage(row.stage))
    require_named(row, found)
    assert set(found.fields) == set(row.train) & set(NETWORK_FIELDS)
    reference = shapes_of(SMALL, RUN.stage(1))
    assert found.num_parameters - found.change == sum(_size(shape) for shape in reference.values())
    assert bool(found.lacks) == bool(row.lacks) and bool(found.reshapes) == bool(row.reshapes)


def test_parameters_of_the_modules_are_those_of_the_paper() -> None:
    """Known numbers: SSAE, TMCM and FAAU on 16 channels, and the 16 channels of p† that the embedding then lacks."""
    width = SMALL["num_attention_heads"] * SMALL["attention_head_dim"]

    def change(name: str) -> int:
        return difference(SMALL, RUN.stage(1), configure(RUN, ROWS[name], 0).stage(1)).change

    assert change("without_ssae") == -(16 * 16 + 2 * 16 * 4 + 4 * 4 + 16 * 4 + 4 * 4 + 4 * 16 + 4 * 16)
    assert change("without_tmcm") == -3 * (16 * 9 + 16 * 16 * 3 + 16)
    assert change("tmcm_pointwise") == -3 * 16 * 16 * 2
    assert change("faau_spatial") == change("clip_concatenated") == 0
    alignment = 2 * (16 * 128 + 128) + 3 * 128 * (128 + 1) + 3 * (128 * 128 + 128) + 4 * 128 + 128 * 16 + 16
    assert change("without_faau") == -alignment - 16 * 4 * width
    assert change("without_augmentation") == -(36 * 4 * width + width) - (16 * 4 * width + width)


def _size(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def test_a_network_that_differs_in_more_or_less_is_refused() -> None:
    row = ROWS["without_ssae"]
    found = difference(SMALL, RUN.stage(1), configure(RUN, row, 0).stage(1))
    with pytest.raises(SteadyDancerError, match="row without_ssae: .* lacks pose_modulation.spatial.conv.weight"):
        require_named(replace(row, lacks=()), found)
    with pytest.raises(SteadyDancerError, match="the network adds nothing of pose_adapter"):
        require_named(replace(row, adds=("pose_adapter",)), found)
    with pytest.raises(SteadyDancerError, match="the configuration has pose_modulation_modules"):
        require_named(replace(row, train={}), found)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_changes_what_it_names_its_seed_and_nothing_else(row: Row) -> None:
    run = configure(RUN, row, 2)
    changed: set[tuple[str, str]] = set()
    for job in ("curate", "cache", "stage1", "stage2", "stage3", "render", "evaluate"):
        before, after = getattr(RUN, job).model_dump(), getattr(run, job).model_dump()
        changed |= {(job, name) for name in before if before[name] != after[name]}
    named = {("render", name) for name in ("seed", *row.render)}
    if row.stage is not None:
        named |= {(f"stage{row.stage}", name) for name in ("seed", *row.train)}
        if row.steps_divisor > 1 or row.steps_of:
            named |= {(f"stage{row.stage}", "steps")}
    assert changed <= named
    assert run.render.seed == RUN.render.seed + 2


def test_no_row_is_trained_for_less_than_the_one_it_is_compared_with() -> None:
    for row in TRAINED:
        if row.group == "steps":
            continue
        steps = configure(RUN, row, 0).stage(row.stage).steps
        if row.versus and ROWS[row.versus].stage == row.stage:
            assert steps == RUN.stage(row.stage).steps, row.name
    assert configure(RUN, ROWS["stage2_longer"], 0).stage2.steps == RUN.stage3.steps


def test_chosen_rows_come_with_what_they_start_from_and_are_compared_with() -> None:
    assert [row.name for row in choose(["guidance_off"])] == ["stage1", "stage2", "stage3", "guidance", "guidance_off"]
    assert [row.name for row in choose(["modules"])] == ["stage1", "without_ssae", "without_tmcm", "without_faau"]
    assert choose([]) == [*ROWS.values()]
    with pytest.raises(SteadyDancerError, match="'without_legs' is no row of the ablations; choose some of stage1, "):
        choose(["without_legs", "stage1"])


def test_every_row_comes_after_the_one_it_starts_from() -> None:
    mixed = in_order(choose([])[::-1])
    assert sorted(row.name for row in mixed) == sorted(ROWS)
    for k, row in enumerate(mixed):
        assert row.parent is None or row.parent in {one.name for one in mixed[:k]}


def test_smaller_sets_of_clips_are_parts_of_larger_ones() -> None:
    from steadydancer.datasets.sampler import held_out

    sources = [f"source-{k}" for k in range(400)]
    shares = [configure(RUN, ROWS[name], 0).stage1.validation_share for name in ("stage1", "clips_4", "clips_16")]
    kept = [set(sources) - held_out(sources, share, seed=1) for share in shares]
    assert kept[2] < kept[1] < kept[0]
    assert len(kept[2]) == pytest.approx(400 / 16, abs=15)
