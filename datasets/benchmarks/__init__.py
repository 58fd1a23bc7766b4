"""Benchmarks: pairs with their truth read from a local copy, the paper's published numbers, scores of other programs.

`read_benchmark` reads TikTok, RealisDance-Val, X-Dance, and what `steadydancer xdance build` writes.
"""

from typing import TYPE_CHECKING

from ... import lazy_names

if TYPE_CHECKING:
    from .pairs import KINDS, Benchmark, BenchmarkError, BenchmarkPair
    from .published import PublishedRow, published_rows
    from .reader import read_benchmark
    from .third_party import Imported, ScoreRow, read_judge_table, read_vbench_results

__all__ = [
    "KINDS",
    "Benchmark",
    "BenchmarkError",
    "BenchmarkPair",
    "Imported",
    "PublishedRow",
    "ScoreRow",
    "published_rows",
    "read_benchmark",
    "read_judge_table",
    "read_vbench_results",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("KINDS", "Benchmark", "BenchmarkError", "BenchmarkPair"), "pairs"),
        **dict.fromkeys(("PublishedRow", "published_rows"), "published"),
        "read_benchmark": "reader",
        **dict.fromkeys(("Imported", "ScoreRow", "read_judge_table", "read_vbench_results"), "third_party"),
    },
)
