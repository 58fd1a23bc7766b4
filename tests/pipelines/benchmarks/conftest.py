"""A small set of procedural images and driving videos."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/` and `driving/` of four pairs with a start gap, and files that cannot be measured."""
    from steadydancer.datasets.toydance import make_toy_pairs

    folder = tmp_path_factory.mktemp("toy")
    make_toy_pairs(folder, seed=3, num_pairs=4, num_frames=17, start_gap=True)
    (folder / "images" / "pair_0.txt").write_text("a dancer in a hall\n")
    return folder
