"""Static HTML pages with one design, light and dark. A page needs no server and no network.

A page has no script, except the one of `players` if a section has videos that play in step.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from ...datasets.sidecars import VIDEO_SUFFIXES
from ...datasets.storage import Location, is_address, location
from ...datasets.storage.atomic import atomic_write
from ...datasets.storage.files import relative_path
from . import players

STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --dim: #667282; --line: #dbe1e8; --back: #fff; --panel: #f4f6f9;
--accepted: #2f74d0; --rejected: #e0902f; --quarantined: #8b5fc7; --shade: #d6455022; --bound: #c7303c }
@media (prefers-color-scheme: dark) { :root { --text: #e4e9f0; --dim: #98a4b3; --line: #323b47; --back: #14181e;
--panel: #1d232b; --accepted: #6aa5f2; --rejected: #e8a653; --quarantined: #b391e6; --shade: #f0636e2b;
--bound: #ff7a84 } }
* { box-sizing: border-box } body { font: 15px/1.5 system-ui, sans-serif; margin: 2.2rem auto 5rem; max-width: 76rem;
padding: 0 1.2rem; color: var(--text); background: var(--back); overflow-wrap: break-word }
h1 { font-size: 1.7rem; margin: 0 0 .4rem } h2 { font-size: 1.2rem; margin: 2.8rem 0 .5rem; padding-top: .3rem }
p { max-width: 52rem; margin: .4rem 0; white-space: pre-line } nav { font-size: .9rem } a { color: var(--accepted) }
nav a { margin-right: 1rem; white-space: nowrap; text-decoration: none }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: .7rem 0; font-size: .93rem }
td, th { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { font-weight: 600; color: var(--dim); vertical-align: bottom }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0 } .tile { background: var(--panel);
border-radius: 8px; padding: .6rem 1.1rem; min-width: 7.5rem } .tile b { display: block; font-size: 1.5rem }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1.3rem; margin: 1rem 0 }
.figures figure { background: var(--panel); border-radius: 8px; padding: .7rem .9rem }
svg { display: block; width: 100%; height: auto } svg text { fill: var(--dim); font: 10px system-ui, sans-serif }
.pair { display: flex; gap: 1rem; flex-wrap: wrap; margin: .8rem 0 1.6rem } figure { margin: 0 }
.pair figure { max-width: 22rem } figcaption { font-size: .85rem; color: var(--dim); white-space: pre-line }
video, img, .gone { height: 192px; max-width: 100%; background: var(--panel); border-radius: 6px; display: block }
.gone { width: 8.5rem; display: grid; place-items: center; color: var(--dim) } .dim { color: var(--dim) }
.bar { height: .8rem; border-radius: 3px; min-width: 1px; margin-top: .3rem } .track { width: 14rem }
.accepted { background: var(--accepted); fill: var(--accepted) } .rejected { background: var(--rejected);
fill: var(--rejected) } .quarantined { background: var(--quarantined); fill: var(--quarantined) }
details { margin: .6rem 0 } summary { cursor: pointer; color: var(--dim) }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; margin: 0 .35rem 0 1rem }
"""

# Media are in the page or next to it; the browser blocks everything else, also if a file name tries to load it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file: data:; media-src 'self' file:"

DATA = "data:image/jpeg;base64,"
ROWS_IN_A_FOLD = 25

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}"><title>{{ title }}</title>
<style>{{ style }}</style></head><body>
<h1>{{ title }}</h1>
{% if sections | length > 5 %}<nav>{% for section in sections %}<a href="#s{{ loop.index }}">{{ section.title }}</a>
{% endfor %}</nav>{% endif %}
{% for section in sections %}
<section id="s{{ loop.index }}"><h2>{{ section.title }}</h2>
{% if section.tiles %}<div class="tiles">{% for number, label in section.tiles %}
<div class="tile"><b>{{ number | show }}</b>{{ label }}</div>{% endfor %}</div>{% endif %}
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% if section.players %}{{ controls }}{% endif %}
{% for batch in section.players | batch(rows_in_a_fold) %}
{% if section.players | length > rows_in_a_fold %}
<details{% if loop.first %} open{% endif %}><summary>{{ loop.index0 * rows_in_a_fold + 1 }} to
{{ loop.index0 * rows_in_a_fold + batch | length }} of {{ section.players | length }}</summary>{% endif %}
{% for group in batch %}<div class="pair step{% if section.is_smooth %} smooth{% endif %}">
{% for name, path in group %}<figure>{% if path is none %}<div class="gone">missing</div>
{% elif path | is_video %}<video data-src="{{ path | url }}" preload="auto" muted playsinline></video>
{% else %}<img src="{{ path | url }}" alt="{{ name }}" loading="lazy">{% endif %}
<figcaption>{{ name }}</figcaption></figure>{% endfor %}</div>{% endfor %}
{% if section.players | length > rows_in_a_fold %}</details>{% endif %}{% endfor %}
{% if section.rows %}
{% if section.is_folded %}<details><summary>{{ section.rows | length }} rows</summary>{% endif %}
<div class="wide"><table><tr>{% for head in section.head %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in section.rows %}<tr>{% for cell in row %}
<td{% if cell is number %} class="n"{% endif %}>{{ cell | show }}</td>{% endfor %}</tr>{% endfor %}</table></div>
{% if section.is_folded %}</details>{% endif %}
{% endif %}{% if section.figures %}<div class="figures">{% for figure in section.figures %}<figure>
<b>{{ figure.title }}</b>{{ figure.drawing }}<figcaption>{{ figure.caption }}</figcaption></figure>{% endfor %}</div>
{% endif %}{% for group in section.media %}<div class="pair">
{% for name, path in group %}<figure>{% if path is none %}<div class="gone">missing</div>
{% elif path | is_video %}<video src="{{ path | url }}" controls loop muted autoplay playsinline></video>
{% else %}<img src="{{ path | url }}" alt="{{ name }}">{% endif %}
<figcaption>{{ name }}</figcaption></figure>{% endfor %}</div>{% endfor %}</section>
{% endfor %}
{% if script %}<script>{{ script }}</script>{% endif %}</body></html>
"""


@dataclass(frozen=True)
class Figure:
    """A drawing with a title above and a caption below; the drawing must be markup from `charts` or `curves`."""

    title: str
    drawing: Markup
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """One section of a page; empty fields are left out.

    Args:
        title: title of the section.
        text: text below the title; line breaks are kept.
        tiles: (number, label) pairs in large type.
        head: column headings of the table.
        rows: rows of the table; numbers are right-aligned, None is "not measured", markup is not escaped.
        figures: drawings side by side.
        media: groups of (caption, path of a picture or video relative to the page (`beside`), or None).
        players: groups like those of `media`, whose videos play in step; at most one section of a page has them. More
            than `ROWS_IN_A_FOLD` groups are folded; what is folded, or far from the window, is not loaded.
        is_smooth: whether players smooth enlarged or reduced pictures; otherwise pixels stay squares.
        is_folded: whether the table is folded.
    """

    title: str
    text: str = ""
    tiles: Sequence[tuple[Any, str]] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    figures: Sequence[Figure] = ()
    media: Sequence[Sequence[tuple[str, str | None]]] = ()
    players: Sequence[Sequence[tuple[str, str | None]]] = ()
    is_smooth: bool = False
    is_folded: bool = False


def write_page(path: Location, title: str, sections: Sequence[Section]) -> None:
    """Write a page of sections as one HTML file; everything except `Markup` is escaped.

    Raises:
        ValueError: several sections have players, which would be two clocks.
    """
    with_players = sum(bool(section.players) for section in sections)
    if with_players > 1:
        raise ValueError(f"{with_players} sections have players; put them into one, because a page has one clock")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"show": show, "url": url, "is_video": is_video}
    page = environment.from_string(PAGE)
    inlined = {"style": Markup(STYLE), "policy": Markup(POLICY), "script": "", "controls": ""}
    if with_players:
        inlined |= {
            "style": Markup(STYLE + players.STYLE),
            "policy": Markup(f"{POLICY}; script-src {players.script_hash()}"),
            "script": Markup(players.SCRIPT),
            "controls": Markup(players.CONTROLS),
        }
    html = page.render(title=title, sections=sections, rows_in_a_fold=ROWS_IN_A_FOLD, **inlined)
    with atomic_write(path) as aside:
        aside.write_text(html, encoding="utf-8", errors="replace")


def path_from_page(file: str | None, page: Location) -> str | None:
    """Return a file's path relative to its page, or its absolute path if only one of them is on a store."""
    if file is None:
        return None
    place = location(file)
    path = relative_path(place, page.parent)
    return path if path is not None else str(place.absolute())


def url(place: str) -> str:
    """Convert a path from `path_from_page`, or a `data:` picture, to a URL for the page.

    File names may contain characters that are special in a URL (`#`, `?`, `%`, `:`) and bytes that are not UTF-8.
    """
    if place.startswith(DATA):
        return place
    scheme, mark, rest = place.partition("://") if is_address(place) else ("", "", place)
    if place.startswith("/"):
        scheme, mark = "file", "://"
    return f"{scheme}{mark}{quote(os.fsencode(rest))}"


def is_video(place: str) -> bool:
    """Check by its suffix whether a browser plays the file as a video; a GIF is a picture."""
    return PurePath(place).suffix.lower() in VIDEO_SUFFIXES - {".gif"}


def show(value: Any) -> Any:
    """Format a value: floats with four digits, integers with thousands separators, None as "not measured"."""
    if value is None:
        return "not measured"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.4g}" if isinstance(value, float) else value
