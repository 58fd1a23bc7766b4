"""The page of an evaluation: why every null is null, nothing that a name could inject, and light with many pairs."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from steadydancer.pipelines.evaluate.report.page import PAGE, rebuild_report

Make = Callable[..., Any]
REASONS = {
    "no_truth": "the benchmark has no ground truth for it",
    "other_aspect": "the ground truth is 64×48, the render 80×32",
    "unreadable_truth": "the ground truth cannot be read: broken",
    "too_short": "the ground truth ends before the first scored frame",
}
ALLOWED = frozenset(
    (
        *("html", "head", "meta", "title", "style", "body", "h1", "nav", "a", "section", "h2", "p", "div", "table"),
        *("tr", "th", "td", "b", "br", "span", "details", "summary", "video", "img", "figure", "figcaption"),
        *("button", "input", "output", "noscript", "script"),
    )
)


class Tags(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(out: Path) -> str:
    rebuild_report(out)
    return (out / PAGE).read_text(encoding="utf-8")


def section(html: str, title: str) -> str:
    """The part of the page below a title."""
    return html[html.index(f"<h2>{title}</h2>") :].split("</section>")[0]


def test_the_page_has_the_reason_of_every_null(finish: Make, row: Make, of_set: Make) -> None:
    """Of single metrics, of whole videos, of a set, of weights, and of the estimator's limit."""
    rows = [
        row("a", f"p{k}", metric, None, reason=reason, detail=detail)
        for metric in ("psnr", "ssim")
        for k, (reason, detail) in enumerate(REASONS.items())
    ]
    rows += [row("a", f"p{k}", "temporal_flickering", 0.9) for k in range(4)]
    rows += [row("a", "p5", "velocity_correlation", None, reason="not_measurable", detail="the ceiling is 0.31")]
    rows += [row("a", "p6", "imaging_quality", None, reason="weights_missing", detail="`musiq`: not in /weights")]
    rows += [row("b", "p0", None, None, verdict="quarantined", reason="not_rendered", detail="no video named p0")]
    rows += [of_set("a", "kid[clean-fid]", None, reason="too_few", detail="1 features, but 2 are needed")]
    html = page_of(finish(rows, weights_missing={"musiq": ["imaging_quality"]}))
    nulls = section(html, "Without a value")
    for reason, detail in {**REASONS, "not_measurable": "the ceiling is 0.31", "too_few": "1 features"}.items():
        assert f"<td>{reason}</td>" in nulls and detail in nulls
    assert "<td>psnr, ssim</td>" in nulls  # one row for what one video lacks for one reason
    assert "<td>every metric</td>" in nulls and "no video named p0" in nulls
    assert "weights_missing" not in nulls and "`musiq`: not in /weights" in section(html, "Weights missing")
    truth = section(html, "Against the ground truth")
    assert "1 no_truth, 1 other_aspect, 1 too_short, 1 unreadable_truth" in truth and "1 not_rendered" in truth
    assert "a: 1 clips are excluded from the metrics of motion" in html and "(p5)" in html


def test_many_nulls_are_folded_and_counted(finish: Make, row: Make, tmp_path: Path) -> None:
    rows = [row("a", f"p{k}", "psnr", None, reason="no_truth", detail=f"no video named p{k}") for k in range(300)]
    html = page_of(finish(rows))
    assert "The first 200 of 300" in html and "300 no_truth" in section(html, "Against the ground truth")
    same = page_of(finish([{**one, "detail": "none was given"} for one in rows], tmp_path / "same"))
    assert "p0, p1, p2, p3, p4, p5 and 294 more" in section(same, "Without a value")


def test_no_name_becomes_markup(finish: Make, row: Make) -> None:
    bad = "<img src=x onerror=alert(1)>\"'&"
    rows = [
        row(f"{bad}{n}", f"{bad}p{k}", "psnr", 20.0 + k + n, detail=bad, kinds="style")
        for k in range(3)
        for n in range(2)
    ]
    rows += [row(f"{bad}0", f"{bad}p9", "psnr", None, reason=bad, detail=bad)]
    html = page_of(finish(rows, benchmark={"name": bad}))
    page = Tags(html)
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert {tag for tag, _ in page.tags} <= ALLOWED and html.count("<script") == 1
    assert f"{bad}0" in page.texts and bad in page.texts
    assert not re.search(r"(src|href)=\"https?:", html)


def test_all_methods_of_a_pair_stand_in_one_row_and_load_late(finish: Make, row: Make) -> None:
    truth = {"truth": "/truth/p.mp4"}
    rows = [row(method, f"p{k:03}", "psnr", 20.0 + k, **truth) for method in ("a", "b", "c") for k in range(300)]
    html = page_of(finish(rows))
    players = section(html, "Videos")
    assert players.count('class="pair step smooth"') == 300
    first = players.split('class="pair step smooth"')[1]
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", first)
    assert captions == ["p000: reference", "driving", "truth", "a\npsnr 20", "b\npsnr 20", "c\npsnr 20"]
    assert first.count("<video data-src=") == 5 and "<video src" not in html and "autoplay" not in html
    assert players.count("<details") == 12 and players.count("<details open>") == 1
    assert 'loading="lazy"' in first and len(html) < 1_500_000


def test_videos_have_the_order_of_the_tables_and_no_column_of_what_no_pair_has(finish: Make, row: Make) -> None:
    ends = [("b", "p0"), ("a", "p1"), ("b", "p1"), ("a", "p0")]  # in the order in which packets may end
    rows = [row("b", "p9", "psnr", 1.0, image=None), row("a", "p9", "psnr", 1.0, image=None)]
    rows += [row(method, name, "psnr", 2.0, image=None) for method, name in ends]
    players = section(page_of(finish(rows)), "Videos").split('class="pair step smooth"')[1:]
    captions = [re.findall(r"<figcaption>([^<]*)</figcaption>", one) for one in players]
    assert captions[:2] == [[f"{name}: driving", "b\npsnr 2", "a\npsnr 2"] for name in ("p0", "p1")]


def test_kinds_have_tables_of_their_own(finish: Make, row: Make) -> None:
    kinds = ("style", "style,framing", "framing", "style", "style,framing", "style") * 3
    rows = [
        row(method, f"p{k}", "psnr", 20.0 + k + more, kinds=own)
        for method, more in (("a", 0), ("b", 4))
        for k, own in enumerate(kinds)
    ]
    rows.append(row("a", "p99", "psnr", None, reason="no_truth", kinds="framing"))
    html = page_of(finish(rows))
    style, framing = (section(html, f"Pairs of kind {kind}") for kind in ("style", "framing"))
    assert "N 15" in style and "N 9" in framing and "<b>32.6</b>" in style and "28.33" in framing
    assert "1 no_truth" in framing and "no_truth" not in style


@pytest.mark.parametrize(("clusters", "told"), [(12, "covers 87–91 %"), (24, "covers 90–94 %")])
def test_small_numbers_of_clips_are_told_beside_the_interval(finish: Make, row: Make, clusters: int, told: str) -> None:
    rows = [row("a", f"p{k}", "psnr", 20.0 + k % 5, driving=f"/d/{k}.mp4") for k in range(clusters)]
    html = page_of(finish(rows))
    cell = section(html, "Against the ground truth")
    assert f"N {clusters}" in cell and told in cell and "too short" in html


def test_enough_clips_have_no_such_remark(finish: Make, row: Make) -> None:
    rows = [row("a", f"p{k}", "psnr", 20.0 + k % 5, driving=f"/d/{k}.mp4") for k in range(100)]
    html = page_of(finish(rows))
    assert "covers" not in html and "contain the true value" not in html and "too short" not in html
