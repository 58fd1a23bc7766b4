"""Make the tutorial's inputs: procedural dancers and a tiny pipeline with random weights.

    python examples/make_inputs.py runs/tutorial

writes `clips/` (one good video and six with a known flaw), `pairs.jsonl` with an image, a driving video and its ground
truth, and `components/`, a tiny base model of the real classes.
"""

import sys
from pathlib import Path

from steadydancer.datasets.toydance import make_toy_clips, make_toy_pairs
from steadydancer.models.components import save_components, tiny_components


def main(folder: Path) -> None:
    """Write the inputs to `folder`; the same call writes the same bytes."""
    videos = make_toy_clips(folder / "clips", seed=0, num_good=1)
    pairs = make_toy_pairs(folder, seed=1, num_pairs=1, num_frames=33)
    save_components(tiny_components(seed=0), folder / "components")
    print(f"{len(videos)} videos in {folder / 'clips'}, pairs in {pairs}, components in {folder / 'components'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
