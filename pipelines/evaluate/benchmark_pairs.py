"""Pairs of a benchmark by id: the only place that knows `datasets.benchmarks`."""

import importlib
from typing import Any, NamedTuple

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
        SteadyDancerError: there is no such benchmark, or its layout is not known.
    """
    read: Any = importlib.import_module("steadydancer.datasets.benchmarks").read_benchmark
    benchmark = read(name_or_folder)
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
