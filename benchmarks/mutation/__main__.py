"""Mutation testing: plant faults in the modules that determine results, and check whether their tests fail.

`make mutation` plants ten faults in each module of `targets.py`, drawn with a recorded seed, one at a time, in a copy
of the project under build/mutation, and runs the tests of the module there. Each outcome is a line of `results.jsonl`.
An interrupted run resumes, and an outcome is reused while the module and its tests are unchanged. Before planting
faults, the tests of each module must pass on the copy, and must fail if the module raises an error at its end, which
proves that they use the copy. Survivors are listed with the reason in `survivors.json`; a fault that changes no result
is `equivalent` and does not count.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from .faults import SEED, Fault, draw
from .targets import TARGETS
from .trial import ROOT, SECONDS_MORE, Copy, Outcome, describe_machine, preload, tests_of

HERE = Path(__file__).parent
SURVIVORS = HERE / "survivors.json"


def main() -> None:
    """Run the trials without a stored outcome, then print the score and the survivors."""
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("files", nargs="*", help="modules, relative to the root (default: all targets)")
    parser.add_argument("--faults", type=int, default=10, help="number of faults in each module (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the draw (%(default)s)")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutation" / "results.jsonl")
    parser.add_argument(
        "--trust-kills",
        action="store_true",
        help="reuse the outcome of a noticed fault even if its tests have changed",
    )
    parser.add_argument("--report", type=Path, help="Markdown file for the score and the survivors")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.files) - set(TARGETS))
    if unknown:
        parser.error(f"unknown targets {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
    files = arguments.files or [file for file in TARGETS if (ROOT / file).is_file()]
    run = Run(arguments.results, arguments.trust_kills)
    outcomes = {file: list(run.outcomes(file, arguments.faults, arguments.seed)) for file in files}
    text = report(outcomes, arguments.seed)
    print(text)
    if arguments.report:
        arguments.report.write_text(text)


class Run:
    """Stored outcomes, and trials for the missing ones."""

    def __init__(self, results: Path, trust_kills: bool) -> None:
        self.results, self.trust_kills = results, trust_kills
        results.parent.mkdir(parents=True, exist_ok=True)
        lines = results.read_text().splitlines() if results.is_file() else []
        self.known = {(line["key"], line["module"]): line for line in map(json.loads, lines)}
        self.copy: Copy | None = None

    def outcomes(self, file: str, faults: int, seed: int) -> Iterator[dict[str, Any]]:
        """Yield the outcomes of the first `faults` faults of a module that leave it importable."""
        source, tests = (ROOT / file).read_text(), tests_of(TARGETS[file])
        digests = {"module": _digest(source), "tests": _digest(*((ROOT / one).read_text() for one in tests))}
        seconds: float | None = None
        found = 0
        for fault in draw(file, source, seed):
            if found == faults:
                return
            line = self.known.get((fault.key, digests["module"]))
            if line is None or not self._holds(line, digests):
                mutant = fault.planted(source)
                if mutant is None:
                    continue
                seconds = self._seconds(file, source, tests) if seconds is None else seconds
                line = self._try(fault, mutant, tests, seconds) | digests
                with self.results.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                self.known[fault.key, digests["module"]] = line
            if line["how"] != "broken":
                found += 1
                yield line

    def _holds(self, line: dict[str, Any], digests: dict[str, str]) -> bool:
        noticed = line["how"] != "passed"
        return line["tests"] == digests["tests"] or (noticed and self.trust_kills)

    def _seconds(self, file: str, source: str, tests: list[str]) -> float:
        """Time the tests of a module. They must pass on the copy, and fail if the module raises an error."""
        if self.copy is None:
            preload()
            self.copy = Copy(self.results.parent / f"copy-{self.results.stem}")
        plain = self.copy.trial(file, tests, 900.0)
        if plain.how != "passed":
            raise SystemExit(f"{file}: tests {tests} fail on the copy without a fault: {plain}")
        with self.copy.holding(file, f"{source}\nraise RuntimeError('planted')\n"):
            seen = self.copy.trial(file, tests, 900.0)
        if seen.how != "broken":
            raise SystemExit(f"{file}: tests do not use the copy: {seen}")
        print(f"{file}: {len(tests)} test files pass in {plain.seconds:.1f} s", flush=True)
        return plain.seconds

    def _try(self, fault: Fault, mutant: str, tests: list[str], seconds: float) -> dict[str, Any]:
        assert self.copy is not None
        with self.copy.holding(fault.file, mutant):
            outcome: Outcome = self.copy.trial(fault.file, tests, 3 * seconds + SECONDS_MORE)
        after = mutant.splitlines()[fault.line - 1].strip()
        print(f"  {outcome.how:8s} {fault.file}:{fault.line} {fault.operator}: {after[:100]}", flush=True)
        return {"key": fault.key, **fault.to_dict(), "mutant": after, **outcome._asdict()}


def report(outcomes: dict[str, list[dict[str, Any]]], seed: int) -> str:
    """Format as Markdown the score, one line per module, and each survivor with its reason."""
    reasons: dict[str, dict[str, str]] = json.loads(SURVIVORS.read_text()) if SURVIVORS.is_file() else {}
    lines = [
        f"# Planted faults and the tests that notice them\n\n`make mutation`, seed {seed}, {describe_machine()}.\n"
    ]
    lines += ["| module | noticed | not noticed | equivalent |", "|---|---|---|---|"]
    total: Counter[str] = Counter()
    for file, found in outcomes.items():
        kinds = Counter(_kind(one, reasons) for one in found)
        total += kinds
        lines.append(f"| `{file}` | {kinds['noticed']} | {kinds['survived']} | {kinds['equivalent']} |")
    counted = total["noticed"] + total["survived"]
    share = f"{total['noticed'] / counted:.3f}" if counted else "null"
    lines.insert(
        1, f"**{total['noticed']} of {counted} noticed ({share})**; {total['equivalent']} more change no result.\n"
    )
    lines += ["\n## Survivors\n", "| where | fault | why |", "|---|---|---|"]
    for one in chain.from_iterable(outcomes.values()):
        if one["how"] == "passed":
            known = reasons.get(one["key"], {})
            why = f"{known.get('kind', 'not examined')}: {known.get('reason', '')}".rstrip(": ")
            lines.append(
                f"| `{one['file']}:{one['line']}` | `{_cell(one['text'])}` → `{_cell(one['mutant'])}` | {why} |"
            )
    return "\n".join(lines) + "\n"


def _kind(one: dict[str, Any], reasons: dict[str, dict[str, str]]) -> str:
    if one["how"] != "passed":
        return "noticed"
    return "equivalent" if reasons.get(one["key"], {}).get("kind") == "equivalent" else "survived"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
