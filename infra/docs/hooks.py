"""Hooks of `mkdocs build`: tables generated from the code, sources for mkdocstrings, and a check of the result.

In a page, a line `<!-- generated: NAME -->` becomes a table (see `TABLES`). A line `<!-- source: FILE NAME -->`
becomes the source of one function of an example; without NAME, the whole file.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ("__init__.py", "datasets", "models", "pipelines", "flows")
JOBS = {"stage1": "train"}  # the first of the three fields that share a model
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "RESPONSIBLE_USE.md")
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
SOURCE = re.compile(r"^<!-- source: (\S+)(?: (\w+))? -->$", re.MULTILINE)
# References that a browser fetches: scripts, styles, images and frames, but not links.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'> ]+"""
    r"""|<link\b[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon)[^>]*\bhref=["']?(?:https?:)?//[^"'> ]+"""
    r"""|@import\s+["'(]+(?:https?:)?//\S+|url\(["']?(?:https?:)?//[^)]+"""
)


def on_config(config: Any) -> Any:
    """Link the package under its import name, because its folder has another name."""
    package = ROOT / "build" / "docs" / "steadydancer"
    package.mkdir(parents=True, exist_ok=True)
    for name in PACKAGE:
        link = package / name
        if not link.is_symlink() or link.readlink() != ROOT / name:
            link.unlink(missing_ok=True)
            link.symlink_to(ROOT / name)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the repository's root, with links into docs/ made relative."""
    for name in ROOT_PAGES:
        text = (ROOT / name).read_text().replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Insert the generated tables and sources into a page."""
    markdown = SOURCE.sub(lambda found: source(found[1], found[2]), markdown)
    return MARK.sub(lambda found: TABLES[found[1]](), markdown)


def on_post_build(config: Any) -> None:
    """Fail if the site would load anything from another host."""
    fetched = fetched_from_elsewhere(Path(config["site_dir"]))
    if fetched:
        raise SystemExit("the site would load files from other hosts:\n" + "\n".join(fetched))


def fetched_from_elsewhere(site: Path) -> list[str]:
    """List `file: reference` for everything in HTML and CSS that a browser would fetch from another host."""
    return [
        f"{path.relative_to(site)}: {found.group()[:120]}"
        for path in sorted(site.rglob("*"))
        if path.suffix in {".html", ".css"}
        for found in FETCHED.finditer(path.read_text(encoding="utf-8"))
    ]


def source(file: str, name: str | None) -> str:
    """Return a code block with a file of the repository, or with one function or class of it."""
    text = (ROOT / file).read_text()
    if name is not None:
        node = next(node for node in ast.parse(text).body if getattr(node, "name", None) == name)
        text = ast.get_source_segment(text, node) or ""
    return f'```python title="{file}"\n{text.rstrip()}\n```'


def configuration() -> str:
    """Return one table per configuration model of a job."""
    from steadydancer.flows.presets import Run

    parts: list[str] = []
    models: list[type[BaseModel]] = []
    for job, field in Run.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel) and model not in models:
            models.append(model)
            jobs = ", ".join(f"`{name}`" for name, other in Run.model_fields.items() if other.annotation is model)
            parts += [f"## {JOBS.get(job, job)}", f"{jobs}: {_first_line(model)}", _fields(model)]
            parts += [
                text
                for name, inner in _nested(model)
                for text in (f"### {name} {{ #{job}-{name} }}", _first_line(inner), _fields(inner))
            ]
    return "\n\n".join(parts)


def presets() -> str:
    """Return the table of fields in which the presets differ from each other."""
    from steadydancer.flows.presets import PRESETS
    from steadydancer.models.toydance import components_folder

    runs = {name: make().model_dump() for name, make in PRESETS.items()}
    here = str(components_folder())  # of this machine
    for run in runs.values():
        run["cache"]["components"] = run["cache"]["components"].replace(here, "models/toydance/components")
    flat = {name: dict(_flattened(run)) for name, run in runs.items()}
    rows = [["field", *flat]]
    for field in sorted({field for values in flat.values() for field in values}):
        values = [values.get(field) for values in flat.values()]
        if len({repr(value) for value in values}) > 1:
            rows.append([f"`{field}`", *(f"`{_cell(value)}`" for value in values)])
    return _table(rows)


def commands() -> str:
    """Return help text and options of every command."""
    from steadydancer.flows.cli import cli

    return "\n\n".join(_command(cli, ["steadydancer"], None))


def columns() -> str:
    """Return the table of the columns of a clip row."""
    from steadydancer.datasets.schema import CLIP_SCHEMA

    rows = [["column", "type", "unit or range", "written by", "meaning"]]
    for field in CLIP_SCHEMA:
        about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        rows.append([f"`{field.name}`", str(field.type), about["unit"], about["stage"], about["meaning"]])
    return _table(rows)


TABLES = {"configuration": configuration, "presets": presets, "commands": commands, "columns": columns}


def _fields(model: type[BaseModel]) -> str:
    rows = [["field", "type", "default", "meaning"]]
    rows += [
        [f"`{name}`", _type(field), _default(field), field.description or ""]
        for name, field in model.model_fields.items()
    ]
    return _table(rows)


def _nested(model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """Return (field, model) of the models nested in a model, at any depth."""
    found: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [(name, inner), *_nested(inner)]
    return found


def _type(field: FieldInfo) -> str:
    text = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    text = re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)  # drop module names
    bounds = [
        f"{sign} {getattr(limit, key)}"
        for limit in field.metadata
        for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(limit, key)
    ]
    return ", ".join([f"`{text}`", *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "see below" if isinstance(value, BaseModel) else f"`{_cell(value)}`"


def _flattened(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name, value in values.items():
        inner = isinstance(value, dict) and bool(value)
        out += _flattened(value, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", value)]
    return out


def _command(command: click.Command, words: list[str], parent: click.Context | None) -> list[str]:
    context = click.Context(command, info_name=words[-1], parent=parent, **command.context_settings)
    usage = " ".join([*words, *command.collect_usage_pieces(context)])
    parts = [f"{'##' if len(words) < 3 else '###'} {' '.join(words)}", _paragraphs(command.help or "")]
    parts.append(f"```text\n{usage}\n```")
    records = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [[f"`{record[0]}`", record[1]] for record in records if record]
    parts.append(_table([["option", "meaning"], *rows]))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                parts += _command(child, [*words, name], context)
    return parts


def _paragraphs(text: str) -> str:
    return inspect.cleandoc(text.replace("\b", ""))


def _first_line(model: type[BaseModel]) -> str:
    return _paragraphs(model.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _cell(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _escaped(cell: str) -> str:
    """Join a cell to one line, and escape bars outside of code."""
    pieces = cell.replace("\n", " ").split("`")
    return "`".join(piece if k % 2 else piece.replace("|", "\\|") for k, piece in enumerate(pieces))


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
