"""docs/reference/api.md says which function gives which value of the fixture: all values, and functions that exist."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from steadydancer.models import metrics

API = Path(__file__).resolve().parents[3] / "docs" / "reference" / "api.md"
# Values that a row names under the group's other name, and inputs of functions.
INPUTS = {"frames", "note"}


def rows() -> list[tuple[list[str], list[str]]]:
    """The keys (as patterns) and the functions of each row of the table."""
    section = API.read_text().split("## Metrics", 1)[1]
    found = []
    for line in section.splitlines():
        if line.startswith("| `"):
            keys, functions = line.split("|")[1:3]
            found.append((re.findall(r"`([^`]+)`", keys), re.findall(r"`([^`]+)`", functions)))
    return found


def test_every_value_of_the_fixture_has_a_row(golden: Mapping[str, np.ndarray]) -> None:
    table = rows()
    assert len(table) > 20
    patterns = [pattern for keys, _ in table for pattern in keys]
    assert not [pattern for pattern in patterns if not any(fnmatchcase(key, pattern) for key in golden)]
    groups = {key.split(".")[0] for key in golden} - {"frames"}
    assert {pattern.split(".")[0] for pattern in patterns} == groups
    # Within a group whose rows name single keys, each expected value is named.
    expected = ("psnr.*", "ssim.*", "vbench.consistency_*", "vbench.i2v_*", "vbench.leaderboard_*", "stats.paired_*")
    named = [key for pattern in expected for key in golden if fnmatchcase(key, pattern)]
    uncovered = [key for key in named if not any(fnmatchcase(key, pattern) for pattern in patterns)]
    assert uncovered == ["ssim.gray_frames"]  # the input of gray_uniform7, which its test compares too


def test_every_function_of_the_table_exists() -> None:
    for keys, functions in rows():
        names = [re.match(r"\w+", function) for function in functions if "=" not in function]
        named = [match[0] for match in names if match]
        known = [name for name in named if callable(getattr(metrics, name, None))]
        others = [name for name in named if name not in known]
        assert known or keys[0].startswith("ssim"), keys
        assert all(name == "clusters" for name in others), (keys, others)
