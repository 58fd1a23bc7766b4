"""The table on results that are made up: differences, words, and that a page shows them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.flows.ablations.backbone import NAME
from steadydancer.flows.ablations.forecast import LIMIT_CPU_HOURS, forecast
from steadydancer.flows.ablations.measure import FVD
from steadydancer.flows.ablations.packet import Packet, subsets_of
from steadydancer.flows.ablations.page import markdown, write_pages
from steadydancer.flows.ablations.paper import CHOICES, CLAIMS, COLUMNS, DATASETS, TABLE_3
from steadydancer.flows.ablations.rows import ROWS, choose
from steadydancer.flows.ablations.run import packets_of
from steadydancer.flows.ablations.table import (
    AGREES,
    DISAGREES,
    NOTHING_CLAIMED,
    SAME,
    UNKNOWN,
    Results,
    table_record,
    words_of,
)
from steadydancer.flows.ablations.world import World
from steadydancer.flows.presets import load
from steadydancer.models.metrics import Interval

PAIRS = [f"{cause}-pair_{k}" for cause in ("clean", "noisy", "disparity", "missing", "start_gap") for k in range(4)]
GAPS = {name: 0.5 + k / 10 if name.startswith("start_gap") else 0.0 for k, name in enumerate(PAIRS)}


def results(rows: dict[str, dict[str, float]], seeds: int = 3, scatter: float = 0.01) -> Results:
    """Rows whose metrics have given means, with a little scatter that seeds and pairs share over the rows."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1, (seeds, len(PAIRS)))  # large, but the same for all rows: differences do not have it
    by_packet: dict[Packet, Any] = {}
    for row, means in rows.items():
        for seed in range(seeds):
            videos = {
                name: {metric: mean + shared[seed, k] + rng.normal(0, scatter) for metric, mean in means.items()}
                for k, name in enumerate(PAIRS)
            }
            sets = {FVD: dict.fromkeys(subsets_of(GAPS), means.get(FVD, 1.0) + rng.normal(0, scatter))}
            by_packet[Packet(row, seed)] = {
                "videos": videos, "sets": sets, "network": None, "train": None, "cpu_seconds": {"train": 60.0},
            }  # fmt: skip
    return Results(by_packet, subsets_of(GAPS))


@pytest.mark.parametrize(
    ("low", "high", "direction", "words"),
    [
        (0.1, 0.3, "higher", AGREES), (-0.3, -0.1, "higher", DISAGREES), (-0.1, 0.3, "higher", SAME),
        (0.1, 0.3, "lower", DISAGREES), (-0.3, -0.1, "lower", AGREES), (0.0, 0.3, "higher", SAME),
        (math.nan, math.nan, "higher", UNKNOWN),
    ],
)  # fmt: skip
def test_words_follow_from_the_interval_and_the_direction(low: float, high: float, direction: str, words: str) -> None:
    assert words_of(Interval((low + high) / 2, low, high, 9), direction) == words


def test_differences_are_paired_by_seed_and_pair() -> None:
    """The scatter of a value is a hundred times that of a difference."""
    made = results({"stage1": {"person_psnr_db": 20.0}, "without_ssae": {"person_psnr_db": 19.9}})
    found = made.difference("stage1", "without_ssae", "person_psnr_db")
    assert found.mean == pytest.approx(0.1, abs=0.01) and 0.05 < found.low < found.high < 0.15
    value = made.value("stage1", "person_psnr_db")
    assert value.high - value.low > 10 * (found.high - found.low)
    only = [name for name in PAIRS if name.startswith("noisy")]
    assert made.difference("stage1", "without_ssae", "person_psnr_db", "noisy").n == len(only)


def test_a_claim_is_judged_on_its_own_pairs() -> None:
    claim = next(one for one in CLAIMS if one.worse == "without_tmcm")
    made = results({"stage1": {claim.metric: 20.0}, "without_tmcm": {claim.metric: 20.0}}, scatter=0.1)
    for packet, result in made.by_packet.items():
        if packet.row == "without_tmcm":
            for name in result["videos"]:
                result["videos"][name][claim.metric] -= 2.0 if name.startswith("missing") else 0.0
    words = {one.claim.worse: one.words for one in made.claims()}
    assert words["without_tmcm"] == AGREES and words["without_ssae"] == UNKNOWN
    assert made.difference("stage1", "without_tmcm", claim.metric, "noisy").mean == pytest.approx(0, abs=0.2)


def test_one_seed_gives_no_verdict() -> None:
    made = results({"stage1": {"person_psnr_db": 20.0}, "without_ssae": {"person_psnr_db": 10.0}}, seeds=1)
    assert {one.words for one in made.claims()} == {UNKNOWN}
    assert made.difference("stage1", "without_ssae", "person_psnr_db").mean == pytest.approx(10, abs=0.1)


def test_cells_of_table_3_are_compared_by_the_printed_direction() -> None:
    column = f"i2v_subject[{NAME}]"
    made = results({"stage1": {column: 0.9, FVD: 1.0}, "without_ssae": {column: 0.5, FVD: 2.0}})
    cells = {(d, r, c): (change, one.words) for d, r, c, change, one in made.table_3()}
    assert cells["RealisDance-Val", "without_ssae", "IS"] == (-0.01, AGREES)
    assert cells["RealisDance-Val", "without_ssae", "IB"] == (0.0, NOTHING_CLAIMED)
    assert cells["RealisDance-Val", "without_ssae", "FVD"] == (pytest.approx(19.51), AGREES)
    assert cells["X-Dance", "without_tmcm", "IS"][1] == UNKNOWN
    assert cells["X-Dance", "stage3", "IS"][0] == pytest.approx(2.73)
    reverse = results({"stage1": {column: 0.5}, "without_ssae": {column: 0.9}})
    words = {(d, r, c): one.words for d, r, c, _, one in reverse.table_3()}
    assert words["RealisDance-Val", "without_ssae", "IS"] == DISAGREES


def test_of_a_choice_the_better_form_is_named() -> None:
    made = results({"stage1": {"person_psnr_db": 20.0}, "faau_spatial": {"person_psnr_db": 21.0},
                    "tmcm_pointwise": {"person_psnr_db": 19.0}})  # fmt: skip
    words = {one.claim.worse: one.words for one in made.choices()}
    assert words["faau_spatial"] == "the printed form is better"
    assert words["tmcm_pointwise"] == "the released form is better"
    assert words["clip_concatenated"] == UNKNOWN


def test_what_the_paper_is_compared_by_names_rows_metrics_and_pairs_that_exist() -> None:
    subsets = subsets_of(GAPS)
    for claim in CLAIMS:
        assert {claim.better, claim.worse} <= ROWS.keys() and claim.subset in subsets and claim.better != claim.worse
    assert {name for choice in CHOICES for name in choice[:2]} <= ROWS.keys()
    assert TABLE_3.keys() == DATASETS.keys() and {*DATASETS.values()} <= subsets.keys()
    assert all(rows.keys() <= ROWS.keys() for rows in TABLE_3.values())
    assert all(row.keys() <= COLUMNS.keys() for rows in TABLE_3.values() for row in rows.values())
    printed = TABLE_3["RealisDance-Val"]["normal_distillation_one"]
    assert printed == {"IS": 79.13, "IB": 81.10, "SC": 88.98, "TF": 97.12, "FVD": 723.91}


def test_the_record_is_json_without_nan_and_the_page_says_the_words(tmp_path: Path) -> None:
    means = {"person_psnr_db": 20.0, "right_minus_wrong_db": 4.0}
    made = results({"stage1": means, "without_ssae": {**means, "person_psnr_db": 19.0}, "steps_4": means})
    record = json.loads(json.dumps(table_record(made), allow_nan=False))
    assert record["cpu_seconds"] == 9 * 60.0
    assert record["rows"]["without_ssae"]["differences"]["person_psnr_db"]["all"]["mean"] == pytest.approx(-1, abs=0.1)
    table = {**record, "packets": 9, "finished": 9, "world": World().to_record(), "steps": {"stage1": 160},
             "command": "steadydancer x"}  # fmt: skip
    text = markdown(made, table)
    assert "| SSAE handles noisy poses | agrees |" in text
    assert "Made by `steadydancer x`: 9 of 9 packets, seeds 0, 1, 2; 1000 clips drawn" in text
    assert text.count("| not measured |") > 10
    without_pairs = Results(made.by_packet, dict.fromkeys(made.subsets, ()))
    write_pages(tmp_path, without_pairs, table)
    page = (tmp_path / "index.html").read_text()
    assert "Figure 13, row 1" in page and "cannot be told apart" in page and "<svg" in page


def test_all_rows_at_three_seeds_fit_into_twelve_cpu_hours_and_a_packet_into_an_hour() -> None:
    packets = packets_of(choose([]), 3)
    cost = forecast(load("toydance_ablations"), packets, World())
    assert len(packets) == 3 * len(ROWS) == len({*packets})
    assert cost.cpu_hours <= LIMIT_CPU_HOURS == 12
    assert max(cost.packets.values()) < 3600
    longer = forecast(load("toydance"), packets, World())
    assert longer.cpu_hours > LIMIT_CPU_HOURS
