"""Pairs made of accepted clips: ids that differ, truths where a clip drives itself, frames that are the clip's."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from steadydancer.datasets.artifact import Artifact, Packet
from steadydancer.datasets.manifest import read_manifest
from steadydancer.datasets.toydance import load_supplied_pose
from steadydancer.datasets.video import probe
from steadydancer.flows.pairs import pairs_of_clips


@pytest.mark.parametrize("num_accepted", [1, 2, 3])
def test_each_pair_has_an_id_of_its_own_whatever_was_accepted(curated: Path, tmp_path: Path, num_accepted: int) -> None:
    accepted = Artifact(curated / "clips").read()
    accepted = accepted.filter(pc.equal(accepted["verdict"], "ok")).slice(0, num_accepted)
    assert len(accepted) == num_accepted
    Artifact(tmp_path / "clips").write_part(Packet("some", ()), accepted)
    shutil.copy(curated / "clips" / "run.json", tmp_path / "clips")
    (tmp_path / "measured").symlink_to(curated / "measured")

    rows = read_manifest(pairs_of_clips(tmp_path, 3), ("image", "driving"))
    assert len({row["id"] for row in rows}) == len(rows) == num_accepted
    driven_by_themselves = {row["id"] for row in rows if Path(row["image"]).stem == Path(row["driving"]).stem}
    assert {path.stem for path in (tmp_path / "pairs" / "truth").glob("*.mp4")} == driven_by_themselves
    for row in rows:
        assert probe(row["driving"]).num_frames == 33
        (pose,), fps = load_supplied_pose(Path(row["driving"])) or ([], 0)
        assert (len(pose), fps) == (33, 16.0)
        assert np.isfinite(pose.body).all()
