"""What a curation says of itself, on small tables whose numbers are known: counts add up, names do no harm."""

import base64
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError, Packet
from steadydancer.datasets.clips import COLUMNS, Clips
from steadydancer.datasets.schema import Row, to_table
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.video import encode
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.gates import Gates
from steadydancer.pipelines.curate.report import explain
from steadydancer.pipelines.curate.report.borderline import nearest, thumbnail
from steadydancer.pipelines.curate.report.card import card_text, licence_name
from steadydancer.pipelines.curate.report.compare import ABSENT, compare
from steadydancer.pipelines.curate.report.composition import composition, copies, decode_share, leaks
from steadydancer.pipelines.curate.report.explain_text import to_text
from steadydancer.pipelines.curate.report.funnel import bounds_text, count_gates, funnel, reasons
from steadydancer.pipelines.curate.report.page import read_table, write_report
from steadydancer.pipelines.curate.selection.gating import Bounds
from steadydancer.pipelines.pages.charts import draw_histogram, histogram

GATES = {"min_brightness": 0.1, "max_blur": 0.5, "max_persons": 1, "min_aesthetic_score": 5.0}
CONFIG = CurateConfig(gates=Gates(**{name: GATES.get(name) for name in Gates.model_fields}))
HOSTILE = "/clips/<script>alert('x')</script>\"onload=`|a](javascript:b)\n.mp4"


def clip(number: int, verdict: str = "ok", reason: str | None = None, **scores: Any) -> Row:
    """A clip of its own source: well lit, sharp, one person, nothing known of its beauty."""
    row = {
        "source_path": f"/clips/{number}.mp4", "source_id": f"{number:064d}", "clip_id": f"{number:016d}",
        "codec": "h264", "width": 720, "height": 1280, "fps": 30.0, "duration_s": 8.0, "source_bytes": 1000,
        "shot_index": 0, "start_s": 0.0, "end_s": 5.0, "num_frames": 81, "brightness": 0.5, "blur": 0.2,
        "num_persons": 1, "pose_model": "supplied", "pose_digest": "00", "measured_part": "part-x.parquet",
        "verdict": verdict, "reason": reason,
    }  # fmt: skip
    return {**row, **scores}


def broken(number: int, reason: str, **known: Any) -> Row:
    """A source that could not be read."""
    row = {"source_path": f"/clips/{number}.mp4", "clip_id": f"{number:016d}"}
    return {**row, "verdict": "quarantined", "reason": reason, **known}


ROWS = [
    clip(0),
    clip(1, brightness=0.11, prompt="a dancer", licence="CC-BY-4.0", origin="a studio"),
    clip(2, "rejected", "min_brightness", brightness=0.09),
    clip(3, "rejected", "min_brightness", brightness=0.01, blur=0.6),
    clip(4, "rejected", "max_blur", blur=0.51, width=1280, height=720),
    clip(5, "rejected", "near_duplicate", duplicate_group="g"),
    clip(6, "ok", None, duplicate_group="g", width=640, height=640),
    clip(7, "rejected", "too_short", end_s=1.0, brightness=None, blur=None, num_persons=None),
    broken(8, "truncated"),
    broken(9, "unreadable"),
    broken(10, "corrupt_frames", codec="h264", width=720, height=1280),
]


def finish(folder: Path, rows: list[Row], config: CurateConfig = CONFIG, **more: Any) -> Clips:
    """A finished clips artifact of these rows."""
    verdicts = [row["verdict"] for row in rows]
    counts = {"inputs": len(rows), **{name: verdicts.count(name) for name in ("ok", "rejected", "quarantined")}}
    artifact = Artifact(folder / "clips")
    artifact.write_part(Packet("x", ()), to_table(rows).select(COLUMNS))
    record = {
        "kind": "clips", "version": "0.1.0", "config": config.model_dump(mode="json"), "measured": "measured",
        "inputs": {"clips": "/clips", "sources": len(rows), "digest": "0"}, "counts": counts,
        "pose_models": ["supplied"], "seconds": {"probe": 1.0, "shots": 6.0, "score": 2.0, "pose": 1.0, "total": 5.0},
    }  # fmt: skip
    write_json(artifact.path / "run.json", {**record, **more})
    return Clips(folder)


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    return finish(tmp_path / "out", ROWS)


class Page(HTMLParser):
    """Elements, links and visible text of a page; every element must be closed in its place."""

    VOID = ("meta", "img", "path", "rect")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def section(self, title: str) -> str:
        """What is written from one heading to the next."""
        words = " ".join(" ".join(self.text).split())
        return words.split(f" {title} ")[-1]


def test_the_funnel_leads_from_every_input_to_what_is_accepted(clips: Clips) -> None:
    steps = {step.name: (step.lost, step.left, step.verdict) for step in funnel(read_table(clips), clips.record)}
    assert list(steps)[:6] == ["probe", "shots", "score", "pose", "too_short", "max_clips_per_source"]
    assert {name: step for name, step in steps.items() if step[0]} == {
        "probe": (2, 9, "quarantined"),  # nothing of them is known, not even a codec
        "shots": (1, 8, "quarantined"),
        "too_short": (1, 7, "rejected"),
        "min_brightness": (2, 5, "rejected"),
        "max_blur": (1, 4, "rejected"),
        "near_duplicate": (1, 3, "rejected"),
    }
    names = list(steps)
    assert names.index("min_brightness") < names.index("max_blur") < names.index("no_pose")


def test_a_funnel_that_loses_a_row_is_refused(clips: Clips) -> None:
    table = read_table(clips)
    with pytest.raises(ArtifactError, match="does not balance"):
        funnel(table.slice(1), clips.record)
    counts = {"inputs": 11, "ok": 4, "rejected": 4, "quarantined": 3}
    with pytest.raises(ArtifactError, match="does not balance"):
        funnel(table, {**clips.record, "counts": counts})


def test_a_reason_that_nobody_foresaw_is_counted_too(tmp_path: Path) -> None:
    clips = finish(tmp_path, [clip(0), clip(1, "rejected", "of_another_version")])
    assert ("of_another_version", 1) in [(s.name, s.lost) for s in funnel(read_table(clips), clips.record)]


def test_what_each_gate_did(clips: Clips) -> None:
    """Seven clips came to the gates: 7 was too short, 8, 9 and 10 are broken."""
    counts = {one.gate: one for one in count_gates(read_table(clips), Bounds.of(CONFIG))}
    found = {gate: (one.measured, one.accepted_unmeasured, one.beyond, one.first, one.alone)
             for gate, one in counts.items()}  # fmt: skip
    assert found == {
        "min_brightness": (7, 0, 2, 2, 1),
        "max_blur": (7, 0, 2, 1, 1),
        "max_persons": (7, 0, 0, 0, 0),
        "min_aesthetic_score": (0, 3, 0, 0, 0),
    }
    assert counts["max_blur"].threshold_text == "at most 0.5"


def test_gates_may_differ_by_shape_and_be_moved_by_the_selection(tmp_path: Path) -> None:
    rows = [clip(0, blur=0.4), clip(1, "rejected", "max_blur", blur=0.4, width=1280, height=720)]
    selection = {"gates": CONFIG.gates.model_dump(), "gates_by_shape": {"horizontal": {"max_blur": 0.3}}}
    clips = finish(tmp_path, rows, selection=selection)
    from steadydancer.pipelines.curate.report.funnel import config_of

    (one,) = [c for c in count_gates(read_table(clips), Bounds.of(config_of(clips.record))) if c.gate == "max_blur"]
    assert (one.beyond, one.first) == (1, 1)
    assert one.threshold_text == "at most 0.5 (vertical), 0.3 (horizontal), 0.5 (square)"
    assert bounds_text("min", [math.nan, 1.0, math.nan]) == "at least 1 (horizontal)"


@pytest.mark.parametrize("values", [
    np.random.default_rng(0).normal(size=1000), np.geomspace(1e-6, 10, 200), np.array([0.5]), np.zeros(5),
    np.array([-np.inf, 1.0, np.inf]), np.array([]),
])  # fmt: skip
def test_no_value_is_lost_between_bins(values: np.ndarray) -> None:
    half = len(values) // 2
    bins = histogram(values[:half], values[half:], [0.25])
    assert bins.accepted.sum() == half and bins.rejected.sum() == len(values) - half
    assert (np.diff(bins.edges) > 0).all() and np.isfinite(bins.edges).all()
    assert bins.edges[0] <= 0.25 <= bins.edges[-1]


def test_values_lie_in_their_bins() -> None:
    bins = histogram(np.array([0.0, 1.0, 1.0, 3.0]), np.array([2.0]), [1.0], whole=True)
    assert bins.edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert bins.accepted.tolist() == [1, 2, 0, 1] and bins.rejected.tolist() == [0, 0, 1, 0]
    assert 'x="160.0" y="8" width="160.0"' in draw_histogram(bins, [("max", 1.0)])  # 2 and 3 of 0, 1, 2, 3
    spread = np.geomspace(1e-4, 1, 400)
    bins = histogram(spread, spread[:0])
    assert bins.is_log and bins.accepted[1:-1].min() >= 9  # evenly, as the values are


def test_a_drawing_shades_what_the_bound_refuses() -> None:
    bins = histogram(np.linspace(0, 1, 41), np.array([]), [0.5])
    at = 320 * (0.5 - bins.edges[0]) / (bins.edges[-1] - bins.edges[0])
    low, high = (draw_histogram(bins, [(side, 0.5)]) for side in ("min", "max"))
    assert f'x="0.0" y="8" width="{at:.1f}"' in low and f'x="{at:.1f}" y="8" width="{320 - at:.1f}"' in high
    assert len(re.findall("v-", low)) == np.count_nonzero(bins.accepted)


def test_the_nearest_to_a_bound_are_found_on_both_sides(clips: Clips) -> None:
    """Usual distances of accepted clips: brightness 0.4, blur 0.3; nobody is near the bound of one person."""
    table, bounds = read_table(clips), Bounds.of(CONFIG)
    near = nearest(table, bounds, "ok")
    assert [(one.index, bounds.gates[one.gate], round(one.margin, 6)) for one in near[:1]] == [
        (1, "min_brightness", round(0.01 / 0.4, 6))
    ]
    assert {one.index for one in near} == {0, 1, 6}
    rejected = nearest(table, bounds, "rejected")
    assert [(one.index, bounds.gates[one.gate]) for one in rejected] == [
        (2, "min_brightness"), (4, "max_blur"), (3, "min_brightness")]  # fmt: skip
    assert [one.margin for one in rejected] == pytest.approx([0.01 / 0.4, 0.01 / 0.3, 0.09 / 0.4])


def test_the_page_counts_what_is_broken_apart(clips: Clips) -> None:
    page = Page(write_report(clips.artifact.path.parent))
    words = page.section("Rejected by a gate or rule")
    rejected, quarantined = words.split("Quarantined: unreadable or damaged")
    assert "min_brightness 2 18.18" in rejected and "too_short 1" in rejected and "truncated" not in rejected
    assert "truncated 1 9.091" in quarantined and "corrupt_frames 1" in quarantined
    assert "11 rows" in page.section("Summary") and "= 3 ok + 5 rejected + 3 quarantined" in page.section("Summary")
    assert "No clip has a score for these gates: min_aesthetic_score." in page.section("Gates and missing scores")
    assert "was not checked" in page.section("Duplicates and leaks")


def test_the_page_stands_alone_and_names_in_it_do_nothing(tmp_path: Path) -> None:
    rows = [clip(0, brightness=0.11, source_path=HOSTILE, licence="<b>all</b>", origin="a|b\nc"),
            broken(1, "<img src=x onerror=y>")]  # fmt: skip
    finish(tmp_path, rows, inputs={"clips": "</title><script>", "sources": 2, "digest": ""})
    page = Page(write_report(tmp_path))
    tags = {tag for tag, _ in page.found}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "img"})
    for _, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on")]
        assert all(attributes[name].startswith(("#", "data:")) for name in ("src", "href") if attributes.get(name))
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.found)
    assert "missing" in page.section("Accepted clips nearest to a threshold")
    assert "<b>all</b>" in page.section("Composition")
    card = (tmp_path / "card.md").read_text()
    assert "| licence | \\<b\\>all\\</b\\> | 1 |" in card and "a\\|b c" in card


def test_composition_is_counted_by_what_is_known(clips: Clips) -> None:
    found = composition(read_table(clips))
    assert found["shape"] == [("vertical", 2, 7), ("square", 1, 1), ("horizontal", 0, 1), ("unknown", 0, 2)]
    assert found["licence"] == [("unknown", 2, 10), ("CC-BY-4.0", 1, 1)]
    assert found["frame rate"] == [("27 to 33 fps", 3, 8), ("unknown", 0, 3)]
    assert sum(number for _, _, number in found["origin"]) == len(ROWS)


def test_many_licences_end_in_one_line(tmp_path: Path) -> None:
    clips = finish(tmp_path, [clip(k, licence=f"licence {k} " + "x" * 500) for k in range(40)])
    kinds = composition(read_table(clips))["licence"]
    assert kinds[-1] == ("28 others", 28, 28) and max(len(label) for label, _, _ in kinds) == 80


def test_copies_and_leaks_are_counted(tmp_path: Path) -> None:
    rows = [clip(0, duplicate_group="a"), clip(1, "rejected", "near_duplicate", duplicate_group="a"),
            clip(2, duplicate_group="b"), clip(3, "rejected", "max_leak_score", leak_score=0.9, leak_of="test/1.mp4"),
            clip(4, leak_score=0.1, leak_of="test/2.mp4")]  # fmt: skip
    table = read_table(finish(tmp_path, rows))
    assert copies(table) == {"groups": 1, "rows": 2, "largest": 2}
    assert leaks(table) == [("test/1.mp4", 1)]
    assert leaks(table.slice(0, 3)) is None


def test_decoding_has_its_share_of_the_time_or_none_is_told(tmp_path: Path) -> None:
    record = {"seconds": {"probe": 1.0, "shots": 6.0, "score": 2.0, "pose": 1.0, "decode": 4.0, "total": 5.0}}
    assert decode_share(record) == 0.4
    assert decode_share({"seconds": {"probe": 1.0, "total": 2.0}}) is None
    finish(tmp_path, ROWS, seconds=record["seconds"])
    words = Page(write_report(tmp_path)).section("Time per stage")
    assert "Decoding takes 40 % of this time" in words and "2.50 times" in words
    finish(tmp_path, ROWS)
    words = Page(write_report(tmp_path)).section("Time per stage")
    assert "The time for decoding was not measured" in words and "all stages 10 100" in words


def test_the_cards_numbers_are_those_of_the_table(clips: Clips) -> None:
    table = read_table(clips)
    card = card_text(clips.record, table, count_gates(table, Bounds.of(CONFIG)))
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {"license": "unknown", "size_categories": ["n<1K"],
                                    "task_categories": ["image-to-video"]}  # fmt: skip
    assert "3 clips of people" in body and "15 seconds in total, from 3 of 11 source files" in body
    assert "11 rows = 3 ok + 5 rejected + 3 quarantined" in body and "1 have a caption" in body
    assert "| min\\_brightness | at least 0.1 | 0 |" in body
    assert "- `min_aesthetic_score`: no accepted clip was measured for it." in body
    assert "steadydancer forget" in body


def test_a_licence_is_told_only_if_all_have_it(tmp_path: Path) -> None:
    def licence_of(*licences: str | None) -> str:
        rows = [clip(k, licence=name) for k, name in enumerate(licences)]
        return licence_name(to_table([*rows, clip(99, "rejected", "max_blur", licence="mit")]))

    assert licence_of("CC-BY-4.0", "cc-by-4.0 ") == "cc-by-4.0"
    assert licence_of("CC-BY-4.0", None) == licence_of("mit", " ") == licence_of() == "unknown"
    assert licence_of("mit", "apache-2.0") == licence_of("my aunt says yes") == "other"


def test_two_versions_differ_in_what_was_changed(clips: Clips, tmp_path: Path) -> None:
    """Sources are known by their content: here all lie in another folder now, one is gone, one came."""
    rows = [{**row, "source_path": row["source_path"].replace("/clips", "/moved")} for row in ROWS if row != ROWS[6]]
    changed = {4: {"verdict": "ok", "reason": None}, 0: {"verdict": "rejected", "reason": "max_blur"},
               1: {"reason": "decision"}}  # fmt: skip
    rows = [{**row, **changed.get(k, {})} for k, row in enumerate(rows)] + [clip(20, brightness=0.9)]
    config = CONFIG.model_copy(update={"gates": CONFIG.gates.model_copy(update={"max_blur": 0.55})})
    found = compare(clips, finish(tmp_path / "new", rows, config))
    assert found["config"] == ["gates.max_blur: 0.5 → 0.55"]
    moves = {(move["from"], move["to"]): move["clips"] for move in found["moves"]}
    unread = {key: number for key, number in moves.items() if "quarantined" in "".join(key)}
    assert {key: number for key, number in moves.items() if key not in unread} == {
        ("rejected: max_blur", "ok"): 1, ("ok", "rejected: max_blur"): 1, ("ok", ABSENT): 1, (ABSENT, "ok"): 1,
        ("ok", "ok: decision"): 1,
    }  # fmt: skip
    assert not unread  # their ids are made of their paths here, and did not change
    assert (found["became_ok"], found["ceased_to_be_ok"]) == (2, 2)
    assert {one["clip_id"] for one in found["examples"]["became_ok"]} == {f"{4:016d}", f"{20:016d}"}
    assert found["sources"]["added"] == 1 + 3 and found["sources"]["gone"] == 1 + 3  # three have no digest
    (brightness,) = [row for row in found["scores"] if row["score"] == "brightness"]
    assert (brightness["old"], brightness["new"]) == (0.5, 0.5) and brightness["old_measured"] == 3
    (blur,) = [row for row in found["scores"] if row["score"] == "blur"]
    assert (blur["old"], blur["new"]) == (0.2, 0.2)


def test_copies_of_the_same_bytes_are_held_against_each_other_in_order(tmp_path: Path) -> None:
    twins = [clip(0), clip(0, "rejected", "duplicate", source_path="/clips/a.mp4"),
             clip(0, "rejected", "duplicate", source_path="/clips/b.mp4")]  # fmt: skip
    old, new = finish(tmp_path / "old", twins), finish(tmp_path / "new", twins[:2][::-1])
    assert {(m["from"], m["to"]): m["clips"] for m in compare(old, new)["moves"]} == {
        ("rejected: duplicate", ABSENT): 1
    }


def test_a_version_shows_what_differs_from_its_parent(tmp_path: Path) -> None:
    old = finish(tmp_path / "old", ROWS)
    rows = [{**row, "verdict": "ok", "reason": None} if row is ROWS[2] else row for row in ROWS]
    new = finish(tmp_path / "new", rows, parent=old.artifact.reference_from(tmp_path / "new"))
    words = Page(write_report(tmp_path / "new")).section("Changes from the parent version")
    assert "1 clips became ok, 0 are no longer ok" in words and "rejected: min_brightness ok 1" in words
    versions = explain.explain_clip(new, 2)["versions"]
    assert [(one["verdict"], one["reason"]) for one in versions] == [("ok", None), ("rejected", "min_brightness")]
    (tmp_path / "old" / "clips" / "run.json").unlink()  # deleted since
    assert len(explain.explain_clip(new, 2)["versions"]) == 1 and write_report(tmp_path / "new").is_file()
    finish(tmp_path / "old", ROWS[:3])  # and another made in its place
    assert len(explain.explain_clip(new, 2)["versions"]) == 1


def test_rows_of_an_older_version_lack_what_it_did_not_know(tmp_path: Path) -> None:
    clips = finish(tmp_path, ROWS)
    (part,) = (tmp_path / "clips").glob("part-*")
    pq.write_table(pq.read_table(part).drop_columns(["text_ratio", "licence"]), part)
    assert composition(read_table(clips))["licence"] == [("unknown", 3, 11)]
    (text,) = [one for one in explain.explain_clip(clips, 0)["scores"] if one["score"] == "text_ratio"]
    assert text["value"] is None and write_report(tmp_path).is_file() and compare(clips, clips)["moves"] == []


def test_trusted_clips_without_scores_are_not_taken_for_broken_ones(tmp_path: Path) -> None:
    rows = [clip(0, brightness=None), broken(1, "corrupt_frames", codec="h264", start_s=0.0, end_s=5.0)]
    for trust, stage in ((True, "pose"), (False, "score")):
        clips = finish(tmp_path, rows, CONFIG.model_copy(update={"trust": trust}))
        assert [step.name for step in funnel(read_table(clips), clips.record) if step.lost] == [stage]


def test_a_story_holds_every_score_against_its_gates(clips: Clips) -> None:
    reported = explain.explain_clip(clips, 2)
    scores = {one["score"]: one for one in reported["scores"]}
    (gate,) = scores["brightness"]["gates"]
    assert gate == {"gate": "min_brightness", "asks": "at least 0.1", "passes": False, "by": pytest.approx(-0.01)}
    assert scores["brightness"]["unit"] == "0..1" and scores["blur"]["gates"][0]["by"] == pytest.approx(0.3)
    assert scores["aesthetic_score"]["gates"][0] | {"asks": ""} == {
        "gate": "min_aesthetic_score", "asks": "", "passes": None, "by": None}  # fmt: skip
    text = to_text(reported)
    assert "FAILS: at least 0.1, by 0.01" in text and "licence    unknown" in text
    assert "min_aesthetic_score not applied" in text
    copy = explain.explain_clip(clips, 5)["copies"]
    assert copy["others"] == 1 and copy["kept"] == ["/clips/6.mp4"]
    assert "source could not be read" in to_text(explain.explain_clip(clips, 8))


def test_clips_are_found_by_what_people_have_in_hand(clips: Clips, tmp_path: Path) -> None:
    find: Callable[[str], list[int]] = lambda wanted: explain.find_rows(clips, wanted)  # noqa: E731
    assert find(f"{3:016d}") == find("/clips/3.mp4") == find("3.mp4") == find(f"{3:064d}") == [3]
    assert find("000000000000001") == [10]  # the beginning of one id
    assert find("00000000000000") == list(range(11))
    with pytest.raises(SteadyDancerError, match=r"no clip, source or file '33\.mp4'; similar: .*3\.mp4"):
        find("33.mp4")
    with pytest.raises(SteadyDancerError, match="has no clip"):
        find("")


def test_a_real_curation_shows_its_borderline_clips(curated: Path, tmp_path: Path) -> None:
    write_report(curated, tmp_path / "page.html")
    page, record = Page(tmp_path / "page.html"), Artifact(curated / "clips").record()
    pictures = [attributes["src"] for tag, attributes in page.found if tag == "img"]
    assert pictures and all(src.startswith("data:image/jpeg;base64,/9j/") for src in pictures if src)
    assert (tmp_path / "page.html").stat().st_size < 600_000
    counts = record["counts"]
    assert f"{counts['inputs']} rows = {counts['ok']} ok" in (tmp_path / "card.md").read_text()
    assert len([tag for tag, _ in page.found if tag == "svg"]) >= 20
    clips = Clips(curated)
    rows = clips.read(["verdict"]).column("verdict").to_pylist()
    reported = explain.explain_clip(clips, rows.index("ok"))
    assert all(gate["passes"] is not False for one in reported["scores"] for gate in one["gates"])
    assert Path(reported["keypoints"]["part"]).is_file()


def test_the_page_of_a_bordered_clip_near_a_bound_shows_the_picture_inside_its_borders(tmp_path: Path) -> None:
    """Every picture is drawn from the rows that the page reads: they have the crop's columns, too."""
    frames = np.zeros((9, 64, 96, 3), np.uint8)
    frames[:, 16:48, 24:72] = (250, 20, 20)
    encode(frames, tmp_path / "bordered.mp4", 16)
    inside = {"crop_left_px": 24, "crop_top_px": 16, "crop_width_px": 48, "crop_height_px": 32}
    of_file = {"source_path": str(tmp_path / "bordered.mp4"), "source_id": content_digest(tmp_path / "bordered.mp4"),
               "width": 96, "height": 64, "end_s": 0.5, "num_frames": 9}  # fmt: skip
    finish(tmp_path, [clip(0), clip(1, brightness=0.11, **of_file, **inside)])
    page = Page(write_report(tmp_path))
    shown = [str(attributes["src"]) for tag, attributes in page.found if tag == "img"]
    assert len(shown) == 1
    jpeg = np.frombuffer(base64.b64decode(shown[0].partition(",")[2]), np.uint8)
    picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
    assert picture.shape[1] / picture.shape[0] == pytest.approx(48 / 32, abs=0.02)
    assert picture[..., 0].min() > 200 and picture[..., 1:].max() < 90


def test_a_picture_is_upright_small_and_never_a_crash(curated: Path, tmp_path: Path) -> None:
    row = next(row for row in Clips(curated).read().to_pylist() if row["verdict"] == "ok")
    assert len(thumbnail(row) or "") > 1000
    assert thumbnail({**row, "source_path": str(tmp_path / "gone.mp4")}) is None
    (tmp_path / "no.mp4").write_text("<html>")
    assert thumbnail({**row, "source_path": str(tmp_path / "no.mp4")}) is None


def test_reasons_are_counted_as_they_stand() -> None:
    table = to_table(ROWS)
    assert sum(reasons(table).values()) == len(ROWS) and reasons(table)["rejected", "min_brightness"] == 2
