"""A curation that an older version finished: clips whose pictures are read otherwise today go no further, others do."""

from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.artifact import Artifact, Packet
from steadydancer.datasets.clips import COLUMNS, Clips
from steadydancer.datasets.rules import versions
from steadydancer.datasets.schema import Row, to_table
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.datasets.video import encode, probe
from steadydancer.flows.demo.pairs import pairs_of_clips
from steadydancer.flows.presets import tiny
from steadydancer.pipelines.cache import steps
from steadydancer.pipelines.common.older_rules import stages_for
from steadydancer.pipelines.curate import refilter
from steadydancer.pipelines.curate.parent import reuse_measurements
from steadydancer.pipelines.export import job
from steadydancer.pipelines.export.config import ExportConfig
from steadydancer.pipelines.runtime.runner import Engine

HEIGHT, WIDTH, NUM_FRAMES = 96, 64, 9


def mirror(file: Path) -> None:
    """Ask players to exchange left and right, by the matrix in the track's header."""
    data = bytearray(file.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # of version 0: flags, times, id, duration, layer, volume
    data[matrix : matrix + 4] = (-0x10000).to_bytes(4, "big", signed=True)
    data[matrix + 24 : matrix + 28] = (WIDTH << 16).to_bytes(4, "big")
    file.write_bytes(data)


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """A finished curation, without versions of rules, of a plain clip and of one that is mirrored today."""
    out: list[Row] = []
    for seed, name in enumerate(("plain", "mirrored")):
        source, pose = tmp_path / f"{name}.mp4", toy_pose(seed, NUM_FRAMES, 16)
        encode(draw_dancer(pose, seed, HEIGHT, WIDTH), source, 16)
        if name == "mirrored":
            mirror(source)
        assert probe(source).mirrored == (name == "mirrored")
        out.append(
            {"source_path": str(source), "source_id": content_digest(source), "clip_id": f"{seed:016d}", "width": WIDTH,
             "height": HEIGHT, "start_s": 0.0, "end_s": 0.5, "num_frames": NUM_FRAMES, "pose_digest": "x",
             "pose_model": "m", "measured_part": "part-x.parquet", "pose": pose.to_bytes(), "verdict": "ok"}
        )  # fmt: skip
    Artifact(tmp_path / "measured").write_part(Packet("x", ()), to_table(out))
    Artifact(tmp_path / "clips").write_part(Packet("x", ()), to_table(out).select(COLUMNS))
    finish(tmp_path)
    return out


def finish(folder: Path, **more: Any) -> None:
    config = tiny().curate.model_copy(update={"num_frames": NUM_FRAMES})
    record = {"kind": "clips", "version": "0.1.0", "config": config.model_dump(mode="json"), "measured": "measured",
              "counts": {"inputs": 2, "ok": 2, "rejected": 0, "quarantined": 0}, "pose_models": ["m"],
              "inputs": {"clips": "x", "sources": 2, "digest": "0"}, **more}  # fmt: skip
    write_json(folder / "clips" / "run.json", record)


def export(clips: Path, out: Path) -> dict[str, tuple[str, str | None]]:
    engine = Engine(out / ".engine", in_process=True)
    job.run(ExportConfig(max_area_px=None), clips=clips, out=out, engine=engine)
    table = Artifact(out / "export").read().to_pylist()
    return {Path(row["source_path"]).stem: (row["verdict"], row["reason"]) for row in table}


def test_a_clip_whose_pictures_are_mirrored_today_is_not_exported_with_the_keypoints_of_before(
    rows: list[Row], tmp_path: Path
) -> None:
    assert export(tmp_path, tmp_path / "a") == {"plain": ("ok", None), "mirrored": ("quarantined", "other_rules")}
    # Another selection of it was measured by the same rules as it was.
    refilter.run(refilter.change_selection(Clips(tmp_path).record, {}), clips=tmp_path, out=tmp_path / "again")
    assert "rules" not in Clips(tmp_path / "again").record
    finish(tmp_path, rules=versions("pictures"))
    assert export(tmp_path, tmp_path / "b") == {"plain": ("ok", None), "mirrored": ("ok", None)}
    refilter.run(refilter.change_selection(Clips(tmp_path).record, {}), clips=tmp_path, out=tmp_path / "anew")
    assert Clips(tmp_path / "anew").record["rules"] == versions("pictures")


def test_a_cache_asks_each_source_first_and_only_of_an_older_curation(rows: list[Row], tmp_path: Path) -> None:
    config = tiny().cache
    first, *_ = steps.stages(config, tmp_path, Clips(tmp_path).record)
    (plain,), (mirrored,) = (first.apply({**row, "verdict": None}, config) for row in rows)
    assert plain == {**rows[0], "verdict": None}
    assert (mirrored["verdict"], mirrored["reason"]) == ("quarantined", "other_rules")
    assert "(mirrored now)" in mirrored["detail"] and rows[1]["source_path"] in mirrored["detail"]
    assert len(steps.stages(config, tmp_path, {"rules": versions("pictures")})) == 2
    assert stages_for({"rules": versions("pictures")}) == []


def test_pairs_and_a_new_curation_leave_such_a_clip_out(rows: list[Row], tmp_path: Path) -> None:
    measured = Artifact(tmp_path / "measured")
    for older, taken in ((True, [True, False]), (False, [True, True])):
        asked = [{"source_path": row["source_path"], "measured_part": "part-x.parquet"} for row in rows]
        found = [reuse_measurements(measured, row, tiny().curate, older_pictures=older) for row in asked]
        assert [isinstance(one, list) for one in found] == taken
    pairs = pairs_of_clips(tmp_path, 2).read_text().splitlines()
    assert len(pairs) == 1 and f'"{rows[0]["clip_id"]}-{rows[0]["clip_id"]}"' in pairs[0]


def test_the_visibility_of_supplied_keypoints_is_not_taken_over_as_a_confidence(tmp_path: Path) -> None:
    """An older version kept it as one; of the same clip, measured today, there is none."""
    rows: list[Row] = []
    for seed, (model, confidence) in enumerate((("supplied", 0.4), ("dwpose", 0.7))):
        source = tmp_path / f"{model}.mp4"
        encode(draw_dancer(toy_pose(seed, NUM_FRAMES, 16), seed, HEIGHT, WIDTH), source, 16)
        reported: Row = {"source_path": str(source), "source_id": content_digest(source), "pose_model": model,
                     "pose_confidence": confidence, "head_ratio": 0.5}  # fmt: skip
        rows.append(reported)
    Artifact(tmp_path / "measured").write_part(Packet("x", ()), to_table(rows))
    taken = []
    for row in rows:
        asked = {"source_path": row["source_path"], "measured_part": "part-x.parquet"}
        (one,) = reuse_measurements(Artifact(tmp_path / "measured"), asked, tiny().curate)
        taken.append((one["pose_model"], one["pose_confidence"], one["head_ratio"]))
    assert taken == [("supplied", None, 0.5), ("dwpose", 0.7, 0.5)]
