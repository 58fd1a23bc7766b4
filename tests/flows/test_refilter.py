"""Another selection: no video, no keypoints copied, every row accounted for, and what a person says counts."""

import csv
import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError, exclusive
from steadydancer.datasets.clips import COLUMNS, Clips
from steadydancer.datasets.schema import Row
from steadydancer.datasets.storage.digests import content_digest, json_digest
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.flows.commands.selection import refilter
from steadydancer.pipelines.curate import refilter as job
from steadydancer.pipelines.curate.config import CurateConfig


def call(clips: Any, out: Any, *words: Any) -> str:
    """The command, in this process; its words."""
    answer = CliRunner().invoke(refilter, [*map(str, ("--clips", clips, "--out", out, *words))])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


def refused(clips: Any, out: Any, *words: Any) -> str:
    answer = CliRunner().invoke(refilter, [*map(str, ("--clips", clips, "--out", out, *words))])
    assert answer.exit_code
    return answer.output if isinstance(answer.exception, SystemExit) else str(answer.exception)


def verdicts(folder: Path) -> dict[tuple[str, int], tuple[str, str | None]]:
    return {(Path(r["source_path"]).stem, r["shot_index"]): (r["verdict"], r["reason"]) for r in rows_of(folder)}


def rows_of(folder: Any) -> list[Row]:
    return list(Clips(folder).read().to_pylist())


def write_decisions(
    path: Path, *lines: tuple[Any, ...], columns: str = "clip_id,source_path,start_s,verdict,note"
) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *lines])
    return path


def test_the_same_settings_give_the_same_rows_and_touch_nothing_else(curated: Path, tmp_path: Path) -> None:
    before = content_digest(curated)
    call(curated, tmp_path / "new")
    new, old = Clips(tmp_path / "new"), Clips(curated)
    assert new.read().equals(old.read()) and new.read().schema.names == COLUMNS
    assert content_digest(curated) == before
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"clips", ".lock"}
    assert new.record["parent"]["digest"] == json_digest(old.record)
    assert (tmp_path / "new" / new.record["parent"]["path"]).resolve() == curated / "clips"
    assert new.measured.path.resolve() == old.measured.path.resolve()
    accepted = [row for row in rows_of(tmp_path / "new") if row["verdict"] == "ok"]
    assert new.poses(accepted) == old.poses(accepted)
    for name in ("inputs", "counts", "pose_models", "config"):
        assert new.record[name] == old.record[name]


def test_gates_are_tightened_and_loosened_and_what_was_not_measured_says_so(curated: Path, tmp_path: Path) -> None:
    off = ("min_brightness=off", "min_contrast=0", "min_sharpness=0", "max_blur=off", "max_persons=2",
           "min_motion_magnitude=0")  # fmt: skip
    call(curated, tmp_path / "loose", *(word for gate in off for word in ("--set", gate)))
    found = verdicts(tmp_path / "loose")
    assert found["two_people", 0] == ("ok", None)  # their keypoints came with the clip
    assert found["dark", 0] == ("rejected", "not_measured")
    (dark,) = (row for row in rows_of(tmp_path / "loose") if row["source_path"].endswith("dark.mp4"))
    assert "because min_brightness rejected the clip" in dark["detail"] and "curate --parent" in dark["detail"]
    assert found["truncated", None] == ("quarantined", "truncated")
    # From there back again, and on from a version of a version.
    call(tmp_path / "loose", tmp_path / "back", "--preset", json.dumps({"curate": Clips(curated).record["config"]}))
    assert verdicts(tmp_path / "back") == verdicts(curated)
    # A bound of one shape of picture is none of the others'; two people fill a wider picture than one.
    call(tmp_path / "back", tmp_path / "wide", "--set", "horizontal.min_side_px=1000")
    expected = verdicts(curated) | {("two_people", 0): ("rejected", "min_side_px")}
    assert verdicts(tmp_path / "wide") == expected
    reported = json.loads(call(tmp_path / "wide", tmp_path / "x", "--dry-run", "--set", "vertical.min_side_px=1000"))
    assert reported["counts"]["ok"] == 0 and reported["funnel"]["gates"]["min_side_px"]["first"] == 6


def test_a_dry_run_tells_the_funnel_and_makes_nothing(curated: Path, tmp_path: Path) -> None:
    reported = json.loads(call(curated, tmp_path / "new", "--set", "min_brightness=0.9", "--dry-run"))
    assert not (tmp_path / "new").exists() and not reported["finished"]
    assert reported["counts"]["inputs"] == reported["were"]["inputs"] == 10 and reported["counts"]["ok"] == 0
    gate = reported["funnel"]["gates"]["min_brightness"]
    assert gate["first"] == 6 and gate["alone"] == 3  # three were accepted; the others fail elsewhere, too
    reasons = [row["reason"] for row in rows_of(curated)]
    assert reported["funnel"]["measuring"] == reasons.count("too_short") + reasons.count("truncated")
    with pytest.raises(SteadyDancerError, match="no usable output: .* min_brightness"):
        call(curated, tmp_path / "new", "--set", "min_brightness=0.9")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "NaN", "abc"])
def test_bounds_and_shares_that_are_no_numbers_are_refused_by_dry_run_and_run(
    curated: Path, tmp_path: Path, value: str
) -> None:
    for more in ((), ("--dry-run",)):
        for words in ((f"max_pose_jerk={value}",), (f"square.max_pose_jerk={value}",)):
            said = refused(curated, tmp_path / "new", "--set", *words, *more)
            assert f"{words[0]}: expected a number or `off`" in said
        said = refused(curated, tmp_path / "new", "--target", "1", "--mix", f"square={value}", *more)
        assert f"square={value}: expected SHAPE=SHARE" in said
        text = json.dumps({"curate": {"gates": {"max_pose_jerk": float("nan")}}})
        assert "gates.max_pose_jerk: Input should be a finite number" in refused(
            curated, tmp_path / "new", "--preset", text, *more
        )
    assert not (tmp_path / "new").exists()


def test_a_preset_and_a_table_of_decisions_are_read_as_editors_save_them(curated: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.JSON").write_bytes(json.dumps({"curate": {"gates": {"min_side_px": 9999}}}).encode("utf-16"))
    reported = json.loads(call(curated, tmp_path / "x", "--preset", tmp_path / "mine.JSON", "--dry-run"))
    assert reported["counts"]["ok"] == 0 and reported["funnel"]["gates"]["min_side_px"]["first"] > 0
    row = next(row for row in rows_of(curated) if row["verdict"] == "ok")
    table = f"Clip_ID, Verdict, note\n{row['clip_id']}, reject, déjà vu\n"
    decisions = tmp_path / "mine.csv"
    for encoding in ("utf-8-sig", "utf-16"):
        decisions.write_bytes(table.encode(encoding))
        call(curated, tmp_path / encoding, "--decisions", decisions)
        (after,) = (one for one in rows_of(tmp_path / encoding) if one["clip_id"] == row["clip_id"])
        assert (after["verdict"], after["reason"], after["detail"]) == ("rejected", "decision", "déjà vu")
    decisions.write_bytes(table.encode("cp1252"))
    said = refused(curated, tmp_path / "no", "--decisions", decisions)
    assert "mine.csv cannot be read as csv: byte" in said and "(0xe9) is not UTF-8" in said
    decisions.write_text("source_path,start_s,verdict\na.mp4,nan,accept\n")
    assert "line 2: start_s must be a number of seconds, got 'nan'" in refused(
        curated, tmp_path / "no", "--decisions", decisions
    )


def test_a_person_overrules_gates_and_not_the_lack_of_keypoints(curated: Path, tmp_path: Path) -> None:
    by_name = {(Path(row["source_path"]).stem, row["shot_index"]): row for row in rows_of(curated)}
    second = by_name["cut_long", 1]
    table = write_decisions(
        tmp_path / "decisions.csv",
        (by_name["two_people", 0]["clip_id"], "", "", "accept", "the one behind hardly moves"),
        ("", by_name["dark", 0]["source_path"], "", "accept", ""),
        ("", second["source_path"], f"{second['start_s']:.2f}", "reject", "a logo"),
        ("", by_name["truncated", None]["source_path"], "", "accept", ""),
    )
    call(curated, tmp_path / "new", "--decisions", table)
    expected = verdicts(curated) | {
        ("two_people", 0): ("ok", "decision"),
        ("dark", 0): ("rejected", "not_measured"),
        ("cut_long", 1): ("rejected", "decision"),
    }
    assert verdicts(tmp_path / "new") == expected
    details = {(Path(row["source_path"]).stem, row["shot_index"]): row["detail"] for row in rows_of(tmp_path / "new")}
    assert details["two_people", 0] == "the one behind hardly moves" and details["cut_long", 1] == "a logo"
    assert details["dark", 0].startswith("accepted by hand, but no pose was estimated because min_brightness rejected")
    reported = Clips(tmp_path / "new").record["selection"]["decisions"]
    assert reported == {
        "file": str(table),
        "digest": content_digest(table),
        "accepted": 1,
        "rejected": 1,
        "accepted_in_vain": 2,
    }
    # What was decided stays decided in later versions, unless a person says otherwise.
    again = write_decisions(tmp_path / "again.csv", (second["clip_id"], "accept"), columns="clip_id,verdict")
    call(tmp_path / "new", tmp_path / "newer", "--decisions", again, "--set", "min_brightness=0.9")
    found = {key: verdict for key, verdict in verdicts(tmp_path / "newer").items() if verdict[0] == "ok"}
    assert found == {("two_people", 0): ("ok", "decision"), ("cut_long", 1): ("ok", "decision")}


def test_decisions_that_cannot_be_followed_are_one_message_with_lines(curated: Path, tmp_path: Path) -> None:
    row = rows_of(curated)[0]
    table = write_decisions(
        tmp_path / "a.csv",
        ("no-such-clip", "", "", "accept", ""),
        (row["clip_id"], "", "", "accept", ""),
        ("", row["source_path"], "", "reject", ""),
        ("", row["source_path"], "999", "reject", ""),
    )
    words = refused(curated, tmp_path / "new", "--decisions", table)
    assert "line 2: no row matches no-such-clip" in words and "lines 3 and 4 contradict each other" in words
    assert "line 5: no row matches" in words and "999 s" in words
    table = write_decisions(
        tmp_path / "b.csv", ("", "", "", "accept", ""), ("x", "", "", "maybe", ""), ("x", "", "soon", "accept", "")
    )
    words = refused(curated, tmp_path / "new", "--decisions", table)
    assert all(
        f"line {k}: {what}" in words for k, what in ((2, "clip_id and"), (3, "verdict must"), (4, "start_s must"))
    )
    table = write_decisions(tmp_path / "c.csv", ("x", "ok"), columns="clip,verdict")
    assert "expected the columns verdict and clip_id or source_path" in refused(
        curated, tmp_path / "new", "--decisions", table
    )
    assert not (tmp_path / "new" / "clips" / "run.json").exists()


def test_settings_that_are_none_are_refused_in_a_sentence(curated: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    for words, said in (
        (["--set", "min_beauty=3"], "GATE=VALUE"),
        (["--set", "min_brightness=bright"], "a number or `off`"),
        (["--mix", "vertical=0.5"], "pass both"),
        (["--target", "3", "--mix", "vertical=1.5"], "sum to 1 at most"),
        (["--target", "3", "--mix", "round=0.5"], "mix"),
        (["--preset", '{"gates": {}}'], "expected"),
    ):
        assert said in refused(curated, out, *words)
    assert not out.exists()
    assert "never changes: choose another --out" in refused(curated, curated)
    with pytest.raises(ArtifactError, match="affects measurements"):
        job.change_selection(Clips(curated).record, {"num_frames": 81})


def test_two_runs_on_one_folder_and_a_second_run_after_the_first(curated: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "new"):
        assert "in use by another run" in refused(curated, tmp_path / "new")
    call(curated, tmp_path / "new")
    assert "already finished" in call(curated, tmp_path / "new")
    assert "started with different settings" in refused(curated, tmp_path / "new", "--set", "min_brightness=0.2")


def test_a_parent_that_is_damaged_cut_or_changed_is_refused(curated: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(curated, old)
    (part,) = (old / "clips").glob("part-*.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in refused(old, tmp_path / "new")
    part.write_bytes(whole)
    pq.write_table(pq.read_table(part).slice(1), part)
    assert "has 9 rows, but its record states 10" in refused(old, tmp_path / "new")
    assert not (tmp_path / "new" / "clips" / "run.json").exists()
    part.write_bytes(whole)
    record = json.loads((old / "clips" / "run.json").read_text())
    (old / "clips" / "run.json").write_text(json.dumps(record | {"version": "another"}))
    assert "parent: " in refused(old, tmp_path / "new")
    (old / "clips" / "run.json").unlink()
    assert "is not finished" in refused(old, tmp_path / "new2")


def test_a_killed_refilter_goes_on_to_the_same_rows(
    curated: Path, tmp_path: Path, killed_at_second_part: Callable[[str], None]
) -> None:
    """Three parts of few rows, killed when the second is to be written; what lies there after is not written again."""
    code = f"""
        from pathlib import Path
        from steadydancer.datasets.clips import Clips
        from steadydancer.pipelines.curate import refilter as job
        job.PART_ROWS = 4
        config = job.change_selection(Clips({str(curated)!r}).record, {{"gates": {{"min_brightness": 0.2}}}})
        job.run(config, clips=Path({str(curated)!r}), out=Path({str(tmp_path / "new")!r}))
    """
    killed_at_second_part(code)
    (first,) = (tmp_path / "new" / "clips").glob("part-*.parquet")
    before = first.stat().st_mtime_ns
    with pytest.raises(ArtifactError, match="is not finished"):
        Clips(tmp_path / "new")
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    assert len(list((tmp_path / "new" / "clips").glob("part-*.parquet"))) == 3 and first.stat().st_mtime_ns == before
    call(curated, tmp_path / "undisturbed", "--set", "min_brightness=0.2")
    assert Clips(tmp_path / "new").read().equals(Clips(tmp_path / "undisturbed").read())


def test_a_part_that_was_cut_short_after_it_was_written_is_found(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Artifact.write_part
    monkeypatch.setattr(Artifact, "write_part", lambda self, packet, table: write(self, packet, table.slice(1)))
    with pytest.raises(ArtifactError, match="do not add up"):
        call(curated, tmp_path / "new")
    assert not (tmp_path / "new" / "clips" / "run.json").exists()


def test_a_target_is_reached_and_its_bounds_give_the_same_clips_again(curated: Path, tmp_path: Path) -> None:
    said = call(curated, tmp_path / "two", "--target", "2")
    record = Clips(tmp_path / "two").record
    assert record["counts"]["ok"] == 2 and record["selection"]["target"]["reached"]
    assert "2 of 2 at strictness" in said
    preset = tmp_path / "found.json"
    preset.write_text(said[said.index('{"curate"') :])
    call(curated, tmp_path / "again", "--preset", preset)
    assert Clips(tmp_path / "again").read().equals(Clips(tmp_path / "two").read())
    said = call(curated, tmp_path / "many", "--target", "100")
    target = Clips(tmp_path / "many").record["selection"]["target"]
    assert not target["reached"] and target["accepted"] == Clips(tmp_path / "many").record["counts"]["ok"] >= 3
    assert "of 100" in said and "with the adjustable gates off" in said
    call(tmp_path / "many", tmp_path / "none", "--target", "0")
    assert CurateConfig.model_validate(Clips(tmp_path / "none").record["config"]).target is None
    assert verdicts(tmp_path / "none") == verdicts(curated)


def test_other_copies_are_looked_for_where_they_are_asked_for(curated: Path, tmp_path: Path) -> None:
    call(curated, tmp_path / "clips", "--preset", '{"curate": {"duplicates": {"scope": "clip"}}}')
    assert verdicts(tmp_path / "clips") == verdicts(curated)
    groups = {row["duplicate_group"] for row in rows_of(tmp_path / "clips") if row["verdict"] == "ok"}
    assert groups == {row["clip_id"] for row in rows_of(tmp_path / "clips") if row["verdict"] == "ok"}


def test_clips_on_a_store_are_selected_there(bucket: str, curated: Path, tmp_path: Path) -> None:
    root = ObjectPath.parse(bucket)
    for file in (curated / "clips").iterdir():
        upload_file(file, root / "old" / "clips" / file.name)
    call(root / "old", root / "new", "--set", "min_brightness=0.2")
    call(curated, tmp_path / "new", "--set", "min_brightness=0.2")
    assert Clips(root / "new").read().equals(Clips(tmp_path / "new").read())
    assert Clips(root / "new").record["parent"]["path"] == f"{bucket}/old/clips"
