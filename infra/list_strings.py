"""List the strings that a user reads, one per line: `file:line<TAB>kind<TAB>text`.

    python infra/list_strings.py [--kinds help,error] [--docstrings] [PATH ...]

Kinds: `help` (options, arguments and docstrings of commands), `error` (in a `raise`, an exit or a new exception), `log`
(loggers and warnings), `output` (`click.echo`, `print`), `field` (descriptions of settings), `page` (modules that write
HTML or Markdown) and `other` (other strings with words, such as constants and parts of messages). `--docstrings` adds
the docstrings of modules, classes and functions, which the API reference contains.
"""

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("datasets", "models", "pipelines", "flows", "infra")
KINDS = ("help", "error", "log", "output", "field", "page", "other", "docstring")
LOG_CALLS = {"debug", "info", "warning", "error", "exception", "critical", "warn", "log"}
OUTPUT_CALLS = {"echo", "secho", "print", "progressbar", "confirm", "prompt"}
HELP_KEYWORDS = {"help", "short_help", "epilog", "metavar", "prog_name"}
COMMANDS = {"command", "group"}
PAGE_IMPORTS = re.compile(
    r"^\s*(?:from|import) (?:jinja2|markupsafe|prefect\.artifacts|\.*page\b)|<(?:h1|table|p)\b", re.M
)
WORDS = re.compile(r"[^\W\d_]{2,}.*\s.*[^\W\d_]{2,}", re.DOTALL)

Found = tuple[int, str, str]
"""Line, kind, text."""


class Strings(ast.NodeVisitor):
    """Collect the strings of one module. The innermost call or statement that implies a kind sets `kind`."""

    def __init__(self, default: str) -> None:
        self.kind = default
        self.found: list[Found] = []

    def within(self, kind: str, *nodes: ast.AST | None) -> None:
        """Visit nodes whose strings are of `kind`."""
        outside, self.kind = self.kind, kind
        for node in nodes:
            if node is not None:
                self.visit(node)
        self.kind = outside

    def add(self, node: ast.expr, text: str) -> None:
        """Add a string that has words; help, output and descriptions may be a single word."""
        single = self.kind in ("help", "output", "field") and re.search(r"[^\W\d_]{2,}", text)
        if single or WORDS.search(text):
            self.found.append((node.lineno, self.kind, text))

    def visit_Constant(self, node: ast.Constant) -> None:
        """Add a plain string."""
        if isinstance(node.value, str):
            self.add(node, node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Add an f-string as written, with its expressions."""
        parts = (
            part.value if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
            for part in node.values
            if isinstance(part, ast.Constant | ast.FormattedValue)
        )
        self.add(node, "".join(map(str, parts)))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Skip keys."""
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Visit a raised exception as an error."""
        self.within("error", node.exc, node.cause)

    def visit_Call(self, node: ast.Call) -> None:
        """Determine the kind of the strings in a call from the function and the keyword."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Attribute):
            self.visit(node.func.value)
        kind = self.kind
        if name in OUTPUT_CALLS and owner in ("", "click"):
            kind = "output"
        elif name in LOG_CALLS and re.search(r"log|warnings", owner, re.IGNORECASE):
            kind = "log"
        elif (owner, name) == ("sys", "exit") or re.search(r"(Error|Stopped|Refused|Refusal|BadClip)$", name):
            kind = "error"
        self.within(kind, *node.args)
        for keyword in node.keywords:
            kinds = {"description": "field"} if name == "Field" else dict.fromkeys(HELP_KEYWORDS, "help")
            self.within(kinds.get(keyword.arg or "", kind), keyword.value)

    def visit_Module(self, node: ast.Module) -> None:
        """Separate the docstring from other strings."""
        self.documented(node, "docstring")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Separate the docstring from other strings."""
        self.documented(node, "docstring")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Separate the docstring from other strings; the docstring of a command is its help."""
        calls = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
        is_command = any(isinstance(call, ast.Attribute) and call.attr in COMMANDS for call in calls)
        self.documented(node, "help" if is_command else "docstring")

    def documented(self, node: ast.Module | ast.ClassDef | ast.FunctionDef, kind: str) -> None:
        """Visit a node whose docstring is of `kind`; other expression strings in it document an attribute."""
        for child in ast.iter_child_nodes(node):
            alone = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            first = child is node.body[0]
            self.within((kind if first else "docstring") if alone else self.kind, child)


def strings_of(path: Path) -> Iterator[Found]:
    """Yield the strings of a file in line order."""
    source = path.read_text()
    visitor = Strings("page" if re.search(PAGE_IMPORTS, source) else "other")
    visitor.visit(ast.parse(source, str(path)))
    yield from sorted(visitor.found)


def main() -> None:
    """Print the list, or the number of strings per kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / name for name in FOLDERS])
    parser.add_argument(
        "--kinds", default=",".join(KINDS[:-1]), help="kinds to list, separated by commas (default: all but docstring)"
    )
    parser.add_argument("--docstrings", action="store_true", help="also list docstrings")
    parser.add_argument("--counts", action="store_true", help="print only the number per kind")
    options = parser.parse_args()
    kinds = {*options.kinds.split(","), *(["docstring"] if options.docstrings else [])}
    if unknown := kinds - {*KINDS}:
        parser.error(f"unknown kind: {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    counts: Counter[str] = Counter()
    for place in options.paths:
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            name = path.resolve().relative_to(ROOT)
            for line, kind, text in strings_of(path):
                counts[kind] += kind in kinds
                if kind in kinds and not options.counts:
                    print(f"{name}:{line}\t{kind}\t{' '.join(text.split())}")
    if options.counts:
        for kind in KINDS:
            print(f"{counts[kind]}\t{kind}")


if __name__ == "__main__":
    main()
