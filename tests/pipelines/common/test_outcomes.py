"""Every row that is not ok is told with its reason: counts add up to the record's, and any id finds its row."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError, Packet, count_verdicts
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.pipelines.common import outcomes

Row = dict[str, Any]


def finished(folder: Path, rows: list[Row], **record: Any) -> Artifact:
    """An artifact of two parts; columns are those that any row has."""
    names = dict.fromkeys(name for row in rows for name in row)
    full = [{name: row.get(name) for name in names} for row in rows]
    schema = pa.Table.from_pylist(full).schema
    artifact = Artifact(folder)
    folder.mkdir(parents=True)
    for number, part in enumerate((full[::2], full[1::2])):
        artifact.write_part(Packet(str(number), ()), pa.Table.from_pylist(part, schema=schema))
    counts = count_verdicts(len({str(row.get("id")) for row in rows}),
                            {str(row.get("id")): row["verdict"] for row in rows}.values())  # fmt: skip
    write_json(folder / "run.json", {"kind": "renders", "counts": counts} | record)
    return artifact


def many() -> list[Row]:
    """Thirty-six rows that are not ok, of six reasons, one of them without a word; and three that are."""
    kinds = [("rejected", "max_blur", 12), ("rejected", "too_short", 8), ("rejected", "no_pose", 1),
             ("quarantined", "unreadable", 9), ("quarantined", "truncated", 5), ("quarantined", None, 1),
             ("ok", None, 2), ("ok", "decision", 1)]  # fmt: skip
    return [
        {"id": f"{verdict}-{reason}-{n}", "verdict": verdict, "reason": reason, "detail": f"why {n}"}
        for verdict, reason, number in kinds
        for n in range(number)
    ]


def test_all_reasons_are_told_and_their_counts_add_up(tmp_path: Path) -> None:
    artifact = finished(tmp_path / "a", many(), kind="clips")
    lines = outcomes.closing_lines(artifact)
    assert lines == [
        "  ok: 1 decision",
        "  rejected: 12 max_blur, 8 too_short, 1 no_pose",
        "  quarantined: 9 unreadable, 5 truncated, 1 no reason recorded",
    ]
    counts = artifact.record()["counts"]
    for verdict, line in zip(("rejected", "quarantined"), lines[1:], strict=True):
        assert sum(map(int, re.findall(r"\d+", line))) == counts[verdict]


def test_few_rows_are_told_one_by_one(tmp_path: Path) -> None:
    rows = [{"id": "a", "verdict": "ok"},
            {"id": "b", "verdict": "quarantined", "reason": "unreadable_image", "detail": "b.heic is\n no image"},
            {"id": "c", "verdict": "rejected", "reason": "too_short"}]  # fmt: skip
    assert outcomes.closing_lines(finished(tmp_path / "a", rows)) == [
        "  rejected: 1 too_short",
        "  quarantined: 1 unreadable_image",
        "    b: unreadable_image: b.heic is no image",
        "    c: too_short",
    ]
    five = [{"id": str(n), "verdict": "rejected", "reason": "r"} for n in range(outcomes.MAX_LISTED_ROWS)]
    assert len(outcomes.few_rows(finished(tmp_path / "five", five))) == 5
    assert outcomes.few_rows(finished(tmp_path / "six", [*five, five[0] | {"id": "5"}])) == []


def test_nothing_usable_is_an_error_with_every_reason(tmp_path: Path) -> None:
    rows = [row for row in many() if row["verdict"] != "ok"]
    artifact = finished(tmp_path / "a", rows)
    with pytest.raises(SteadyDancerError) as refused:
        outcomes.require_usable(artifact, artifact.record()["counts"])
    first, second = str(refused.value).split("\n")
    assert first == (
        "no usable output: 12 max_blur, 9 unreadable, 8 too_short, 5 truncated, 1 no reason recorded, 1 no_pose"
    )
    assert sum(map(int, re.findall(r"\d+", first))) == 36 and f"explain ID --artifact {tmp_path}/a" in second
    one = finished(tmp_path / "one", [{"id": "x", "verdict": "quarantined", "reason": "no_pose", "detail": "nobody"}])
    with pytest.raises(SteadyDancerError, match=r"^no usable output: 1 no_pose\n    x: no_pose: nobody$"):
        outcomes.require_usable(one, one.record()["counts"])
    outcomes.require_usable(one, {"ok": 1})


def test_a_render_whose_pose_was_not_aligned_is_said(tmp_path: Path) -> None:
    rows = [{"id": "a", "verdict": "ok", "aligned": True}, {"id": "d", "verdict": "ok", "aligned": None},
            {"id": "b", "verdict": "ok", "aligned": False, "detail": "no pose found in the image"},
            {"id": "c", "verdict": "quarantined", "reason": "no_pose", "aligned": None}]  # fmt: skip
    lines = outcomes.closing_lines(finished(tmp_path / "a", rows))
    assert lines[-2:] == [
        "  1 rendered without alignment",
        f"  1 with a note: `steadydancer explain ID --renders {tmp_path}/a`",
    ]
    assert outcomes.closing_lines(finished(tmp_path / "b", rows[:2])) == []


def test_videos_are_counted_once_however_many_metrics_they_have(tmp_path: Path) -> None:
    rows = [{"id": name, "metric": metric, "verdict": "ok", "value": None, "reason": "no_truth"}
            for name in "ab" for metric in ("psnr", "ssim")]  # fmt: skip
    rows.append({"id": "c", "metric": None, "verdict": "quarantined", "reason": "not_rendered", "detail": "no_pose"})
    reported = {"folder": None, "asked": 3, "found": 0, "not_found": {}, "unused": [], "num_unused": 0}
    artifact = finished(tmp_path / "a", rows, kind="metrics", truths=reported,
                        missing={"psnr": {"no_truth": 2, "not_rendered": 1}, "ssim": {}})  # fmt: skip
    assert outcomes.closing_lines(artifact) == [
        "  quarantined: 1 not_rendered",
        "    c: not_rendered: no_pose",
        "  No ground truth was given.",
        "  psnr without a value: 2 no_truth, 1 not_rendered",
    ]
    several = {"ours": {"psnr": {}}, "theirs": {"psnr": {"no_truth": 2}}}
    write_json(tmp_path / "a" / "run.json", {"kind": "metrics", "missing": {"psnr": {}}, "missing_by_method": several})
    assert outcomes.closing_lines(artifact)[2:] == ["  theirs: psnr without a value: 2 no_truth"]
    write_json(tmp_path / "a" / "run.json", {"kind": "metrics"})  # as older versions wrote it
    assert outcomes.closing_lines(artifact) == ["  quarantined: 1 not_rendered", "    c: not_rendered: no_pose"]


def test_an_older_artifact_lacks_columns(tmp_path: Path) -> None:
    artifact = finished(tmp_path / "a", [{"clip_id": "0123", "verdict": "rejected", "reason": "r"}])
    assert outcomes.closing_lines(artifact) == ["  rejected: 1 r", "    0123: r"]


FOUND = [
    {"clip_id": "0a1b", "source_id": "ffee", "source_path": "/v/a.mp4", "verdict": "ok", "pose": b"x"},
    {"clip_id": "0a2c", "source_id": "ffdd", "source_path": "/v/b c.mov", "verdict": "rejected", "reason": "max_blur"},
    {"clip_id": "0a2d", "source_id": "ffdd", "source_path": "/v/b c.mov", "verdict": "ok"},
]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [("0a1b", ["0a1b"]), ("0a2", ["0a2c", "0a2d"]), ("ffee", ["0a1b"]), ("/v/a.mp4", ["0a1b"]), ("a.mp4", ["0a1b"]),
     ("b c", ["0a2c", "0a2d"]), ("b c.mov", ["0a2c", "0a2d"]), ("ff", ["0a1b", "0a2c", "0a2d"]), ("", []), ("zz", []),
     ("a2c", []), ("v/a.mp4", []), ("b", []), ("a", ["0a1b"])],
)  # fmt: skip
def test_a_row_is_found_by_id_file_or_beginning(tmp_path: Path, wanted: str, ids: list[str]) -> None:
    artifact = finished(tmp_path / "a", FOUND)
    rows = outcomes.find_rows(artifact, wanted)
    assert sorted(row["clip_id"] for row in rows) == ids and all("pose" not in row for row in rows)
    assert outcomes.similar_ids(artifact, "0a1")[0] == "0a1b"


def test_a_render_is_found_by_its_id_as_the_table_of_pairs_has_it(tmp_path: Path) -> None:
    artifact = finished(tmp_path / "a", [{"id": "take_1_é", "verdict": "ok"}, {"id": "take", "verdict": "ok"}])
    assert [row["id"] for row in outcomes.find_rows(artifact, "take #1 é")] == ["take_1_é"]


def test_a_row_is_told_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    artifact = finished(tmp_path / "a", [{"id": "x", "image": "/i.png", "verdict": "quarantined",
                                          "reason": "no_pose", "detail": "nobody", "video": None}])  # fmt: skip
    assert outcomes.format_rows(artifact, outcomes.find_rows(artifact, "x")) == (
        f"x in {tmp_path}/a: quarantined, no_pose\n  nobody\n  image  /i.png"
    )
    (tmp_path / "a" / "run.json").unlink()
    assert " (not finished): quarantined" in outcomes.format_rows(artifact, outcomes.find_rows(artifact, "x"))


def test_artifacts_are_found_by_the_folder_that_commands_were_given(tmp_path: Path) -> None:
    for name in ("renders", "metrics"):
        finished(tmp_path / "out" / name, [{"id": "a", "verdict": "ok"}])
    assert [one.path.name for one in outcomes.artifacts_in(tmp_path / "out")] == ["renders", "metrics"]
    assert [one.path.name for one in outcomes.artifacts_in(tmp_path / "out" / "metrics")] == ["metrics"]
    with pytest.raises(
        ArtifactError, match="does not exist: pass the --out folder of curate, cache, export, render, eval"
    ):
        outcomes.artifacts_in(tmp_path / "nix")
    with pytest.raises(ArtifactError, match="has no artifact with rows"):
        outcomes.artifacts_in(tmp_path)
