"""CSV and LaTeX of a known table: every column of every row, and bold only where the paired interval says so."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steadydancer.pipelines.evaluate.compare import compare, to_text
from steadydancer.pipelines.evaluate.imported import ScoreFile
from steadydancer.pipelines.evaluate.protocols import PROTOCOLS
from steadydancer.pipelines.evaluate.report.latex import escaped
from steadydancer.pipelines.evaluate.report.long_form import COLUMNS
from steadydancer.pipelines.evaluate.report.page import CSV, LATEX, rebuild_report

Make = Callable[..., Any]

DIGEST = PROTOCOLS["all"].digest
COVERED = "an interval over 2 is too short: about 32 to 50 % of such intervals contain the true value, not 95 %"
REMARK = (
    "a set distance of 4 videos is mostly bias (≥ 256 are needed): compare only with equal N, and read the kernel "
    "distance beside it"
)


@pytest.fixture
def known(finish: Make, row: Make, of_set: Make) -> Path:
    """Four pairs of two driving videos, too few for a best; `b` is 2 dB above `a` on each, and lacks a set distance."""
    values = {"a": (20.0, 21.0, 22.0, 23.0), "b": (22.0, 23.0, 24.0, 25.0)}
    rows = [
        row(method, f"p{k}", "psnr", value, kinds="style" if k < 2 else "framing")
        for method, each in values.items()
        for k, value in enumerate(each)
    ]
    sets = [of_set("a", "fvd[scail,81f]", 310.5, detail=f"4 videos; 4 features; {REMARK}", frames_compared=4),
            of_set("b", "fvd[scail,81f]", None, reason="too_few", detail="1 features, but 2 are needed")]  # fmt: skip
    weights = {"i3d": {"sha256": "0" * 64, "licence": "Apache-2.0", "non_commercial": False}}
    return finish([*rows, *sets], weights=weights)


def written(out: Path) -> list[dict[str, str]]:
    assert rebuild_report(out) == out / "report.html"
    return list(csv.DictReader(io.StringIO((out / CSV).read_text(encoding="utf-8"))))


def line(**more: str) -> dict[str, str]:
    base = dict.fromkeys(COLUMNS, "") | {"origin": "measured", "kind": "all", "protocol": "all"}
    return base | {"protocol_digest": DIGEST} | more


def test_a_known_table_is_written_in_full(known: Path) -> None:
    rows = written(known)
    psnr = {"metric": "psnr", "unit": "dB", "better": "higher"}
    both = {**psnr, "n": "4", "clusters": "2", "warnings": COVERED}
    fvd = {"metric": "fvd[scail,81f]", "unit": "distance", "better": "lower"}
    one = {**psnr, "n": "2", "clusters": "1", "warnings": "one driving video: no interval", "best": "no"}
    assert rows == [
        line(method="a", value="21.5", low="20.5", high="22.5", best="no", **both),
        line(method="a", value="310.5", n="4", warnings=REMARK, remark="4 videos; 4 features", judges="i3d",
             licences="Apache-2.0", **fvd),
        line(method="b", value="23.5", low="22.5", high="24.5", best="no", **both),
        line(method="b", without_value="4 too_few", judges="i3d", licences="Apache-2.0",
             remark="1 features, but 2 are needed", **fvd),
        line(method="a", kind="framing", value="22.5", **one),
        line(method="b", kind="framing", value="24.5", **one),
        line(method="a", kind="style", value="20.5", **one),
        line(method="b", kind="style", value="22.5", **one),
    ]  # fmt: skip
    assert list(rows[0]) == list(COLUMNS)


def test_a_known_table_is_written_as_in_papers(known: Path) -> None:
    out = known
    rebuild_report(out)
    first = (out / LATEX).read_text(encoding="utf-8").split("\\end{table}")[0]
    assert first == (
        "% Written by `steadydancer evaluate`. Needs \\usepackage{booktabs}.\n"
        "\n"
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{Against the ground truth. Protocol all, $N = 4$. Below a mean: 95\\,\\% interval. Bold: the paired "
        "interval against every other method excludes 0.}\n"
        "\\begin{tabular}{lc}\n"
        "\\toprule\n"
        "Method & \\shortstack{psnr $\\uparrow$\\\\{\\scriptsize (dB)}} \\\\\n"
        "\\midrule\n"
        "{a} & \\shortstack{21.5\\\\{\\scriptsize [20.5, 22.5]}} \\\\\n"
        "{b} & \\shortstack{23.5\\\\{\\scriptsize [22.5, 24.5]}} \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\par{\\scriptsize an interval over 2 is too short: about 32 to 50 \\% of such intervals contain "
        "the true value, not 95 \\%.}\n"
    )
    text = (out / LATEX).read_text(encoding="utf-8")
    assert "fvd[scail,81f] $\\downarrow$" in text and "{b} & -- \\\\" in text
    assert "b lacks 4 too\\_few; " in text and "$N$ counts features." in text
    assert text.count("pairs of kind style") == 1 and text.count("\\begin{table}") == text.count("\\end{table}") == 4


@pytest.mark.parametrize(("source", "judges"), [("supplied", ""), ("blazepose", "blazepose"), ("auto", "blazepose")])
def test_supplied_keypoints_are_of_no_network(finish: Make, row: Make, source: str, judges: str) -> None:
    """An earlier program called every estimator `auto`: then all that were here are named."""
    rows = [row("a", "p0", "pck_10", 0.5, detail=f"{source}; the driven pose is that of the ground truth")]
    rebuild_report(out := finish(rows, weights={"blazepose": {"licence": "Apache-2.0", "sha256": "12"}}))
    with (out / CSV).open(encoding="utf-8", newline="") as file:
        assert [one["judges"] for one in csv.DictReader(file)] == [judges]


def test_a_range_of_n_is_no_subtraction(finish: Make, row: Make) -> None:
    rows = [row("a", "p0", "psnr", 20.0), row("a", "p2", "psnr", 21.0), row("a", "p0", "ssim", 0.5)]
    rebuild_report(out := finish(rows))
    assert "$N = 1$--$2$" in (out / LATEX).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("differences", "repeats", "bold"),
    [
        ((2.0, 2.0, 2.0, 2.0), 3, True),
        ((2.0, 2.0, 2.0, 2.0), 2, False),  # four driving videos cannot show it
        ((4.0, 4.0, -1.0, -1.0), 3, False),
        ((-2.0, -2.0, -2.0, -2.0), 3, True),
    ],
)
def test_the_best_is_bold_only_if_every_paired_interval_says_so(
    finish: Make, row: Make, differences: tuple[float, ...], repeats: int, bold: bool
) -> None:
    """`c` is far behind. Whether the better one of `a` and `b` is bold depends on their pairs and their number."""
    values = {"a": (20.0, 30.0, 20.0, 30.0) * repeats, "c": (1.0, 2.0, 1.0, 2.0) * repeats}
    values["b"] = tuple(one + more for one, more in zip(values["a"], differences * repeats, strict=True))
    out = finish([row(m, f"p{k}", "psnr", value) for m, each in values.items() for k, value in enumerate(each)])
    best = {one["method"]: one["best"] for one in written(out)}
    better = "b" if sum(differences) > 0 else "a"
    assert best == dict.fromkeys("abc", "no") | ({better: "yes"} if bold else {})
    found = re.findall(r"\{(\w)\} & \\shortstack\{\\textbf", (out / LATEX).read_text())
    assert found == ([better] if bold else [])
    assert (out / "report.html").read_text().count("<td><b>") == int(bold)


def test_lower_is_better_where_the_catalogue_says_so_and_descriptions_have_no_best(finish: Make, row: Make) -> None:
    rows = [
        row(method, f"p{k}", metric, value + 0.01 * k)
        for method, value in (("a", 0.1), ("b", 0.9))
        for k in range(12)
        for metric in ("akd_torso", "motion_ratio")
    ]
    best = {(one["method"], one["metric"]): one["best"] for one in written(finish(rows))}
    assert best == {("a", "akd_torso"): "yes", ("b", "akd_torso"): "no", ("a", "motion_ratio"): "",
                    ("b", "motion_ratio"): ""}  # fmt: skip


@pytest.mark.parametrize(("pairs", "verdict"), [(5, ""), (6, "b is better")])
def test_few_pairs_of_one_sign_are_no_proof(finish: Make, row: Make, tmp_path: Path, pairs: int, verdict: str) -> None:
    """Each pair has a driving video of its own. All signs are equal: p = 2 · 2⁻ᴺ by the sign test."""
    one, other = (
        finish([row(method, f"p{2 * k}", "psnr", value + k) for k in range(pairs)], tmp_path / method)
        for method, value in (("a", 20.0), ("b", 22.0))
    )
    found = compare(one, other)
    assert found["metrics"]["psnr"]["p"] == pytest.approx(2 / 2**pairs) and found["metrics"]["psnr"]["low"] > 0
    assert ("is better" in to_text(found)) == bool(verdict) and verdict in to_text(found)


def test_what_a_method_lacks_is_told_once_below_the_table(finish: Make, row: Make) -> None:
    names = ("psnr", "psnr[mean-mse]", "ssim")
    rows = [row("a", f"p{k}", name, 20.0 + k) for k in range(3) for name in names]
    rows += [row("a", "p3", name, None, reason="no_truth") for name in names]
    rows += [row("a", "p4", "ssim", None, reason="too_small"), row("a", "p4", "psnr", 21.0)]
    out = finish(rows)
    rebuild_report(out)
    text = (out / LATEX).read_text()
    notes = text.split("\\par{\\scriptsize ")[1]
    some = "a lacks 1 no\\_truth in psnr, psnr[mean-mse]; a lacks 1 no\\_truth, 1 too\\_small in ssim; "
    assert notes.startswith(some) and text.count("lacks") == 2


def test_a_small_set_and_unequal_sets_are_warned_of(finish: Make, row: Make, of_set: Make) -> None:
    rows = [row(method, "p0", "psnr", 20.0) for method in ("a", "b")]
    few, many = "5 videos; 100 features; without 2 too_short", "150 videos; 3000 features"
    rows += [of_set("a", "fid[clean-fid]", 50.0, frames_compared=100, detail=few)]
    rows += [of_set("b", "fid[clean-fid]", 40.0, frames_compared=3000, detail=many)]
    a, b = (one for one in written(finish(rows)) if one["metric"] == "fid[clean-fid]")
    unequal = "N differs between the methods, and a Fréchet distance falls with N"
    small = "100 features of 2048 numbers: mostly bias; compare with equal N, and read KID"
    assert (a["warnings"], b["warnings"]) == (f"{small}; {unequal}", unequal) and a["best"] == b["best"] == ""
    assert (a["remark"], a["n"]) == (few, "100")


def test_ceilings_seeds_and_non_commercial_judges_stand_beside_their_metric(finish: Make, row: Make) -> None:
    rows = [
        row("a", f"p{k}", metric, value, seed=seed)
        for k in range(4)
        for seed in (0, 1)
        for metric, value in (("pck_10", 0.5 + 0.1 * seed), ("pck_10[ceiling]", 0.9), ("imaging_quality", 60.0))
    ]
    weights = {"musiq": {"sha256": "1" * 64, "licence": "PolyForm-Noncommercial-1.0.0", "non_commercial": True},
               "blazepose": {"sha256": "2" * 64, "licence": "Apache-2.0", "non_commercial": False}}  # fmt: skip
    out = finish(rows, weights=weights)
    found = {one["metric"]: one for one in written(out)}
    pck, quality = found["pck_10"], found["imaging_quality"]
    assert (pck["ceiling"], pck["judges"], pck["commercial_use"]) == ("0.9", "blazepose", "")
    assert float(pck["variance_between_seeds"]) == pytest.approx(0.005) and pck["n"] == "4"
    assert (quality["licences"], quality["commercial_use"]) == ("PolyForm-Noncommercial-1.0.0", "non-commercial")
    page, text = (out / "report.html").read_text(), (out / LATEX).read_text()
    assert "ceiling 0.9" in page and "musiq (PolyForm-Noncommercial-1.0.0, non-commercial)" in page
    assert "musiq is non-commercial (PolyForm-Noncommercial-1.0.0)" in text
    assert "pck_10[ceiling]" in found and "<td>pck_10[ceiling]</td>" not in page


def test_stillness_is_told_where_no_motion_stands_beside_it(finish: Make, row: Make, tmp_path: Path) -> None:
    still = [row("a", f"p{k}", "subject_consistency", 0.99) for k in range(4)]
    moving = [row("a", f"p{k}", "motion_ratio", 0.02) for k in range(4)]
    (alone,) = written(finish(still))
    assert "rewards stillness" in alone["warnings"]
    both = written(finish([*still, *moving], tmp_path / "both"))
    assert all("stillness" not in one["warnings"] for one in both)
    page = (tmp_path / "both" / "report.html").read_text()
    table = page[page.index("VBench-I2V, with the amount of motion</h2>") :].split("</table>")[0]
    assert "<td>subject_consistency</td>" in table and "<td>motion_ratio</td>" in table
    latex = (tmp_path / "both" / LATEX).read_text()
    assert "subject\\_consistency $\\uparrow$\\\\{\\scriptsize (\\%)}" in latex and "99.00" in latex


def test_published_rows_are_marked_and_in_the_units_of_the_paper(finish: Make, row: Make) -> None:
    rows = [row("mine", f"p{k}", name, value) for k in range(4)
            for name, value in (("i2v_subject", 0.9), ("imaging_quality", 70.0), ("motion_ratio", 0.8))]  # fmt: skip
    out = finish(rows, benchmark={"name": "x-dance", "digest": "d"})
    table = written(out)
    published = {(one["method"], one["metric"]): one for one in table if one["source"] == "the paper, Table 2c"}
    assert len(published) == 8 * 8 and {one["origin"] for one in published.values()} == {"published"}
    ours = published["SteadyDancer", "i2v_subject"]
    assert (ours["value"], ours["unit"], ours["protocol"]) == ("96.17", "%", "") and "not measured here" in ours[
        "warnings"
    ]
    assert not [one for one in table if one["origin"] == "measured" and one["source"]]
    page, text = (out / "report.html").read_text(), (out / LATEX).read_text()
    section = page[page.index("Published: the paper, Table 2c, X-Dance</h2>") :].split("</table>")[0]
    assert "<td>published, the paper, Table 2c</td>" in section and "96.17 %" in section and "90 %" in section
    assert "<th>motion_ratio</th>" in section and "70 %" in section and "[70, 70]" in section
    assert (
        "{SteadyDancer}$^{\\dagger}$ & 71.74 & 96.17 & " in text
        and "$^{\\dagger}$~Published (the paper, Table 2c)" in text
    )
    assert "{mine} & " in text and "90.00" in text and "Stage 1" not in text
    assert "Table 4" in page and "Table 1" in page and "OOM" not in text
    plain = finish(rows, out.parent / "plain")
    assert "published" not in {one["origin"] for one in written(plain)}
    assert "Published" not in (plain / "report.html").read_text()


def test_imported_scores_are_columns_of_their_own(finish: Make, row: Make, tmp_path: Path) -> None:
    out = finish([row("mine", f"p{k}", "subject_consistency", 0.9, kinds="style") for k in range(4)])
    vbench, judge = tmp_path / "mine_eval_results.json", tmp_path / "judge.csv"
    entries = [{"video_path": f"/v/p{k}.mp4", "video_results": 0.5 + 0.1 * k} for k in range(4)]
    entries.append({"video_path": "/v/other.mp4", "video_results": 1.0})
    vbench.write_text(json.dumps({"subject_consistency": [0.66, entries]}))
    judge.write_text("video,method,appeal\np0,mine,4\np1,mine,5\np0,theirs,2\n")
    rebuild_report(out, [ScoreFile("mine", vbench), ScoreFile(None, judge)])
    rebuild_report(out, [ScoreFile("mine", vbench)])  # the same file is kept once
    found = {(one["method"], one["source"], one["metric"]): one for one in written(out)
             if one["origin"] == "imported" and one["kind"] == "all"}  # fmt: skip
    one = found["mine", "VBench's result file", "subject_consistency"]
    assert float(one["value"]) == pytest.approx(0.65) and (one["n"], one["clusters"]) == ("4", "2")
    assert one["remark"] == "the file's own value of the set: 0.66" and one["protocol"] == ""
    assert found["theirs", "a judge's table", "appeal"]["value"] == "2.0"
    assert found["mine", "a judge's table", "appeal"]["value"] == "4.5" and len(found) == 3
    page, text = (out / "report.html").read_text(), (out / LATEX).read_text()
    assert "mine (imported: VBench&#39;s result file)" in page and "/v/other.mp4 belongs to no pair" in page
    assert "{mine}$^{\\ast}$" in text and "Imported (VBench's result file), not measured here." in text
    assert json.loads((out / "metrics" / "run.json").read_text())["methods"].keys() == {"mine"}


def test_what_latex_reads_as_a_command_is_escaped(finish: Make, row: Make) -> None:
    assert escaped("a_b & 50% $x$ #1 {~^\\}") == (
        "a\\_b \\& 50\\% \\$x\\$ \\#1 \\{\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\}"
    )
    out = finish([row("[m]_1 & \\input{x}", f"p{k}", "psnr", 20.0 + k) for k in range(4)])
    rebuild_report(out)
    text = (out / LATEX).read_text()
    assert "{[m]\\_1 \\& \\textbackslash{}input\\{x\\}} & " in text and "\\input" not in text
