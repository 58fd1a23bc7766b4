"""What an earlier version wrote: its finished folders go on to be read, what it left half made is refused by name.

`tests/golden/earlier.tar.xz` was made by the version before rules had versions: three sources, their curation (one ok,
one rejected, one quarantined), its cache and export, one pair rendered and scored, and what `--print-config` printed.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steadydancer.datasets import rules
from steadydancer.datasets.artifact import PLAN, RECORD, Artifact, ArtifactError
from steadydancer.datasets.rules import Rule, other_settings
from steadydancer.flows.commands.options import require_cache
from steadydancer.flows.presets import Run, tiny
from steadydancer.pipelines.cache.config import CacheConfig
from steadydancer.pipelines.common.older_versions import absent_fields

MADE_IN = "/tmp/earlier"


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory, components):
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).parents[1] / "golden" / "earlier.tar.xz") as file:
        file.extractall(folder, filter="data")
    root = folder / "earlier"
    # The cache's own index has a digest, and names no place that is read again.
    for part in {*root.rglob("part-*.parquet")} - {*root.glob("run/latents/*")}:
        pq.write_table(_moved(pq.read_table(part), str(root)), part)
    for record in root.rglob("*.json"):
        record.write_text(record.read_text().replace(MADE_IN, str(root)))
    (root / "components").symlink_to(components)
    return root


@pytest.fixture
def earlier(unpacked, tmp_path):
    shutil.copytree(unpacked, tmp_path / "earlier", symlinks=True)
    return tmp_path / "earlier"


def _moved(table, folder):
    """The same rows with their files in another folder."""
    for k, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            values = [value and value.replace(MADE_IN, folder) for value in table.column(k).to_pylist()]
            table = table.set_column(k, field, pa.array(values, field.type))
    return table


def verdicts(folder, *columns):
    rows = Artifact(folder).read(["verdict", "reason", *columns]).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def test_its_configuration_loads_and_means_what_it_meant(earlier):
    said = json.loads((earlier / "preset.json").read_text())
    preset = Run.model_validate(said)
    for job, old in said.items():
        config = getattr(preset, job)
        for was, now in zip(*((one if isinstance(one, list | tuple) else [one]) for one in (old, config)), strict=True):
            absent = {"config": absent_fields(type(now))}
            assert not other_settings({"config": was}, {"config": now.model_dump(mode="json")}, absent)


def test_its_curation_is_selected_anew_to_the_same_verdicts(earlier, call):
    before = verdicts(earlier / "run" / "clips", "clip_id")
    assert [verdict for verdict, *_ in before] == ["ok", "quarantined", "rejected"]
    assert call("refilter", "--clips", earlier / "run", "--out", "again").code == 0
    assert verdicts(Path("again") / "clips", "clip_id") == before
    reported = call("explain", "dark.mp4", "--clips", earlier / "run")
    assert reported.code == 0 and "rejected" in reported.out


def test_its_latents_are_whole_and_its_renders_are_scored(earlier, call):
    reported = call("verify", "--latents", earlier / "run" / "latents")
    assert reported.code == 0, reported.err
    words = ("--preset", "tiny", "--renders", earlier / "run", "--truth", earlier / "truth", "--out", "scores")
    reported = call("evaluate", *words, "--in-process")
    assert reported.code == 0, reported.err
    new, old = ({(row["id"], row["metric"]): row["value"] for row in Artifact(folder).read().to_pylist()}
                for folder in (Path("scores/metrics"), earlier / "run" / "metrics"))  # fmt: skip
    shared = sorted(key for key in new.keys() & old.keys() if key[1] in ("psnr", "ssim", "temporal_flickering"))
    assert len(shared) == 3
    # Sums were in float32 then; in SSIM's variances of noise that was off by up to 2e-5.
    assert [new[key] for key in shared] == pytest.approx([old[key] for key in shared], abs=2e-5)


def rewritten(file, *names):
    """The JSON file without a field, as a version wrote it that did not know the field."""
    reported = json.loads(file.read_text())
    place = reported
    for name in names[:-1]:
        place = place[name]
    del place[names[-1]]
    file.write_text(json.dumps(reported))


def test_a_gate_that_it_did_not_know_is_off_where_its_curation_is_selected_anew(earlier, call):
    clips = earlier / "run" / "clips"
    for names in (("config", "gates"), ("selection", "measured_gates")):
        rewritten(clips / RECORD, *names, "min_brightness")
    words = ("refilter", "--clips", earlier / "run", "--out", "again")
    assert call(*words).code == 0
    # Today's bound of brightness, 0.12, was not asked for.
    assert {reason for verdict, reason in verdicts(Path("again/clips")) if verdict == "rejected"} == {"min_contrast"}
    # The selection itself is as old: the same command is the same selection.
    rewritten(Path("again/clips") / PLAN, "selection", "gates", "min_brightness")
    reported = call(*words)
    assert reported.code == 0 and "already finished" in reported.out
    reported = call(*words, "--set", "min_brightness=0.12")
    assert reported.code != 0 and "selection.gates.min_brightness: null → 0.12" in reported.err
    reported = call("refilter", "--clips", earlier / "run", "--out", "asked", "--set", "min_brightness=0.12")
    assert {reason for verdict, reason in verdicts(Path("asked/clips")) if verdict == "rejected"} == {"min_brightness"}


def test_a_setting_that_its_cache_did_not_know_counts_as_its_default_where_a_stage_begins(earlier):
    latents = earlier / "run" / "latents"
    rewritten(latents / RECORD, "config", "encoder_dtype")
    run = tiny()
    assert CacheConfig().encoder_dtype == "bfloat16" != run.cache.encoder_dtype
    with pytest.raises(ArtifactError, match='encoder_dtype: "bfloat16" → "float32"'):
        require_cache(run, latents)
    same = run.cache.model_copy(update={"encoder_dtype": "bfloat16"})
    assert require_cache(run.model_copy(update={"cache": same}), latents) == latents


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("clips", "curate --clips {0}/clips --out {0}/run"),
        ("latents", "cache --clips {0}/run --out {0}/run --components {1}"),
        ("export", "export --clips {0}/run --out {0}/run"),
        ("renders", "render --checkpoint {2} --components {1} --pairs {0}/pairs.jsonl --out {0}/run"),
        ("metrics", "evaluate --renders {0}/run --truth {0}/truth --out {0}/run"),
    ],
)
def test_what_it_left_half_made_is_refused_by_the_rules_name(
    earlier, call, components, checkpoint, folder, words, monkeypatch
):
    (earlier / "run" / folder / RECORD).unlink()
    plan = (earlier / "run" / folder / PLAN).read_bytes()
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES) | {"pictures": Rule(2, "mirrors count")})
    reported = call(*words.format(earlier, components, checkpoint).split(), "--preset", "tiny", "--in-process")
    assert reported.code != 0
    assert "started by a version" in reported.err and "pictures: version 1 → 2 (mirrors count)" in reported.err
    assert (earlier / "run" / folder / PLAN).read_bytes() == plan
