"""Docstrings of functions open with a verb in the imperative, or with `Eq. N` and the formula.

ruff's D401 checks less: it accepts every first word of which it knows no other form, such as "Rows of a table".
`python tests/test_docstrings.py` lists the violations.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("datasets", "models", "pipelines", "flows", "infra", "benchmarks")

# Add missing verbs here. Words that are nouns more often ("name", "row") are not taken before "of".
_VERBS = """
accept add align allow answer append apply ask assign attach average begin blur bring build bundle cache call cancel
cast check choose claim clean clear clip close collect combine commit compare complete compress compute concatenate
connect continue convert copy correct count crop curate cut decode decompress delete denoise deploy describe detect
determine disable discard display divide download draw drop embed emit empty enable encode end ensure enter estimate
evaluate exclude exit expand explain export extend extract fail fetch fill filter find finish fit flag flatten flip
follow forbid forget format forward free freeze fuse gather generate get give grant group guess handle hash hold
identify ignore import ingest initialise inject insert inspect install interpolate invert iterate join judge keep kill
label launch leave let limit link list load locate lock log look lower make map mark mask match measure merge migrate
mirror move multiply name normalise notify offer open order pack pad paint pair park parse pass patch perturb pick place
plan plot prepare print probe project publish put raise rank read receive recognise record redirect reduce refuse
register reject release remove rename render repair repeat replace report request require resample reset resize resolve
restore resume retry return reuse reverse rewrite rotate round run sample save scale scan score search seek select send
separate serialise serve set shift show shuffle shut simulate skip smooth sort split stack start stitch stop store
stream strip submit subtract sum swap synchronise take tell terminate test time trace track train translate trim
truncate try turn unpack unpatchify update upload use validate verify visit wait walk warn weigh wrap write yield
"""
VERBS = {*_VERBS.split()}


def opens_well(docstring: str) -> bool:
    """Return whether a docstring opens with a verb that is known here, or with an equation's number."""
    if re.match(r"Eqs?\. \d", docstring):
        return True
    first, second = (*docstring.split(maxsplit=2), "", "")[:2]
    return first == first.capitalize() and first.rstrip(".,:;").lower() in VERBS and second != "of"


def docstrings_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and docstring of the functions; a property is named by what it is, as ruff's D401 has it, too."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_property = any("property" in ast.unparse(one) for one in node.decorator_list)
        if not is_property and (docstring := ast.get_docstring(node)):
            yield node.lineno, docstring


def other_openings() -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {docstring.splitlines()[0]}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, docstring in docstrings_of(path.read_text())
        if not opens_well(docstring)
    ]


@pytest.mark.parametrize(
    ("docstring", "is_right"),
    [
        ("Return the rows.", True),
        ("Measure.", True),
        ("Write, then rename.", True),
        ("Eq. 7: ε = …", True),
        ("Eq. 2, 3 and 4: the tokens", True),
        ("Returns the rows.", False),
        ("Rows of a table.", False),
        ("Name of a file.", False),
        ("The rows.", False),
        ("Eq. of motion", False),
        ("return the rows", False),
        ("(height, width)", False),
    ],
)
def test_openings_are_judged(docstring: str, is_right: bool) -> None:
    assert opens_well(docstring) == is_right


def test_docstrings_are_found_in_methods_and_not_in_properties() -> None:
    source = (
        'class A:\n    """A."""\n    def f(self):\n        """F."""\n        def g():\n            """G."""\n'
        '    @property\n    def h(self):\n        """H."""\nasync def i():\n    """I."""\ndef j():\n    pass\n'
    )
    assert sorted(docstrings_of(source)) == [(3, "F."), (5, "G."), (10, "I.")]


def test_docstrings_open_with_a_verb() -> None:
    assert not other_openings()


if __name__ == "__main__":
    print("\n".join(other_openings()))
