"""`report`, `explain` and `compare` on a real curation: what they print, where they write, how they refuse."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.clips import Clips
from steadydancer.datasets.schema import to_table
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.flows import curate as curate_flow
from steadydancer.flows import prefect_ui as handover
from steadydancer.flows.commands.clips import with_page
from steadydancer.pipelines.curate.report import page as pages
from steadydancer.pipelines.render.steps import SCHEMA as RENDERS_SCHEMA
from steadydancer.pipelines.runtime.after_commit import after_commit


def test_a_report_and_its_card_go_where_they_are_asked(call: Any, curated: Path, tmp_path: Path) -> None:
    """A folder gets both under their names; a file its own, and the card beside it."""
    for out, page in ((tmp_path / "told", tmp_path / "told" / "curation.html"), (tmp_path / "my.html",) * 2):
        answer = call("report", "--clips", str(curated), "--out", str(out))
        assert answer.code == 0 and answer.out.split() == [str(page), str(page.parent / "card.md")]
        assert page.read_text().startswith("<!doctype html>") and (page.parent / "card.md").is_file()
    nothing = call("report", "--clips", str(tmp_path / "nix"))
    assert nothing.code == 1 and "does not exist" in nothing.err


def test_a_clip_explains_itself_to_people_and_machines(call: Any, curated: Path) -> None:
    reported = json.loads(call("explain", "dark.mp4", "--clips", str(curated), "--json").out)
    assert reported["verdict"]["reason"] == "min_brightness" and reported["pose_was_not_looked_for"]
    (gate,) = [gate for one in reported["scores"] if one["score"] == "brightness" for gate in one["gates"]]
    assert gate["passes"] is False and gate["by"] < 0
    text = call("explain", reported["clip"]["clip_id"][:8], "--clips", str(curated)).out
    assert f"clip {reported['clip']['clip_id']}: rejected" in text
    assert re.search(r"brightness +0\.0\d+ 0\.\.1 +FAILS: at least 0\.12, by", text)


def test_a_name_of_several_clips_lists_them_and_an_unknown_one_what_is_near(call: Any, curated: Path) -> None:
    answer = call("explain", "cut_long.mp4", "--clips", str(curated))
    listed = re.findall(r"^  ([0-9a-f]{16})  ", answer.out, re.MULTILINE)
    rows = Clips(curated).read(["clip_id", "source_path"]).to_pylist()
    assert answer.code == 0 and listed == [r["clip_id"] for r in rows if r["source_path"].endswith("/cut_long.mp4")]
    assert len(listed) == 2
    unknown = call("explain", "darc.mp4", "--clips", str(curated))
    assert unknown.code == 1 and "similar: dark.mp4" in unknown.err and not unknown.out


def test_a_clip_says_where_its_latents_lie(call: Any, curated: Path, cached: Path) -> None:
    rows = Clips(curated).read(["clip_id", "verdict"]).to_pylist()
    accepted = next(row["clip_id"] for row in rows if row["verdict"] == "ok")
    rejected = next(row["clip_id"] for row in rows if row["verdict"] == "rejected")
    words = ("--clips", str(curated), "--latents", str(cached), "--json")
    place = json.loads(call("explain", accepted, *words).out)["latents"]
    shard = (cached / "shards" / place["shard"]).read_bytes()
    (member,) = [one for one in place["members"] if one["name"] == "json"]
    meta = json.loads(shard[member["offset"] : member["offset"] + member["size"]])
    assert meta["clip_id"] == accepted
    assert json.loads(call("explain", rejected, *words).out)["latents"]["shard"] is None


def test_two_selections_are_compared(call: Any, curated: Path, tmp_path: Path) -> None:
    assert call("refilter", "--clips", str(curated), "--out", str(tmp_path), "--set", "min_brightness=0.01").code == 0
    found = json.loads(call("compare", "--clips", str(curated), "--with", str(tmp_path), "--json").out)
    assert found["config"] == ["gates.min_brightness: 0.12 → 0.01"]
    assert found["old"]["counts"]["inputs"] == found["new"]["counts"]["inputs"]
    assert [move["from"] for move in found["moves"]] == ["rejected: min_brightness"]
    text = call("compare", "--clips", str(curated), "--with", str(tmp_path)).out
    assert "gates.min_brightness: 0.12 → 0.01" in text and "0 became ok, 0 are no longer ok" in text
    assert call("report", "--clips", str(tmp_path)).code == 0
    assert "Changes from the parent version" in (tmp_path / "curation.html").read_text()


def test_a_curation_on_a_store_has_its_page_there(call: Any, curated: Path, bucket: str, tmp_path: Path) -> None:
    root = ObjectPath.parse(bucket)
    for file in sorted((curated / "clips").iterdir()):
        upload_file(file, root / "out" / "clips" / file.name)
    assert call("report", "--clips", f"{bucket}/out").code == 0
    assert "data:image/jpeg" in (root / "out" / "curation.html").read_text()
    reported = json.loads(call("explain", "dark.mp4", "--clips", f"{bucket}/out", "--json").out)
    assert reported["versions"][0]["path"] == f"{bucket}/out/clips"


def test_a_flow_shows_funnel_reasons_card_and_page(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    shutil.copytree(curated / "clips", tmp_path / "clips")
    monkeypatch.setattr(curate_flow, "publish", lambda key, title, rows: shown.update({key: rows}))
    monkeypatch.setattr(curate_flow, "publish_text", lambda key, markdown, title: shown.update({key: markdown}))
    monkeypatch.setattr(curate_flow, "publish_page", lambda key, page: shown.update({key: page}))
    curate_flow.publish_curation(tmp_path)
    counts = Clips(tmp_path).record["counts"]
    assert shown["clip-funnel"][-1]["left"] == counts["ok"]
    assert sum(row["lost"] for row in shown["clip-funnel"]) == counts["inputs"] - counts["ok"]
    assert sum(row["rows"] for row in shown["clip-verdicts"]) == counts["inputs"]
    assert shown["clip-card"].lstrip().startswith("# Clips of clips") and "license:" not in shown["clip-card"]
    assert shown["clip-report"] == tmp_path / "curation.html"


def test_a_page_that_fails_is_a_warning_and_report_makes_it_again(
    call: Any, curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The outcome was decided when the artifact was committed: a fault of the page's code does not change it."""
    shutil.copytree(curated / "clips", tmp_path / "clips")
    record = Clips(tmp_path).record

    def fail(*arguments: Any, **more: Any) -> None:
        raise KeyError("crop_left_px")

    monkeypatch.setattr(pages, "write_report", fail)
    monkeypatch.setattr(handover, "create_table_artifact", fail)
    assert with_page(tmp_path, lambda: record)() == record
    (line,) = caplog.messages
    assert "curation.html" in line and "KeyError: 'crop_left_px'" in line
    assert f"`steadydancer report --clips {tmp_path}`" in line
    curate_flow.publish_curation(tmp_path)
    assert [line.partition(" could")[0].split()[-1] for line in caplog.messages[1:]] == [
        "card.md",
        "`clip-verdicts`",
        "`clip-funnel`",
    ]
    assert not (tmp_path / "curation.html").exists()
    monkeypatch.undo()
    assert call("report", "--clips", str(tmp_path)).code == 0 and (tmp_path / "curation.html").is_file()


def test_what_is_made_after_a_commit_may_fail_in_any_way_but_an_interrupt(caplog: pytest.LogCaptureFixture) -> None:
    for error in (KeyError("x"), OSError(28, "No space left on device", "page"), MemoryError(), SteadyDancerError("x")):
        with after_commit("OUT/page", "make it again"):
            raise error
    assert [line.partition(" (")[0] for line in caplog.messages] == ["OUT/page could not be written"] * 4
    assert all(line.endswith("The job is not affected; make it again") for line in caplog.messages)
    assert "No space left on device: page" in caplog.messages[1]
    with pytest.raises(KeyboardInterrupt), after_commit("OUT/page", "make it again"):
        raise KeyboardInterrupt


def test_report_takes_one_finished_folder_of_the_kind_it_is_asked_for(call: Any, curated: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(
        json.dumps({"step": 0, "loss": 2.0, "batch_digest": "0", "lr": 0.1}) + "\n"
    )
    answer = call("report", "--run", tmp_path / "run")
    assert answer.code == 0 and answer.out.split() == [str(tmp_path / "run" / "report.html")]
    assert "loss of the last step" in (tmp_path / "run" / "report.html").read_text()
    assert call("report", "--run", tmp_path).code == 1
    assert call("report").code == call("report", "--run", tmp_path / "run", "--clips", curated).code == 2


def test_a_row_of_any_artifact_explains_itself(call: Any, cached: Path, tmp_path: Path) -> None:
    """A sample of a cache by its clip; a render that failed, of which the message alone told; what is unknown."""
    samples = Artifact(cached).read(["clip_id"])["clip_id"].to_pylist()
    assert f"{samples[0]} in {cached}: ok" in call("explain", samples[0][:10], "--latents", str(cached)).out
    rows = [{"id": "wall", "image": "/p/wall.png", "driving": "/p/d.mp4", "verdict": "quarantined", "reason": "no_pose",
             "detail": "nobody was found"}, {"id": "good", "image": "/p/wall.png", "verdict": "ok", "video": "good.mp4",
             "aligned": False}]  # fmt: skip
    renders = Artifact(tmp_path / "renders")
    renders.path.mkdir()
    renders.write_part(plan_packets(["good", "wall"], 2)[0], to_table(rows, RENDERS_SCHEMA))
    for option in ("--artifact", "--renders"):
        reported = call("explain", "wall", option, str(tmp_path))
        assert reported.code == 0 and "(not finished): quarantined, no_pose\n  nobody was found" in reported.out
        assert "/p/wall.png" in reported.out and "good" not in reported.out
    (one,) = json.loads(call("explain", "d.mp4", "--artifact", str(tmp_path / "renders"), "--json").out)
    assert one["artifact"] == str(tmp_path / "renders") and one["rows"][0]["detail"] == "nobody was found"
    several = call("explain", "wall.png", "--artifact", str(tmp_path)).out
    assert "wall.png matches 2 rows" in several and "good: ok" in several
    assert "wall: no_pose: nobody was found" in several
    unknown = call("explain", "wal1", "--artifact", str(tmp_path))
    assert unknown.code == 1 and "renders; similar ids: wall" in unknown.err
    for words in ((), ("--clips", "x", "--artifact", "y")):
        refused = call("explain", "a", *words)
        assert refused.code == 2 and "--artifact" in refused.err


def test_the_tables_of_the_interface_add_up(tmp_path: Path) -> None:
    """One row an artifact with all reasons of what is not ok."""
    rows = [{"id": str(n), "verdict": verdict, "reason": reason}
            for n, (verdict, reason) in enumerate([("ok", None), ("quarantined", "no_pose"), ("quarantined", "no_pose"),
                                                   ("quarantined", "too_short")])]  # fmt: skip
    artifact = Artifact(tmp_path / "renders")
    artifact.path.mkdir()
    artifact.write_part(plan_packets([row["id"] for row in rows], 9)[0], to_table(rows, RENDERS_SCHEMA))
    counts = {"inputs": 4, "ok": 1, "rejected": 0, "quarantined": 3}
    reported = {"reasons": "quarantined: 2 no_pose, 1 too_short", "seconds": 1.2}
    record = {"counts": counts, "seconds": {"total": 1.23}}
    assert handover.counts_table(tmp_path, {"renders": record}) == [{"artifact": "renders", **counts, **reported}]
