"""One static page: what was rendered beside what was asked, and the numbers. It needs no server and no network."""

import os
from typing import Any

import jinja2

from ...datasets.artifact import Artifact, written_aside
from ...datasets.schema import Row
from ...datasets.storage import Location, is_address
from .steps import METRICS

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2430 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem } p { max-width: 46rem }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .25rem .7rem; border-bottom: 1px solid #d9dee5;
text-align: left; vertical-align: top } td.n { text-align: right; font-variant-numeric: tabular-nums }
.pair { display: flex; gap: 1rem; flex-wrap: wrap; margin: .8rem 0 1.6rem } figure { margin: 0 }
figcaption { font-size: .85rem; color: #5a6675 } video, img { height: 192px; image-rendering: pixelated;
background: #eef1f4; border-radius: 4px } .bar { background: #4c7fd0; height: .8rem; border-radius: 2px }
.dim { color: #7b8794 }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>{{ style }}</style></head><body>
<h1>{{ title }}</h1>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% if section.rows %}<table><tr>{% for head in section.head %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in section.rows %}<tr>{% for cell in row %}
<td{% if cell is number %} class="n"{% endif %}>{{ cell | show }}</td>{% endfor %}</tr>{% endfor %}</table>{% endif %}
{% for group in section.media %}<div class="pair">
{% for name, path in group %}<figure>{% if path is none %}<div class="dim">not there</div>
{% elif path.endswith('.mp4') %}<video src="{{ path }}" controls loop muted autoplay playsinline></video>
{% else %}<img src="{{ path }}" alt="{{ name }}">{% endif %}<figcaption>{{ name }}</figcaption></figure>{% endfor %}
</div>{% endfor %}
{% endfor %}
</body></html>
"""


def write_page(path: Location, title: str, sections: list[dict[str, Any]]) -> None:
    """Write a page of sections.

    Args:
        path: of the html file.
        title: of the page.
        sections: each with `title` and, where wanted, `text`, a table (`head`, `rows`), and `media`: groups of
            (caption, path relative to the page or None).
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined)
    environment.filters["show"] = _show
    html = environment.from_string(PAGE).render(title=title, sections=sections, style=STYLE)
    with written_aside(path) as aside:
        aside.write_text(html, encoding="utf-8")


def metric_section(means: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The table of metrics, with unit, direction and meaning."""
    rows = []
    for name, (unit, better, meaning) in METRICS.items():
        mean = means.get(name, {"mean": None, "videos": 0})
        rows.append([name, mean["mean"], unit, mean["videos"], f"{better} is better" if better else "", meaning])
    return {"title": "Metrics", "head": ["metric", "mean", "unit", "videos", "", "what it says"], "rows": rows}


def write_report(path: Location, metrics: Artifact, videos: dict[str, Row]) -> None:
    """The page of one evaluation."""
    record = metrics.record()
    groups = [
        [("reference", _relative(row["image"], path)), (f"render {name}", _relative(row["video"], path)),
         ("truth", _relative(row["truth"], path))]
        for name, row in sorted(videos.items())
    ]  # fmt: skip
    counts = ", ".join(f"{number} {name}" for name, number in record["counts"].items())
    text = f"Protocol {record['config']['protocol']}; {counts}. A metric without a value was not measured."
    write_page(
        path, "Evaluation", [{**metric_section(record["means"]), "text": text}, {"title": "Videos", "media": groups}]
    )


def _relative(file: str | None, page: Location) -> str | None:
    """A file as the page links to it: its way from the page, or its address if one of them is on a store."""
    if file is None or (is_address(file) != is_address(page)):
        return file
    return os.path.relpath(file, str(page.parent))


def _show(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
