"""docs/paper.md and the code say the same. Nothing is imported: names and defaults are read off the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEDGER = (ROOT / "docs" / "paper.md").read_text()
CITATION = r"[\w/]+\.py:\w+(?:\.\w+)*(?:=[^`]+)?"
CITATIONS = sorted(set(re.findall(r"`([\w/]+\.py:[^`]+)`", LEDGER)))
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def assigned(node, name):
    """The value that `name` is given in a module's or class's body, or None."""
    for statement in node.body:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return statement.value
    return None


def default(function, name):
    """The default of a function's argument, or None."""
    arguments = function.args
    positional = dict(zip([a.arg for a in arguments.args][::-1], arguments.defaults[::-1], strict=False))
    keyword = dict(zip([a.arg for a in arguments.kwonlyargs], arguments.kw_defaults, strict=True))
    return {**positional, **keyword}.get(name)


def member(node, name):
    """What `name` means inside a module, class, function or dict: a definition, or the expression of a value."""
    if isinstance(node, ast.Dict):
        return next((v for k, v in zip(node.keys, node.values, strict=True) if str(ast.literal_eval(k)) == name), None)
    found = next((n for n in node.body if isinstance(n, DEFINITIONS) and n.name == name), None)
    if found is not None:
        return found
    if isinstance(node, ast.FunctionDef):
        return default(node, name)
    value = assigned(node, name)
    if value is None and isinstance(node, ast.ClassDef):
        initialise = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        value = None if initialise is None else default(initialise, name)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Field" and value.args:
        return value.args[0]
    return value


def resolve(citation):
    path, names = citation.split(":", 1)
    node = ast.parse((ROOT / path).read_text())
    for name in names.split("."):
        node = member(node, name)
        assert node is not None, f"{citation}: there is no {name!r}"
    return node


@pytest.mark.parametrize("citation", CITATIONS)
def test_what_the_ledger_names_exists_and_has_the_value_it_states(citation):
    name, stated, value = citation.partition("=")
    node = resolve(name)
    if stated:
        assert ast.literal_eval(node) == ast.literal_eval(value)


def malformed(ledger):
    """Cells of the columns "where" and "test" that are no list of citations, and rows of another number of columns."""
    found = []
    for line in ledger.splitlines():
        if not line.startswith("|") or line.startswith("|---"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[-2:] == ["where", "test"]:
            continue
        if len(cells) != 4:
            found.append(line)
        found += [c for c in cells[2:] if c != "not yet" and not re.fullmatch(f"`{CITATION}`(, `{CITATION}`)*", c)]
    return found


def test_every_row_cites_code_and_tests_and_nothing_else():
    assert malformed(LEDGER) == []


@pytest.mark.parametrize(
    "cell",
    [
        "`tests/a.py:test_its_square`_matching.py, `tests/a.py:test_b`",  # a file renamed over a test's name
        "`tests/a.py:test_b` `tests/a.py:test_c`",
        "`tests/a.py:test_b`,",
        "`tests/a.py`",
        "`tests/a.py:`",
        "`test_b`",
        "tests/a.py:test_b",
        "see `tests/a.py:test_b`",
        "",
    ],
)
@pytest.mark.parametrize("column", [2, 3])
def test_a_malformed_citation_would_be_noticed(cell, column):
    cells = ["claim \\| 1", "text `with code`", "`a/b.py:C.d.1=(1, 2)`, `a/b.py:E`", "not yet"]
    head = "| claim | text | where | test |\n|---|---|---|---|\n"
    assert malformed(f"{head}| {' | '.join(cells)} |\n") == []
    cells[column] = cell
    assert malformed(f"{head}| {' | '.join(cells)} |\n") == [cell]
    assert len(malformed(f"{head}| {' | '.join(cells[:3])} |\n")) > 0


def equation_rows():
    rows = dict.fromkeys(range(1, 9), "")
    for line in LEDGER.splitlines():
        if line.startswith("| Eq."):
            for number in re.findall(r"Eq\. (\d)", line.split("|")[1]):
                rows[int(number)] += line
    return rows


def test_every_equation_has_a_row():
    assert all(equation_rows().values())


def walk(node, prefix=""):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS):
            yield prefix + child.name, child
            yield from walk(child, f"{prefix}{child.name}.")


def claims():
    """(path:name, number) for each docstring whose first sentence begins with equation numbers."""
    for path in sorted((ROOT / "models").rglob("*.py")):
        for name, node in walk(ast.parse(path.read_text())):
            opening = re.match(
                r"Eq\. (\d)((?:, \d| and \d| with the poses of Eq\. \d)*)", ast.get_docstring(node) or ""
            )
            if opening:
                for number in re.findall(r"\d", opening.group()):
                    yield f"{path.relative_to(ROOT).as_posix()}:{name}", int(number)


def test_every_equation_in_the_code_is_in_its_row():
    rows = equation_rows()
    found = list(claims())
    assert {number for _, number in found} == set(range(1, 9))
    missing = [(where, number) for where, number in found if f"`{where}`" not in rows[number]]
    assert not missing


def test_a_wrong_ledger_would_be_noticed():
    with pytest.raises(AssertionError, match="no 'nothing'"):
        resolve("models/sampling.py:nothing")
    assert ast.literal_eval(resolve("models/sampling.py:denoise.flow_shift")) == 5.0
    assert len(CITATIONS) > 50
