"""What the documentation names exists: commands, options, files, modules, links; and the site builds by itself."""

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from steadydancer.flows.cli import cli

ROOT = Path(__file__).resolve().parents[1]
TOP = ("README.md", "CONTRIBUTING.md", "RESPONSIBLE_USE.md")
HISTORY = {"log.md", "paper.md"}  # the log names what was; the ledger has a test of its own
PAGES = [ROOT / name for name in TOP] + [p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name not in HISTORY]
# Options of other programs.
FOREIGN = {"--watch", "--host", "--param", "--nodes", "--port", "--state", "--backend-store-uri", "--dataset_config"}
ROOMS = "datasets|models|pipelines|flows|infra|tests|benchmarks|examples|docs"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> list[str]:
    """Each `steadydancer …` of a page's code blocks, as one line, and of its code in running text."""
    found = []
    for block in re.findall(r"^```(?:bash|console|text|)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = " ".join(re.sub(r"\s#\s.*$", "", line.removeprefix("$ ")).split())
            line = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", line)
            if line.startswith("steadydancer "):
                found.append(line)
    spans = re.findall(r"`([^`\n]+)`", without_fences(text))
    return found + [span for span in spans if span.startswith("steadydancer ")]


def complaint(line: str) -> str | None:
    """What is wrong with a command line; None if its command and options exist."""
    words = shlex.split(re.sub(r"[\[\]()|…]", " ", line))[1:]
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0].isupper():  # a placeholder
            return None
        if words[0] not in command.commands:
            return f"there is no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {option for param in command.params for option in param.opts} | {"--help", "-h", "--version"}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]
    return f"{command.name} has no {unknown}" if unknown else None


def all_options(command: click.Command) -> set[str]:
    found = {option for param in command.params for option in param.opts}
    return found.union(*(map(all_options, command.commands.values()) if isinstance(command, click.Group) else ()))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text()
    wrong = [f"{line}: {problem}" for line in commands_in(text) if (problem := complaint(line))]
    known = all_options(cli) | FOREIGN
    for span in re.findall(r"`([^`\n]+)`", without_fences(text)):
        first = span.split()[0]
        if first in cli.commands:
            wrong += [f"{span}: {problem}" for problem in [complaint(f"steadydancer {span}")] if problem]
        elif first.startswith("--") and not span.startswith("--dataset_base_path"):
            wrong += [f"{span}: no command has {first}"] if first.split("=")[0] not in known else []
    assert not wrong


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    assert complaint("steadydancer curate --clips A --out B [--dry-run]") is None
    assert "no command" in str(complaint("steadydancer dance --clips A"))
    assert "--clip" in str(complaint("steadydancer curate --clip A"))
    block = "```bash\n$ steadydancer train --stage 1 \\\n    --seed 3   # why\nls\n```\n`steadydancer pick --run A`"
    assert commands_in(block) == ["steadydancer train --stage 1 --seed 3", "steadydancer pick --run A"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", without_fences(page.read_text()))
    # The pages at the root are in the site, too, beside docs/'s own.
    folders = [page.parent, ROOT] if page.parent == ROOT / "docs" else [page.parent]
    wrong = [link for link in links if "://" not in link and not any((folder / link).exists() for folder in folders)]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_modules_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(rf"(?<![\w./<-])(?:{ROOMS})/[\w/.-]*\w\.(?:py|md|yaml|json|svg|png)\b", text)
    folders = re.findall(r"`((?:infra|pipelines|models|datasets|flows|examples|benchmarks)/[\w/]*)`", text)
    missing = [path for path in paths + folders if not (ROOT / path).exists() and not (page.parent / path).exists()]
    dotted = set(re.findall(r"\bsteadydancer(?:\.\w+)+", text)) - {"steadydancer.artifact.committed"}  # an event
    assert not missing + [name for name in sorted(dotted) if not is_importable(name)]


def is_importable(name: str) -> bool:
    """Return whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        try:
            return hasattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError:
            return False
    return True


def test_a_module_that_does_not_exist_would_be_noticed() -> None:
    assert is_importable("steadydancer.datasets.skeleton.draw")
    assert not is_importable("steadydancer.datasets.skeletons")
    assert not is_importable("steadydancer.datasets.skeleton.paint")


def load_hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "infra" / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, in another folder."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds_and_holds_what_is_generated(site: Path) -> None:
    from steadydancer.datasets.schema import CLIP_SCHEMA
    from steadydancer.pipelines.train.config import TrainConfig

    def has(page: str, names: list[str]) -> bool:
        text = (site / "reference" / page).read_text()
        return all(f"<code>{name}</code>" in text for name in names)

    assert has("configuration.html", list(TrainConfig.model_fields))
    assert has("files.html", CLIP_SCHEMA.names)
    assert has("commands.html", ["--sound [none|keep]"])
    assert "generated:" not in "".join(path.read_text() for path in site.rglob("*.html"))
    api = (site / "reference" / "api.html").read_text()
    assert all(f'id="steadydancer.{name}"' in api for name in ("models.denoise", "datasets.skeleton.draw"))


def test_the_site_fetches_nothing_from_elsewhere(site: Path, tmp_path: Path) -> None:
    hooks = load_hooks()
    assert hooks.fetched_from_elsewhere(site) == []
    (tmp_path / "page.html").write_text(
        '<a href="https://a.example">read</a><script src="https://b.example/x.js"></script>'
        '<link rel="stylesheet" href="//c.example/x.css"><img alt="" src=x.png>'
    )
    (tmp_path / "style.css").write_text("@font-face { src: url(https://d.example/font.woff2) }")
    assert [entry.split("example")[0][-2:] for entry in hooks.fetched_from_elsewhere(tmp_path)] == ["b.", "c.", "d."]
