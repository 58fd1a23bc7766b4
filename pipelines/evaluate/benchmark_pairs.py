"""Pairs of a benchmark by id: the only place that knows `datasets.benchmarks`."""

from typing import Any, NamedTuple

from ...datasets.benchmarks import read_benchmark
from ...datasets.schema import Row


class BenchmarkPairs(NamedTuple):
    """What the record states about a benchmark, and its pairs: id → image, driving, truth, kinds, problems."""

    record: dict[str, Any]
    pairs: dict[str, Row]


def read_pairs(name_or_folder: str) -> BenchmarkPairs:
    """Read a benchmark.

    Args:
        name_or_folder: name of a benchmark with a local copy, or the folder of one.

    Raises:
        BenchmarkError: there is no such benchmark, its layout is not known, or its files have changed.
    """
    benchmark = read_benchmark(name_or_folder)
    pairs = {
        pair.id: {
            "image": pair.image,
            "driving": pair.driving,
            "truth": pair.truth,
            "kinds": ",".join(pair.kinds) or None,
            "problems": "; ".join(pair.problems) or None,
        }
        for pair in benchmark.pairs
    }
    return BenchmarkPairs(benchmark.to_record(), pairs)
