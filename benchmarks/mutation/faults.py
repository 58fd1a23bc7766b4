"""Draw the faults to plant: cosmic-ray operators at positions of a module, in an order given by a seed."""

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
# These two insert names from the module, which mostly breaks its import.
LEFT_OUT = ("VariableReplacer", "VariableInserter")


@dataclass(frozen=True)
class Fault:
    """One fault: the `occurrence`-th position of a module at which a cosmic-ray operator applies.

    Attributes:
        file: module, relative to the root.
        operator, occurrence: what cosmic-ray plants.
        line, column: position, counted from 1 and from 0.
        text: the original line.
    """

    file: str
    operator: str
    occurrence: int
    line: int
    column: int
    text: str

    @property
    def key(self) -> str:
        """Identifier that is stable while the line and the text before the fault in it are unchanged."""
        return f"{self.file} | {self.operator} | {self.column} | {self.text}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def planted(self, source: str) -> str | None:
        """Return the module's source with the fault; None if cosmic-ray cannot produce valid Python."""
        try:
            mutant = mutate_code(source, get_operator(self.operator)(), self.occurrence)
            if mutant is None or mutant == source:
                return None
            ast.parse(mutant)
        except (SyntaxError, AttributeError):  # cosmic-ray does not support some nodes (`except a.b as c`)
            return None
        return str(mutant)


def draw(file: str, source: str, seed: int = SEED) -> Iterator[Fault]:
    """Yield faults of a module in planting order, at most one per position.

    Kinds of operators alternate; otherwise almost all faults would be numbers and comparisons.
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
    """Return all positions at which an operator applies, except those that do not affect results."""
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
    """Yield nodes in the order in which cosmic-ray visits them."""
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _silent(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return spans that do not affect results: types, and `strict=` and `frozen=`, which catch programming errors."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in ("strict", "frozen"):
            found.append(((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)))
        types = filter(None, (getattr(node, name, None) for name in ("annotation", "returns")))
        found += [((one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)) for one in types]
    return found
