"""Draw the faults to plant: operators of cosmic-ray at places of a module, in an order that a seed decides."""

import ast
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

SEED = 20261129
# These two take names from the module's text and mostly break its import.
LEFT_OUT = ("VariableReplacer", "VariableInserter")


@dataclass(frozen=True)
class Fault:
    """One fault: the `occurrence`-th place of a module at which an operator of cosmic-ray applies.

    Attributes:
        file: module, from the root.
        operator, occurrence: what cosmic-ray plants.
        line, column: where, from 1 and from 0.
        text: the line as it is.
    """

    file: str
    operator: str
    occurrence: int
    line: int
    column: int
    text: str

    @property
    def key(self) -> str:
        """Names it as long as the line, and what comes before the fault in it, stay what they are."""
        return f"{self.file} | {self.operator} | {self.column} | {self.text}"

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def planted(self, source: str) -> str | None:
        """The module with the fault; None where cosmic-ray makes nothing that is Python."""
        try:
            mutant = mutate_code(source, get_operator(self.operator)(), self.occurrence)
            if mutant is None or mutant == source:
                return None
            ast.parse(mutant)
        except (SyntaxError, AttributeError):  # cosmic-ray meets nodes that it did not foresee (`except a.b as c`)
            return None
        return str(mutant)


def draw(file: str, source: str, seed: int = SEED) -> Iterator[Fault]:
    """Faults of a module in the order in which they are to be planted, at most one a place.

    Kinds of operators take turns, or numbers and comparisons would be nearly all there is.
    """
    generator = random.Random(f"{seed} {file}")
    kinds: dict[str, dict[tuple[int, int], list[Fault]]] = defaultdict(lambda: defaultdict(list))
    for fault in places(file, source):
        kinds[fault.operator.split("/")[1].split("_")[0]][fault.line, fault.column].append(fault)
    piles = []
    for kind in sorted(kinds):
        faults = [generator.choice(same) for _, same in sorted(kinds[kind].items())]
        generator.shuffle(faults)
        piles.append(faults)
    generator.shuffle(piles)
    seen: set[tuple[int, int]] = set()
    while any(piles):
        for pile in piles:
            while pile:
                fault = pile.pop()
                if (fault.line, fault.column) not in seen:
                    seen.add((fault.line, fault.column))
                    yield fault
                    break


def places(file: str, source: str) -> list[Fault]:
    """All places at which an operator applies, but for those that decide no result."""
    tree, lines, silent = get_ast(source), source.splitlines(), _silent(source)
    out = []
    for name in _operators():
        operator, occurrence = get_operator(name)(), 0
        for node in _nodes(tree):
            for line, column in (start for start, _ in operator.mutation_positions(node)):
                if not any(first <= (line, column) < last for first, last in silent):
                    out.append(Fault(file, name, occurrence, line, column, lines[line - 1].strip()))
                occurrence += 1
    return out


@cache
def _operators() -> tuple[str, ...]:
    return tuple(sorted(name for name in operator_names() if not name.endswith(LEFT_OUT)))


def _nodes(node: Any) -> Iterator[Any]:
    """In the order in which cosmic-ray walks them."""
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _silent(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where nothing decides a result: types, and `strict=` and `frozen=`, which guard programmers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in ("strict", "frozen"):
            found.append(((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)))
        types = filter(None, (getattr(node, name, None) for name in ("annotation", "returns")))
        found += [((one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)) for one in types]
    return found
