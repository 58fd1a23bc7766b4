"""Plans of other versions of the program: what is gone on with, and what is refused by which name."""

import json

import pytest

from steadydancer.datasets import rules
from steadydancer.datasets.artifact import PLAN, Artifact, ArtifactError
from steadydancer.datasets.rules import Rule, other_rules, other_settings, versions


@pytest.fixture
def changed(monkeypatch):
    """Two rules, one of which has changed once."""
    monkeypatch.setattr(rules, "RULES", {"pictures": Rule(2, "mirrors count"), "texts": Rule()})


def plan(**more):
    return {"config": {"size": 4}, "rules": versions("pictures", "texts"), **more}


def test_a_plan_without_rules_was_made_by_their_first_versions(changed):
    assert versions("pictures", "texts") == {"pictures": 2, "texts": 1}
    assert other_rules({}, plan()) == "  pictures: version 1 → 2 (mirrors count)"
    assert other_rules({"rules": {"texts": 1}}, plan()) == "  pictures: version 1 → 2 (mirrors count)"
    assert other_rules(plan(), plan()) == ""


def test_rules_that_are_newer_or_unknown_are_others_too(changed):
    newer = {"rules": {"pictures": 3, "smells": 2, "texts": 1}}
    assert other_rules(newer, plan()) == "  pictures: version 3 → 2 (mirrors count)\n  smells: version 2 → 1"


def test_half_made_by_another_rule_is_refused_by_its_name_and_left_as_it_was(changed, tmp_path):
    (tmp_path / PLAN).write_text(json.dumps({"config": {"size": 4}}))
    with pytest.raises(ArtifactError, match=r"started by a version[^$]*pictures: version 1 → 2 \(mirrors count\)"):
        Artifact(tmp_path).begin(plan())
    assert json.loads((tmp_path / PLAN).read_text()) == {"config": {"size": 4}}


def test_finished_by_another_rule_stays_finished(changed, tmp_path):
    (tmp_path / PLAN).write_text(json.dumps({"config": {"size": 4}}))
    Artifact(tmp_path).begin(plan(), finished=True)
    Artifact(tmp_path).commit({"counts": {"inputs": 0, "ok": 0, "rejected": 0, "quarantined": 0}})
    Artifact(tmp_path).begin(plan())
    # What is asked for otherwise may come of the other rule: it is named below what differs.
    reported = (
        r"config.size: 4 → 5\nand by a version [^\n]*:\n  pictures: version 1 → 2 \(mirrors count\)\nchoose another"
    )
    with pytest.raises(ArtifactError, match=reported):
        Artifact(tmp_path).begin(plan() | {"config": {"size": 5}})


def test_other_settings_by_the_same_rules_are_told_alone(changed, tmp_path):
    Artifact(tmp_path).begin(plan())
    with pytest.raises(ArtifactError, match=r"different settings or inputs:\n  config.size: 4 → 5\nchoose another"):
        Artifact(tmp_path).begin(plan() | {"config": {"size": 5}})


def test_fields_that_an_older_plan_does_not_know_count_as_they_were(changed, tmp_path):
    (tmp_path / PLAN).write_text(json.dumps({"config": {"size": 4, "gates": {"area": 1}}, "rules": plan()["rules"]}))
    absent = {"config": {"sound": "none", "gates": {"shake": None}}}
    now = {"size": 4, "sound": "none", "gates": {"area": 1, "shake": None}}
    Artifact(tmp_path).begin(plan() | {"config": now}, absent)
    for other, message in (
        ({"sound": "keep"}, '"none" → "keep"'),
        ({"gates": {"area": 1, "shake": 0.1}}, "null → 0.1"),
    ):
        with pytest.raises(ArtifactError, match=message):
            Artifact(tmp_path).begin(plan() | {"config": now | other}, absent)


def test_fields_that_are_gone_from_today_are_differences():
    assert other_settings({"config": {"old": 1}}, {"config": {}}, {"config": {"old": 1}}) == "  config.old: 1 → null"


def test_the_versions_of_the_rules_are_these():
    """Whoever changes what comes out of a file raises a version, here too: nobody does it by mistake."""
    assert {name: rule.version for name, rule in rules.RULES.items()} == {
        "pictures": 2, "driving_poses": 2, "texts": 2, "sidecars": 2, "truth": 2,
    }  # fmt: skip
    assert all(rule.changed for rule in rules.RULES.values() if rule.version > 1)
